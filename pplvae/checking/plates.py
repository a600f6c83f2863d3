"""Plates that the doors accept, and that cost, or say less than they should."""

from collections.abc import Iterator

from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair

_MANY = 100_000  # members, whose permutation takes a millisecond or more


def permuted(pair: Pair) -> Iterator[Finding]:
    """Plates that permute all their members at every entry."""
    for plate in pair.seen.permuted.values():
        if plate.size >= _MANY:
            yield Finding(
                "PV224",
                f"The plate {plate.name!r} is told how many of its {plate.size} members it holds, and not which: Pyro "
                f"permutes all {plate.size} at every entry, in both programs. Pass the positions of the rows.",
                plate.program,
                plate.name,
                f'pyro.plate("{plate.name}", size={plate.size}, subsample=index)',
            )


def unsized(pair: Pair) -> Iterator[Finding]:
    """Plates without a size."""
    named = set()
    for program, sites in (("model", pair.run.model), ("guide", pair.run.guide)):
        for frame in (frame for site in sites.values() for frame in site["cond_indep_stack"]):
            if frame.size == -1 and frame.name not in named:
                named.add(frame.name)
                site = next(n for n, s in sites.items() if frame in s["cond_indep_stack"])
                yield Finding(
                    "PV225",
                    f"The plate {frame.name!r} has no size, so it takes sites of any shape, and nothing holds them to "
                    "the number of rows.",
                    program,
                    site,
                    f'pyro.plate("{frame.name}", len(v))',
                )
