"""Pyro programs as outsiders write them: none of them knows pplvae. Each function gives (model, guide, rows)."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints, transforms

ROWS = 12


def binary(columns=16, rows=ROWS):
    return (torch.rand(rows, columns, generator=torch.Generator().manual_seed(3)) < 0.4).to(torch.get_default_dtype())


def real(columns=5, rows=ROWS):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(4), dtype=torch.get_default_dtype())


def bound_methods_with_pyro_module():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(16, 10), nn.Softplus(), nn.Linear(10, 6))
            self.decoder = nn.Sequential(nn.Linear(3, 10), nn.Softplus(), nn.Linear(10, 16))

        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("latent", dist.Normal(x.new_zeros(x.shape[0], 3), 1.0).to_event(1))
                pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                loc, log_scale = self.encoder(x).chunk(2, -1)
                pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))

    vae = VAE()
    return vae.model, vae.guide, binary()


def functions_with_pyro_param():
    def model(x):
        weight = pyro.param("weight", lambda: torch.randn(2, 5))
        noise = pyro.param("noise", torch.ones(5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, noise).to_event(1), obs=x)

    def guide(x):
        matrix = pyro.param("matrix", lambda: 0.1 * torch.randn(5, 2))
        scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ matrix, scale).to_event(1))

    return model, guide, real()


def pair_of_modules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(2, 5)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(5, 4)

        def forward(self, x):
            loc, raw = self.encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))

    return Model(), Guide(), real()


def pyro_modules():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = PyroModule[nn.Linear](2, 5)
            self.noise = PyroParam(torch.ones(5), constraint=constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = PyroModule[nn.Linear](5, 2)
            self.scale = PyroParam(torch.full((2,), 0.5), constraint=constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))

    return Model(), Guide(), real()


def two_latents_in_a_chain():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 4), nn.Linear(7, 6)
            self.prior, self.decoder = nn.Linear(2, 3), nn.Linear(3, 5)

        def model(self, x):
            pyro.module("chain", self)
            with pyro.plate("rows", len(x)):
                top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                low = pyro.sample("low", dist.Normal(self.prior(top), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(low), 0.7).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("chain", self)
            with pyro.plate("rows", len(x)):
                loc, raw = self.first(x).chunk(2, -1)
                top = pyro.sample("top", dist.Normal(loc, raw.exp()).to_event(1))
                loc, raw = self.second(torch.cat([x, top], -1)).chunk(2, -1)
                pyro.sample("low", dist.Normal(loc, raw.exp()).to_event(1))

    chain = Chain()
    return chain.model, chain.guide, real()


def convolutions_with_batchnorm_and_dropout():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6))
    decoder = nn.Sequential(
        nn.Linear(3, 64),
        nn.Unflatten(1, (4, 4, 4)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.ConvTranspose2d(4, 1, 4, 2, 1),
    )

    def model(images):
        pyro.module("decoder", decoder)
        with pyro.plate("images", images.size(0)):
            z = pyro.sample("z", dist.Normal(images.new_zeros(3), 1.0).to_event(1))
            pyro.sample("pixels", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=images)

    def guide(images):
        pyro.module("encoder", encoder)
        with pyro.plate("images", images.size(0)):
            loc, raw = encoder(images).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide, binary(64).reshape(-1, 1, 8, 8)


def plate_with_size_and_subsample():
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", size=1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", size=1000, subsample_size=len(x)):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide, real()


def conditional_with_two_tensors():
    encoder, decoder = nn.Linear(8, 4), nn.Linear(5, 5)

    def model(x, labels):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            one_hot = nn.functional.one_hot(labels, 3).to(x)
            pyro.sample("x", dist.Normal(decoder(torch.cat([z, one_hot], -1)), 0.5).to_event(1), obs=x)

    def guide(x, labels):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, raw = encoder(torch.cat([x, nn.functional.one_hot(labels, 3).to(x)], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide, (real(), torch.arange(ROWS) % 3)


def full_covariance_guide():
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 6)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, factor = encoder(x)[:, :2], encoder(x)[:, 2:].reshape(-1, 2, 2)
        covariance = factor @ factor.mT + 0.1 * torch.eye(2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, covariance_matrix=covariance))

    return model, guide, real()


def _positive_latent(prior, family, heads):
    encoder, decoder = nn.Linear(5, 2 * heads), nn.Linear(2, 5)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(*nn.functional.softplus(encoder(x)).chunk(heads, -1)))

    return model, guide, real()


def lognormal_latent():
    return _positive_latent(
        lambda: dist.LogNormal(torch.zeros(2), 1.0).to_event(1), lambda a, b: dist.LogNormal(a, b).to_event(1), 2
    )


def gamma_latent():
    return _positive_latent(
        lambda: dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1), lambda a, b: dist.Gamma(1 + a, b).to_event(1), 2
    )


def beta_latent():
    return _positive_latent(
        lambda: dist.Beta(torch.full((2,), 2.0), 3.0).to_event(1), lambda a, b: dist.Beta(1 + a, 1 + b).to_event(1), 2
    )


def dirichlet_latent():
    return _positive_latent(lambda: dist.Dirichlet(torch.ones(2)), lambda a: dist.Dirichlet(0.5 + a), 1)


def transformed_latent():
    squash = [transforms.SigmoidTransform(), transforms.AffineTransform(-1.0, 2.0)]

    def family(a, b):
        return dist.TransformedDistribution(dist.Normal(a, b), squash).to_event(1)

    return _positive_latent(lambda: family(torch.zeros(2), torch.ones(2)), family, 2)


def nested_plates():
    encoder = nn.Linear(5, 4)

    def model(x):
        weight = pyro.param("weight", lambda: torch.randn(2, 5))
        data = pyro.plate("data", len(x), dim=-2)
        columns = pyro.plate("columns", 5, dim=-1)
        with data:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, 2), 1.0).to_event(1))
        with data, columns:
            shift = pyro.sample("shift", dist.Normal(torch.zeros(5), 0.3))
            pyro.sample("x", dist.Normal((z @ weight).squeeze(-2) + shift, 0.5), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, raw = encoder(x).unsqueeze(-2).chunk(2, -1)
        data = pyro.plate("data", len(x), dim=-2)
        with data:
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))
            with pyro.plate("columns", 5, dim=-1):
                pyro.sample("shift", dist.Normal(0.1 * x, 0.3))

    return model, guide, real()


def masked_columns():
    encoder, decoder = nn.Linear(5, 4), nn.Linear(2, 5)

    def model(x, seen):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x, seen):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide, (real(), torch.arange(ROWS) % 2 == 0)


def plate_left_of_the_rows():
    """Several latents a row, on a plate to the left of the data plate whose size is that of many a batch."""
    encoder = nn.Linear(5, 5)

    def model(x):
        data, votes = pyro.plate("data", len(x), dim=-1), pyro.plate("votes", 16 * ROWS, dim=-2)
        with data:
            with votes:
                h = pyro.sample("h", dist.Normal(0.0, 1.0))
            mean = h.mean(0).unsqueeze(-1) * pyro.param("weight", torch.ones(5))
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc = encoder(x).mean(-1)
        with pyro.plate("data", len(x), dim=-1), pyro.plate("votes", 16 * ROWS, dim=-2):
            pyro.sample("h", dist.Normal(loc.expand(16 * ROWS, -1), 1.1))

    return model, guide, real()


def auxiliary_latent_with_a_delta():
    encoder, decoder, mix = nn.Linear(5, 4), nn.Linear(2, 5), torch.tensor([[1.0, 0.5], [0.0, 1.0]])

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(loc, raw.exp()).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u @ mix, event_dim=1))  # mix has determinant 1

    return model, guide, real()


def affine_on_an_earlier_latent():
    encoder, decoder = nn.Linear(5, 2), nn.Linear(2, 5)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(top, 0.3).to_event(1))
            pyro.sample("x", dist.Normal(decoder(low), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(encoder(x), 0.5).to_event(1))
            shift = transforms.AffineTransform(top, torch.ones(2), event_dim=1)
            base = dist.Normal(torch.zeros(len(x), 2), 0.3).to_event(1)
            pyro.sample("low", dist.TransformedDistribution(base, [shift]))

    return model, guide, real()


def laplace_latent_with_a_noise_axis_of_its_own():
    return _positive_latent(
        lambda: dist.Laplace(torch.zeros(2), 1.0).to_event(1),
        lambda a, b, c: dist.AsymmetricLaplace(a, b, 0.5 + c).to_event(1),
        3,
    )


def logistic_latent_on_a_uniform_base():
    logistic = transforms.ComposeTransform([transforms.SigmoidTransform().inv])

    def family(loc):
        base = dist.Uniform(torch.zeros_like(loc), torch.ones_like(loc))
        return dist.TransformedDistribution(
            base, [logistic, transforms.AffineTransform(loc, torch.tensor(0.3))]
        ).to_event(1)

    return _positive_latent(lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), family, 1)


def guide_with_noise_of_its_own_and_an_unused_latent():
    encoder, decoder = nn.Linear(5, 2), nn.Linear(2, 5)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=False):
                pyro.sample("idle", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        jitter = 0.1 * torch.randn(size=(len(x), 2)) + 0.1 * torch.normal(0.0, 1.0, size=(len(x), 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x) + jitter.to(x), 0.5).to_event(1))
            with poutine.mask(mask=False):
                pyro.sample("idle", dist.Normal(x[:, 0], 1.0))

    return model, guide, real()


def topics_of_word_counts():
    """In the way of ProdLDA (Srivastava and Sutton, 2017): logistic-normal topics, dropout, BatchNorm."""
    words, topics = 9, 3

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.beta, self.norm, self.drop = (
                nn.Linear(topics, words, bias=False),
                nn.BatchNorm1d(words),
                nn.Dropout(0.2),
            )

        def forward(self, theta):
            return self.norm(self.beta(self.drop(theta))).softmax(-1)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm = nn.Linear(words, 2 * topics), nn.BatchNorm1d(2 * topics)

        def forward(self, docs):
            loc, log_variance = self.norm(self.body(docs)).chunk(2, -1)
            return loc, (0.5 * log_variance).exp()

    decoder, encoder = Decoder(), Encoder()

    def model(docs):
        pyro.module("decoder", decoder)
        with pyro.plate("documents", docs.shape[0]):
            log_theta = pyro.sample("logtheta", dist.Normal(docs.new_zeros(len(docs), topics), 1.0).to_event(1))
            share = decoder(log_theta.softmax(-1))
            pyro.sample("obs", dist.Multinomial(int(docs.sum(-1).max()), share), obs=docs)

    def guide(docs):
        pyro.module("encoder", encoder)
        with pyro.plate("documents", docs.shape[0]):
            pyro.sample("logtheta", dist.Normal(*encoder(docs)).to_event(1))

    counts = torch.randint(0, 6, (ROWS, words), generator=torch.Generator().manual_seed(5))
    return model, guide, counts.to(torch.get_default_dtype())


def trained_by_its_owner():
    model, guide, rows = functions_with_pyro_param()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(20):
        svi.step(rows)
    return model, guide, rows


ALL = [
    bound_methods_with_pyro_module,
    functions_with_pyro_param,
    pair_of_modules,
    pyro_modules,
    two_latents_in_a_chain,
    convolutions_with_batchnorm_and_dropout,
    plate_with_size_and_subsample,
    conditional_with_two_tensors,
    full_covariance_guide,
    lognormal_latent,
    gamma_latent,
    beta_latent,
    dirichlet_latent,
    transformed_latent,
    nested_plates,
    masked_columns,
    plate_left_of_the_rows,
    auxiliary_latent_with_a_delta,
    affine_on_an_earlier_latent,
    laplace_latent_with_a_noise_axis_of_its_own,
    logistic_latent_on_a_uniform_base,
    guide_with_noise_of_its_own_and_an_unused_latent,
    topics_of_word_counts,
    trained_by_its_owner,
]
