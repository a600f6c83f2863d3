"""Models of other libraries as pairs: their own losses, and optima by a loop of plain torch.

Each is tried on the real package where it is installed, and always on a stand-in that has the documented interface.
"""

import os
import re
from types import SimpleNamespace

import pytest
import torch
from torch import distributions as td
from torch import nn
from torch.nn import functional as F

import pplvae
from pplvae import adapters
from pplvae.adapters.pythae import DENSITIES, REFUSED, UNDECLARED
from pplvae.errors import ProgramError

LATENT = 2
PICTURES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def environment_kept():
    """Some of the libraries set variables as they come in."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def library(name, pip=None):
    return pytest.importorskip(name, reason=f"{name} is no dependency; `pip install {pip or name}` to try it")


def best_by_torch(elbo, loc, scale, steps=300, draws=512):
    """Row by row the largest ELBO of a factorised Gaussian, by Adam on fixed draws, and that at the start.

    `elbo(h)` is log p(v, h) of draws of shape (draw, row, ...). Both are scored on fresh draws, with their errors.
    """

    def of_draws(loc, log_scale, eps):
        h = loc + log_scale.exp() * eps
        return elbo(h) - td.Normal(loc, log_scale.exp()).log_prob(h).flatten(2).sum(2)

    start = [loc.detach().clone(), scale.detach().log()]
    free = [each.clone().requires_grad_() for each in start]
    half = torch.randn(draws // 2, *loc.shape)
    optimiser = torch.optim.Adam(free, 0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (-of_draws(*free, torch.cat([half, -half])).mean(0).sum()).backward()
        optimiser.step()
        schedule.step()
    fresh = torch.randn(20_000, *loc.shape)
    with torch.no_grad():
        found = [of_draws(*each, fresh) for each in (free, start)]
    return [(each.mean(0), each.std(0) / len(fresh) ** 0.5) for each in found]


def check_gap(pair, rows, elbo, loc, scale):
    """Both ELBOs of a few rows are those of the loop, whose fixed draws keep it a little below the largest."""
    found = pplvae.amortisation_gap(*pair, rows, particles=4000).rows
    for name, (wanted, error) in zip(("elbo_local", "elbo_amortised"), best_by_torch(elbo, loc, scale), strict=True):
        above = torch.tensor(found[name].values) - wanted
        error = 5 * (error**2 + torch.tensor(found[f"{name}_stderr"].values) ** 2).sqrt()
        assert bool((above > -error).all()), (name, above, error)
        assert bool((above < error + (0.05 if name == "elbo_local" else 0.0)).all()), (name, above, error)


# ------------------------------------------------------------------------------ Pythae


class Net(nn.Module):
    """A network of Pythae: its output has names."""

    def __init__(self, **heads):
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(self, first, output_layer_levels=None):
        return SimpleNamespace(**{name: head(first.flatten(1)) for name, head in self.heads.items()})


def standing_in(name, loss="bce", weight=1.0):
    """A model of Pythae by its documented interface."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = Net(embedding=nn.Linear(16, LATENT), log_covariance=nn.Linear(16, LATENT))
            last = nn.Sigmoid() if loss == "bce" else nn.Identity()
            self.decoder = Net(reconstruction=nn.Sequential(nn.Linear(LATENT, 16), last))
            self.model_config = SimpleNamespace(reconstruction_loss=loss)

        def forward(self, inputs):
            v = inputs["data"].flatten(1)
            found = self.encoder(v)
            mu, log_var = found.embedding, found.log_covariance
            shown = self.decoder(mu + (0.5 * log_var).exp() * torch.randn_like(mu)).reconstruction
            errors = F.binary_cross_entropy(shown, v, reduction="none") if loss == "bce" else 0.5 * (shown - v) ** 2
            kl = -0.5 * (1 + log_var - mu**2 - log_var.exp())
            return SimpleNamespace(loss=(errors.sum(1) + weight * kl.sum(1)).mean())

    torch.manual_seed(0)
    return type(name, (Model,), {})().float()


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_a_model_with_pythaes_interface(loss):
    pair = adapters.from_pythae(standing_in("VAE", loss), rows=PICTURES.round())
    assert pair.round_trip.is_elbo
    with pytest.warns(UserWarning, match="weight of its KL term is 3"):
        adapters.from_pythae(standing_in("BetaVAE", loss, weight=3.0), rows=PICTURES.round())


