"""Section: a guide of its own for every row: the time until the mean ELBO is within 0.01 nat of a very long run's."""

import time
from functools import partial

import torch

from benchmarks import ours
from benchmarks.measure import Block, Settings, interleaved, quartiles, ratios, timed
from benchmarks.published import LOGGED_STEPS, published_guide
from benchmarks.record import Line
from benchmarks.row_peers import BATCHED, Guides, batched_adam, pyro_loop
from benchmarks.scoring import TOLERANCE, Scorer, reference, shortfall
from benchmarks.workloads import Workload

WORKLOADS = ("small", "large-gap", "convolutional", "counts")
_QUICK_ROWS = {"small": 50, "large-gap": 20, "convolutional": 8, "counts": 8}
_SCHEDULES = (80, 160, 320, 500, 800, 1300, 2000)  # steps that batched Adam is tried with
_TOLERANCES = (0.1, 0.03, 0.01)  # nats per row that pplvae is tried with, for the same mean
_LOOPED_ROWS, _PUBLISHED_ROWS, _MOST_ROUNDS = 2, 3, 3
_LONG = 60.0  # seconds of batched Adam from which on one round must do
_FAR = 0.1  # nats; a row that is further below the reference is counted

_BASE, _OURS, _LOOSE = "batched torch Adam", "pplvae", "pplvae, loosest tolerance"


class _Section:
    """One workload's competitors, and what they found."""

    def __init__(self, work: Workload, settings: Settings) -> None:
        self.work, self.settings = work, settings
        self.score = Scorer(work)
        self.best = self.score(*reference(work, settings))
        self.found: dict[str, Guides] = {}

    def line(self, name: str, seconds: list[float], note: str, **ratio: object) -> Line:
        """The line of a competitor that has run; a figure of few rows says how far they were from the reference."""
        scores = self.score(*self.found[name])
        short, stderr = shortfall(self.best, scores)
        far = (self.best[:, : scores.shape[1]] - scores).mean(0) > _FAR
        reached = [] if short <= TOLERANCE else [f"has not arrived within {TOLERANCE} nat"]
        notes = [note, f"{100 * float(far.double().mean()):.1f} % of {len(far)} rows > {_FAR} short", *reached]
        text = "; ".join(part for part in notes if part)
        options = {"short": short, "short_stderr": stderr, "note": text, **ratio}
        return Line("own guides", self.work.title, name, quartiles(seconds), "s", **options)

    def shortest_schedule(self) -> int:
        """The fewest steps of those tried after which batched Adam has arrived, or the most."""
        for steps in _SCHEDULES:
            began = time.perf_counter()
            guides = batched_adam(self.work, steps)
            self.rounds = min(self.settings.rounds, _MOST_ROUNDS) if time.perf_counter() - began < _LONG else 1
            short, _ = shortfall(self.best, self.score(*guides))
            if short <= TOLERANCE:
                break
        return steps

    def loosest_tolerance(self) -> float:
        """The largest of those tried with which ours arrives, or the smallest."""
        for tolerance in _TOLERANCES:
            mean, log_scale, _ = ours.own_guides(self.work, tolerance)
            if shortfall(self.best, self.score(mean, log_scale))[0] <= TOLERANCE:
                break
        return tolerance

    def together(self, steps: int, tolerance: float) -> list[Line]:
        """All who take the rows at once, in turns."""

        def peer(name: str) -> None:
            self.found[name] = BATCHED[name](self.work, steps)

        def own(name: str, **given: float) -> float:
            mean, log_scale, seconds = ours.own_guides(self.work, **given)
            self.found[name] = mean, log_scale
            return seconds

        few = self.work.take(4)
        for find in BATCHED.values():
            find(few, 2)
        ours.own_guides(few)  # compilers and allocators start here
        blocks: dict[str, Block] = {name: partial(peer, name) for name in BATCHED}
        blocks |= {_OURS: partial(own, _OURS), _LOOSE: partial(own, _LOOSE, tolerance=tolerance)}
        seconds = interleaved(blocks, self.rounds, warm_up=False)
        lines = []
        for name, values in seconds.items():
            note = {_OURS: "", _LOOSE: f"{tolerance} nat"}.get(name, f"{steps} steps")
            lines.append(self.line(name, values, note, ratio=ratios(seconds, name, _BASE), to=_BASE))
        self.base = quartiles(seconds[_BASE]).median
        return lines

    def one_by_one(self, steps: int) -> list[Line]:
        """Those who take one row after the other: few rows, and the time of all of them by proportion."""
        few, count = self.work.take(_LOOPED_ROWS), len(self.work.rows)

        def loop() -> None:
            self.found["loop of Pyro SVI"] = pyro_loop(few, steps)

        seconds = timed(loop) / len(few.rows) * count
        ratio = {"ratio": quartiles([seconds / self.base]), "to": _BASE}
        note = f"{steps} steps; extrapolated from {len(few.rows)} rows to {count}"
        return [self.line("loop of Pyro SVI", [seconds], note, **ratio), self.published()]

    def published(self) -> Line:
        """The published schedule on a few rows, to its end; in a quick run a few hundred steps."""
        count, cap = (1, 300) if self.settings.quick else (_PUBLISHED_ROWS, 60_000)
        means, log_scales, steps = [], [], 0

        def run() -> None:
            nonlocal steps
            for row in range(count):
                mean, log_scale, taken = published_guide(self.work, row, cap)
                means.append(mean)
                log_scales.append(log_scale)
                steps += taken

        a_step = timed(run) / steps
        name = "published schedule (Cremer et al.)"
        self.found[name] = torch.stack(means), torch.stack(log_scales)
        measured = steps / count if not self.settings.quick else LOGGED_STEPS
        seconds = a_step * measured * len(self.work.rows)
        logged = a_step * LOGGED_STEPS * len(self.work.rows)
        where = f"cut off at {cap} steps" if self.settings.quick else f"mean {measured:.0f} steps"
        note = (
            f"{where}; {count} of {len(self.work.rows)} rows, extrapolated to {measured:.0f} steps each; "
            f"{logged:.4g} s at the {LOGGED_STEPS} that were logged"
        )
        return self.line(name, [seconds], note, ratio=quartiles([seconds / self.base]), to=_BASE)


def measure(work: Workload, settings: Settings) -> list[Line]:
    """Seconds for all rows, their ratio to batched Adam's, and how far below the reference each ends."""
    if settings.quick:
        work = work.take(_QUICK_ROWS[work.name])
    if settings.rows is not None:
        work = work.take(settings.rows)
    torch.manual_seed(0)
    section = _Section(work, settings)
    steps, tolerance = section.shortest_schedule(), section.loosest_tolerance()
    return section.together(steps, tolerance) + section.one_by_one(steps)
