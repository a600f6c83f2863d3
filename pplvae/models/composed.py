"""A VAE composed of parts that are named: what `pplvae fit --likelihood ... --prior ... --guide ...` builds."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pplvae.errors import UnknownNameError
from pplvae.guides import GUIDES, Family
from pplvae.likelihoods import LIKELIHOODS, Likelihood
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
    known["likelihood"] = _part("likelihood", LIKELIHOODS, likelihood, known)
    known["decoder"] = MLP(latent, list(hidden)[::-1], known["likelihood"].heads(visible))
    known["visible"] = known["inputs"] = known["likelihood"].features(torch.zeros(1, visible)).shape[1]
    # VampPrior is made of the guide, an iterative guide of the prior: whichever needs nothing of the other is first.
    if _takes("guide", GUIDES, guide, "prior"):
        known["prior"] = _part("prior", PRIORS, prior, known)
        known["family"] = _part("guide", GUIDES, guide, known)
    else:
        known["family"] = _part("guide", GUIDES, guide, known)
        known["prior"] = _part("prior", PRIORS, prior, known)
    return VAE(visible, known["prior"], known["decoder"], known["likelihood"], known["family"])


def _takes(what: str, registry: Mapping[str, Callable[..., Any]], part: Any, name: str) -> bool:
    return isinstance(part, str) and name in inspect.signature(_maker(what, registry, part)).parameters


def _maker(what: str, registry: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    if name not in registry:
        raise UnknownNameError(what, name, registry)
    return registry[name]


def _part(what: str, registry: Mapping[str, Callable[..., Any]], part: Any, known: Mapping[str, Any]) -> Any:
    """A part itself, or the one of that name, made with what its constructor takes of what is known."""
    if not isinstance(part, str):
        return part
    make = _maker(what, registry, part)
    takes = inspect.signature(make).parameters
    missing = {"prior", "family"} & takes.keys() - known.keys()
    if missing:
        raise ValueError(f"The {what} {part!r} is made of the model's {missing.pop()}, which is made after it.")
    return make(**{name: value for name, value in known.items() if name in takes})
