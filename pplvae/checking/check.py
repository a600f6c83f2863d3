"""`check`: look at a pair on a few rows before anything is fitted, and say all that is wrong with it at once."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from pplvae.checking import doors, latents, numbers, objectives, parameters, plates, rows, source
from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair, bare, stores_of
from pplvae.checking.places import Place, ignored_at
from pplvae.checking.result import Checked
from pplvae.checking.sites import sites_of
from pplvae.errors import ProgramError
from pplvae.isolate import evaluation_mode, isolated, validation
from pplvae.objectives import Objective
from pplvae.programs.opening import floating_dtype, one_set
from pplvae.programs.reading import Program, WholePlates

_ECHOES = {"PV251": ("PV250",), "PV233": ("PV234", "PV235"), "PV262": ("PV260", "PV261")}
_RANK = {"error": 0, "warning": 1, "note": 2}


class Check(NamedTuple):
    """One thing to look for.

    Attributes:
        what: in words, for where it could not be looked for.
        find: gives what it finds.
        needs_rows: whether it asks for a pair whose rows can be told apart.
    """

    what: str
    find: Callable[[Pair], Iterable[Finding]]
    needs_rows: bool = False


CHECKS = (
    Check("what fit and compare refuse", doors.refused),
    Check("whether they run with gradients", doors.failing, needs_rows=True),
    Check("plates that permute their members", plates.permuted),
    Check("plates without a size", plates.unsized),
    Check("whether there are parameters", parameters.none_declared),
    Check("networks that are not declared", parameters.not_declared),
    Check("parameters that no gradient reaches", parameters.out_of_reach),
    Check("names in the param store", parameters.two_of_one_name),
    Check("calls of ELBOs as modules", source.called_as_modules),
    Check("the objective that was asked for", objectives.unsuited),
    Check("the order of the latents", objectives.out_of_order),
    Check("log-probabilities that are no numbers", numbers.nonfinite, needs_rows=True),
    Check("digits that float32 loses", numbers.in_single_precision, needs_rows=True),
    Check("latents that carry nothing", latents.collapsed, needs_rows=True),
    Check("values of another kind than their likelihood's", rows.of_another_kind, needs_rows=True),
    Check("columns that are not standardised", rows.not_standardised, needs_rows=True),
)


def check(model: Program, guide: Program, rows: Any, *, objective: Any = None, seed: int = 0) -> Checked:
    """Say what is wrong with a pair, and where: all that `fit` and `compare` would refuse or be wrong about, at once.

    Nothing is fitted, and the pair stays as it is. A comment `# pplvae: ignore[PV272]` on the line of a site, or on
    that of the program's `def`, leaves a finding out.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one. All are held against their likelihood, some are looked at closely.
        objective: what is maximised: one of `objectives.OBJECTIVES` by name ("TraceMeanField_ELBO", "IWAE", ...), one
            of them with options such as `objectives.IWAE(particles=20)`, or any Pyro ELBO object. None: which of them
            the pair suits is said, and none is a finding.
        seed: names all noise: the same seed gives the same bits.

    Raises:
        DataError: rows that cannot be read as numbers.
        TypeError: an object that is no objective.
        UnknownNameError: an unknown objective.
    """
    tensors = one_set(rows).tensors
    _check_objective(objective)
    store = stores_of(model, guide)
    model, guide = bare(model), bare(guide)
    with isolated(seed, store=store, dtype=floating_dtype(tensors)), evaluation_mode(model, guide):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            pair = Pair.opened(model, guide, tensors, objective)
            unchecked: dict[str, str] = {}
            with _as_at_the_doors(pair):
                found = [finding for one in CHECKS for finding in _carried_out(one, pair, unchecked)]
                sites = _tried("the sites", sites_of, pair, unchecked) or []
                suited = _tried("objectives", objectives.suited, pair, unchecked) if pair.layout else {}
        found += doors.warned(said, pair)
        kept, ignored = _sorted(found, pair)
        return Checked(kept, tuple(sites), suited or {}, unchecked, ignored, len(pair.batch))


@contextmanager
def _as_at_the_doors(pair: Pair) -> Iterator[None]:
    """Run programs as the doors do, once they have let them in: what Pyro checks has been checked."""
    if pair.layout is None:
        yield
        return
    with WholePlates(pair.layout.whole), validation(False):
        yield


def _check_objective(objective: Any) -> None:
    """Refuse what is no objective at all; of one that `fit` has no use for, a finding will tell."""
    try:
        if objective is not None:
            Objective(objective)
    except ProgramError:
        return


def _carried_out(one: Check, pair: Pair, unchecked: dict[str, str]) -> list[Finding]:
    """What a check finds; where it cannot be carried out, the reason is kept."""
    if one.needs_rows and pair.layout is None:
        unchecked[one.what] = "fit and compare refuse the pair before that"
        return []
    return _tried(one.what, lambda some: list(one.find(some)), pair, unchecked) or []


def _tried(what: str, look: Callable[[Pair], Any], pair: Pair, unchecked: dict[str, str]) -> Any:
    try:
        return look(pair)
    except Exception as error:  # of a stranger's program: the other checks still tell what is wrong
        first = str(error).strip().split("\n")[0].rstrip(".") or "without a word"
        raised = f"the programs raised {type(error).__name__}: {first}"
        unchecked[what] = "the programs do not run" if pair.refusals and pair.layout is None else raised
        return None


def _sorted(found: Iterable[Finding], pair: Pair) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Findings with their places, one for each line and code, the worst first; and those that comments leave out."""
    kept: dict[Any, Finding] = {}
    ignored: dict[Any, Finding] = {}
    for finding in _placed(_without_echoes(found), pair):
        place = Place(finding.file, finding.line)
        key = (finding.code, finding.program, place if place.line else finding.name)
        (ignored if finding.code in ignored_at(place) else kept).setdefault(key, finding)
    return tuple(sorted(kept.values(), key=lambda finding: _RANK[finding.severity])), tuple(ignored.values())


def _without_echoes(found: Iterable[Finding]) -> list[Finding]:
    """Findings without those that another one of the same site or network says better."""
    told = {(finding.code, finding.program, finding.name) for finding in found}
    return [
        one for one in found if not any((better, one.program, one.name) in told for better in _ECHOES.get(one.code, ()))
    ]


def _placed(found: Iterable[Finding], pair: Pair) -> Iterator[Finding]:
    for finding in found:
        place = pair.seen.place_of(finding.program, finding.name)
        name = finding.name.replace("$$$", ".")  # Pyro's sign between a network and its parameters
        file, line = (finding.file, finding.line) if finding.file else place
        yield replace(finding, name=name, file=file, line=line)
