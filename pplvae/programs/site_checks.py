"""What the sites of a pair must be, and the messages when they are not.

Each check gives what is wrong; whoever asks raises the first of it, or collects it (`refusals.Refusals`).
"""

import re
import warnings
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pplvae.errors import PplvaeWarning, ProgramError, RowwiseError
from pplvae.programs.discrete import is_discrete, is_enumerable
from pplvae.programs.elements import rows_first
from pplvae.programs.families import conditional_transforms, family_name, held_matrices, map_parameters
from pplvae.programs.sites import counted, latents_of, plates_scale


def unmatched(all_guide: dict[str, Any], model: dict[str, Any], summed: Container[str]) -> Iterator[ProgramError]:
    """Where the guide does not draw the model's latents, but those summed out, with the same shapes and supports.

    Args:
        all_guide: all of its sites.
        model: all of its sites.
        summed: names of the latents that are left to the model.
    """
    guide = latents_of(all_guide)
    latents = [name for name in latents_of(model) if name not in summed]
    sampled = [name for name, site in guide.items() if not (site["infer"] or {}).get("is_auxiliary")]
    missing = [name for name in latents if name not in guide]
    extra = [name for name in sampled if name not in latents]
    if missing or extra:
        yield ProgramError(
            "The guide must have the latent sites of the model, by name."
            + (f" It misses {missing}." if missing else "")
            + (f" It has {extra}, which the model does not sample" if extra else "")
            + (' (mark a helper with `infer={"is_auxiliary": True}`).' if extra else "")
            + f" Model: {latents}; guide: {sampled}."
            + _why_missing(missing, all_guide, model),
            code="PV210",
            at=("model", missing[0]) if missing else ("guide", extra[0]),
        )
    for name in latents:
        if name in guide:
            yield from _unlike(name, guide[name], model[name]["fn"])


def _why_missing(missing: Sequence[str], guide: dict[str, Any], model: dict[str, Any]) -> str:
    """What has probably been forgotten, in a sentence."""
    observed = [name for name in missing if name in guide]
    if observed:
        return f" The guide observes {observed}: a guide draws its latents, so leave out `obs=` there."
    if missing and len(latents_of(model)) == len(model):
        return f' The model observes nothing: `pyro.sample("{missing[-1]}", ..., obs=v)` says that the rows are there.'
    return ""


def _unlike(name: str, site: Any, prior: Any) -> Iterator[ProgramError]:
    """The first that keeps a latent of the guide from being one of the model."""
    fn, at = site["fn"], ("guide", name)
    if fn.shape() != prior.shape():
        yield ProgramError(
            f"The latent {name!r} has shape {tuple(fn.shape())} in the guide and {tuple(prior.shape())} in the "
            "model (with 3 rows). Both must have the same: look at `latent` sizes, at `.to_event(...)`, and at "
            "the `dim=` of plates.",
            code="PV211",
            at=at,
        )
    elif not _admits(prior, site["value"]):
        yield ProgramError(
            f"The guide draws values of {name!r} outside the support of the model's {family_name(prior)} "
            f"({prior.support}), where p(v, h) is 0. Use a guide on that support (`factorised-kumaraswamy` for "
            "(0, 1)), or another prior.",
            code="PV212",
            at=at,
        )
    elif fn.event_dim != prior.event_dim:
        yield ProgramError(
            f"The latent {name!r} has {fn.event_dim} event dimension(s) in the guide and {prior.event_dim} in "
            "the model: write the same `.to_event(...)` in both.",
            code="PV211",
            at=at,
            instead=f"{family_name(fn)}(...).to_event({prior.event_dim})",
        )


def of_some_rows(what: str, names: Collection[str]) -> Iterator[ProgramError]:
    """Sites that are there for some rows and not for others.

    Args:
        what: the program; empty where it may be either.
        names: of the sites.
    """
    if names:
        yield ProgramError(
            f"The sites {sorted(names)} exist for some rows and not for others. Every row must have the same "
            "sites: pad sequences to one length, and mask what is padding (`pyro.poutine.mask`).",
            code="PV206",
            at=(what, min(names)),
        )


