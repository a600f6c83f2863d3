"""How noisy the gradient of an objective is, for the parameters of the encoder and for those of the model.

References:
    Tighter variational bounds are not necessarily better (Rainforth et al., 2018), arXiv 1802.04537, for the ratio of
    signal and noise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.isolate import reseed
from pplvae.objectives import Objective, named_objective
from pplvae.programs.batch import Batch
from pplvae.programs.failures import in_users_words
from pplvae.programs.inspection import scaling_plate_size
from pplvae.programs.opening import one_set, opened
from pplvae.programs.progress import progress_bar
from pplvae.programs.reading import Layout, Program, log_extra, log_guide, log_model, run_guide
from pplvae.programs.sites import values_of

_USUAL = ("Trace_ELBO", "StickingTheLanding", "IWAE", "DReG")
_FEWEST = 3  # gradients that a standard error of their variance needs
_COLUMNS = ("variance", "squared_mean", "signal_to_noise")

Gradients = Float[Tensor, "repeat parameter"]


def gradient_noise(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    objectives: Sequence[Any] = _USUAL,
    repeats: int = 100,
    particles: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Measure the noise that draws of the latents put into the gradient of each objective, on one batch of rows.

    Parameters of the encoder are those that only the guide uses; all that the model uses count as the decoder's. The
    modules are in eval mode, and the rows stay the same, so that nothing but the latents is drawn.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one. They are one batch: a few hundred will do.
        objectives: names, or objects such as `objectives.IWAE(particles=20)`, which know their own number of draws.
        repeats: gradients of each objective, from which its noise is estimated.
        particles: Monte Carlo draws per row. Those of one gradient, of the objectives that are given by name.
        seed: names all noise: the same seed gives the same bits. Every objective begins at the same one.
        progress: show a progress bar, on a terminal.

    Returns:
        A dataset over "objective" and "side" ("encoder", "decoder", as far as there are such parameters), of the
        gradient of the objective in nats per row: `variance` of one gradient, summed over parameters; `squared_mean`,
        the squared length of its mean, without bias, so that it may be negative where noise hides the mean;
        `signal_to_noise`, the second over the first; each with `<name>_stderr`, by the jackknife over the repeats; and
        `parameters`, their number. `plots.gradient_noise` draws it. The attributes are the settings.

    Raises:
        DataError: rows that cannot be used.
        ProgramError: a pair whose rows cannot be told apart, that has no parameters, or whose latents an objective does
            not suit.
        UnknownNameError: an unknown objective.
        ValueError: numbers out of range.
    """
    for name, value, least in (("repeats", repeats, _FEWEST), ("particles", particles, 1)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    chosen = _named(objectives, particles)
    some = one_set(rows)
    with opened(model, guide, some.tensors, seed) as layout, progress_bar(
        len(chosen) * repeats, "differentiating", "gradient", progress=progress
    ) as bar:  # fmt: skip
        batch, size = Batch.of(some.tensors), scaling_plate_size(model, guide, some.tensors)
        with in_users_words("pair of model and guide", some.tensors):
            sides = _sides(model, guide, layout, batch)
            measured = []
            for objective in chosen.values():
                one = _Gradient(objective, model, guide, layout, batch, 1 / (size or len(batch)), sides)
                reseed(seed)
                lines = []
                for _ in range(repeats):
                    lines.append(one())
                    bar.update()
                measured.append([_noise_of(torch.stack(side)) for side in zip(*lines, strict=True)])
    found = np.array(measured)
    columns: dict[str, Any] = {
        f"{name}{what}": (("objective", "side"), found[:, :, k, j])
        for k, name in enumerate(_COLUMNS)
        for j, what in enumerate(("", "_stderr"))
    }
    columns["parameters"] = ("side", [sum(leaf.numel() for leaf in leaves) for leaves in sides.values()])
    settings = {"rows": len(some), "repeats": repeats, "particles": particles, "seed": seed}
    return xr.Dataset(columns, {"objective": list(chosen), "side": list(sides)}, settings)


def _named(objectives: Sequence[Any], particles: int) -> dict[str, Objective]:
    """Objectives by the names that they have in the answer."""
    found = {}
    for one in [objectives] if isinstance(objectives, str) else objectives:
        objective = Objective(named_objective(one, particles) if isinstance(one, str) else one)
        found[one if isinstance(one, str) else objective.settings] = objective
    if not found:
        raise ValueError("`objectives` is empty: name at least one, such as 'Trace_ELBO'.")
    return found


def _sides(model: Program, guide: Program, layout: Layout, batch: Batch) -> dict[str, list[Tensor]]:
    """The parameters of the encoder and of the decoder, wherever they are kept."""
    sites = run_guide(guide, batch, layout.guide, None)
    values = values_of(sites)
    of_guide = [log_guide(sites, layout), log_extra(sites), *values.values()]
    joint, _ = log_model(model, batch, {name: value.detach() for name, value in values.items()}, layout)
    decoder = _leaves([joint])
    encoder = [leaf for leaf in _leaves(of_guide) if all(leaf is not other for other in decoder)]
    found = {name: leaves for name, leaves in (("encoder", encoder), ("decoder", decoder)) if leaves}
    if not found:
        raise ProgramError("Neither program has parameters to differentiate by: all are frozen, or there are none.")
    return found


def _leaves(values: Sequence[Tensor]) -> list[Tensor]:
    """The parameters that tensors were computed from, found in their graph."""
    found, seen, waiting = [], set(), [value.grad_fn for value in values]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [below for below, _ in node.next_functions]
    return found


class _Gradient:
    """Draws gradients of one objective.

    Args:
        objective: which.
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows.
        scale: see `Objective.loss`.
        sides: the parameters.
    """

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        layout: Layout,
        batch: Batch,
        scale: float,
        sides: dict[str, list[Tensor]],
    ) -> None:
        self._objective, self._given, self._scale, self._sides = objective, (model, guide, layout, batch), scale, sides
        self._all = [leaf for leaves in sides.values() for leaf in leaves]
        self._by_pyro = bool(objective.reason_for_pyro(*self._given))

    def __call__(self) -> list[Tensor]:
        """One gradient of the loss, a line of numbers for each side."""
        slopes = self._pyros() if self._by_pyro else self._ours()
        lines = [(slope if slope is not None else torch.zeros_like(leaf)).flatten()
                 for leaf, slope in zip(self._all, slopes, strict=True)]  # fmt: skip
        counts = [len(leaves) for leaves in self._sides.values()]
        return [torch.cat(lines[:count] if k == 0 else lines[-count:]) for k, count in enumerate(counts)]

    def _ours(self) -> Sequence[Tensor | None]:
        loss = self._objective.loss(*self._given, self._scale, 1.0)
        return torch.autograd.grad(loss, self._all, allow_unused=True)

    def _pyros(self) -> Sequence[Tensor | None]:
        """Pyro's code knows no other place than `.grad`, which is the user's."""
        before = [leaf.grad for leaf in self._all]
        try:
            self._objective.backward(*self._given, self._all, self._scale, 1.0)
            return [leaf.grad for leaf in self._all]
        finally:
            for leaf, grad in zip(self._all, before, strict=True):
                leaf.grad = grad


def _noise_of(gradients: Gradients) -> Float[np.ndarray, "column two"]:
    """The three columns, each with its standard error by the jackknife."""
    count = len(gradients)
    lines = gradients.cpu().double()  # which not every device has
    lengths, along = lines.square().sum(1), lines @ lines.sum(0)
    left = _statistics(count - 1, lengths.sum() - lengths, along.sum() - 2 * along + lengths)
    whole = _statistics(count, lengths.sum(), along.sum())
    stderr = ((count - 1) * (left - left.mean(1, keepdim=True)).square().mean(1)).sqrt()
    return torch.stack([whole, stderr], 1).numpy()


def _statistics(count: int, lengths: Tensor, length: Tensor) -> Tensor:
    """`_COLUMNS` of some gradients, from the sum of their squared lengths and the squared length of their sum."""
    variance = (lengths - length / count) / (count - 1)
    squared_mean = length / count**2 - variance / count
    return torch.stack([variance, squared_mean, squared_mean / variance])
