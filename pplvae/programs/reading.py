"""The only reader of what a Pyro program does: log p(v_i, h_i) and log q(h_i | v_i), row by row, for any pair."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import NonlocalExit
from pyro.poutine.escape_messenger import EscapeMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch import distributions as td

from pplvae.errors import ProgramError
from pplvae.programs.batch import Batch
from pplvae.programs.discrete import States, draw, is_enumerable, joint_states
from pplvae.programs.families import map_parameters
from pplvae.programs.noise import Kind, RowNoise

Program = Callable[..., Any]


@dataclass(frozen=True)
class Layout:
    """Where the rows lie in each site of a pair, as `inspection.inspect_pair` found them.

    Attributes:
        guide: axis of the rows in the batch shape of each latent site of the guide, counted from the right. What the
            guide observes (auxiliary sites, `pyro.factor`) is no part of log q(h): it counts in training alone.
        model: the same for each model site.
        free: the parameters of each latent site's family that are lambda, as "site.parameter" or a `local` name.
        fixed: whether lambda is the same whatever the guide draws, so that the encoder need not run again.
        axes: axis of the rows in the value of each latent site of the guide, counted from the left.
        held: latent sites outside the data plate; they belong to all rows and count for none.
        discrete: discrete latent sites of the guide.
        states: of these, where the ELBO sums over them; empty where there are too many and they are drawn.
        follows: for the names in `free`, the positions in `states` of the sites that lambda depends on.
        summed: states of discrete latents that the guide leaves to the model.
        unmoved: latents whose KL term has a closed form that is right, see `dependence.unmoved_priors`.
    """

    guide: Mapping[str, int]
    model: Mapping[str, int]
    free: tuple[str, ...] = ()
    fixed: bool = False
    axes: Mapping[str, int] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    discrete: tuple[str, ...] = ()
    states: Mapping[str, States] = field(default_factory=dict)
    follows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    summed: Mapping[str, States] = field(default_factory=dict)
    unmoved: frozenset[str] = frozenset()


class PlateIndex(Messenger):
    """Tell a subsampling data plate which rows it has been given, instead of letting it draw them.

    Pyro's plate would permute all its indices at every entry, and they would not be those of the rows passed in.

    Args:
        index: positions of the rows in the whole data set.
    """

    def __init__(self, index: Int64[Tensor, " batch"]) -> None:
        super().__init__()
        self._index = index

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        plate, rows = msg["fn"], len(self._index)
        if plate.subsample_size == rows:
            msg["value"] = self._index % plate.size
        elif plate.size == rows and plate.subsample_size is not None:
            raise ProgramError(
                f"The plate {msg['name']!r} takes {plate.subsample_size} of the {rows} rows that it is given. "
                f'Minibatches are made outside the program: write `pyro.plate("{msg["name"]}", len(v))`.'
            )
        elif plate.subsample_size not in (None, plate.size):
            raise ProgramError(
                f"The plate {msg['name']!r} takes {plate.subsample_size} of its {plate.size} at random, others in "
                "every run, so that rows have no log-probabilities of their own. Say which: "
                f'`pyro.plate("{msg["name"]}", {plate.size}, subsample=index)`. (A plate over the rows takes as many '
                "as are passed in: `subsample_size=len(v)`.)"
            )


class Given(Messenger):
    """Give sample sites their values by name."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values and not msg["is_observed"]:
            msg["value"] = self._values[msg["name"]]
            msg["done"] = True


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


def row_log_prob(msg: Any, dim: int, fn: Any = None) -> Float[Tensor, " batch"]:
    """Log-probability of a site summed over everything but its rows.

    Masks count, and so does the scale of a plate inside the rows that holds some of its members: it says what all of
    them are worth. The scales of the data plate and of `poutine.scale` do not.
    """
    fn = msg["fn"] if fn is None else fn
    log_prob = fn.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
    log_prob = scale_and_mask(log_prob, plates_scale(msg, but=dim), msg["mask"])
    return log_prob.movedim(dim, 0).flatten(1).sum(1) if log_prob.ndim > 1 else log_prob


def plates_scale(msg: Any, but: int | None = None) -> float:
    """The factor by which plates that hold only some of their members scale a site up.

    Args:
        msg: the site.
        but: axis of a plate that is left out, counted from the right.
    """
    frames = [frame for frame in msg["cond_indep_stack"] if but is None or frame.dim != but]
    return math.prod(frame.full_size / frame.size for frame in frames if frame.full_size)


def counted(site: Any, shape: torch.Size | None = None) -> Bool[Tensor, "..."]:
    """Which elements of a site's value the program's masks let count, those inside `to_event` included.

    Args:
        site: a sample site.
        shape: of the value, in other coordinates of the same batch shape perhaps; by default that of a draw.
    """
    fn, mask = site["fn"], site["mask"]
    shape = torch.Size(fn.shape() if shape is None else shape)
    found = torch.ones(shape, dtype=torch.bool, device=site["value"].device)
    while mask is not None or isinstance(fn, td.Independent | MaskedDistribution):
        if mask is not None:
            mask = torch.as_tensor(mask, device=found.device)
            found = found & mask.reshape((*mask.shape, *(1,) * (len(shape) - len(fn.batch_shape))))
        mask = fn._mask if isinstance(fn, MaskedDistribution) else None
        fn = fn.base_dist if isinstance(fn, td.Independent | MaskedDistribution) else fn
    return found


