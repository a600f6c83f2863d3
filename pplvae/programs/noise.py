"""Random numbers keyed by row: what a row draws does not depend on which rows share its batch, or on their order.

A counter-based generator (the mixing function of SplitMix64) replaces torch's sequential one while a guide runs. Its
key is made of the row's content, a seed, a stream and a step, so that rows can be chunked, permuted, retired or sent to
other machines without any answer changing, and two guides evaluated at the same step share their noise draw by draw.
"""

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pplvae.programs.mixing import GOLDEN, LOWER, mix, unit, upper, word_of

Kind = Literal["independent", "antithetic", "matched"]
_Convert = Callable[[Tensor], Tensor]


class Stream(IntEnum):
    """What noise is for: the word after the seed in an address, so that no two uses share a number."""

    STEP = 1
    SELECT = 2
    SCORE = 3
    VALIDATE = 4
    PILOT = 5
    ANNEAL = 6
    REVERSE = 7
    SIMULATE = 8
    EVIDENCE = 9
    SCREEN = 10
    TRAIN = 11


class RowNoise(TorchFunctionMode):
    """While active, torch's random functions draw numbers that belong to rows.

    The rows stand `particles` times one after the other: position s * rows + i holds draw s of row i. While a site is
    being drawn, `row_axis` says where that axis lies in its batch shape (which leads whatever the site draws from);
    elsewhere the first axis of that length is taken. A shape without one, and all that is drawn while `of_all_rows` is
    set, is drawn alike for every batch of rows. A random function that is not listed in `_DRAWS` falls through to
    torch's generator.

    Args:
        keys: one key per row, from `keys.row_keys`.
        particles: how often the rows stand in the batch.
        address: seed, stream, step, ...: integers that name this run of the guide.
        kind: "independent"; "antithetic": draw s + particles / 2 mirrors draw s (-z for normals, 1 - u for uniforms),
            so that each draw keeps its distribution, a mean over all of them loses the noise of its odd part, and
            errors must be computed from pairs; "matched": antithetic, and a row's normals also have second moments
            of exactly 1 and 0, so that a mean of quadratics is exact. The last is for choosing between guides, not
            for reporting: it is unbiased for quadratics only.
        repeats: how often all draws stand in the batch, one round after the other, with the same noise.
        of_step: a number that names a training step, in which modules drop out as well; what belongs to all rows then
            hangs on it. A tensor, so that the graph of a captured step draws anew for each.

    References:
        Fast splittable pseudorandom number generators (Steele, Lea and Flood, 2014), for the mixing function;
        Parallel random numbers: as easy as 1, 2, 3 (Salmon et al., 2011), for keyed generators.
    """

    def __init__(
        self,
        keys: Int64[Tensor, " row"],
        particles: int,
        address: tuple[int, ...],
        kind: Kind = "independent",
        repeats: int = 1,
        of_step: Int64[Tensor, ""] | None = None,
    ) -> None:
        super().__init__()
        if kind != "independent" and particles % 2:
            raise ValueError(f"Mirrored draws come in pairs: `particles` must be even, got {particles}.")
        self._copies = 1 if kind == "independent" else 2
        self._matched = kind == "matched"
        self._keys = keys
        self._particles = particles
        self._repeats = repeats
        self._address, self._of_step = address, of_step
        self._draws = _DRAWS if of_step is None else _DRAWS | _IN_TRAINING
        self._calls = 0
        self.batch_shape: Sequence[int] = ()
        self.row_axis: int | None = None
        self.of_all_rows = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Replace a random function by its keyed counterpart; leave every other function alone."""
        kwargs = kwargs or {}
        draw = self._draws.get(getattr(func, "__name__", ""))
        # torch.nn.init has functions of the same names, for weights, which are no draws of a row.
        weights = getattr(func, "__module__", None) == "torch.nn.init"
        if draw is None or weights or kwargs.get("generator") is not None or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        return draw(self, *args, **kwargs)

    def uniforms(self, like: Tensor) -> Tensor:
        """Independent uniforms on (0, 1), shaped like `like`."""

        # The upper 32 bits, centred: never 0; the clamp keeps rounding in float32 from reaching 1.
        def below_one(words: Tensor) -> Tensor:
            return unit(upper(words), like).clamp_(max=1 - 2**-24)

        return self._fill(like, 1, below_one, lambda u: (1 - u).clamp_(max=1 - 2**-24))

    def normals(self, like: Tensor) -> Tensor:
        """Independent standard normals, shaped like `like`: Box and Muller on the two halves of each word."""

        def box_muller(words: Tensor) -> Tensor:
            radius = unit(upper(words), like).log_().mul_(-2).clamp_(min=0).sqrt_()
            angle = unit(words.bitwise_and_(LOWER), like).mul_(2 * math.pi)
            return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)

        return self._fill(like, 2, box_muller, torch.neg)

    def _axis(self, shape: Sequence[int], rows: int) -> int | None:
        if self.of_all_rows:
            return None
        if self.row_axis is not None and tuple(shape[: len(self.batch_shape)]) == tuple(self.batch_shape):
            return self.row_axis
        return next((i for i, size in enumerate(shape) if size == rows), None)

    def _fill(self, like: Tensor, per_word: int, convert: _Convert, mirror: _Convert) -> Tensor:
        """A tensor shaped like `like` from 64-bit words that each give `per_word` numbers."""
        self._calls += 1
        call = word_of(*self._address, self._calls)
        keys = self._keys.to(like.device)
        axis = self._axis(like.shape, len(keys) * self._particles * self._repeats)
        if axis is None:
            first, rest = torch.full((1,), call, dtype=torch.int64, device=like.device), like.shape
            first = first if self._of_step is None else mix(first ^ self._of_step)
        else:
            particle = torch.arange(self._particles // self._copies, device=like.device).mul_(GOLDEN).unsqueeze(-1)
            first, rest = mix(mix(keys ^ call) + particle).reshape(-1), like.shape[:axis] + like.shape[axis + 1 :]
        element = torch.arange(-(-rest.numel() // per_word), device=like.device).mul_(GOLDEN)
        numbers = convert(mix(first.unsqueeze(-1) + element))[:, : rest.numel()]
        if axis is not None and self._matched and per_word == 2:
            numbers = _match_moments(numbers.unflatten(0, (-1, len(keys)))).flatten(0, 1)
        numbers = numbers.reshape(-1, *rest)
        if axis is None:
            return numbers[0]
        numbers = torch.cat([numbers, mirror(numbers)]) if self._copies == 2 else numbers
        return numbers.repeat(self._repeats, *(1,) * len(rest)).movedim(0, axis)


def matchable(elements: int) -> int:
    """The fewest draws whose second moments can all be matched, in single precision to 0.0005 at worst."""
    return math.ceil(1.04 * elements) + 2


_SMALLEST_ROOT = 1e-3  # of a unit second moment, beside the elements before it


def _match_moments(z: Float[Tensor, "particle row element"]) -> Float[Tensor, "particle row element"]:
    """Give each row's normals identity second moments over its draws; only unit variances where draws are too few."""
    particles, _, elements = z.shape
    unit = z / z.square().mean(0).sqrt()
    if particles < matchable(elements):
        return unit
    root, failed = torch.linalg.cholesky_ex(torch.einsum("srk,srl->rkl", unit, unit) / particles)
    # Where elements are nearly equal, what a root says of their difference is rounding.
    failed = (failed > 0) | (root.diagonal(dim1=-2, dim2=-1).amin(-1) < _SMALLEST_ROOT)
    matched = torch.linalg.solve_triangular(root, unit.permute(1, 2, 0), upper=False).permute(2, 0, 1)
    return torch.where(failed.unsqueeze(-1), unit, matched)


