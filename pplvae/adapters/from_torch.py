"""`from_torch`: a VAE written in plain torch as a Pyro pair."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pplvae.adapters.conventions import SCALES
from pplvae.adapters.given import Given
from pplvae.adapters.networks import Network, both_methods
from pplvae.adapters.pair import LatentShape, TorchGuide, TorchModel, TorchPair
from pplvae.adapters.posterior import Posterior
from pplvae.adapters.prior import TorchPrior
from pplvae.adapters.round_trip import RoundTrip, round_trip
from pplvae.data import Rows
from pplvae.errors import PplvaeError, PplvaeWarning, ProgramError
from pplvae.programs.opening import one_set, opened

Callback = Callable[..., Any]


def from_torch(
    encoder: nn.Module | Callback,
    decoder: nn.Module | Callback | None = None,
    *,
    likelihood: Any,
    prior: Any = "standard-normal",
    encoder_output: str | Callback | None = None,
    decoder_output: str | Callback | None = None,
    scale: Any = None,
    latent: int | tuple[int, ...] | None = None,
    rows: Any = None,
    loss: Callback | None = None,
) -> TorchPair:
    """Make a Pyro pair of a VAE that is written in plain torch; `model, guide = pair` takes it apart.

    The pair holds the networks themselves and no copies, so that what trains the one trains the other. Rows are what
    the encoder takes, of any shape; extra inputs, such as labels of a conditional VAE, come with them as `(v, c)` and
    go to each network that takes them. Nothing is guessed: what an output means is said, or told by its type or names.

    Args:
        encoder: an `nn.Module` or a method of one, called as `encoder(v)` or `encoder(v, *extra)`. Without `decoder`,
            one module that has the methods `encode` and `decode`.
        decoder: an `nn.Module` or a method of one, called as `decoder(h)` or `decoder(h, *extra)`.
        likelihood: p(v | h): "bernoulli", "continuous-bernoulli", "gaussian", "laplace", "categorical", "poisson";
            "distribution" if the decoder gives one; a `pplvae.likelihoods` object without totals; or a function from
            the decoder's output, and extra inputs if it takes them, to a distribution. Under "bernoulli" grey pixels
            are taken, as binary cross entropy takes them, with a warning that this is no density.
        prior: "standard-normal", (loc, scale) of a normal, a torch distribution, one of `pplvae.priors`, or a module of
            the extra inputs, or of nothing, whose `forward` gives a distribution.
        encoder_output: what the encoder gives: "loc-logvar", "loc-scale", "loc-logscale", "loc-var" (two tensors, one
            with both in its columns, or names such as `mu` and `log_var`), "distribution" (torch's), or a function from
            the output to (loc, scale) or a distribution. A distribution, and names, need no saying.
        decoder_output: what the decoder gives: "logits" or "probs"; "loc" (with `scale`) or the four of the encoder;
            "rate" or "log-rate"; or a function from the output to what the likelihood takes.
        scale: standard deviation of "gaussian", scale of "laplace", where the decoder gives a mean alone: a number, a
            tensor, an `nn.Parameter`, or a function without arguments. Half a squared error means 1.
        latent: dimension or shape of h. Not needed where the guide is run before the model, as everywhere in pplvae.
        rows: some rows, in any form that pplvae takes: the pair is tried on them at once, and the loss compared.
        loss: the user's own training loss of a batch, called as `loss(*rows)`. It is compared with the pair's ELBO on
            batches of the rows: see `TorchPair.round_trip`.

    Returns:
        The pair; its text says what it is made of, and how the loss agrees.

    Raises:
        ProgramError: networks or outputs that cannot be read as said, no density, or a loss that is not this ELBO.
        UnknownNameError: a likelihood or a convention that does not exist.

    >>> encoder, decoder = nn.Linear(5, 4), nn.Linear(2, 5)
    >>> from_torch(encoder, decoder, likelihood="bernoulli", encoder_output="loc-logvar")
    TorchPair(encoder Linear -> loc-logvar; decoder Linear -> as it is; likelihood bernoulli; prior standard-normal)
    """
    if decoder is None:
        encoder, decoder = both_methods(encoder)
    if loss is not None and rows is None:
        raise ProgramError("To compare the loss, pass `rows=`: a batch or more of what it is called with.")
    known = None if latent is None else torch.Size([latent] if isinstance(latent, int) else latent)

    def pair_of(encoder_output: Any, decoder_output: Any) -> TorchPair:
        shape = LatentShape(known)
        given = Given(Network("decoder", decoder), likelihood, decoder_output, scale)
        posterior = Posterior(Network("encoder", encoder), encoder_output)
        return TorchPair(TorchModel(TorchPrior(prior), given, shape), TorchGuide(posterior, shape))

    pair = pair_of(encoder_output, decoder_output)
    if rows is not None:
        shown = one_set(rows)
        _try(pair, shown)
        if loss is not None:
            others = _others(pair_of, encoder_output, decoder_output)
            pair.round_trip = _compared(pair, loss, shown, others)
    return pair


def _try(pair: TorchPair, rows: Rows) -> None:
    """Run the pair on some rows, so that what cannot be read as said is refused at once."""
    with opened(pair.model, pair.guide, [tensor[:_TRIED_ON] for tensor in rows.tensors], seed=0):
        pass


def _compared(pair: TorchPair, loss: Callback, rows: Rows, others: Sequence[tuple[str, TorchPair]]) -> RoundTrip:
    """How the loss and the ELBO agree; a warning where the KL term has another weight.

    Raises:
        ProgramError: the loss is no sum of the pair's reconstruction and KL terms, or is one of another convention.
    """
    found = round_trip(pair, loss, rows.tensors)
    if not found.explained and (better := _better(others, loss, rows)):
        raise ProgramError(f"The loss is not minus the ELBO of this pair, in any weighting. {better}")
    if not found.explained:
        found = round_trip(pair, loss, rows.tensors, _DRAWS)
    if not found.explained:
        raise ProgramError(f"The loss is not minus the ELBO of this pair, in any weighting. {found} {_NONE}")
    if not found.is_elbo:
        warnings.warn(PplvaeWarning(str(found)), stacklevel=3)
    return found


def _better(others: Sequence[tuple[str, TorchPair]], loss: Callback, rows: Rows) -> str:
    """Another convention that explains the loss to rounding."""
    for said, pair in others:
        try:
            _try(pair, rows)
            found = round_trip(pair, loss, rows.tensors)
        except PplvaeError:  # what does not fit the outputs is no candidate
            continue
        if found.explained:
            return f"With `{said}` it agrees: {found}"
    return ""


def _others(pair_of: Callback, encoder_output: Any, decoder_output: Any) -> list[tuple[str, TorchPair]]:
    """Pairs of other conventions than those that were said, where one was said."""
    encoders = [*SCALES] if encoder_output in SCALES else [encoder_output]
    kind = next((kind for kind in _ALIKE if decoder_output in kind), (decoder_output,))
    found = []
    for e, d in itertools.product(encoders, kind):
        said = [f"encoder_output={e!r}"] * (e != encoder_output) + [f"decoder_output={d!r}"] * (d != decoder_output)
        if said:
            found.append((", ".join(said), pair_of(e, d)))
    return found


_TRIED_ON = 100  # rows
_DRAWS = 32  # of each batch, where the loss has other noise than the pair
_NONE = (
    "No other convention of encoder or decoder explains it either. Other priors, likelihoods and terms (free bits, a "
    "discrepancy, a perceptual loss) are not looked for. To compare the pair by its own ELBO, leave `loss` out."
)
_ALIKE = (("logits", "probs"), tuple(SCALES), ("rate", "log-rate"))
