"""Whether the latents say anything of their rows at the weights as they are."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair
from pplvae.programs.families import free_parameters
from pplvae.programs.reading import log_guide, run_model
from pplvae.programs.sites import latents_of, sum_sites, values_of

_NOTHING = 0.01  # nats per row


def collapsed(pair: Pair) -> Iterator[Finding]:
    """A guide that does not look at its rows, or latents that carry nothing."""
    layout, guide = pair.known, latents_of(pair.run.guide)
    rows = _different(pair)
    if not layout.guide or layout.summed or layout.points or len(rows) < 2:
        return
    first = next(iter(layout.guide))
    if _is_one_for_all(pair, rows):
        yield Finding(
            "PV270",
            f"The guide gives all {len(rows)} different rows the same distribution of {_listed(guide)}: it does not "
            "look at them. Compute lambda from the rows, or start the encoder's last layer elsewhere than at zero.",
            "guide",
            first,
            "loc, log_scale = encoder(v).chunk(2, -1)",
        )
    elif _say_nothing(pair):
        yield Finding(
            "PV270",
            f"The latents {_listed(guide)} carry nothing: guide and prior differ by less than {_NOTHING} nats in every "
            "row, and the likelihood does not change where rows swap their latents. A fit may stay there: warm the KL "
            "term up, `kl_weight=objectives.warm_up(20)`, or use `objective=objectives.FreeBits()`.",
            "guide",
            first,
        )


def _different(pair: Pair) -> list[int]:
    seen: dict[int, int] = {}
    for i, key in enumerate(pair.batch.keys.tolist()):
        seen.setdefault(key, i)
    return [*seen.values()]


def _is_one_for_all(pair: Pair, rows: list[int]) -> bool:
    """Whether no parameter of the guide's distributions changes from row to row, seen or named by the guide."""
    layout = pair.known
    named = any("." not in name for name in layout.free)
    parameters = [
        parameter.value.detach().movedim(parameter.axis, 0)[rows]
        for name, dim in layout.guide.items()
        for parameter in free_parameters(pair.run.guide[name]["fn"], dim)
    ]
    return bool(parameters) and not named and all(torch.allclose(some, some[:1].expand_as(some)) for some in parameters)


def _say_nothing(pair: Pair) -> bool:
    layout = pair.known
    values = values_of(pair.run.guide)
    log_q = log_guide(pair.run.guide, layout)
    priors = {name: site for name, site in latents_of(pair.run.model).items() if name in layout.model}
    if not priors or set(values) - set(layout.axes):
        return False
    if bool(((log_q - sum_sites(priors, layout.model)).abs() > _NOTHING).any()):
        return False
    swapped = {name: value.roll(1, layout.axes[name]) for name, value in values.items()}
    return bool(((_likelihood(pair, values) - _likelihood(pair, swapped)).abs() < _NOTHING).all())


def _likelihood(pair: Pair, values: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        sites = run_model(pair.model, pair.batch, values)
    return sum_sites({name: sites[name] for name in pair.observed}, pair.known.model)


def _listed(names: dict[str, object]) -> str:
    return ", ".join(map(repr, names))
