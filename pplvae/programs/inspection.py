"""The door: run a pair on three and on five rows, find out how it is built, and refuse what cannot be compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pplvae.errors import ProgramError, RowwiseError
from pplvae.isolate import generators_kept, validation
from pplvae.programs.batch import Batch
from pplvae.programs.dependence import depends_on_draws, unmoved_priors
from pplvae.programs.discrete import States, is_discrete, joint_states, states_of, states_together
from pplvae.programs.failures import TRIED_ON, check_dtypes, in_users_words
from pplvae.programs.families import family_name, free_parameters
from pplvae.programs.left_out import left_to_the_model
from pplvae.programs.plates import data_plates, row_axes, whole_plates
from pplvae.programs.points import are_points, free_points
from pplvae.programs.reading import Given, Layout, Program, WholePlates, run_guide, run_model
from pplvae.programs.refusals import Refusals
from pplvae.programs.rows_apart import meeting
from pplvae.programs.site_checks import held_back, in_part_of_a_plate, of_some_rows, unmatched, warn_of_scales
from pplvae.programs.sites import latents_of, values_of
from pplvae.programs.summing import Summed
from pplvae.programs.support import check_support, is_unchecked
from pplvae.programs.widening import widened

_LOOKED_AT = 100  # rows among which three different ones are sought
_FEW, _MORE = TRIED_ON
_TRIES = 3  # groups of rows that the programs are tried on, if they fail on the first


def inspect_pair(
    model: Program,
    guide: Program,
    tensors: Sequence[Tensor],
    *,
    needs_latents: bool = True,
    told: Refusals | None = None,
) -> Layout:
    """Find where the rows lie in each site of a pair, and check that its rows can be told apart.

    Args:
        model: p(v, h; theta), called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), called as `guide(*rows)`.
        tensors: the rows; a few of them are used to look at the programs, all to check the support of the likelihood.
        needs_latents: refuse a guide without sample sites, the guide of a model that is fully observed.
        told: what is wrong with the pair; by default the first of it is raised.

    Raises:
        DataError: see `check_support`.
        ProgramError: a plate that does not follow the number of rows, sites that do not match, rows that influence each
            other; its subclass RowwiseError: no data plate, no latent inside it, or a latent that is neither
            reparameterised nor discrete with finitely many states.
    """
    try:
        return _inspected(model, guide, tensors, needs_latents=needs_latents, told=told or Refusals())
    except ProgramError as error:
        run = partial(_inspected, model, guide, needs_latents=needs_latents, told=Refusals())
        check_dtypes(error, tensors, run)
        raise


def _inspected(
    model: Program, guide: Program, tensors: Sequence[Tensor], *, needs_latents: bool, told: Refusals
) -> Layout:
    # Run once without keyed noise: `pyro.param` draws its initial values then, and the plates show.
    (few_rows, more_rows), plain = _first_run(model, guide, tensors)
    in_guide, in_model = ([getattr(probe, f"{program}_sites") for probe in plain] for program in ("guide", "model"))
    all_guide_dims, held = row_axes("guide", in_guide[0], in_guide[1], told) if in_guide[0] else ({}, [])
    model_dims, _ = row_axes("model", in_model[0], in_model[1], told)
    told.end_here()
    for what, sites in (("guide", in_guide), ("model", in_model)):
        told.tell(of_some_rows(what, sites[0].keys() ^ sites[1].keys()))
    told.end_here()
    guide_dims = {name: dim for name, dim in all_guide_dims.items() if not in_guide[0][name]["is_observed"]}
    axes = {name: len(in_guide[0][name]["fn"].batch_shape) + dim for name, dim in guide_dims.items()}
    drawn = values_of(in_guide[0])
    summed = left_to_the_model(model, few_rows, drawn, axes, in_model[0], model_dims)

    def again(more: bool) -> _Probe:
        with validation(False):  # what Pyro checks has been checked
            return _Probe(model, guide, more_rows if more else few_rows, guide_dims, (0,), summed)

    first, second = again(False), again(True)
    local_names = first.local_names
    drawn = latents_of(first.guide_sites)
    told.tell(unmatched(first.guide_sites, first.model_sites, summed.names if summed else ()))
    told.tell(in_part_of_a_plate("model", latents_of(first.model_sites), model_dims))
    told.tell(in_part_of_a_plate("guide", drawn, guide_dims))
    warn_of_scales(drawn, first.model_sites)
    latent = {name: site for name, site in drawn.items() if name in guide_dims}
    for name, site in latent.items():
        told.tell(held_back(name, site, guide_dims[name], drawn, local_used=bool(local_names)))
    told.end_here()
    unchecked = frozenset(name for name, site in in_model[0].items() if site["is_observed"] and is_unchecked(site))
    layout = Layout(
        guide_dims,
        model_dims,
        axes=axes,
        points={} if local_names else free_points(guide, few_rows, latent, first.model_sites),
        held=tuple(held),
        redrawn=not are_points({name: drawn[name] for name in held}),
        summed=summed,
        whole=whole_plates(in_guide) | whole_plates(in_model),
        unchecked=unchecked,
    )
    with in_users_words("pair of model and guide", tensors), WholePlates(layout.whole):
        check_support(model, guide, layout, tensors, told)
        met = told.tell(
            meeting("guide", first.guide_sites, second.guide_sites, guide_dims, lambda more: again(more).guide_sites)
        )
        if not met:  # else the model is given other latents for the same rows
            told.tell(
                meeting(
                    "model", first.model_sites, second.model_sites, model_dims, lambda more: again(more).model_sites
                )
            )
    free = local_names or [f"{n}.{p.name}" for n, s in latent.items() for p in free_parameters(s["fn"], guide_dims[n])]
    free += [f"{name}.v" for name in layout.points]
    contexts = [] if local_names else first.contexts
    if not free and not contexts and (needs_latents or drawn):
        told.tell([RowwiseError(_nothing_free(latent, held), code="PV214", at=("guide", next(iter(drawn), "")))])
    discrete = tuple(name for name, site in latent.items() if is_discrete(site["fn"]))
    states = states_together({name: states_of(latent[name], guide_dims[name]) for name in discrete})
    return replace(
        layout,
        free=(*free, *contexts),
        fixed=not local_names and not contexts and bool(latent) and _is_fixed(guide, few_rows, guide_dims, drawn),
        discrete=discrete,
        states=states,
        follows=_states_followed(guide, few_rows, guide_dims, states),
        unmoved=unmoved_priors(model, guide, few_rows, first.guide_sites, first.model_sites),
    )


def _states_followed(
    guide: Program, batch: Batch, dims: dict[str, int], states: dict[str, States]
) -> dict[str, tuple[int, ...]]:
    """Which discrete latents each parameter of the guide's distributions changes with."""
    if not states:
        return {}
    sizes = [len(site.values) for site in states.values()]
    together = joint_states(states)
    with torch.no_grad(), Given({name: site.over(len(batch)) for name, site in together.items()}):
        sites = run_guide(guide, batch.repeated(math.prod(sizes)), dims, (0,))
    found = {}
    for name, dim in dims.items():
        for parameter in free_parameters(sites[name]["fn"], dim):
            grid = parameter.value.movedim(parameter.axis, 0).reshape(*sizes, -1)
            # Not bit by bit: matrix products round differently at different places of a batch.
            same = [torch.isclose(grid, grid.narrow(k, 0, 1), rtol=1e-4, atol=1e-6).all() for k in range(len(sizes))]
            changing = (k for k, alike in enumerate(same) if not bool(alike))
            found[f"{name}.{parameter.name}"] = tuple(changing)
    return found


