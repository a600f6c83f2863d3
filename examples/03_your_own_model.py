"""Your own Pyro program: nothing of pplvae but `fit` and `amortisation_gap`.

Counts of events, whose rate follows a latent position through a small network; the latent is positive (LogNormal), so
neither the prior nor the family is Gaussian. Run it: `python examples/03_your_own_model.py`.
"""

import argparse

import arviz
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pplvae

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=200)
parser.add_argument("--rows", type=int, default=600)
arguments = parser.parse_args()

torch.manual_seed(0)
decoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 12))
encoder = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4))


def model(counts):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(counts)):
        h = pyro.sample("h", dist.LogNormal(torch.zeros(2), 0.5).to_event(1))
        pyro.sample("counts", dist.Poisson(decoder(h).exp()).to_event(1), obs=counts)


def guide(counts):
    pyro.module("encoder", encoder)
    loc, log_scale = encoder(torch.log1p(counts)).chunk(2, dim=-1)
    with pyro.plate("data", len(counts)):
        pyro.sample("h", dist.LogNormal(loc, log_scale.exp()).to_event(1))


truth = torch.randn(2, 12)
h = torch.randn(arguments.rows, 2).mul(0.5).exp()
counts = torch.poisson((h.log() @ truth + 1).exp())
train, test = counts[: 2 * arguments.rows // 3], counts[2 * arguments.rows // 3 :]

fit = pplvae.fit(model, guide, train, validation=test, objective="Trace_ELBO", epochs=arguments.epochs, lr=3e-3)
print(fit)
print(pplvae.amortisation_gap(fit.model, fit.guide, {"train": train, "test": test}))

# Draws from the posteriors of some rows, in ArviZ's own container.
posterior = pplvae.posterior_means(fit.model, fit.guide, test[:3], draws=400).to_arviz()
print(arviz.summary(posterior, kind="stats"))
