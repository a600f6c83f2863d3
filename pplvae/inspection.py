"""The door: run a pair on two and on three rows, find out how it is built, and refuse what cannot be compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch import distributions as td

from pplvae.data import few
from pplvae.errors import DataError, PplvaeError, ProgramError, RowwiseError
from pplvae.families import conditional_transforms, free_parameters
from pplvae.noise import row_keys
from pplvae.rows import Given, Layout, PlateIndex, Program, SiteReader, positions, row_log_prob, run_guide

_ROWS_AT_ONCE = 4096
_PROBE_ROWS = 3
_PLATE_HINT = 'wrap the sites of the rows in `with pyro.plate("data", len(v)):`, in the model and in the guide'


def inspect_pair(model: Program, guide: Program, tensors: Sequence[Tensor]) -> Layout:
    """Find where the rows lie in each site of a pair, and check that its rows can be told apart.

    Args:
        model: p(v, h; theta), called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), called as `guide(*rows)`.
        tensors: the rows; a few of them are used to look at the programs, all to check the support of the likelihood.

    Raises:
        DataError: see `check_support`.
        ProgramError: a plate that does not follow the number of rows, sites that do not match, rows that influence each
            other; its subclass RowwiseError: no data plate, a latent outside it, or one without a continuous
            reparameterised distribution.
    """
    _create_parameters(model, guide, tensors)
    two, three = _Probe(model, guide, tensors, [0, 1]), _Probe(model, guide, tensors, [0, 1, 0])
    guide_dims = _row_axes("guide", two.guide_sites, three.guide_sites)
    model_dims = _row_axes("model", two.model_sites, three.model_sites)
    _check_sites_match(two.guide_sites, two.model_sites)
    for name, site in two.guide_sites.items():
        _check_latent(name, site, local_used=bool(two.local_names))
    check_support(model, guide, Layout(guide_dims, model_dims), tensors)
    _check_rows_apart(two, three, guide_dims, model_dims)
    free = two.local_names or [
        f"{name}.{p.name}"
        for name, site in two.guide_sites.items()
        for p in free_parameters(site["fn"], guide_dims[name])
    ]
    if not free:
        raise RowwiseError(
            "No parameter of the guide's distributions can be given to each row: "
            + ", ".join(f"{name} is {_kind(site['fn'])}" for name, site in two.guide_sites.items())
            + '. Name lambda in the guide yourself: `lam = pplvae.local("lam", lam)`, one row per datapoint.'
        )
    again = _Probe(model, guide, tensors, [0, 1], address=(1,))
    fixed = not two.local_names and _same_families(two.guide_sites, again.guide_sites)
    return Layout(guide_dims, model_dims, tuple(free), fixed)


def check_support(model: Program, guide: Program, layout: Layout, tensors: Sequence[Tensor]) -> None:
    """Run a pair once over all rows and refuse observed values that their likelihood cannot have produced.

    Raises:
        DataError: values outside the support of an observed site: which rows, which value, what to do.
    """
    for start in range(0, len(tensors[0]), _ROWS_AT_ONCE):
        rows = [tensor[start : start + _ROWS_AT_ONCE] for tensor in tensors]
        reader = SiteReader()
        with torch.no_grad():
            with in_users_words("guide", rows):
                values = {name: s["value"] for name, s in run_guide(guide, rows, row_keys(rows), 1, (0,)).items()}
            with in_users_words("model", rows), PlateIndex(positions(rows)), reader, Given(values):
                model(*rows)
        for name, site in reader.sites.items():
            if site["is_observed"]:
                _check_site_support(name, site, layout.model[name], start)


def scaling_plate_size(model: Program, guide: Program, tensors: Sequence[Tensor]) -> int | None:
    """Full size of a plate that scales its rows up as a subsample, or None: what the program's ELBO is a sum over."""
    sites = _Probe(model, guide, tensors, [0, 1]).model_sites
    frames = [frame for site in sites.values() for frame in site["cond_indep_stack"]]
    return next((frame.full_size for frame in frames if frame.full_size not in (None, frame.size)), None)