def unlike_masks(guide: dict[str, Any], model: dict[str, Any], axes: Mapping[str, int]) -> Iterator[ProgramError]:
    """Where the programs do not mask the same elements of a latent: log p and log q are of different numbers there.

    Args:
        guide: its sites on some rows.
        model: its sites on the same rows, at the guide's draws.
        axes: of the rows in the value of each latent of the guide (`Layout.axes`).
    """
    for name, axis in axes.items():
        if name not in model:  # a helper, from which a latent of the model is computed
            continue
        ours, theirs = (rows_first(counted(sites[name]), axis) for sites in (guide, model))
        odd = (ours != theirs).any(1).nonzero().flatten().tolist()
        if odd:
            ours, theirs = (_listed(mask[odd[0]]) for mask in (ours, theirs))
            yield ProgramError(
                f"The latent {name!r} is masked in one program and not in the other: in one of the rows the mask is "
                f"{ours} in the guide and {theirs} in the model. What counts in one of log p and log q alone makes the "
                "ELBO no bound on log p(v). Put the same mask on both, "
                f'`with pyro.poutine.mask(mask=used): pyro.sample("{name}", ...)`, or `.mask(used)` on both '
                "distributions, before `.to_event(...)`; True counts.",
                code="PV213",
                at=("guide", name),
            )


def _listed(mask: Tensor, most: int = 8) -> str:
    values = mask.tolist()
    return str(values[:most])[:-1] + (", ...]" if len(values) > most else "]")


def in_part_of_a_plate(what: str, sites: dict[str, Any], dims: Mapping[str, int]) -> Iterator[RowwiseError]:
    """Latents of a row in a plate that holds some of its members only: their weights would be powers of p / q.

    Args:
        what: the program.
        sites: its latent sites.
        dims: axis of the rows in each of them that is inside the data plate.
    """
    for name, dim in dims.items():
        scale = plates_scale(sites[name], but=dim) if name in sites else 1.0
        if scale != 1:
            frames = [frame for frame in sites[name]["cond_indep_stack"] if frame.full_size not in (None, frame.size)]
            plate = next(frame for frame in frames if frame.dim != dim)
            yield RowwiseError(
                f"The latent {name!r} lies in the plate {plate.name!r}, which holds {plate.size} of its "
                f"{plate.full_size} members: Pyro counts log p and log q of those {scale:g} times, and p / q to that "
                "power is no weight for log p(v). Draw the latents of all members, or of these alone: "
                f'`pyro.plate("{plate.name}", {plate.size})`. (Observed sites may lie in such a plate.)',
                code="PV227",
                at=(what, name),
                instead=f'pyro.plate("{plate.name}", {plate.size})',
            )


