"""What the sites of a pair must be, and the messages when they are not."""

import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pplvae.errors import PplvaeWarning, ProgramError, RowwiseError
from pplvae.programs.discrete import is_discrete, is_enumerable
from pplvae.programs.elements import rows_first
from pplvae.programs.families import conditional_transforms, family_name, held_matrices, map_parameters
from pplvae.programs.sites import counted, plates_scale, row_log_prob


def check_sites_match(guide: dict[str, Any], model: dict[str, Any], summed: Container[str]) -> None:
    """Check that the guide draws the model's latents, but those summed out, with the same shapes and supports.

    Args:
        guide: its latent sites.
        model: all of its sites.
        summed: names of the latents that are left to the model.
    """
    latents = [name for name, site in model.items() if not site["is_observed"] and name not in summed]
    sampled = [name for name, site in guide.items() if not (site["infer"] or {}).get("is_auxiliary")]
    missing = [name for name in latents if name not in guide]
    extra = [name for name in sampled if name not in latents]
    if missing or extra:
        raise ProgramError(
            "The guide must have the latent sites of the model, by name."
            + (f" It misses {missing}." if missing else "")
            + (f" It has {extra}, which the model does not sample" if extra else "")
            + (' (mark a helper with `infer={"is_auxiliary": True}`).' if extra else "")
            + f" Model: {latents}; guide: {sampled}."
        )
    for name in latents:
        ours, theirs = guide[name]["fn"], model[name]["fn"]
        if ours.shape() != theirs.shape():
            raise ProgramError(
                f"The latent {name!r} has shape {tuple(ours.shape())} in the guide and {tuple(theirs.shape())} in the "
                "model (with 3 rows). Both must have the same: look at `latent` sizes and at `.to_event(...)`."
            )
        if not _admits(theirs, guide[name]["value"]):
            raise ProgramError(
                f"The guide draws values of {name!r} outside the support of the model's {family_name(theirs)} "
                f"({theirs.support}), where p(v, h) is 0. Use a guide on that support (`factorised-kumaraswamy` for "
                "(0, 1)), or another prior."
            )
        if ours.event_dim != theirs.event_dim:
            raise ProgramError(
                f"The latent {name!r} has {ours.event_dim} event dimension(s) in the guide and {theirs.event_dim} in "
                "the model: write the same `.to_event(...)` in both."
            )


