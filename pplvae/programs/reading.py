"""The only reader of what a Pyro program does: log p(v_i, h_i) and log q(h_i | v_i), row by row, for any pair."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from pyro.distributions.util import scale_and_mask
from pyro.poutine import NonlocalExit
from pyro.poutine.escape_messenger import EscapeMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pplvae.errors import ProgramError
from pplvae.programs.batch import Batch
from pplvae.programs.contexts import contexts_named
from pplvae.programs.discrete import States
from pplvae.programs.families import pathwise
from pplvae.programs.keyed import RowAxis, noise_of_step
from pplvae.programs.noise import Kind, RowNoise
from pplvae.programs.sites import latents_of, sum_sites, values_of
from pplvae.programs.summing import Summed

Program = Callable[..., Any]


@dataclass(frozen=True)
class Layout:
    """Where the rows lie in each site of a pair, as `inspection.inspect_pair` found them.

    Attributes:
        guide: axis of the rows in the batch shape of each latent site of the guide, counted from the right. What the
            guide observes (auxiliary sites, `pyro.factor`) is no part of log q(h): it counts in training alone.
        model: the same for each model site.
        free: the parameters of each latent site's family that are lambda, as "site.parameter", a `local` name or the
            context of a flow.
        fixed: whether lambda is the same whatever the guide draws, so that the encoder need not run again.
        axes: axis of the rows in the value of each latent site of the guide, counted from the left.
        points: latents at which the guide has a point mass that is lambda itself, and the places that it may take.
        held: latent sites outside the data plate; they belong to all rows and count for none.
        redrawn: whether any of those is drawn, and not a point: every run has another value of it.
        discrete: discrete latent sites of the guide.
        states: of these, where the ELBO sums over them; empty where there are too many and they are drawn.
        follows: for the names in `free`, the positions in `states` of the sites that lambda depends on.
        summed: the discrete latents that the guide leaves to the model; None where there are none.
        whole: names of the data plates whose size is the number of rows that are passed in, not of a whole data set.
        unchecked: observed sites whose distribution was told to take any value, `validate_args=False`.
        unmoved: latents whose KL term has a closed form that is right, see `dependence.unmoved_priors`.
    """

    guide: Mapping[str, int]
    model: Mapping[str, int]
    free: tuple[str, ...] = ()
    fixed: bool = False
    axes: Mapping[str, int] = field(default_factory=dict)
    points: Mapping[str, constraints.Constraint] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    redrawn: bool = False
    discrete: tuple[str, ...] = ()
    states: Mapping[str, States] = field(default_factory=dict)
    follows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    summed: Summed | None = None
    whole: frozenset[str] = frozenset()
    unchecked: frozenset[str] = frozenset()
    unmoved: frozenset[str] = frozenset()

    @property
    def observed(self) -> int:
        """How many observed sites the model has for each row: as many steps as a sequence."""
        left = self.summed.names if self.summed is not None else ()
        return len(self.model.keys() - self.guide.keys() - {*left})


class PlateIndex(Messenger):
    """Tell a data plate which rows it has been given.

    A subsampling plate would permute all its indices at every entry, and they would not be those of the rows passed in.
    A plate without a size leaves its sites as they are: here it expands them to the rows, as one with a size does.

    Args:
        index: positions of the rows in the whole data set.
    """

    def __init__(self, index: Int64[Tensor, " batch"]) -> None:
        super().__init__()
        self._index = index

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self._expand(msg)
        elif msg["value"] is None:
            self._fill(msg)

    def _expand(self, msg: Any) -> None:
        unsized = [frame.dim for frame in msg["cond_indep_stack"] if frame.size == -1 and frame.dim is not None]
        if len(unsized) != 1:  # of several it cannot be told which holds the rows: they must say
            return
        shape = msg["fn"].batch_shape
        shape = torch.Size((1,) * (-unsized[0] - len(shape))) + shape
        if shape[unsized[0]] == 1:
            rows_there = [*shape]
            rows_there[unsized[0]] = len(self._index)
            msg["fn"] = msg["fn"].expand(rows_there)

    def _fill(self, msg: Any) -> None:
        plate, rows = msg["fn"], len(self._index)
        if plate.subsample_size == rows:
            msg["value"] = self._index % plate.size
        elif plate.size == rows and plate.subsample_size is not None:
            raise ProgramError(
                f"The plate {msg['name']!r} takes {plate.subsample_size} of the rows that it is given ({rows} here). "
                f'Minibatches are made outside the program: write `pyro.plate("{msg["name"]}", len(v))`.',
                code="PV223",
                at=("", msg["name"]),
                instead=f'pyro.plate("{msg["name"]}", len(v))',
            )
        elif plate.subsample_size not in (None, plate.size):
            raise ProgramError(
                f"The plate {msg['name']!r} takes {plate.subsample_size} of its {plate.size} at random, others in "
                "every run, so that rows have no log-probabilities of their own. Say which: "
                f'`pyro.plate("{msg["name"]}", {plate.size}, subsample=index)`. (A plate over the rows takes as many '
                "as are passed in: `subsample_size=len(v)`.)",
                code="PV223",
                at=("", msg["name"]),
                instead=f'pyro.plate("{msg["name"]}", {plate.size}, subsample=index)',
            )


class WholePlates(Messenger):
    """Tell plates that are as large as the rows that are passed in to count these, as Pyro does: `v[index]` is `v`.

    Args:
        names: of the plates (`Layout.whole`); of others the index says where the rows lie in the whole data set.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) or msg["name"] not in self._names or msg["value"] is None:
            return
        plate = msg["fn"]
        if plate.subsample_size in (None, plate.size):  # in one of the programs it may hold some of its members only
            msg["value"] = torch.arange(plate.size, device=msg["value"].device)