@contextmanager
def in_users_words(what: str, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Say which program failed, on rows of which shape, when a user's program raises."""
    try:
        yield
    except PplvaeError:
        raise
    except Exception as error:
        shapes = ", ".join(str((len(t), *t.shape[1:])) for t in tensors)
        hint = ""
        if len(tensors[0]) <= _PROBE_ROWS:
            hint = f" (Programs are tried on 2 and {_PROBE_ROWS} rows first: sizes must come from the rows passed in.)"
        if "Shape mismatch inside plate" in str(error):
            hint = " The plate's size must be the number of rows that are passed in: " + _PLATE_HINT + "."
        raise ProgramError(
            f"The {what} raised {type(error).__name__} on rows of shape {shapes}: {error}{hint}"
        ) from error


def _create_parameters(model: Program, guide: Program, tensors: Sequence[Tensor]) -> None:
    """Run both programs once, so that `pyro.param` has drawn its initial values before noise is keyed by row."""
    rows = [tensor[[0, 1 % len(tensor)]] for tensor in tensors]
    reader = SiteReader()
    with torch.no_grad(), PlateIndex(positions(rows)):
        with in_users_words("guide", rows), reader:
            guide(*rows)
        with in_users_words("model", rows), Given({name: site["value"] for name, site in reader.sites.items()}):
            model(*rows)


class _LocalNames(Messenger):
    """Record the names that a guide gives to its lambda with `pplvae.local`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_post_local(self, msg: Any) -> None:
        self.names.append(msg["name"])


class _Probe:
    """One run of both programs on a few rows."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        tensors: Sequence[Tensor],
        index: list[int],
        address: tuple[int, ...] = (0,),
    ) -> None:
        rows = [tensor[[i % len(tensor) for i in index]] for tensor in tensors]
        names, self.model_reader = _LocalNames(), SiteReader()
        with torch.no_grad():
            with in_users_words("guide", rows):
                # The same row draws the same noise in both probes, so what it gets must be the same too.
                self.guide_sites = run_guide(names(guide), rows, row_keys(rows), 1, address)
            values = {name: site["value"] for name, site in self.guide_sites.items()}
            with in_users_words("model", rows), PlateIndex(positions(rows)), self.model_reader, Given(values):
                model(*rows)
        self.model_sites = self.model_reader.sites
        self.local_names = names.names
        self.rows = len(index)


def _row_axes(what: str, two: dict[str, Any], three: dict[str, Any]) -> dict[str, int]:
    """The axis of the data plate in every site: the plate whose size follows the number of rows."""
    plates = {frame.name: frame for site in three.values() for frame in site["cond_indep_stack"]}
    before = {frame.name: frame.size for site in two.values() for frame in site["cond_indep_stack"]}
    data = [name for name, frame in plates.items() if frame.size == 3 and before.get(name) == 2]
    if not plates:
        raise RowwiseError(f"The {what} has no plate, so its rows cannot be told apart: {_PLATE_HINT}.")
    if not data:
        sizes = ", ".join(f"{name!r} (size {frame.size})" for name, frame in plates.items())
        raise ProgramError(
            f"No plate of the {what} has the number of rows as its size: with 3 rows it has {sizes}. "
            f"A size that is written down or taken from the training set does not fit other rows: {_PLATE_HINT}, or "
            "give a subsampling plate its rows with `subsample_size=len(v)`."
        )
    axes: dict[str, int] = {}
    for name, site in three.items():
        frames = [frame for frame in site["cond_indep_stack"] if frame.name in data]
        if not frames:
            kind = "observed site" if site["is_observed"] else "latent"
            raise RowwiseError(
                f"The {kind} {name!r} of the {what} lies outside the data plate {data[0]!r}: it belongs to all rows at "
                "once, so no row has a gap of its own. Move it into the plate; or, if it is global on purpose, make it "
                "a parameter (`pyro.param`) or condition both programs on one value of it."
            )
        if frames[0].dim is None:
            raise ProgramError(
                f"The plate {data[0]!r} of the {what} is a Python loop over rows; use it as a context: {_PLATE_HINT}."
            )
        axes[name] = frames[0].dim
    return axes


def _check_sites_match(guide: dict[str, Any], model: dict[str, Any]) -> None:
    latents = [name for name, site in model.items() if not site["is_observed"]]
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
                "model (with 2 rows). Both must have the same: look at `latent` sizes and at `.to_event(...)`."
            )
        if ours.event_dim != theirs.event_dim:
            raise ProgramError(
                f"The latent {name!r} has {ours.event_dim} event dimension(s) in the guide and {theirs.event_dim} in "
                "the model: write the same `.to_event(...)` in both."
            )


