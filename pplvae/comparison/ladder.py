"""The ladder of families: each row's optimum within richer families than the guide's, started from its own guide."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.errors import UnknownNameError
from pplvae.programs.estimates import mean_and_stderr, with_rounding
from pplvae.programs.noise import Kind, Stream
from pplvae.programs.shapes import Lambda
from pplvae.scoring.chunks import Chunk
from pplvae.scoring.scores import Scored
from pplvae.scoring.tables import Columns, add
from pplvae.search.first_order import optimise
from pplvae.search.further import prove
from pplvae.search.local_guides import LocalGuides, Start
from pplvae.search.optimum import Optimum
from pplvae.search.richer_families import Base, Mixture, RicherFamily, flow, full_covariance

_NAMED = {"full_covariance": full_covariance, "flow": flow, "mixture": Mixture}


def families_of(families: Sequence[Any]) -> list[RicherFamily]:
    """Families by name, or as they are.

    Raises:
        UnknownNameError: an unknown name.
        TypeError: neither a name nor a family.
        ValueError: two of one name.
    """
    found: list[RicherFamily] = []
    for family in [families] if isinstance(families, str) else families:
        if isinstance(family, str):
            if family not in _NAMED:
                raise UnknownNameError("family", family, _NAMED)
            found.append(_NAMED[family]())
        elif hasattr(family, "branches"):
            found.append(family)
        else:
            raise TypeError(
                f"`families` takes names ({', '.join(_NAMED)}) or families such as `pplvae.Transport(...)`, got "
                f"{family!r}."
            )
    names = [family.name for family in found]
    if len(set(names)) < len(names):
        raise ValueError(f"The families must have different names, got {names}.")
    return found


def in_words(family: RicherFamily) -> str:
    """A family with its options, the same in every process: what Python says of an object by itself is its address."""
    kind = type(family)
    has_words = kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__
    return str(family) if has_words else family.name


class Rung:
    """A family over the rows of a chunk.

    Args:
        chunk: rows whose own guides have been found.
        family: the richer one.
    """

    def __init__(self, chunk: Chunk, family: RicherFamily) -> None:
        self._chunk, self._family = chunk, family
        guides = chunk.guides(slice(None), 2)
        draws = chunk.own.schedule.selection_draws_for(guides.elements())
        space = chunk.guides(slice(None), draws).space(chunk.optimum.offsets)
        # Matched noise: of a Gaussian guide these are the moments themselves.
        with torch.no_grad():
            u, _ = space.draw((chunk.own.seed, Stream.SELECT, 1), "matched")
        self._loc, self._scale = u.mean(0), u.std(0, correction=0).clamp(min=torch.finfo(u.dtype).tiny)

    def guides(self, index: Any, particles: int) -> "RicherGuides":
        """The guides of some of the rows."""
        local = self._chunk.guides(index, particles)
        space = local.space({key: offset[index] for key, offset in self._chunk.optimum.offsets.items()})
        base = Base(space, local.batch, self._loc[index], self._scale[index])
        return RicherGuides(self._family, base, local, space.elements)

    @cached_property
    def optimum(self) -> Optimum:
        """Each row's guide in the family; the search runs when it is first asked for."""
        chunk = self._chunk
        found = optimise(self.guides, len(chunk.batch), chunk.own.schedule, chunk.own.seed)
        return prove(self.guides, found, chunk.own.schedule, chunk.own.seed)

    def columns(self, index: Tensor, own: Scored) -> Columns:
        """The ELBO of some rows' optimum in the family, and what it gains over their own guides.

        Args:
            index: positions of the rows.
            own: draws of their own guides; the family is scored with as many, on the same noise.
        """
        weights = own.log_weights
        draws = self._chunk.log_weights(self.optimum.offsets, len(weights), index=index, guides=self.guides)
        (elbo, error), (gain, stderr) = mean_and_stderr(own.elbo), mean_and_stderr(draws - weights)
        columns: Columns = {}
        add(columns, f"elbo_local_{self._family.name}", elbo + gain, with_rounding(torch.hypot(error, stderr), weights))
        add(columns, f"family_gap_{self._family.name}", gain, with_rounding(stderr, weights))
        ended = [self.optimum.status[row] for row in index.tolist()]
        return columns | {f"converged_{self._family.name}": torch.tensor([s.name == "CONVERGED" for s in ended])}


class RicherGuides:
    """A batch of rows, each with a member of a family of its own; what `optimise` moves.

    Args:
        family: the family.
        base: the rows' own guides.
        local: the rows, with guides of their own.
        elements: how many latent numbers a row has.
    """

    def __init__(self, family: RicherFamily, base: Base, local: LocalGuides, elements: int) -> None:
        self.batch, self._elements = local.batch, elements
        self.rows_at_once = local.rows_at_once
        self._family, self._base = family, base

    def elements(self) -> int:
        """How many latent numbers a row has."""
        return self._elements

    def starts(self) -> list[Start]:
        """Offsets at which every row has its own guide."""
        shapes = {key: value.shape for key, value in self._family.start(self._elements).items()}
        device, rows = self.batch.keys.device, len(self.batch)
        return [Start({key: torch.zeros(rows, *shape, device=device) for key, shape in shapes.items()})]

    def log_weights(
        self,
        offsets: Lambda,
        address: tuple[int, ...],
        kind: Kind = "antithetic",
        *,
        stick_the_landing: bool = False,
    ) -> Float[Tensor, "particle row"]:
        """Log p(v_i, h_si) - log q(h_si; lam_i) in nats, the components of a mixture summed by their weights."""
        start = self._family.start(self._elements)
        lam = {key: start[key].to(offset) + offset for key, offset in offsets.items()}
        branches = self._family.branches(lam, self._base, address, kind, stick_the_landing=stick_the_landing)
        terms = [branch.weight * (self._base.log_target(branch.y) - branch.log_q) for branch in branches]
        return torch.stack(terms).sum(0)
