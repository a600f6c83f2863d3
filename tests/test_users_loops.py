"""A pair that is trained by a loop of its user's own is measured as that loop has left it."""

import os

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.nn import functional as F

import pplvae

ROWS = (torch.randn(64, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(6) > 0).double()
EPOCHS = 30


@pytest.fixture(autouse=True)
def environment_kept():
    """Lightning sets variables as it comes in."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(2, 6)

    def encode(self, v):
        return self.first(v).chunk(2, 1)

    def decode(self, h):
        return self.last(h)


class Written(VAE):
    """The same in Pyro."""

    def model(self, v):
        pyro.module("vae", self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", dist.Bernoulli(logits=self.decode(h)).to_event(1), obs=v)

    def guide(self, v):
        pyro.module("vae", self)
        loc, log_var = self.encode(v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, (0.5 * log_var).exp()).to_event(1))


def in_torch():
    vae = VAE()
    said = {"likelihood": "bernoulli", "encoder_output": "loc-logvar", "decoder_output": "logits", "latent": 2}
    return tuple(pplvae.from_torch(vae.first, vae.last, **said))


def in_pyro():
    vae = Written()
    return vae.model, vae.guide


class Ours(nn.Module):
    """Methods as modules: Pyro's ELBO modules find the parameters of modules alone."""

    def __init__(self, method):
        super().__init__()
        self.vae, self.method = method.__self__, method.__name__

    def forward(self, v):
        return getattr(self.vae, self.method)(v)


def as_modules(model, guide):
    return (model, guide) if isinstance(model, nn.Module) else (Ours(model), Ours(guide))


def by_svi(model, guide):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(EPOCHS):
        svi.step(ROWS)


def by_an_elbo_module(model, guide):
    elbo = Trace_ELBO()(*as_modules(model, guide))
    elbo(ROWS)
    optimiser = torch.optim.Adam(elbo.parameters(), 0.02)
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        elbo(ROWS).backward()
        optimiser.step()


def by_lightning(model, guide):
    lightning = pytest.importorskip("lightning", reason="lightning is no dependency; `pip install lightning` to try it")

    class Trained(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.elbo = Trace_ELBO()(*as_modules(model, guide))

        def training_step(self, batch, _):
            return self.elbo(batch[0])

        def configure_optimizers(self):
            return torch.optim.Adam(self.elbo.parameters(), 0.02)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ROWS), len(ROWS))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", **quiet).fit(Trained(), loader)


def by_fabric(model, guide):
    fabric = pytest.importorskip(
        "lightning.fabric", reason="lightning is no dependency; `pip install lightning`"
    ).Fabric(accelerator="cpu")
    elbo = Trace_ELBO()(*as_modules(model, guide))
    elbo, optimiser = fabric.setup(elbo, torch.optim.Adam(elbo.parameters(), 0.02))
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        fabric.backward(elbo(ROWS))
        optimiser.step()


def by_their_own_loss(model, guide):
    """Of torch alone; the pair shares the networks."""
    (first, *_), (*_, last) = (
        [layer for layer in root.modules() if isinstance(layer, nn.Linear)]
        for root in (getattr(guide, "__self__", guide), getattr(model, "__self__", model))
    )
    optimiser = torch.optim.Adam([*first.parameters(), *last.parameters()], 0.02)
    for _ in range(EPOCHS):
        loc, log_var = first(ROWS).chunk(2, 1)
        h = loc + (0.5 * log_var).exp() * torch.randn_like(loc)
        loss = F.binary_cross_entropy_with_logits(last(h), ROWS, reduction="sum")
        optimiser.zero_grad()
        (loss - 0.5 * (1 + log_var - loc**2 - log_var.exp()).sum()).backward()
        optimiser.step()


LOOPS = [by_svi, by_an_elbo_module, by_lightning, by_fabric, by_their_own_loss]


@pytest.mark.filterwarnings("ignore")  # of Lightning
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
@pytest.mark.parametrize("make", [in_torch, in_pyro], ids=lambda make: make.__name__)
def test_what_a_loop_has_trained_is_what_is_compared(make, loop):
    model, guide = make()
    start = pplvae.log_weights(model, guide, ROWS[:8], particles=200).mean()
    weights = [*getattr(model, "__self__", model).parameters(), *getattr(guide, "__self__", guide).parameters()]
    before = [weight.detach().clone() for weight in weights]
    loop(model, guide)
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    found = pplvae.amortisation_gap(model, guide, ROWS[:8], particles=500).rows
    assert float(found["elbo_amortised"].mean()) > float(start) + 0.5
    assert (found["amortisation_gap"] > -3 * found["amortisation_gap_stderr"]).all()
    own = torch.tensor([-Trace_ELBO().loss(model, guide, ROWS[:8]) / 8 for _ in range(300)])
    error = 300**-0.5 * own.std() + float((found["elbo_amortised_stderr"] ** 2).mean() ** 0.5)
    assert abs(own.mean() - float(found["elbo_amortised"].mean())) < 4 * error