def _check_latent(name: str, site: Any, *, local_used: bool) -> None:
    fn = site["fn"]
    if fn.support is not None and fn.support.is_discrete:
        raise RowwiseError(
            f"The latent {name!r} is discrete ({_kind(fn)}): a guide per row needs gradients through its draws. Sum it "
            "out in the model (a mixture likelihood), or use a continuous relaxation such as "
            "`RelaxedOneHotCategoricalStraightThrough`."
        )
    if not fn.has_rsample:
        raise RowwiseError(
            f"The latent {name!r} has a distribution without reparameterised draws ({_kind(fn)}): a guide per row "
            "needs gradients through its draws. Use one with `has_rsample`."
        )
    flows = conditional_transforms(fn)
    if flows and not local_used:
        raise RowwiseError(
            f"The latent {name!r} is a flow ({', '.join(flows)}): which numbers make up lambda cannot be seen from "
            'outside. Name the context of the flow in the guide: `context = pplvae.local("context", context)`.'
        )


def _check_rows_apart(two: _Probe, three: _Probe, guide_dims: dict[str, int], model_dims: dict[str, int]) -> None:
    checks: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, int]]] = [
        ("guide", two.guide_sites, three.guide_sites, guide_dims),
        ("model", two.model_sites, three.model_sites, model_dims),
    ]
    for what, fewer, more, dims in checks:
        for name in fewer:
            first, second = row_log_prob(fewer[name], dims[name]), row_log_prob(more[name], dims[name])
            for log_prob, rows in ((first, 2), (second, 3)):
                if log_prob.shape != (rows,):
                    raise ProgramError(
                        f"The site {name!r} of the {what} gives log-probabilities of shape {tuple(log_prob.shape)} for "
                        f"{rows} rows: one per row was expected. Does a `.to_event(1)` miss?"
                    )
            tolerance = 1e-3 if first.dtype == torch.float32 else 1e-6
            if not torch.allclose(first, second[:2], rtol=tolerance, atol=tolerance, equal_nan=True):
                raise ProgramError(
                    f"At the site {name!r} of the {what}, a row's log-probability changed when another row was added "
                    f"({first[0]:.6g} and {second[0]:.6g} for the same row and the same latents). Either rows "
                    "influence each other, or the program draws random numbers outside `pyro.sample` in eval mode "
                    "(dropout that ignores `training`, say)."
                )


def _same_families(first: dict[str, Any], second: dict[str, Any]) -> bool:
    def parameters(site: Any) -> list[Tensor]:
        return [p.value for p in free_parameters(site["fn"])]

    return all(
        len(mine) == len(theirs) and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in ((parameters(first[name]), parameters(second[name])) for name in first)
    )


def _check_site_support(name: str, site: Any, dim: int, start: int) -> None:
    fn, value, mask = site["fn"], site["value"], site["mask"]
    while isinstance(fn, (td.Independent, MaskedDistribution)):  # to see single values, not whole events
        mask = mask if isinstance(fn, td.Independent) else fn._mask
        dim -= fn.reinterpreted_batch_ndims if isinstance(fn, td.Independent) else 0
        fn = fn.base_dist
    if fn.support is None or type(fn).__name__ == "Unit":
        return
    outside = ~fn.support.check(value)
    if isinstance(mask, Tensor):  # what is masked does not count
        outside = outside & mask.reshape(*mask.shape, *[1] * (outside.ndim - mask.ndim))
    rows = torch.nonzero(outside.movedim(dim, 0).reshape(outside.shape[dim], -1).any(1)).flatten()
    if mask is False or len(rows) == 0:
        return
    example = value[outside.reshape(outside.shape + (1,) * (value.ndim - outside.ndim)).expand_as(value)].flatten()[0]
    kind = _kind(fn)
    raise DataError(
        f"Rows {few(rows + start)} (counted from 0) hold values that the likelihood at site {name!r} cannot produce, "
        f"such as {example:.6g}: {kind} takes {_TAKES.get(kind, str(fn.support))}. "
        f"{_CURES.get(kind, 'Change the likelihood, or transform the data.')}"
    )


_TAKES = {
    "Bernoulli": "0 or 1",
    "ContinuousBernoulli": "values in [0, 1]",
    "Beta": "values strictly between 0 and 1",
    "Poisson": "counts 0, 1, 2, ...",
    "NegativeBinomial": "counts 0, 1, 2, ...",
}
_CURES = {
    "Bernoulli": (
        "For values between 0 and 1 use the continuous Bernoulli (`pyro.distributions.ContinuousBernoulli`), or "
        'binarise the data: `load_data(..., binarise="threshold")`.'
    ),
    "ContinuousBernoulli": "Scale the data: `load_data(..., scale=255)` for bytes.",
    "Beta": "Scale the data, and pull 0 and 1 a little inwards.",
}


def _kind(fn: Any) -> str:
    while hasattr(fn, "base_dist") and not fn.arg_constraints:
        fn = fn.base_dist
    return type(fn).__name__
