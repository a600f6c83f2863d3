"""A VAE composed of parts that are named: what `pplvae fit --likelihood ... --prior ... --guide ...` builds."""

from collections.abc import Sequence
from typing import Any

import torch

from pplvae.guides import GUIDES, Family
from pplvae.likelihoods import LIKELIHOODS, Likelihood
from pplvae.models.parts import part_of, takes
from pplvae.models.vae import VAE
from pplvae.nets import MLP
from pplvae.priors import PRIORS, Prior


def composed_vae(
    visible: int,
    latent: int,
    hidden: Sequence[int] = (128,),
    *,
    likelihood: str | Likelihood = "bernoulli",
    prior: str | Prior = "standard-normal",
    guide: str | Family = "factorised-gaussian",
) -> VAE:
    """A VAE with multilayer perceptrons, and parts by name or as objects.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        likelihood: p(v | h), one of `likelihoods.LIKELIHOODS` or an object.
        prior: p(h), one of `priors.PRIORS` or an object.
        guide: q(h; λ_φ(v)), one of `guides.GUIDES` or an object.

    Raises:
        UnknownNameError: a name that is not in its list.
        ValueError: a prior and a guide that each need the other first.

    >>> vae = composed_vae(64, 2, likelihood="gaussian")
    >>> vae.generate(3).shape
    torch.Size([3, 64])
    """
    known: dict[str, Any] = {"visible": visible, "latent": latent, "hidden": hidden}
    known["likelihood"] = part_of("likelihood", LIKELIHOODS, likelihood, known)
    known["decoder"] = MLP(latent, list(hidden)[::-1], known["likelihood"].heads(visible))
    known["visible"] = known["inputs"] = known["likelihood"].features(torch.zeros(1, visible)).shape[1]
    # VampPrior is made of the guide, an iterative guide of the prior: whichever needs nothing of the other is first.
    if takes("guide", GUIDES, guide, "prior"):
        known["prior"] = part_of("prior", PRIORS, prior, known)
        known["family"] = part_of("guide", GUIDES, guide, known)
    else:
        known["family"] = part_of("guide", GUIDES, guide, known)
        known["prior"] = part_of("prior", PRIORS, prior, known)
    return VAE(visible, known["prior"], known["decoder"], known["likelihood"], known["family"])