def _nothing_free(latent: dict[str, Any], held: list[str]) -> str:
    if not latent and not held:
        return "The pair has no latents, so there is nothing to infer: log p(v) is known, and no row has a gap."
    if not latent:
        return (
            f"The latents {held} of the guide lie outside the data plate: they belong to all rows at once, and there "
            "is none inside it, so no row has a gap of its own."
        )
    return (
        "No parameter of the guide's distributions can be given to each row: "
        + ", ".join(f"{name} is {family_name(site['fn'])}" for name, site in latent.items())
        + '. Name lambda in the guide yourself: `lam = pplvae.local("lam", lam)`, one row per datapoint.'
    )


def scaling_plate_size(model: Program, guide: Program, tensors: Sequence[Tensor]) -> int | None:
    """Full size of a plate that scales its rows up as a subsample, or None: what the program's ELBO is a sum over."""
    fewer, more = (_Probe(model, guide, batch).model_sites for batch in _probes(tensors))
    frames = {frame.name: frame for site in more.values() for frame in site["cond_indep_stack"]}
    data = (frames[name] for name in data_plates(fewer, more))
    return next((frame.full_size for frame in data if frame.full_size not in (None, frame.size)), None)


class _Names(Messenger):
    """Record the names that a guide gives to its lambda with `pplvae.local`, and those of the contexts of its flows."""

    def __init__(self) -> None:
        super().__init__()
        self.local: list[str] = []
        self.contexts: list[str] = []

    def _pyro_post_local(self, msg: Any) -> None:
        self.local.append(msg["name"])

    def _pyro_post_context(self, msg: Any) -> None:
        self.contexts.append(msg["name"])