def test_models_of_pythae_without_a_density_are_refused_by_their_names():
    for name, why in REFUSED.items():
        with pytest.raises(ProgramError, match=re.escape(f"`{name}` has no gap to be measured: {why}")):
            adapters.from_pythae(standing_in(name))
    for name, why in UNDECLARED.items():
        with pytest.raises(ProgramError, match=f"`{name}` is trained by {why}.*Declare one"):
            adapters.from_pythae(standing_in(name))
        pair = adapters.from_pythae(standing_in(name, "mse"), likelihood="gaussian", scale=0.5, rows=PICTURES)
        assert "gaussian, scale 0.5" in repr(pair)
    with pytest.raises(ProgramError, match="no model of Pythae that is known"):
        adapters.from_pythae(standing_in("Another"))
    with pytest.raises(ProgramError, match="'l1' names no density"):
        adapters.from_pythae(standing_in("VAE", "l1"))


@pytest.mark.filterwarnings("ignore")  # of the library, and of grey pixels
@pytest.mark.parametrize("name", [*DENSITIES, *UNDECLARED, *REFUSED])
def test_every_model_of_pythae(name, single_precision):
    models = library("pythae.models", "pythae")
    config = getattr(models, f"{name}Config", None) or getattr(models, f"{name}_Config")
    torch.manual_seed(0)
    model = getattr(models, name)(config(input_dim=(1, 4, 4), latent_dim=LATENT))
    if name in REFUSED or name in UNDECLARED:
        with pytest.raises(ProgramError, match=f"`{name}`"):
            adapters.from_pythae(model)
        return
    pair = adapters.from_pythae(model, rows=PICTURES)
    assert pair.round_trip is None if not DENSITIES[name] else pair.round_trip.is_elbo


@pytest.mark.filterwarnings("ignore")
def test_gap_of_a_model_of_pythae(single_precision):
    models = library("pythae.models", "pythae")
    torch.manual_seed(0)
    model = models.VAE(models.VAEConfig(input_dim=(1, 4, 4), latent_dim=LATENT, reconstruction_loss="bce")).eval()
    rows, out = PICTURES[:4].round(), model.encoder(PICTURES[:4].round())

    def elbo(h):
        shown = model.decoder(h.flatten(0, 1)).reconstruction.reshape(*h.shape[:2], 16)
        errors = F.binary_cross_entropy(shown, rows.flatten(1).expand_as(shown), reduction="none").sum(2)
        return td.Normal(0.0, 1.0).log_prob(h).sum(2) - errors

    check_gap(adapters.from_pythae(model), rows, elbo, out.embedding, (0.5 * out.log_covariance).exp())


# ------------------------------------------------------------------------------ diffusers