def check_masks(guide: dict[str, Any], model: dict[str, Any], axes: Mapping[str, int]) -> None:
    """Check that both programs mask the same elements of a latent: else log p and log q are of different numbers.

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
            raise ProgramError(
                f"The latent {name!r} is masked in one program and not in the other: in one of the rows the mask is "
                f"{ours} in the guide and {theirs} in the model. What counts in one of log p and log q alone makes the "
                "ELBO no bound on log p(v). Put the same mask on both, "
                f'`with pyro.poutine.mask(mask=used): pyro.sample("{name}", ...)`, or `.mask(used)` on both '
                "distributions, before `.to_event(...)`; True counts."
            )


def _listed(mask: Tensor, most: int = 8) -> str:
    values = mask.tolist()
    return str(values[:most])[:-1] + (", ...]" if len(values) > most else "]")


def check_plates(sites: dict[str, Any], dims: Mapping[str, int]) -> None:
    """Refuse a latent of a row in a plate that holds some of its members only: its weights would be powers of p / q.

    Args:
        sites: latent sites of a program.
        dims: axis of the rows in each of them that is inside the data plate.
    """
    for name, dim in dims.items():
        scale = plates_scale(sites[name], but=dim) if name in sites else 1.0
        if scale != 1:
            frames = [frame for frame in sites[name]["cond_indep_stack"] if frame.full_size not in (None, frame.size)]
            plate = next(frame for frame in frames if frame.dim != dim)
            raise RowwiseError(
                f"The latent {name!r} lies in the plate {plate.name!r}, which holds {plate.size} of its "
                f"{plate.full_size} members: Pyro counts log p and log q of those {scale:g} times, and p / q to that "
                "power is no weight for log p(v). Draw the latents of all members, or of these alone: "
                f'`pyro.plate("{plate.name}", {plate.size})`. (Observed sites may lie in such a plate.)'
            )


def warn_of_scales(sites: Sequence[Any]) -> None:
    """Say that `poutine.scale` is left out, unless it is one unit for all sites of both programs.

    Args:
        sites: the latent sites of the guide, and all sites of the model.
    """
    scales = [torch.as_tensor(site["scale"]).cpu().double() / plates_scale(site) for site in sites]
    one = torch.ones((), dtype=torch.float64)
    odd = [site["name"] for site, scale in zip(sites, scales, strict=True) if not _alike(scale, one)]
    if odd and not all(_alike(scale, scales[0]) for scale in scales):
        warnings.warn(
            f"`pyro.poutine.scale` weights the sites {sorted({*odd})}. Such a weight counts in training; ELBOs of "
            "rows, gaps and log p(v) are those of the programs without it. For columns that stand for others write a "
            'plate: `pyro.plate("columns", 10, subsample=index)`, whose scale counts.',
            PplvaeWarning,
            stacklevel=2,
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


def check_latent(name: str, site: Any, dim: int, sites: dict[str, Any], *, local_used: bool) -> None:
    """Check that each row can have its own distribution of a latent, found by gradients or among states."""
    fn = site["fn"]
    if is_discrete(fn) and not is_enumerable(fn):
        raise RowwiseError(
            f"The latent {name!r} is discrete and has no end of states ({family_name(fn)}), so its draws cannot be "
            "keyed by row. Use one with finitely many (`Categorical`, `Binomial`)."
        )
    if not is_discrete(fn) and not fn.has_rsample:
        raise RowwiseError(
            f"The latent {name!r} has a distribution without reparameterised draws ({family_name(fn)}): a guide per "
            "row needs gradients through its draws. Use one with `has_rsample`."
        )
    auxiliary = (site["infer"] or {}).get("is_auxiliary")
    if auxiliary and not any(family_name(other["fn"]) == "Delta" for other in sites.values()):
        raise RowwiseError(
            f"The auxiliary latent {name!r} enters log q and nothing enters log p for it, so the ELBO has no upper end "
            "over guides. Auxiliary sites are for latents that a `Delta` site is computed from; remove it, or draw it "
            "in the model too."
        )
    if local_used:
        return
    flows = conditional_transforms(fn)
    if flows:
        raise RowwiseError(
            f"The latent {name!r} is a flow ({', '.join(flows)}): which numbers make up lambda cannot be seen from "
            'outside. Name the context of the flow in the guide: `context = pplvae.local("context", context)`.'
        )
    if held_matrices(fn, dim):
        raise RowwiseError(
            f"The latent {name!r} multiplies {family_name(fn)}, which has parameters of its own, by a matrix for each "
            "row: the former would be freed and the latter held. Name lambda in the guide yourself: "
            '`matrix = pplvae.local("matrix", matrix, dist.constraints.lower_cholesky)`, and so on.'
        )
    rebuilt = map_parameters(fn, lambda parameter: parameter.value, dim)
    before, after = (each.log_prob(site["value"]) for each in (fn, rebuilt))
    if not torch.allclose(after, before, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise RowwiseError(
            f"The distribution of the latent {name!r} ({family_name(fn)}) cannot be taken apart and rebuilt from its "
            '`arg_constraints`. Name lambda in the guide yourself: `lam = pplvae.local("lam", lam)`.'
        )


def check_rows_apart(what: str, fewer: dict[str, Any], more: dict[str, Any], dims: dict[str, int]) -> None:
    """Check that rows 0, 1 and 2 keep their log-probabilities when rows 0 and 1 follow them once more."""
    for name in dims:
        first, second = row_log_prob(fewer[name], dims[name]), row_log_prob(more[name], dims[name])
        for log_prob, rows in ((first, 3), (second, 5)):
            if log_prob.shape != (rows,):
                raise ProgramError(
                    f"The site {name!r} of the {what} gives log-probabilities of shape {tuple(log_prob.shape)} for "
                    f"{rows} rows: one per row was expected. Does a `.to_event(1)` miss?"
                )
        tolerance = 1e-3 if first.dtype == torch.float32 else 1e-6
        expected = torch.cat([first, first[:2]])
        if not torch.allclose(expected, second, rtol=tolerance, atol=tolerance, equal_nan=True):
            _check_broadcast(what, fewer[name], dims[name])
            odd = int((expected - second).abs().argmax())
            raise ProgramError(
                f"At the site {name!r} of the {what}, a row's log-probability changed when other rows were added "
                f"({expected[odd]:.6g} and {second[odd]:.6g} for the same row and the same latents). Either rows "
                "influence each other, or the program draws random numbers outside `pyro.sample` in eval mode "
                "(dropout that ignores `training`, say)."
            )


def _check_broadcast(what: str, site: Any, dim: int) -> None:
    """Refuse a site whose rows stand on two axes: on the plate's, where it had one member, and where they were."""
    fn, covered = site["fn"], {frame.dim for frame in site["cond_indep_stack"]}
    axes = range(-1, -1 - len(fn.batch_shape), -1)
    further = [axis for axis in axes if axis < dim and axis not in covered and fn.batch_shape[axis] > 1]
    if further:
        events = len(fn.event_shape) + dim - further[0]
        raise ProgramError(
            f"The site {site['name']!r} of the {what} has batch shape {tuple(fn.batch_shape)}: its rows lie at axis "
            f"{further[0]}, and the plate around it is at axis {dim}, where it was spread over the rows once more. "
            f"Make the axes right of the rows its event dimensions: `{family_name(fn)}(...).to_event({events})`."
        )