class _Probe:
    """One run of both programs on a few rows; with `dims`, under noise keyed by row."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        batch: Batch,
        dims: dict[str, int] | None = None,
        address: tuple[int, ...] = (0,),
        summed: Summed | None = None,
    ) -> None:
        names = _Names()
        any_state = summed.any_state(len(batch)) if summed is not None else {}
        with torch.no_grad():
            with in_users_words("guide", batch.tensors):
                self.guide_sites = run_guide(names(guide), batch, dims or {}, None if dims is None else address)
            with in_users_words("model", batch.tensors):
                self.model_sites = run_model(model, batch, values_of(self.guide_sites) | any_state)
        self.local_names, self.contexts = names.local, names.contexts


def _first_run(model: Program, guide: Program, tensors: Sequence[Tensor]) -> tuple[tuple[Batch, Batch], list[_Probe]]:
    """Find a few rows on which both programs run, and what they did there: one bad row must not fail the pair."""
    broken: Exception | None = None
    for start, farthest in ((0, True), *((_FEW * k, False) for k in range(_TRIES))):
        few = _probes(tensors, start, farthest=farthest)
        try:
            return few, [_Probe(model, guide, batch) for batch in few]
        except Exception as error:
            broken = broken or error
    assert broken is not None
    raise broken


def _probes(tensors: Sequence[Tensor], start: int = 0, *, farthest: bool = False) -> tuple[Batch, Batch]:
    """Two batches: three rows, different ones if there are any, and the same with one row and the first after them.

    Args:
        tensors: the rows.
        start: the first of the three, among the different ones.
        farthest: whether the row beside them is the one with the largest number, which changes a maximum over rows too,
            if there are so many; else it is one of the three.
    """
    whole = Batch.of([tensor[:_LOOKED_AT] for tensor in tensors])
    seen: dict[int, int] = {}
    for i, key in enumerate(whole.keys.tolist()):
        seen.setdefault(key, i)
    different = [*seen.values()]
    extremes = _extremes(whole) if farthest and len(different) >= _MORE else ()
    inner = [i for i in different if i not in extremes]
    index = [inner[i % len(inner)] for i in range(start, start + _FEW)]
    beside = extremes[0] if extremes else index[1]
    places = [0, 1, 2, 3 if extremes else 1, 0]
    return _alone(whole, index, places[:_FEW]), _alone(whole, [*index, beside, index[0]], places)


def _alone(rows: Batch, index: list[int], places: list[int]) -> Batch:
    """Some rows as a data set of their own: a plate as large as these finds them by their places."""
    return replace(rows.take(torch.tensor(index)), positions=torch.tensor(places, device=rows.positions.device))


def _extremes(rows: Batch) -> tuple[int, ...]:
    """The rows with the largest and the smallest number; none where there are no numbers but codes."""
    numbers = [widened(t).nan_to_num().reshape(len(rows), -1) for t in rows.tensors if t.is_floating_point()]
    if not sum(t.shape[1] for t in numbers):
        return ()
    together = torch.cat(numbers, 1)
    return int(together.amax(1).argmax()), int(together.amin(1).argmin())


def _is_fixed(guide: Program, batch: Batch, dims: dict[str, int], sites: dict[str, Any]) -> bool:
    """Whether the guide's distributions are the same whatever it draws: then it has to run only once.

    Args:
        guide: q(h; lambda_phi(v)).
        batch: a few rows.
        dims: axis of the rows in each of its latent sites.
        sites: its latent sites on these rows.
    """
    values = {name: site["value"].detach() for name, site in sites.items()}
    with torch.no_grad(), validation(False):
        pairs = zip(_log_probs(sites, values), _log_probs(run_guide(guide, batch, dims, (1,)), values), strict=True)
        if not all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in pairs):
            return False
        if len(sites) == 1:
            return True
        # A later site may depend on an earlier one in ways (a gate, a transform) that no test on a few rows can
        # exclude: it is read off the operations themselves.
        with generators_kept():
            return not depends_on_draws(lambda: _log_probs(run_guide(guide, batch, {}, None), values))


def _log_probs(sites: Mapping[str, Any], values: Mapping[str, Tensor]) -> list[Tensor]:
    return [
        scale_and_mask(sites[name]["fn"].log_prob(value), mask=sites[name]["mask"]) for name, value in values.items()
    ]