class Moments(nn.Module):
    """`AutoencoderKL` by its documented interface."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(2, 1, 4, 2, 1)

    def encode(self, x, return_dict=True):
        mean, logvar = self.encoder(x).chunk(2, 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=(0.5 * logvar).exp(), logvar=logvar))

    def decode(self, z, return_dict=True, generator=None):
        return SimpleNamespace(sample=self.decoder(z))


def kl_autoencoder():
    torch.manual_seed(0)
    return library("diffusers").AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=1,
        norm_num_groups=2,
        sample_size=4,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [Moments, kl_autoencoder], ids=["stand-in", "diffusers"])
def test_an_autoencoder_of_diffusers(make, single_precision):
    vae = make().eval()

    def loss(x):
        moments = vae.encode(x).latent_dist
        h = moments.mean + moments.std * torch.randn_like(moments.std)
        kl = 0.5 * (moments.mean**2 + moments.std**2 - 1 - 2 * moments.std.log())
        return 2 * (vae.decode(h).sample - x).square().sum() + kl.sum()

    pair = adapters.from_diffusers(vae, likelihood="gaussian", scale=0.5, rows=PICTURES, loss=loss)
    assert pair.round_trip.is_elbo
    rows, moments = PICTURES[:3], vae.encode(PICTURES[:3]).latent_dist

    def elbo(h):
        shown = vae.decode(h.flatten(0, 1)).sample.reshape(*h.shape[:2], *rows.shape[1:])
        given = td.Normal(shown, 0.5).log_prob(rows).flatten(2).sum(2)
        return td.Normal(0.0, 1.0).log_prob(h).flatten(2).sum(2) + given

    found = pplvae.log_weights(*pair, rows, particles=500)
    h = moments.mean + moments.std * torch.randn(500, *moments.mean.shape)
    own = elbo(h) - td.Normal(moments.mean, moments.std).log_prob(h).flatten(2).sum(2)
    error = (own.var(0) + found.var(0)).div(500).sqrt()
    assert bool(((own.mean(0) - found.mean(0)).abs() < 5 * error).all())
    if make is Moments:
        check_gap(pair, rows, elbo, moments.mean, moments.std)


def test_an_autoencoder_without_a_distribution_is_refused():
    class Tiny(Moments):
        def encode(self, x):
            return SimpleNamespace(latents=self.encoder(x))

    with pytest.raises(ProgramError, match=r"without `latent_dist`.*no ELBO"):
        adapters.from_diffusers(Tiny(), likelihood="gaussian", scale=1.0, rows=PICTURES.double())
    with pytest.raises(ProgramError, match="Declare one"):
        adapters.from_diffusers(Moments(), likelihood=None)


# ------------------------------------------------------------------------------ Lightning


def lightning_vae(base):
    class VAE(base):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(16, 2 * LATENT), nn.Linear(LATENT, 16)

        def encode(self, x):
            return self.first(x.flatten(1)).chunk(2, 1)

        def decode(self, h):
            return self.last(h)

        def training_step(self, batch, index):
            x, _ = batch
            mu, log_var = self.encode(x)
            h = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
            loss = F.binary_cross_entropy_with_logits(self.decode(h), x.flatten(1), reduction="sum")
            loss = (loss - 0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()) / len(x)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    return VAE()


class Logging(nn.Module):
    def log(self, name, value):
        pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", [None, "lightning"])
def test_a_training_step_of_lightning_is_compared(package, single_precision):
    vae = lightning_vae(library(package).LightningModule if package else Logging)
    rows = (PICTURES.round(), torch.arange(len(PICTURES)))
    said = {"likelihood": "bernoulli", "encoder_output": "loc-logvar", "decoder_output": "logits"}
    pair = adapters.from_lightning(vae, rows=rows, **said)
    assert pair.round_trip.is_elbo
    pair = adapters.from_lightning(vae, rows=rows[0], batch=lambda x: (x, None), **said)
    assert pair.round_trip.reductions == ("mean", "mean")


# ------------------------------------------------------------------------------ scvi-tools


class Cells(nn.Module):
    """The part of scvi-tools' `VAE` that is documented: inference, generative, and their inputs."""

    gene_likelihood, n_latent = "poisson", LATENT

    def __init__(self, observed):
        super().__init__()
        self.use_observed_lib_size = observed
        self.z, self.l, self.net = nn.Linear(5, 2 * LATENT), nn.Linear(5, 2), nn.Linear(LATENT + 1, 5)
        self.z_encoder = SimpleNamespace(z_transformation=lambda z: z)

    def _get_inference_input(self, tensors):
        return {"x": tensors["X"]}

    def inference(self, x):
        qz, ql = (td.Normal(m, s.exp()) for m, s in (self.z(x).chunk(2, 1), self.l(x.log1p()).chunk(2, 1)))
        return {"qz": qz, "ql": None if self.use_observed_lib_size else ql}

    def _get_generative_input(self, tensors, drawn):
        return {"z": drawn["z"], "library": drawn["library"], "batch": tensors["batch"]}

    def generative(self, z, library, batch):
        shares = self.net(torch.cat([z, batch.to(z)], 1)).softmax(1)
        return {"px": td.Poisson(library.exp() * shares)}

    def _compute_local_library_params(self, batch):
        return 2.0 + 0.0 * batch, 0.25 + 0.0 * batch


