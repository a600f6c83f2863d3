"""A Bernoulli likelihood on pixels that are not binary, against continuous Bernoulli and Beta.

Grey pixels in [0, 1] are often given to a Bernoulli likelihood: v log p + (1 - v) log(1 - p), which is no density
there. Its normaliser is missing, and with it what tells the network to be bolder than the mean.

1. One pixel: rows drawn from a continuous Bernoulli with known λ. The Bernoulli "likelihood" is largest at the mean of
   v, which is nearer to 1/2.
2. The digits, grey: the three likelihoods fitted alike, and ELBOs of held-out rows. A Bernoulli decoder is read as the
   λ of a continuous Bernoulli, which makes it a density.

Run it: `python examples/11_grey_is_not_binary.py --figure grey.png`.
"""

import argparse
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import pplvae
from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Beta, ContinuousBernoulli
from pplvae.models import VAE
from pplvae.nets import MLP
from pplvae.priors import StandardNormal

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=150)
parser.add_argument("--rows", type=int, default=None, help="held-out rows that are compared; by default all")
parser.add_argument("--figure", type=Path, default=None, help="write pictures drawn from the three models here")
arguments = parser.parse_args()


class MisusedBernoulli(VAE):
    """A VAE whose "likelihood" is the binary cross-entropy of grey pixels."""

    def model(self, v):
        """No p(v, h): what is added up is no log-density of v."""
        pyro.module("misused", self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior(v))
            (logits,) = self.decoder(h)
            pyro.factor("v", -binary_cross_entropy_with_logits(logits, v, reduction="none").sum(-1))


def vae_of(kind, likelihood):
    decoder = MLP(8, [128], likelihood.heads(64))
    return kind(64, StandardNormal(8), decoder, likelihood, FactorisedGaussian(64, 8, [128]))


print("1. One pixel, 100 000 draws of a continuous Bernoulli")
print(f"{'true λ':>8}{'mean of v = Bernoulli estimate':>34}{'continuous Bernoulli estimate':>34}")
torch.manual_seed(0)
grid = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
for true in (0.6, 0.8, 0.95):
    draws = dist.ContinuousBernoulli(torch.tensor(true, dtype=torch.float64)).sample((100_000,))
    # In exponential families the likelihood depends on the mean of v alone.
    best = grid[dist.ContinuousBernoulli(grid, validate_args=False).log_prob(draws.mean()).argmax()]
    print(f"{true:>8.2f}{float(draws.mean()):>26.3f} ± {float(draws.std()) / 100_000**0.5:.4f}{float(best):>34.3f}")

print("\n2. The digits, grey: held-out rows")
data = pplvae.load_data("digits", seed=0, binarise="none")
held_out = data.test[: arguments.rows]
kinds = {
    "Bernoulli, misused": (MisusedBernoulli, ContinuousBernoulli()),
    "continuous Bernoulli": (VAE, ContinuousBernoulli()),
    "Beta": (VAE, Beta()),
}
models, elbos = {}, {}
for name, (kind, likelihood) in kinds.items():
    torch.manual_seed(0)
    vae = vae_of(kind, likelihood)
    pplvae.fit(vae.model, vae.guide, data, epochs=arguments.epochs, seed=0)
    models[name] = vae
    # A plain VAE with the same parts: for the first, its decoder's probabilities read as λ.
    as_density = VAE(64, vae.prior, vae.decoder, vae.likelihood, vae.family)
    found = pplvae.amortisation_gap(as_density.model, as_density.guide, held_out, max_steps=0, seed=0)
    elbos[name] = found.rows["elbo_amortised"].values
reference = elbos["continuous Bernoulli"]
print(f"{'':<24}{'ELBO, nats per row':>22}{'minus continuous Bernoulli':>30}")
for name, elbo in elbos.items():
    difference, root = elbo - reference, len(elbo) ** 0.5
    paired = f"{difference.mean():.2f} ± {difference.std() / root:.2f}"
    print(f"{name:<24}{f'{elbo.mean():.2f} ± {elbo.std() / root:.2f}':>22}{paired:>30}")

if arguments.figure:
    from matplotlib import pyplot as plt

    shown = {"held-out rows": data.test.values[:8]}
    for name, vae in models.items():
        torch.manual_seed(2)
        with torch.no_grad():
            shown[f"{name}: mean of v given h"] = vae.likelihood(*vae.decoder(torch.randn(8, 8))).mean
    figure, panels = plt.subplots(len(shown), 8, figsize=(8, 1.25 * len(shown)))
    for line, (title, pictures) in zip(panels, shown.items(), strict=True):
        line[0].set_title(title, fontsize="small", loc="left")
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            panel.axis("off")
    figure.savefig(arguments.figure, dpi=150)
    print("Figure:", arguments.figure)
