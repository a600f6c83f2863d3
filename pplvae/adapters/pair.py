"""A torch VAE as two Pyro programs that share its networks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pplvae.adapters.given import Given
from pplvae.adapters.posterior import Posterior
from pplvae.adapters.prior import TorchPrior
from pplvae.adapters.quantities import leaves_of
from pplvae.errors import ProgramError
from pplvae.models.checks import unique_name


class LatentShape:
    """The shape of a row's latents, which the guide knows from its encoder and a prior without parameters does not.

    Args:
        shape: as the user has said it; None until the guide has run.
    """

    def __init__(self, shape: torch.Size | None) -> None:
        self.known = shape

    def saw(self, shape: torch.Size) -> None:
        """The guide draws latents of this shape.

        Raises:
            ProgramError: the user has said another one.
        """
        if self.known is not None and self.known != shape:
            raise ProgramError(
                f"The encoder's latents have shape {tuple(shape)} for each row, and `latent` says "
                f"{tuple(self.known)}. Leave `latent` out, or mend `encoder_output`."
            )
        self.known = shape


class TorchGuide(nn.Module):
    """q(h | v) of a torch VAE: rows on plate "data", latent site "h".

    Args:
        posterior: the encoder and what its output means.
        latent: shared with the model.
    """

    def __init__(self, posterior: Posterior, latent: LatentShape) -> None:
        super().__init__()
        self.posterior = posterior
        self._latent = latent

    def forward(self, v: Tensor, *extra: Tensor) -> None:
        """Draw each row's latents."""
        pyro.module(unique_name(self), self)
        posterior = self.posterior(v, *extra)
        self._latent.saw(posterior.event_shape)
        with pyro.plate("data", len(v)):
            pyro.sample("h", posterior)


class TorchModel(nn.Module):
    """p(v, h) of a torch VAE: rows on plate "data", latent site "h", observed site "v".

    Args:
        prior: p(h).
        given: the decoder and what its output means.
        latent: shared with the guide.
    """

    def __init__(self, prior: TorchPrior, given: Given, latent: LatentShape) -> None:
        super().__init__()
        self.prior, self.given = prior, given
        self._latent = latent
        self._looked = False

    def forward(self, v: Tensor, *extra: Tensor) -> None:
        """Draw each row's latents, and observe the row."""
        pyro.module(unique_name(self), self)
        if self._latent.known is None:
            raise ProgramError(
                "How many latents there are is not known before the guide has run. Run the guide first, or pass "
                "`latent=` or `rows=` to `from_torch`."
            )
        with pyro.plate("data", len(v)):
            h: Any = pyro.sample("h", self.prior(self._latent.known, v, *extra))
            self._look(h, v, *extra)
            given, shown = self.given(h, v, *extra)
            pyro.sample("v", given, obs=shown)

    @torch.enable_grad()
    def _look(self, h: Tensor, v: Tensor, *extra: Tensor) -> None:
        """Refuse parameters that belong to neither network, once: they would be trained by nobody."""
        if self._looked:
            return
        given, shown = self.given(h.detach(), v, *extra)
        known = {id(parameter) for parameter in self.parameters()}
        if any(id(leaf) not in known for leaf in leaves_of(given.log_prob(shown)) if isinstance(leaf, nn.Parameter)):
            raise ProgramError(
                "The likelihood uses a parameter that belongs to no module of the model, so that it would be neither "
                "trained nor moved to a device. Pass the `nn.Parameter` itself, or a method of the module that has it."
            )
        self._looked = True


@dataclass
class TorchPair:
    """What `from_torch` gives: `model, guide = pair`.

    Attributes:
        model: p(v, h), a Pyro program that is an `nn.Module` and holds the user's decoder.
        guide: q(h | v), the same with the encoder.
        round_trip: how the user's own loss and the pair's ELBO agree; None if no loss was given.
    """

    model: TorchModel
    guide: TorchGuide
    round_trip: Any = None

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.model, self.guide))

    def __repr__(self) -> str:
        posterior, given = self.guide.posterior, self.model.given
        said = [
            f"encoder {posterior.encoder} -> {_said(posterior.output)}",
            f"decoder {given.decoder} -> {_said(given.output)}",
            f"likelihood {given!r}",
            f"prior {self.model.prior!r}",
        ]
        trip = f"\n{self.round_trip}" if self.round_trip is not None else ""
        return f"TorchPair({'; '.join(said)}){trip}"


def _said(output: Any) -> str:
    return output if isinstance(output, str) else "as it is" if output is None else "by a function"