@pytest.mark.parametrize("observed", [True, False])
def test_a_module_with_scvis_interface(observed):
    torch.manual_seed(0)
    counts = td.Poisson(3.0).sample((30, 5)) + 1
    module = Cells(observed)
    tensors = {"X": counts, "batch": (torch.arange(30) % 2.0).reshape(-1, 1)}
    pair = adapters.from_scvi(module, tensors)
    assert pair.names == ("X", "batch")
    found = pplvae.log_weights(*pair, pair.rows, particles=2000)
    outputs = module.inference(counts)
    z, size = outputs["qz"].sample((2000,)), counts.sum(1, keepdim=True).log()
    own = (td.Normal(0.0, 1.0).log_prob(z) - outputs["qz"].log_prob(z)).sum(2)
    if not observed:
        size = outputs["ql"].sample((2000,))
        own = own + (td.Normal(*(2.0, 0.5)).log_prob(size) - outputs["ql"].log_prob(size)).sum(2)
    shares = module.net(torch.cat([z, tensors["batch"].expand(2000, -1, -1)], 2)).softmax(2)
    own = own + td.Poisson(size.exp() * shares).log_prob(counts).sum(2)
    error = (own.var(0) + found.var(0)).div(2000).sqrt()
    assert bool(((own.mean(0) - found.mean(0)).abs() < 5 * error).all())
    if not observed:
        return

    def elbo(z):
        shares = module.net(torch.cat([z, tensors["batch"][:3].expand(len(z), -1, -1)], 2)).softmax(2)
        given = td.Poisson(counts[:3].sum(1, keepdim=True) * shares).log_prob(counts[:3]).sum(2)
        return td.Normal(0.0, 1.0).log_prob(z).sum(2) + given

    check_gap(pair, tuple(each[:3] for each in pair.rows), elbo, outputs["qz"].loc[:3], outputs["qz"].scale[:3])


def test_modules_of_scvi_that_are_not_read():
    with pytest.raises(ProgramError, match="Linear is no module that is read here"):
        adapters.from_scvi(nn.Linear(2, 2), {"X": torch.ones(3, 2)})
    with pytest.raises(ProgramError, match="A module has no cells"):
        adapters.from_scvi(Cells(observed=True))


def cells_of_scvi():
    scvi, anndata = library("scvi", "scvi-tools"), library("anndata")
    torch.manual_seed(0)
    cells = anndata.AnnData((td.Poisson(3.0).sample((100, 8)) + 1).float().numpy())
    cells.obs["sample"] = ["a", "b"] * 50
    return scvi, cells


SETTINGS = [
    {},
    {"use_observed_lib_size": False},
    {"gene_likelihood": "nb", "latent_distribution": "ln"},
    {"gene_likelihood": "poisson", "dispersion": "gene-batch"},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_elbo_of_scvi_is_its_own(settings, single_precision):
    scvi, cells = cells_of_scvi()
    scvi.model.SCVI.setup_anndata(cells, batch_key="sample")
    model = scvi.model.SCVI(cells, n_hidden=8, n_latent=LATENT, **settings)
    model.module.eval()
    pair = adapters.from_scvi(model)
    assert pair.names[:2] == ("X", "batch")
    tensors = dict(zip(pair.names, pair.rows, strict=True))
    with torch.no_grad():
        own = torch.tensor([-float(model.module(tensors)[2].loss) for _ in range(1000)])
    found = pplvae.log_weights(*pair, pair.rows, particles=1000).mean(1)
    error = ((own.var() + found.var()) / 1000).sqrt()
    assert abs(own.mean() - found.mean()) < 4 * error
    gap = pplvae.amortisation_gap(*pair, tuple(each[:3] for each in pair.rows)).rows
    assert (gap["amortisation_gap"] > 0).all()


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_scvi_that_is_written_in_pyro(single_precision):
    scvi, cells = cells_of_scvi()
    scvi.model.AmortizedLDA.setup_anndata(cells)
    model = scvi.model.AmortizedLDA(cells, n_topics=3, n_hidden=8)
    pair = adapters.from_scvi(model)
    assert pair.guide.func is model.module.guide
    assert pair.names == ("x", "_library")
    assert pplvae.log_weights(*pair, pair.rows).shape[1] == 100
