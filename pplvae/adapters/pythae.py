"""Models of Pythae as Pyro pairs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td

from pplvae.adapters.from_torch import from_torch
from pplvae.adapters.pair import TorchPair
from pplvae.errors import ProgramError

# Those that are trained by a likelihood, and whether the loss is its ELBO with some weight of the KL term.
DENSITIES = {
    **dict.fromkeys(("VAE", "BetaVAE", "VAMP"), True),
    **dict.fromkeys(("IWAE", "MIWAE", "CIWAE", "PIWAE"), False),
    **dict.fromkeys(("BetaTCVAE", "FactorVAE", "DisentangledBetaVAE", "INFOVAE_MMD"), False),
}
# Those with a Gaussian encoder whose loss has no density of the rows.
UNDECLARED = {
    "MSSSIM_VAE": "structural similarity",
    "VAEGAN": "features of a discriminator",
    "Adversarial_AE": "an adversary in place of the KL term",
}
REFUSED = {
    **dict.fromkeys(
        ("AE", "RAE_L2", "RAE_GP", "WAE_MMD", "VQVAE"), "its encoder is deterministic, so that there is no q(h | v)"
    ),
    **dict.fromkeys(
        ("HVAE", "RHVAE"), "its q(h | v) is what Hamiltonian steps make of a draw, and has no density of h"
    ),
    **dict.fromkeys(("VAE_LinNF", "VAE_IAF"), "its flow gives the density of its own draws alone, and of no other h"),
    "SVAE": "its latents lie on a sphere, where a row's own guide is not looked for",
    "PoincareVAE": "its latents lie in a hyperbolic ball, where a row's own guide is not looked for",
}
_LOSSES = {
    "bce": {"likelihood": "bernoulli", "decoder_output": "probs"},
    "mse": {"likelihood": "gaussian", "scale": 1.0},
}


def from_pythae(model: Any, *, likelihood: Any = None, scale: Any = None, rows: Any = None) -> TorchPair:
    """Make a Pyro pair of a model of Pythae.

    The likelihood is that of the model's `reconstruction_loss`: "bce" is a Bernoulli, "mse" a Gaussian of scale 1, as
    half the sum of squares stands in Pythae's losses. Models trained by another objective (importance weights, total
    correlation) are the same pairs, measured by the ELBO.

    Args:
        model: from `pythae.models`.
        likelihood: declared by you, as in `from_torch`, for models that are trained by no density.
        scale: of that likelihood.
        rows: rows on which the pair is tried at once, and the model's own loss compared where it is a weighted ELBO.

    Raises:
        ProgramError: a model without a density; which, and why.
    """
    name = next((kind.__name__ for kind in type(model).__mro__ if kind.__name__ in _KNOWN), None)
    if name is None:
        raise ProgramError(
            f"{type(model).__name__} is no model of Pythae that is known here ({', '.join(_KNOWN)}). Say what it is by "
            "`from_torch(model.encoder, model.decoder, ...)`."
        )
    if name in REFUSED:
        raise ProgramError(f"`{name}` has no gap to be measured: {REFUSED[name]}.")
    if name in UNDECLARED and likelihood is None:
        raise ProgramError(
            f"`{name}` is trained by {UNDECLARED[name]}, so that no density says what its decoder means. Declare one, "
            "`likelihood='gaussian', scale=...`: it is then what is measured."
        )
    said = {"likelihood": likelihood, "scale": scale} if likelihood is not None else _own(model)
    own_loss = rows is not None and likelihood is None and DENSITIES[name]
    return from_torch(
        model.encoder,
        model.decoder,
        **said,
        prior=PseudoInputs(model) if name == "VAMP" else "standard-normal",
        encoder_output="loc-logvar",
        rows=rows,
        loss=(lambda v: model({"data": v}).loss) if own_loss else None,
    )


class PseudoInputs(nn.Module):
    """The prior of Pythae's VAMP: the mean of its encoder's densities at the pseudo-inputs.

    Args:
        model: the VAMP.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vamp = model

    def forward(self) -> td.Distribution:
        """p(h)."""
        idle: Tensor = self.vamp.idle_input
        count = len(idle)
        seen = self.vamp.pseudo_inputs(idle).reshape(count, *self.vamp.model_config.input_dim)
        found = self.vamp.encoder(seen)
        parts = td.Independent(td.Normal(found.embedding, (0.5 * found.log_covariance).exp()), 1)
        return td.MixtureSameFamily(td.Categorical(logits=torch.zeros_like(found.embedding[:, 0])), parts)


def _own(model: Any) -> dict[str, Any]:
    loss = model.model_config.reconstruction_loss
    if loss not in _LOSSES:
        raise ProgramError(f"The model's reconstruction loss {loss!r} names no density. Declare one: `likelihood=`.")
    return _LOSSES[loss]


_KNOWN = [*DENSITIES, *UNDECLARED, *REFUSED]