def warn_of_scales(guide: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Say that `poutine.scale` is left out, unless it is one unit for all sites of both programs.

    Args:
        guide: its latent sites.
        model: all of its sites.
    """
    one = torch.ones((), dtype=torch.float64)
    ours, theirs = ({name: _weight(site) for name, site in sites.items()} for sites in (guide, model))
    for name in ours:
        if name in theirs and not _alike(ours[name], theirs[name]):
            warnings.warn(_on_one_side(name, _alike(ours[name], one)), stacklevel=2)
    scales = [*ours.values(), *theirs.values()]
    odd = {name for some in (ours, theirs) for name, scale in some.items() if not _alike(scale, one)}
    if odd and not all(_alike(scale, scales[0]) for scale in scales):
        warning = PplvaeWarning(
            f"`pyro.poutine.scale` weights the sites {sorted(odd)}. Such a weight counts in training; ELBOs of "
            "rows, gaps and log p(v) are those of the programs without it. For columns that stand for others write a "
            'plate: `pyro.plate("columns", 10, subsample=index)`, whose scale counts.',
            code="PV251",
            at=("model" if min(odd) in theirs else "guide", min(odd)),
        )
        warnings.warn(warning, stacklevel=2)


def _weight(site: Any) -> Tensor:
    """What `poutine.scale` makes of a site, without the scales of its plates."""
    return torch.as_tensor(site["scale"]).cpu().double() / plates_scale(site)


def _on_one_side(name: str, in_model: bool) -> PplvaeWarning:
    where, other = ("model", "guide") if in_model else ("guide", "model")
    return PplvaeWarning(
        f"`pyro.poutine.scale` weights log {'p' if in_model else 'q'} of the latent {name!r} in the {where} and not in "
        f"the {other}. `Trace_ELBO` then maximises no ELBO, and `TraceMeanField_ELBO` takes the guide's weight alone. "
        "To weight the KL term, put one weight on both, or let `fit` do it: `kl_weight=objectives.warm_up(20)`.",
        code="PV250",
        at=(where, name),
        instead=f'with pyro.poutine.scale(scale=weight):  # in the {other} too\n    pyro.sample("{name}", ...)',
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    try:
        return bool(torch.isclose(one, other, rtol=1e-5).all())
    except RuntimeError:  # weights of the elements of different sites: no shape holds both
        return False


def _admits(fn: Any, value: Tensor) -> bool:
    """Whether values lie in the support; of rows that are not finite, their own status will tell."""
    try:
        axes = fn.support.event_dim
        finite = value.isfinite().flatten(-axes).all(-1) if axes else value.isfinite()
        return bool((fn.support.check(value) | ~finite).all())
    except (AttributeError, NotImplementedError):  # a distribution need not say what its support is
        return True


def held_back(name: str, site: Any, dim: int, sites: dict[str, Any], *, local_used: bool) -> Iterator[RowwiseError]:
    """What keeps rows from having each its own distribution of a latent, found by gradients or among states."""
    reason = _reason_against(name, site, dim, sites, local_used=local_used)
    if reason:
        code = re.search(r"`(\w+ = pplvae\.local\(.*?\))`", reason)
        yield RowwiseError(reason, code="PV214", at=("guide", name), instead=code[1] if code else "")


def _reason_against(name: str, site: Any, dim: int, sites: dict[str, Any], *, local_used: bool) -> str:
    fn = site["fn"]
    if is_discrete(fn) and not is_enumerable(fn):
        return (
            f"The latent {name!r} is discrete and has no end of states ({family_name(fn)}), so its draws cannot be "
            "keyed by row. Use one with finitely many (`Categorical`, `Binomial`)."
        )
    if not is_discrete(fn) and not fn.has_rsample:
        return (
            f"The latent {name!r} has a distribution without reparameterised draws ({family_name(fn)}): a guide per "
            "row needs gradients through its draws. Use one with `has_rsample`."
        )
    auxiliary = (site["infer"] or {}).get("is_auxiliary")
    if auxiliary and not any(family_name(other["fn"]) == "Delta" for other in sites.values()):
        return (
            f"The auxiliary latent {name!r} enters log q and nothing enters log p for it, so the ELBO has no upper end "
            "over guides. Auxiliary sites are for latents that a `Delta` site is computed from; remove it, or draw it "
            "in the model too."
        )
    if local_used:
        return ""
    flows = conditional_transforms(fn)
    if flows:
        return (
            f"The latent {name!r} is a flow ({', '.join(flows)}): which numbers make up lambda cannot be seen from "
            'outside. Name the context of the flow in the guide: `context = pplvae.local("context", context)`.'
        )
    if held_matrices(fn, dim):
        return (
            f"The latent {name!r} multiplies {family_name(fn)}, which has parameters of its own, by a matrix for each "
            "row: the former would be freed and the latter held. Name lambda in the guide yourself: "
            '`matrix = pplvae.local("matrix", matrix, dist.constraints.lower_cholesky)`, and so on.'
        )
    rebuilt = map_parameters(fn, lambda parameter: parameter.value, dim)
    before, after = (each.log_prob(site["value"]) for each in (fn, rebuilt))
    if not torch.allclose(after, before, rtol=1e-4, atol=1e-4, equal_nan=True):
        return (
            f"The distribution of the latent {name!r} ({family_name(fn)}) cannot be taken apart and rebuilt from its "
            '`arg_constraints`. Name lambda in the guide yourself: `lam = pplvae.local("lam", lam)`.'
        )
    return ""
