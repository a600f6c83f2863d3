"""Whether a likelihood can have produced the rows that it is given."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch import distributions as td

from pplvae.data import few
from pplvae.errors import DataError, PplvaeWarning
from pplvae.isolate import generators_kept, validation
from pplvae.programs.batch import Batch
from pplvae.programs.dependence import depends_on_draws
from pplvae.programs.discrete import is_masked
from pplvae.programs.failures import in_users_words
from pplvae.programs.families import family_name, unwrapped
from pplvae.programs.reading import Layout, Program, run_guide, run_model
from pplvae.programs.refusals import Refusals
from pplvae.programs.site_checks import of_some_rows, unlike_masks
from pplvae.programs.sites import counted, latents_of, values_of

_ROWS_AT_ONCE = 4096
_SEEN = 3  # rows on which it is seen whether masks follow from draws
_DRAWS = 1000  # of all rows together, where masks may change with them


def check_support(
    model: Program, guide: Program, layout: Layout, tensors: Sequence[Tensor], told: Refusals | None = None
) -> None:
    """Run a pair once over all rows and refuse values that their likelihood cannot have produced, and unlike masks.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        tensors: the rows.
        told: what is wrong; by default the first of it is raised.

    Raises:
        DataError: values outside the support of an observed site: which rows, which value, what to do.
        ProgramError: sites that only some rows have, or latents that one program masks and the other does not.
    """
    told = told or Refusals()
    whole, masked = Batch.of(tensors), False
    with torch.no_grad(), validation(False):  # a row without a finite ELBO is reported later, not refused
        for start in range(0, len(whole), _ROWS_AT_ONCE):
            batch = whole.take(slice(start, start + _ROWS_AT_ONCE))
            sites, model_sites = _sites(model, guide, layout, batch)
            odd = (model_sites.keys() ^ layout.model.keys()) | (latents_of(sites).keys() ^ layout.guide.keys())
            odd -= {*layout.held}
            told.tell(of_some_rows("", odd))
            told.end_here()
            for name, site in model_sites.items():
                if site["is_observed"]:
                    told.tell(_impossible(name, site, layout, start))
            told.tell(unlike_masks(sites, model_sites, layout.axes))
            latent = (some[name] for some in (sites, model_sites) for name in layout.axes if name in some)
            masked = masked or any(map(is_masked, latent))
        if masked and _masks_follow_from_draws(model, guide, layout, whole.take(slice(_SEEN))):
            # A mask changes with the latents drawn before it: a single draw may not show it.
            some = whole.take(slice(_DRAWS)).times(max(1, _DRAWS // len(whole)))
            told.tell(unlike_masks(*_sites(model, guide, layout, some), layout.axes))


def _masks_follow_from_draws(model: Program, guide: Program, layout: Layout, batch: Batch) -> bool:
    def masks() -> list[Tensor]:
        both = _sites(model, guide, layout, batch, None)
        return [counted(sites[name]) for sites in both for name in layout.axes if name in sites]

    with generators_kept():
        return depends_on_draws(masks)


def _sites(
    model: Program, guide: Program, layout: Layout, batch: Batch, address: tuple[int, ...] | None = (0,)
) -> tuple[dict[str, Any], dict[str, Any]]:
    with in_users_words("guide", batch.tensors):
        sites = run_guide(guide, batch, layout.guide, address)
    with in_users_words("model", batch.tensors):
        return sites, run_model(model, batch, values_of(sites))


def is_unchecked(site: Any) -> bool:
    """Whether the program says `validate_args=False` of a site's distribution, where torch would check by default."""
    return td.Distribution._validate_args and not unwrapped(site["fn"])._validate_args


def _impossible(name: str, site: Any, layout: Layout, start: int) -> Iterator[DataError]:
    """Rows whose values a likelihood cannot have produced; a warning where the program says not to look."""
    fn, value, dim = site["fn"], site["value"], layout.model[name]
    while isinstance(fn, (td.Independent, MaskedDistribution)):  # to see single values, not whole events
        dim -= fn.reinterpreted_batch_ndims if isinstance(fn, td.Independent) else 0
        fn = fn.base_dist
    try:
        outside = ~fn.support.check(value)
    except (AttributeError, NotImplementedError):  # a distribution need not say what its support is
        return
    if type(fn).__name__ == "Unit":
        return
    within = value.ndim - outside.ndim  # axes of a single value, such as those of a vector; no mask divides it
    outside = outside & counted(site)[(..., *(0,) * within)]
    rows = torch.nonzero(outside.movedim(dim, 0).reshape(outside.shape[dim], -1).any(1)).flatten()
    if len(rows) == 0:
        return
    values, where = torch.broadcast_tensors(value, outside.reshape(outside.shape + (1,) * within))
    example = values[where][0]
    kind = family_name(fn)
    if name in layout.unchecked:
        said = PplvaeWarning(
            f"Rows {few(rows + start)} (counted from 0) hold values such as {example:.6g} at site {name!r}, which "
            f"{kind} cannot produce: it takes {_TAKES.get(kind, str(fn.support))}. The program says "
            "`validate_args=False`, so `log_prob` is taken as it is (of a Bernoulli: minus the cross entropy). It is "
            "no log-density of such values: gaps are right for this objective; ELBOs and log p(v) are not comparable "
            f"with those of other likelihoods. {_CURES.get(kind, '')}".rstrip(),
            code="PV261",
            at=("model", name),
        )
        warnings.warn(said, stacklevel=2)
        return
    yield DataError(
        f"Rows {few(rows + start)} (counted from 0) hold values that the likelihood at site {name!r} cannot produce, "
        f"such as {example:.6g}: {kind} takes {_TAKES.get(kind, str(fn.support))}. "
        f"{_cure(kind, values[where])}",
        code="PV260",
        at=("model", name),
    )


def _cure(kind: str, outside: Tensor) -> str:
    if kind == "Bernoulli" and bool(((outside < 0) | (outside > 1)).any()):
        return "For real numbers use `likelihoods.Gaussian`, for counts `likelihoods.NegativeBinomial`."
    return _CURES.get(kind, "Change the likelihood, or transform the data.")


_COUNTS = ("Poisson", "NegativeBinomial", "LogRatePoisson", "StableNegativeBinomial", "LogitZeroInflated")
_UNIT = ("ContinuousBernoulli", "StableContinuousBernoulli", "AffineBeta")
_TAKES = {
    "Bernoulli": "0 or 1",
    "Beta": "values strictly between 0 and 1",
    "CodedCategorical": "the codes 0, 1, ..., classes - 1",
    **dict.fromkeys(_COUNTS, "counts 0, 1, 2, ..."),
    **dict.fromkeys(_UNIT, "values in [0, 1]"),
}
_CURES = {
    "Bernoulli": (
        "For values between 0 and 1 use `likelihoods.ContinuousBernoulli` or `likelihoods.Beta`, or binarise the data: "
        '`load_data(..., binarise="threshold")`.'
    ),
    "Beta": "Scale the data, and pull 0 and 1 a little inwards, or use `likelihoods.Beta`, which takes them.",
    **dict.fromkeys(_UNIT, "Scale the data: `load_data(..., scale=255)` for bytes."),
}
