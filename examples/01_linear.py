"""A linear-Gaussian model, where every gap is known exactly, and what `compare` finds.

The encoder is wrong on purpose, in another way for every row. Run it: `python examples/01_linear.py`.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch

import pplvae

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=200)
arguments = parser.parse_args()

torch.manual_seed(0)
linear = pplvae.models.FactorAnalysis(visible=10, latent=3).double()
v = torch.randn(arguments.rows, 10, dtype=torch.float64)
mixing = 0.3 * torch.randn(10, 3, dtype=torch.float64)


def encode(v):
    """A mean and a scale per latent: not the best ones."""
    return torch.tanh(v @ mixing), torch.exp(0.5 * torch.sin(v[:, :3]))


def guide(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(*encode(v)).to_event(1))


found = pplvae.compare(linear.model, guide, v, seed=0)
print(found, "\n")

with torch.no_grad():
    exact = {
        "elbo_amortised": linear.elbo(v, *encode(v)),
        "elbo_local": linear.elbo(v, *linear.best_factorised(v)),
        "amortisation_gap": linear.amortisation_gap(v, *encode(v)),
        "log_evidence": linear.log_evidence(v),
        "approximation_gap": linear.approximation_gap().expand(len(v)),
    }
print(f"{'mean over rows, nats':<20}{'exact':>10}{'measured':>10}{'± MC':>8}")
summary = found.summary().isel(part=0)
for term, truth in exact.items():
    line = summary.sel(term=term)
    mean, stderr = float(line["mean"]), float(line["mc_stderr"])
    print(f"{term:<20}{float(truth.mean()):>10.4f}{mean:>10.4f}{stderr:>8.4f}")
    assert abs(mean - float(truth.mean())) < max(0.01, 4 * stderr), f"{term} is off"
print("Every term agrees with its closed form within 0.01 nat or 4 standard errors.")
