"""The lecture's identities, each with numbers on both sides.

1. The ELBO of the data is the sum of the rows' ELBOs, and the log-likelihood minus the divergences (eq. 10-11).
2. Maximising it is minimising KL(p_*(v) q(h|v) || p(v, h)), a divergence between joints (eq. 14, 26).
3. A VAE with a linear decoder and a Gaussian likelihood is factor analysis: the fit reaches its maximum likelihood.

Everything is linear-Gaussian, so the right-hand sides are exact. Run it: `python examples/09_identities.py`.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from sklearn.decomposition import FactorAnalysis as MaximumLikelihood
from torch.distributions import kl_divergence

import pplvae
from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import GaussianShared
from pplvae.models import VAE, FactorAnalysis
from pplvae.nets import MLP
from pplvae.priors import StandardNormal

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=2000)
parser.add_argument("--epochs", type=int, default=150)
arguments = parser.parse_args()

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
model, truth = FactorAnalysis(visible=8, latent=2), FactorAnalysis(visible=8, latent=2)
mixing = 0.3 * torch.randn(8, 2)
with torch.no_grad():
    true_law = dist.LowRankMultivariateNormal(truth.mean, truth.factors, truth.noise)
    v = true_law.sample((arguments.rows,))


def encode(v):
    """A full-covariance Gaussian, not the posterior."""
    spread = torch.tensor([[0.6, 0.0], [0.3, 0.5]])
    return dist.MultivariateNormal(torch.tanh(v @ mixing), scale_tril=spread.expand(len(v), 2, 2))


def guide(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", encode(v))


def line(name, value, stderr=None):
    print(f"  {name:<58}{value:>13.4f}" + (f" ± {stderr:.4f}" if stderr is not None else ""))


print("1. ELBO of the data = sum of row ELBOs = l(theta) - sum of KL(q(h|v_i) || p(h|v_i))")
with torch.no_grad():
    evidence, divergence = model.log_evidence(v), kl_divergence(encode(v), model.posterior(v))
    whole = torch.tensor([-Trace_ELBO().loss(model.model, guide, v) for _ in range(100)])
rows = pplvae.amortisation_gap(model.model, guide, v, max_steps=0, seed=0).rows
row_stderr = float((rows["elbo_amortised_stderr"] ** 2).sum() ** 0.5)
line("ELBO of the data, Pyro's Trace_ELBO (100 draws)", whole.mean(), whole.std() / len(whole) ** 0.5)
line("sum of the rows' ELBOs, pplvae", float(rows["elbo_amortised"].sum()), row_stderr)
line("l(theta) - sum of KL, exact", float((evidence - divergence).sum()))

print("\n2. KL(p_*(v) q(h|v) || p(v, h)) = KL(p_*(v) || p(v)) + E KL(q(h|v) || p(h|v)), nats per row")
joint = pplvae.joint_kl(model.model, guide, v, true_law.log_prob, seed=0)
as_normal = [dist.MultivariateNormal(m.mean, m.factors @ m.factors.T + m.noise.diag()) for m in (truth, model)]
with torch.no_grad():
    of_model = float(kl_divergence(*as_normal))
line("left: log p_*(v) - ELBO, mean over rows", joint.mean, joint.stderr)
line(
    "right: exact + mean over the same rows",
    of_model + float(divergence.mean()),
    float(divergence.std()) / len(v) ** 0.5,
)
line("   of which KL(p_*(v) || p(v)), the model's", of_model)
line("   of which E KL(q || p(h|v)), the guide's", float(divergence.mean()), float(divergence.std()) / len(v) ** 0.5)

print("\n3. A VAE with a linear decoder reaches the maximum likelihood of factor analysis, nats per row")
vae = VAE(8, StandardNormal(2), MLP(2, [], [8]), GaussianShared(8), FactorisedGaussian(8, 2, hidden=[])).double()
pplvae.fit(vae.model, vae.guide, v, epochs=arguments.epochs, lr=0.02, seed=0)
pplvae.fit(vae.model, vae.guide, v, epochs=arguments.epochs // 3, lr=0.002, seed=1)
with torch.no_grad():
    linear = vae.decoder.heads[0]
    noise = vae.given(torch.zeros(1, 2)).base_dist.scale[0] ** 2
    reached = dist.LowRankMultivariateNormal(linear.bias, linear.weight, noise).log_prob(v).mean()
best = MaximumLikelihood(n_components=2, tol=1e-8, max_iter=10_000).fit(v.numpy()).score(v.numpy())
line("log-likelihood of the fitted VAE, exact", float(reached))
line("maximum likelihood of factor analysis (scikit-learn)", best)
line("short of it by", best - float(reached))
