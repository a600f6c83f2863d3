"""Pyro's own objectives: which of them `fit` takes, which programs each suits, and what to write instead."""

from collections.abc import Mapping
from typing import Any

from pyro import infer

from pplvae.errors import ProgramError
from pplvae.programs.discrete import is_enumerable
from pplvae.programs.reading import Layout

# A step is captured here anyway; torch's own tracing is deprecated, and fails where a last batch is smaller.
_WITHOUT_JIT: dict[type, Any] = {
    infer.JitTrace_ELBO: infer.Trace_ELBO,
    infer.JitTraceMeanField_ELBO: infer.TraceMeanField_ELBO,
    infer.JitTraceGraph_ELBO: infer.TraceGraph_ELBO,
    infer.JitTraceEnum_ELBO: infer.TraceEnum_ELBO,
}
_OPTIONS = ("num_particles", "max_plate_nesting", "vectorize_particles", "strict_enumeration_warning")

_REFUSED: dict[type, str] = {
    infer.ReweightedWakeSleep: (
        "it has two losses, one for the model and one for the guide, and weighs draws of a whole batch, not of its "
        "rows. Use importance weights row by row: `objective=pplvae.objectives.DReG(particles=10)`, or, with discrete "
        'latents, `objective="ScoreFunction"`'
    ),
    infer.TraceTailAdaptive_ELBO: (
        "it computes a gradient and no loss, so a fit could not be followed. Use another divergence that covers the "
        "tails: `objective=pplvae.objectives.RenyiELBO(alpha=0.5)`, or `pplvae.objectives.DReG(particles=10)`"
    ),
    infer.EnergyDistance: (
        "it compares simulated rows with the data and is no bound on log p(v), in nats. Use "
        "`objective=pplvae.objectives.InfoVAE()`, or Pyro's own SVI"
    ),
    infer.SVI: "it is what `fit` takes the place of. Pass the ELBO that it was made with: `objective=Trace_ELBO()`",
    infer.CSIS: (
        "it trains a guide on rows that the model simulates, not on yours. Use "
        '`objective=pplvae.objectives.DReG(particles=10)` with `train="guide"`, or Pyro\'s own CSIS'
    ),
}


def taken(objective: Any) -> Any:
    """The objective that stands for one of Pyro's.

    Raises:
        ProgramError: there is none.
    """
    for kind, reason in _REFUSED.items():
        if isinstance(objective, kind):
            raise ProgramError(f"{type(objective).__name__} cannot be an objective of `fit`: {reason}.")
    plain = _WITHOUT_JIT.get(type(objective))
    return objective if plain is None else plain(**{name: getattr(objective, name) for name in _OPTIONS})


def check_suits(objective: Any, layout: Layout | None, guide: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse programs for which one of Pyro's objectives would give a wrong result, or none.

    Args:
        objective: with Pyro's `loss_and_grads`.
        layout: of the pair; None where it cannot be scored row by row.
        guide: its sites.
        model: its sites.

    Raises:
        ProgramError: latents without gradients, or left to the model, and the name of an objective for them.
    """
    name = type(objective).__name__
    summing = isinstance(objective, infer.TraceEnum_ELBO | infer.TraceTMC_ELBO)
    missing = [
        name
        for name, site in model.items()
        if not site["is_observed"] and name not in guide and not (summing and is_enumerated(site))
    ]
    if missing:
        raise ProgramError(
            f"The guide does not draw {missing}, and {name} would draw from the model's prior, which bounds nothing. "
            'Draw them in the guide; or, if they are discrete, mark them in the model with `infer={"enumerate": '
            '"parallel"}` and write `objective="TraceEnum_ELBO"`, which sums over their states.'
        )
    stiff = [name for name, site in guide.items() if not site["is_observed"] and needs_score(site)]
    if stiff and isinstance(objective, infer.TraceMeanField_ELBO | infer.Trace_MMD):
        instead = ['`objective="TraceGraph_ELBO"`']
        if layout is not None and not layout.held and not layout.summed:
            instead = ['`objective="ScoreFunction"`', *instead]
        if all(is_enumerable(guide[name]["fn"]) for name in stiff):
            instead += [
                '`objective="TraceEnum_ELBO"`, which sums over their states if the guide marks them with '
                '`infer={"enumerate": "parallel"}`'
            ]
        raise ProgramError(
            f"The guide draws {stiff} without a gradient through the draws (they are discrete, or not "
            f"reparameterised), and {name} needs one. Write {' or '.join(instead)}."
        )


def reason_against_parts(objective: Any) -> str:
    """Why one of Pyro's objectives of a batch is no sum over its parts, in a clause; nothing where none is known."""
    if isinstance(objective, infer.RenyiELBO):
        return "it weighs draws of a whole batch; `objective=pplvae.objectives.RenyiELBO()` weighs those of each row"
    if isinstance(objective, infer.Trace_MMD):
        return "it compares the latents of a whole batch with those of the prior"
    return ""


def needs_score(site: Any) -> bool:
    """Whether no gradient can flow through the draw of a site to its parameters."""
    return not site["fn"].has_rsample or is_enumerated(site)


def is_enumerated(site: Any) -> bool:
    """Whether a program asks for the states of a site to be summed over."""
    return bool((site["infer"] or {}).get("enumerate"))
