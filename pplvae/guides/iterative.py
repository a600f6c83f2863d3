"""Guides that go on from an encoder's lambda, row by row, along the gradient of the row's own ELBO.

Two rules say how: a network that reads the gradient (iterative amortised inference), or learned steps along it
(semi-amortised inference). Everything else is common to both.
"""

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.likelihoods import Likelihood
from pplvae.nets import MLP
from pplvae.priors import Prior
from pplvae.programs.batch import tile

Features = Float[Tensor, "row feature"]
Visible = Float[Tensor, "row column"]
Totals = Float[Tensor, "row 1"]
Lambda = Float[Tensor, "row two_latent"]  # means, then log standard deviations


class Refined(nn.Module):
    r"""A factorised Gaussian whose λ is the encoder's, refined in `steps` steps by a rule that sees ∇_λ ELBO.

    Subclasses give the rule, `update`. It is trained *through* the refinement, and so is the encoder: the gradient of
    `fit`'s objective is taken of the refined λ, second derivatives included. So it is for the decoder where that is
    trained too, as in Kim et al.: λ depends on the decoder as well, and the objective is differentiated as a whole.

    The ELBO that is climbed is that of the whole row, at KL weight 1, with draws h = μ + σ z at the same few z for
    every row, which are kept with the weights: given its weights, the guide is a function of the row alone. The z come
    in mirrored pairs with unit second moments (and uncorrelated where there are 2 · `latent` draws or more), so that
    the means over them of linear functions, or then of quadratic ones, are exact.

    Args:
        visible: columns that the encoder sees.
        latent: dimension of h.
        hidden: widths of the hidden layers of the encoder.
        prior: p(h), the model's own.
        decoder: from h to the heads of the likelihood, the model's own.
        likelihood: p(v | h), the model's own.
        steps: of refinement.
        particles: Monte Carlo draws per row and step: z; even.

    Raises:
        ValueError: fewer than one step, or a number of draws that is not even and positive.
    """

    sees_rows = True

    def __init__(
        self,
        visible: int,
        latent: int,
        hidden: Sequence[int],
        prior: Prior,
        decoder: Callable[[Tensor], tuple[Tensor, ...]],
        likelihood: Likelihood,
        steps: int,
        particles: int,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {steps}: without any, use FactorisedGaussian.")
        if particles < 2 or particles % 2:
            raise ValueError(f"`particles` must be even (draws are mirrored) and at least 2, got {particles}.")
        self.encoder = MLP(visible, hidden, [latent, latent])
        self.steps = steps
        # In a tuple, since they belong to the model: as submodules they would stand in its weights under two names.
        self._model = (prior, decoder, likelihood)
        self.draws: Tensor
        self.register_buffer("draws", _mirrored_draws(particles, latent))

    def refines(self, *model: object) -> bool:
        """Whether it climbs the ELBO of the model with this prior, decoder and likelihood."""
        return all(ours is theirs for ours, theirs in zip(self._model, model, strict=True))

    def forward(self, features: Features, v: Visible, total: Totals | None = None) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,).

        Args:
            features: what the encoder is shown of v.
            v: the rows, as the likelihood takes them.
            total: of each row, for a likelihood of counts.
        """
        return _gaussian(self.path(features, v, total)[-1])

    def path(self, features: Features, v: Visible, total: Totals | None = None) -> list[Lambda]:
        """The encoder's λ and those after each step: means and log standard deviations side by side."""
        path = [torch.cat(self.encoder(features), -1)]
        for step in range(self.steps):
            path.append(self.update(step, path[-1], self.slope(path[-1], v, total)))
        return path

    def update(self, step: int, lam: Lambda, slope: Lambda) -> Lambda:
        """The next λ.

        Args:
            step: counted from 0.
            lam: λ so far.
            slope: the gradient of each row's ELBO there.
        """
        raise NotImplementedError

    def slope(self, lam: Lambda, v: Visible, total: Totals | None = None) -> Lambda:
        """∇_λ ELBO of each row, in nats per unit of λ; differentiable itself unless gradients are switched off."""
        through = torch.is_grad_enabled()
        with torch.enable_grad():  # validation and comparisons run without gradients, and this needs one
            at = lam if lam.requires_grad else lam.detach().requires_grad_()
            # A row's ELBO depends on no other row's λ, so the gradient of the sum is that of each.
            (slope,) = torch.autograd.grad(self.elbo(at, v, total).sum(), at, create_graph=through)
        return slope

    def elbo(self, lam: Lambda, v: Visible, total: Totals | None = None) -> Float[Tensor, " row"]:
        """The ELBO that is climbed, in nats per row: the mean over the guide's own draws, entropy in closed form."""
        prior, decoder, likelihood = self._model
        count = len(self.draws)
        mean, log_scale = lam.chunk(2, dim=-1)
        h = (mean + log_scale.exp() * self.draws.unsqueeze(1)).flatten(0, 1)
        heads = decoder(h)
        if likelihood.takes_total and total is not None:
            heads = (*heads, tile(total, count))
        log_joint = prior(v).log_prob(h) + likelihood(*heads).log_prob(tile(v, count))
        return log_joint.unflatten(0, (count, len(v))).mean(0) + _gaussian(lam).entropy()


