"""A good p(v) whose h means nothing, and InfoVAE's answer.

Rows come from a mixture of three normals. The decoder is strong: it gives such a mixture itself, so it can be p_*(v)
without any help from h. The guide is simple: a normal whose mean is linear in v. Any use of h would cost it something,
so the ELBO's best p(v, h) is a good model of v, and h says nothing of v. InfoVAE takes the KL term of each row away and
holds the latents of all rows, together, to the prior.

Log p(v) is computed by quadrature over the single latent. Run it:
`python examples/10_reduced_latents.py --figure reduced.png`.
"""

import argparse
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pplvae
from pplvae.nets import MLP
from pplvae.objectives import InfoVAE, StickingTheLanding, maximum_mean_discrepancy

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=3000)
parser.add_argument("--epochs", type=int, default=150)
parser.add_argument("--figure", type=Path, default=None, help="write a picture of both joints here")
arguments = parser.parse_args()


def mixture(logits, means, scales):
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(means, scales))


class MixtureVAE(nn.Module):
    """One latent; the decoder gives a mixture of three normals, the guide a normal, linear in v."""

    def __init__(self):
        super().__init__()
        self.decoder = MLP(1, [32], [3, 3, 3], nn.Tanh)
        self.encoder = nn.Linear(1, 1)
        self.log_scale = nn.Parameter(torch.zeros(1))

    def given(self, h):
        """p(v | h)."""
        logits, means, log_scales = self.decoder(h)
        return mixture(logits, 3 * means, (log_scales.tanh() - 0.5).exp())

    def model(self, v):
        """p(v, h)."""
        pyro.module("vae", self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", self.given(h), obs=v)

    def guide(self, v):
        """q(h | v)."""
        pyro.module("vae", self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(self.encoder(v.unsqueeze(-1)), self.log_scale.exp()).to_event(1))

    def log_evidence(self, v):
        """Log p(v), by quadrature over h."""
        h = torch.linspace(-6, 6, 801)
        log_prior = dist.Normal(0.0, 1.0).log_prob(h) + (h[1] - h[0]).log()
        return (self.given(h.unsqueeze(-1)).log_prob(v.unsqueeze(-1)) + log_prior).logsumexp(-1)


def drawn(vae, v):
    """Latents from the guide for rows v; rows and latents from the model."""
    h, loc = torch.randn(len(v), 1), vae.encoder(v.unsqueeze(-1))
    return loc + vae.log_scale.exp() * torch.randn_like(loc), h, vae.given(h).sample()


torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
true_law = mixture(torch.tensor([0.3, 0.4, 0.3]).log(), torch.tensor([-3.0, 0.0, 2.5]), torch.tensor([0.5, 0.4, 0.6]))
rows, held_out = true_law.sample((arguments.rows,)), true_law.sample((arguments.rows // 3,))

objectives = {"ELBO": StickingTheLanding(), "InfoVAE": InfoVAE(alpha=1.0, penalty=30.0)}
found = {}
print(f"{'held-out, nats per row':<44}" + "".join(f"{name:>20}" for name in objectives))
lines = {}
for name, objective in objectives.items():
    torch.manual_seed(1)
    vae = MixtureVAE()
    fit = pplvae.fit(vae.model, vae.guide, rows, objective=objective, epochs=arguments.epochs, lr=5e-3, seed=0)
    joint = pplvae.joint_kl(fit.model, fit.guide, held_out, true_law.log_prob, seed=0)
    use = pplvae.latent_use(fit.model, fit.guide, held_out, seed=0)
    with torch.no_grad():
        lost = true_law.log_prob(held_out) - vae.log_evidence(held_out)
        found[name] = held_out, *drawn(vae, held_out)
        discrepancy = maximum_mean_discrepancy(found[name][1], found[name][2])
    lines.setdefault("KL(p_* || p(v)): is v well modelled?", []).append(
        f"{float(lost.mean()):.3f} ± {float(lost.std()) / len(lost) ** 0.5:.3f}"
    )
    information = float(use.aggregate["mutual_information"])
    lines.setdefault("I(v; h) under q: does h say anything of v?", []).append(f"{information:.3f}")
    lines.setdefault("MMD² of q(h) and p(h): is it the prior's h?", []).append(f"{float(discrepancy):.4f}")
    lines.setdefault("KL of the joints, what the ELBO minimises", []).append(f"{joint.mean:.3f} ± {joint.stderr:.3f}")
for title, values in lines.items():
    print(f"{title:<44}" + "".join(f"{value:>20}" for value in values))

if arguments.figure:
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharex=True, sharey=True, layout="constrained")
    for panel, (name, (v, from_guide, h, from_model)) in zip(panels, found.items(), strict=True):
        panel.scatter(from_model, h[:, 0], s=5, color="tab:orange", label="p(v, h): the model")
        panel.scatter(v, from_guide[:, 0], s=5, color="tab:blue", label="p$_*$(v) q(h | v): data and guide")
        panel.set(title=name, xlabel="v", ylim=(-4, 4))
    panels[0].set_ylabel("h")
    panels[0].legend(loc="upper left", fontsize="small")
    figure.savefig(arguments.figure, dpi=150)
    print("Figure:", arguments.figure)