class _RowAxis(Messenger):
    """Tell the noise where the rows lie in what a site is about to draw, and draw from discrete ones."""

    def __init__(self, noise: RowNoise, dims: Mapping[str, int]) -> None:
        super().__init__()
        self._noise, self._dims = noise, dims

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        self._noise.of_all_rows = msg["name"] not in self._dims
        if msg["name"] in self._dims:
            self._noise.batch_shape = msg["fn"].batch_shape
            self._noise.row_axis = len(msg["fn"].batch_shape) + self._dims[msg["name"]]
        if msg["value"] is None and is_enumerable(msg["fn"]):
            msg["value"], msg["done"] = draw(msg["fn"]), True

    def _pyro_post_sample(self, _msg: Any) -> None:
        self._noise.row_axis, self._noise.of_all_rows = None, False


def run_guide(
    guide: Program, batch: Batch, dims: Mapping[str, int], address: tuple[int, ...] | None, kind: Kind = "independent"
) -> dict[str, Any]:
    """Run a guide on tiled rows, with noise keyed by row or torch's own.

    Args:
        guide: the guide, under whatever handlers it needs.
        batch: the rows.
        dims: axis of the rows in each guide site (`Layout.guide`).
        address: names the noise: the same address, the same draws. None: torch's own generator, as in training.
        kind: of noise keyed by row, see `noise.RowNoise`.

    Returns:
        The guide's sample sites by name.
    """
    reader = SiteReader()
    if address is None:
        with PlateIndex(batch.index), reader:
            guide(*batch.tiled)
        return reader.sites
    noise = RowNoise(batch.keys, batch.particles, address, kind, batch.repeats)
    with _RowAxis(noise, dims), PlateIndex(batch.index), reader, noise:
        guide(*batch.tiled)
    return reader.sites


def run_model(model: Program, batch: Batch, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run a model on tiled rows with its latents given; its sample sites by name."""
    reader = SiteReader()
    with PlateIndex(batch.index), reader, Given(values):
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


def log_guide(sites: Mapping[str, Any], layout: Layout, *, stick_the_landing: bool = False) -> Float[Tensor, " batch"]:
    """Log q(h_i; lambda_i) of tiled rows, in nats, at the values that the guide drew.

    Args:
        sites: from `run_guide`.
        layout: of the pair.
        stick_the_landing: cut the gradient with respect to lambda inside log q, which leaves the ELBO's gradient
            unbiased and takes its noise away where q is the posterior (Roeder et al., 2017, arXiv 1703.09194).
    """
    if not stick_the_landing:
        return sum_sites(sites, layout.guide)
    detached = {
        name: map_parameters(sites[name]["fn"], lambda parameter: parameter.value.detach(), dim)
        for name, dim in layout.guide.items()
    }
    return sum_sites(sites, layout.guide, detached)


def log_extra(sites: Mapping[str, Any]) -> Float[Tensor, ""]:
    """What a guide observes (auxiliary sites, `pyro.factor`) adds to log q in training, over all tiled rows."""
    observed = [site for site in sites.values() if site["is_observed"]]
    terms = [scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"]).sum() for site in observed]
    return sum(terms, torch.zeros(()))


def sum_sites(
    sites: Mapping[str, Any], dims: Mapping[str, int], fns: Mapping[str, Any] | None = None
) -> Float[Tensor, " batch"]:
    """Sum of the sites' log-probabilities per row; sites that belong to all rows count for none."""
    terms = [row_log_prob(site, dims[name], (fns or {}).get(name)) for name, site in sites.items() if name in dims]
    return torch.stack(terms).sum(0)


def log_model(
    model: Program, batch: Batch, values: Mapping[str, Tensor], layout: Layout
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Log p(v_i, h_i) and log p(h_i) of tiled rows, in nats; discrete latents that the guide lacks are summed out."""
    states = joint_states(layout.summed) if layout.summed else {}
    count = max([1, *(len(site.values) for site in states.values())])
    if states:
        size = len(batch) * batch.copies
        values = {name: _repeated(value, count, layout.axes.get(name)) for name, value in values.items()}
        values |= {name: site.over(size) for name, site in states.items()}
    sites = run_model(model, batch.repeated(count), values)
    joint, prior = (sum_sites(some, layout.model) for some in (sites, latents_of(sites)))
    if states:
        joint, prior = (some.unflatten(0, (count, -1)).logsumexp(0) for some in (joint, prior))
    return joint, prior


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
    *,
    stick_the_landing: bool = False,
) -> Float[Tensor, "particle row"]:
    """Log p(v_i, h_si) - log q(h_si | v_i) for every draw of every row, in nats; their mean is the ELBO."""
    sites = run_guide(guide, batch, layout.guide, address, kind)
    log_q = log_guide(sites, layout, stick_the_landing=stick_the_landing)
    log_p, _ = log_model(model, batch, values_of(sites), layout)
    return (log_p - log_q).reshape(batch.copies, len(batch))


def latents_of(sites: Mapping[str, Any]) -> dict[str, Any]:
    """The sites of a program that are not observed."""
    return {name: site for name, site in sites.items() if not site["is_observed"]}


def values_of(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """What each latent site drew."""
    return {name: site["value"] for name, site in latents_of(sites).items()}