class Iterative(Refined):
    r"""Iterative amortised inference: a network reads λ and the gradient there, and answers with a move of λ.

    :math:`\lambda_{t+1} = \lambda_t + g_t \odot f_t`, gate and move both from one network that is the same in all
    steps. The gradient is shown to it as :math:`\mathrm{asinh}(\nabla_\lambda)`: its logarithm with its sign where it
    is large, itself where it is small.

    The paper has three things otherwise. Its network proposes the next λ itself, :math:`g_t \odot \lambda_t +
    (1 - g_t) \odot f_t`: on the digits (three steps, 20 epochs) that left three times the gap. It normalises what the
    network reads by the mean and variance over a row's elements, which takes the size of a gradient away. And it needs
    no encoder to start from and sums the objective over all steps: here an encoder gives the start, and the last step
    counts.

    Args:
        visible: columns that the encoder sees.
        latent: dimension of h.
        hidden: widths of the hidden layers, of the encoder and of the network that refines.
        prior: p(h), the model's own.
        decoder: from h to the heads of the likelihood, the model's own.
        likelihood: p(v | h), the model's own.
        steps: of refinement.
        particles: see `Refined`.

    Raises:
        ValueError: see `Refined`.

    References:
        Iterative amortized inference (Marino, Yue and Mandt, 2018), arXiv 1807.09356.
    """

    def __init__(
        self,
        visible: int,
        latent: int,
        hidden: Sequence[int],
        prior: Prior,
        decoder: Callable[[Tensor], tuple[Tensor, ...]],
        likelihood: Likelihood,
        steps: int = 3,
        particles: int = 8,
    ) -> None:
        super().__init__(visible, latent, hidden, prior, decoder, likelihood, steps, particles)
        # ELU rather than ReLU: the sign of a gradient matters, and so do second derivatives.
        self.network = MLP(4 * latent, hidden, [2 * latent, 2 * latent], nn.ELU)

    def update(self, step: int, lam: Lambda, slope: Lambda) -> Lambda:
        """The network's move, gated."""
        gate, move = self.network(torch.cat([lam, torch.asinh(slope)], -1))
        return lam + torch.sigmoid(gate) * move


class SemiAmortised(Refined):
    r"""Semi-amortised inference: gradient ascent on the ELBO from the encoder's λ.

    :math:`\lambda_{k+1} = \lambda_k + \rho_k \odot \nabla_\lambda`, with step sizes ρ that are learned with the
    encoder, one per step and element of λ. A row's gradient is shortened to `clip` where it is longer, as in the paper
    (row by row, so that rows stay apart); there the step size is a constant.

    Args:
        visible: columns that the encoder sees.
        latent: dimension of h.
        hidden: widths of the hidden layers of the encoder.
        prior: p(h), the model's own.
        decoder: from h to the heads of the likelihood, the model's own.
        likelihood: p(v | h), the model's own.
        steps: of refinement.
        particles: see `Refined`.
        step_size: of all elements, to begin with.
        clip: longest gradient of a row, in nats per unit of λ.

    Raises:
        ValueError: see `Refined`; a step size or `clip` that is not positive.

    References:
        Semi-amortized variational autoencoders (Kim et al., 2018), arXiv 1802.02550.
    """

    def __init__(
        self,
        visible: int,
        latent: int,
        hidden: Sequence[int],
        prior: Prior,
        decoder: Callable[[Tensor], tuple[Tensor, ...]],
        likelihood: Likelihood,
        steps: int = 3,
        particles: int = 8,
        step_size: float = 0.05,
        clip: float = 5.0,
    ) -> None:
        super().__init__(visible, latent, hidden, prior, decoder, likelihood, steps, particles)
        if not (step_size > 0 and clip > 0):
            raise ValueError(f"`step_size` and `clip` must be positive, got {step_size} and {clip}.")
        self.log_step = nn.Parameter(torch.full((steps, 2 * latent), math.log(step_size)))
        self.clip = clip

    def update(self, step: int, lam: Lambda, slope: Lambda) -> Lambda:
        """A step along the gradient."""
        length = torch.linalg.vector_norm(slope, dim=-1, keepdim=True).clamp(min=self.clip)
        return lam + self.log_step[step].exp() * slope * (self.clip / length)


def _gaussian(lam: Lambda) -> Distribution:
    mean, log_scale = lam.chunk(2, dim=-1)
    return dist.Normal(mean, log_scale.exp()).to_event(1)


def _mirrored_draws(count: int, latent: int) -> Float[Tensor, "draw latent"]:
    half = nn.init.orthogonal_(torch.empty(count // 2, latent))
    half = half / half.square().mean(0).sqrt()
    return torch.cat([half, -half])