class Given(Messenger):
    """Give sample sites their values by name."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values and not msg["is_observed"]:
            msg["value"] = self._values[msg["name"]]
            msg["done"] = True


class Pathwise(Messenger):
    """Draw the guide's latents so that the draws have gradients, where its distribution can be written that way."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["fn"] = pathwise(msg["fn"])


class SiteReader(Messenger):
    """Collect the sample sites of a program as they happen, without building a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}

    def __enter__(self) -> Any:
        self.sites = {}
        return super().__enter__()

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) and not (msg["infer"] or {}).get("_deterministic"):
            self.sites[msg["name"]] = msg


def run_guide(
    guide: Program, batch: Batch, dims: Mapping[str, int], address: tuple[int, ...] | None, kind: Kind = "independent"
) -> dict[str, Any]:
    """Run a guide on tiled rows, with noise keyed by row or torch's own.

    Args:
        guide: the guide, under whatever handlers it needs.
        batch: the rows.
        dims: axis of the rows in each guide site (`Layout.guide`).
        address: names the noise: the same address, the same draws. None: that of the training step, which is torch's
            own generator unless it is keyed by row.
        kind: of noise keyed by row, see `noise.RowNoise`.

    Returns:
        The guide's sample sites by name.
    """
    reader = SiteReader()
    if address is None:
        with noise_of_step(batch, 0, dims), PlateIndex(batch.index), Pathwise(), reader, contexts_named():
            guide(*batch.tiled)
        return reader.sites
    noise = RowNoise(batch.keys, batch.particles, address, kind, batch.repeats)
    with RowAxis(noise, dims), PlateIndex(batch.index), Pathwise(), reader, noise, contexts_named():
        guide(*batch.tiled)
    return reader.sites


def run_model(model: Program, batch: Batch, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run a model on tiled rows with its latents given; its sample sites by name."""
    reader = SiteReader()
    with noise_of_step(batch, 1), PlateIndex(batch.index), reader, Given(values):
        model(*batch.tiled)
    return reader.sites


def run_prior(model: Program, batch: Batch, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run a model on tiled rows no further than to the last of its latents, which are given; its sample sites by name.

    The likelihood, which may be most of the work, is not run.
    """
    reader, waiting = SiteReader(), set(values)

    def is_last(msg: Any) -> bool:
        waiting.discard(msg["name"])
        return not waiting

    with suppress(NonlocalExit), EscapeMessenger(is_last), PlateIndex(batch.index), reader, Given(values):
        model(*batch.tiled)
    return reader.sites


def log_guide(sites: Mapping[str, Any], layout: Layout) -> Float[Tensor, " batch"]:
    """Log q(h_i; lambda_i) of tiled rows, in nats, at the values that the guide drew.

    Args:
        sites: from `run_guide`.
        layout: of the pair.
    """
    return sum_sites(sites, layout.guide)


def log_extra(sites: Mapping[str, Any]) -> Float[Tensor, ""]:
    """What a guide observes (auxiliary sites, `pyro.factor`) adds to log q in training, over all tiled rows."""
    observed = [site for site in sites.values() if site["is_observed"]]
    terms = [scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"]).sum() for site in observed]
    return sum(terms, torch.zeros(()))


def log_model(
    model: Program, batch: Batch, values: Mapping[str, Tensor], layout: Layout
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Log p(v_i, h_i) and log p(h_i) of tiled rows, in nats; discrete latents that the guide lacks are summed out."""
    summed = layout.summed
    if summed is None:
        sites = run_model(model, batch, values)
        joint, prior = (sum_sites(some, layout.model) for some in (sites, latents_of(sites)))
        return joint, prior
    sites = run_in_all_states(model, batch, values, layout.axes, summed)
    return summed.log_sum(sites, layout.model), summed.log_sum(latents_of(sites), layout.model)


def run_in_all_states(
    model: Program, batch: Batch, values: Mapping[str, Tensor], axes: Mapping[str, int], summed: Summed
) -> dict[str, Any]:
    """Run a model in every joint state of the latents that are summed out, one after the other, the others given.

    Args:
        model: p(v, h; theta).
        batch: tiled rows.
        values: of the other latents.
        axes: of the rows in each of these (`Layout.axes`).
        summed: the latents that are summed out.
    """
    given = {name: _repeated(value, summed.count, axes.get(name)) for name, value in values.items()}
    return run_model(model, batch.repeated(summed.count), given | summed.values(len(batch) * batch.copies))


def _repeated(value: Tensor, count: int, axis: int | None) -> Tensor:
    """Repeat a latent of tiled rows; return one that belongs to all rows as it is."""
    if axis is None:
        return value
    rows_first = value.movedim(axis, 0)
    return rows_first.repeat(count, *(1,) * (value.ndim - 1)).movedim(0, axis)


def log_weights_of(
    model: Program,
    guide: Program,
    layout: Layout,
    batch: Batch,
    address: tuple[int, ...],
    kind: Kind = "independent",
) -> Float[Tensor, "particle row"]:
    """Log p(v_i, h_si) - log q(h_si | v_i) for every draw of every row, in nats; their mean is the ELBO."""
    sites = run_guide(guide, batch, layout.guide, address, kind)
    log_q = log_guide(sites, layout)
    log_p, _ = log_model(model, batch, values_of(sites), layout)
    return (log_p - log_q).reshape(batch.copies, len(batch))