class _GivenGamma(torch.autograd.Function):
    """A given Gamma(concentration, 1) draw, with torch's implicit gradient with respect to the concentration."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, draw: Tensor) -> Tensor:
        ctx.save_for_backward(concentration, draw)
        return draw

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        concentration, draw = ctx.saved_tensors
        return grad * torch._standard_gamma_grad(concentration, draw), None  # pyright: ignore[reportPrivateImportUsage]


def _log_gamma(noise: RowNoise, concentration: Tensor) -> Tensor:
    """Log of a Gamma(concentration, 1) draw (Marsaglia and Tsang, 2000), boosted below 1.

    A proposal is accepted with probability above 0.95, element by element, so no row waits for another in what it gets.
    """
    boosted = torch.where(concentration < 1, concentration + 1, concentration)
    d = boosted - 1 / 3
    result = d.log()
    waiting = torch.ones_like(result, dtype=torch.bool)
    for _ in range(_GAMMA_ROUNDS):
        x = noise.normals(concentration)
        v = (1 + x / (9 * d).sqrt()) ** 3
        log_v = v.clamp(min=torch.finfo(v.dtype).tiny).log()
        accepted = waiting & (v > 0) & (noise.uniforms(concentration).log() < 0.5 * x**2 + d * (1 - v + log_v))
        result = torch.where(accepted, d.log() + log_v, result)
        waiting = waiting & ~accepted
    return torch.where(concentration < 1, result + noise.uniforms(concentration).log() / concentration, result)


# After 10 rounds fewer than one element in 10^13 is still waiting; it gets the mode's neighbourhood.
_GAMMA_ROUNDS = 10


def _standard_gamma(noise: RowNoise, concentration: Tensor, **_: Any) -> Tensor:
    with torch.no_grad():
        draw = _log_gamma(noise, concentration).exp().clamp(min=torch.finfo(concentration.dtype).tiny)
    return _GivenGamma.apply(concentration, draw)  # type: ignore[return-value]


def _sample_dirichlet(noise: RowNoise, concentration: Tensor, **_: Any) -> Tensor:
    # Called from inside torch's own autograd function, which brings the gradient.
    draw = torch.softmax(_log_gamma(noise, concentration), -1)
    limits = torch.finfo(draw.dtype)
    return draw.clamp(limits.tiny, 1 - limits.eps)  # rounding must not put a draw on the edge of the support


def _empty(
    *sizes: Any, size: Any = None, dtype: torch.dtype | None = None, device: Any = None, **options: Any
) -> Tensor:
    shape = sizes if size is None else (size,)
    shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return torch.empty(tuple(shape), dtype=dtype, device=device, **options)


def _like(tensor: Tensor, dtype: torch.dtype | None = None, device: Any = None, **_: Any) -> Tensor:
    return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device or tensor.device)


def _uniform_(noise: RowNoise, out: Tensor, low: float = 0.0, high: float = 1.0, **ends: float) -> Tensor:
    low, high = ends.get("from", low), ends.get("to", high)  # `from` is no name for a Python argument
    return out.copy_(low + (high - low) * noise.uniforms(out))


def _normal_(noise: RowNoise, out: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return out.copy_(mean + std * noise.normals(out))


def _exponential_(noise: RowNoise, out: Tensor, lambd: float = 1.0, **_: Any) -> Tensor:
    return out.copy_(-noise.uniforms(out).log() / lambd)


def _cauchy_(noise: RowNoise, out: Tensor, median: float = 0.0, sigma: float = 1.0, **_: Any) -> Tensor:
    return out.copy_(median + sigma * (math.pi * (noise.uniforms(out) - 0.5)).tan())


def _normal(noise: RowNoise, mean: Any, std: Any = 1.0, size: Any = None, **options: Any) -> Tensor:
    if size is not None:
        return mean + std * noise.normals(_empty(size=size, **options))
    mean, std = torch.broadcast_tensors(torch.as_tensor(mean), torch.as_tensor(std))
    return mean + std * noise.normals(mean)


def _multinomial(
    noise: RowNoise, weights: Tensor, num_samples: int, replacement: bool = False, **kwargs: Any
) -> Tensor:
    """Positions drawn by weights, by the inverse of their distribution function: mirrored draws are far apart."""
    if num_samples > 1 and not replacement:
        return torch.multinomial(weights, num_samples, replacement, **kwargs)
    # Distributions flatten their batch shape for torch; the rows are found in what it was.
    shape = noise.batch_shape if math.prod(noise.batch_shape) == len(weights) else weights.shape[:-1]
    uniforms = noise.uniforms(weights.new_empty(()).expand(*shape, num_samples)).reshape(
        *weights.shape[:-1], num_samples
    )
    below = weights.cumsum(-1)
    return torch.searchsorted(below, uniforms * below[..., -1:]).clamp(max=weights.shape[-1] - 1)


# What the `rsample` methods of torch and Pyro call; seen by running each of them.
_DRAWS: dict[str, Callable[..., Tensor]] = {
    "rand": lambda noise, *size, **kw: noise.uniforms(_empty(*size, **kw)),
    "randn": lambda noise, *size, **kw: noise.normals(_empty(*size, **kw)),
    "rand_like": lambda noise, tensor, **kw: noise.uniforms(_like(tensor, **kw)),
    "randn_like": lambda noise, tensor, **kw: noise.normals(_like(tensor, **kw)),
    "normal": _normal,
    "normal_": _normal_,
    "uniform_": _uniform_,
    "multinomial": _multinomial,
    "exponential_": _exponential_,
    "cauchy_": _cauchy_,
    "_standard_gamma": _standard_gamma,
    "_sample_dirichlet": _sample_dirichlet,
}


def _dropout(noise: RowNoise, given: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return given
    kept = given * (noise.uniforms(given) >= p) / (1 - p)
    return given.copy_(kept) if inplace else kept


# What only programs in train mode draw.
_IN_TRAINING: dict[str, Callable[..., Tensor]] = {
    "dropout": _dropout,
    "bernoulli": lambda noise, p, **_: (noise.uniforms(p) < p).to(p),
}
