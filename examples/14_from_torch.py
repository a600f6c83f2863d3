"""From a VAE in plain torch to the report of its gap: the statement is `pplvae.from_torch`.

The network, its loss and its training are those that one finds everywhere, and know nothing of Pyro. The loss is then
compared with the ELBO of the pair, and so is one with a KL weight of 4. Run it: `python examples/14_from_torch.py`.
"""

import argparse
import warnings

import torch
from torch import nn
from torch.nn import functional as F

import pplvae

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--rows", type=int, default=200)
arguments = parser.parse_args()


class VAE(nn.Module):
    """As in PyTorch's own examples."""

    def __init__(self):
        super().__init__()
        self.first, self.moments = nn.Linear(64, 128), nn.Linear(128, 8)
        self.second, self.last = nn.Linear(4, 128), nn.Linear(128, 64)

    def encode(self, v):
        """Mean and log variance of h."""
        return self.moments(F.relu(self.first(v))).chunk(2, dim=1)

    def decode(self, h):
        """Probabilities of the pixels."""
        return torch.sigmoid(self.last(F.relu(self.second(h))))

    def loss(self, v, weight=1.0):
        """Minus the ELBO where the weight is 1, per row."""
        mu, log_var = self.encode(v)
        shown = self.decode(mu + (0.5 * log_var).exp() * torch.randn_like(mu))
        kl = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()
        return (F.binary_cross_entropy(shown, v, reduction="sum") + weight * kl) / len(v)


torch.manual_seed(0)
data = pplvae.load_data("digits", seed=0)
v, vae = data.train.values, VAE()
optimiser = torch.optim.Adam(vae.parameters(), lr=1e-3)
for _ in range(arguments.epochs):
    for batch in v[torch.randperm(len(v))].split(128):
        optimiser.zero_grad()
        vae.loss(batch).backward()
        optimiser.step()

said = {"likelihood": "bernoulli", "encoder_output": "loc-logvar", "decoder_output": "probs", "rows": v[:300]}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    print(pplvae.from_torch(vae, loss=lambda v: vae.loss(v, weight=4.0), **said).round_trip)

pair = pplvae.from_torch(vae, loss=vae.loss, **said)
print(pair)
gap = pplvae.compare(*pair, data.test[: arguments.rows])
print(gap)
gap.report("gap.html")
