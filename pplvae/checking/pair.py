"""A pair as the checks see it: run on a few rows, with its sites, its parameters, and what of them was used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pplvae.checking.places import Placed, Seen
from pplvae.errors import PplvaeError, ProgramError
from pplvae.isolate import StoreState, called_modules, current_store
from pplvae.programs.batch import Batch
from pplvae.programs.failures import in_users_words
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.reading import Layout, Program, run_guide, run_model
from pplvae.programs.refusals import Refusals
from pplvae.programs.sites import values_of
from pplvae.training.weights import Fitted, Weights

MOST_ROWS = 200  # that checks look at, beside those of the doors
_SEEN = (0,)  # address of the noise

Sites = dict[str, Any]


@dataclass
class Pair:
    """A model and a guide that are checked.

    Attributes:
        model: the program, noting where its statements stand.
        guide: the same.
        tensors: all rows.
        seen: places of statements, and parameters.
        objective: that is asked for, or None.
        refusals: what the doors of `fit` and `compare` say.
        layout: of the pair; None if the doors refuse it before it is known.
        called: modules that the programs call.
    """

    model: Placed
    guide: Placed
    tensors: Sequence[Tensor]
    seen: Seen
    objective: Any = None
    refusals: list[PplvaeError] = field(default_factory=list)
    layout: Layout | None = None
    called: list[nn.Module] = field(default_factory=list)

    @classmethod
    def opened(
        cls, model: Callable[..., Any], guide: Callable[..., Any], tensors: Sequence[Tensor], objective: Any
    ) -> "Pair":
        """Run a pair as the doors do, and keep what they would raise."""
        seen, told = Seen(), Refusals(kept=True)
        pair = cls(Placed(model, "model", seen), Placed(guide, "guide", seen), tensors, seen, objective)
        with called_modules() as pair.called:
            try:
                pair.layout = inspect_pair(pair.model, pair.guide, tensors, needs_latents=False, told=told)
            except PplvaeError as error:
                told.found += [error] if all(error is not one for one in told.found) else []
            except Exception as error:  # of a distribution, say, that does not do what all others do
                told.found.append(_as_refusal(error))
        pair.refusals = told.found
        return pair

    @cached_property
    def batch(self) -> Batch:
        """A few rows."""
        return Batch.of([tensor[:MOST_ROWS] for tensor in self.tensors])

    @cached_property
    def run(self) -> "Ran":
        """Both programs on a few rows, with gradients."""
        dims = self.layout.guide if self.layout else {}
        summed = self.layout.summed if self.layout else None
        states = summed.any_state(len(self.batch)) if summed else {}
        with _Uses() as uses, called_modules() as called:
            with in_users_words("guide", self.batch.tensors):
                guide = run_guide(self.guide, self.batch, dims, _SEEN if self.layout else None)
            with in_users_words("model", self.batch.tensors):
                model = run_model(self.model, self.batch, values_of(guide) | states)
        # Recurrent networks hand their weights to kernels that no mode sees.
        own = {id(p) for module in called for p in module.parameters(recurse=False)}
        return Ran(guide, model, uses.found | (own - uses.without_gradient))

    @cached_property
    def weights(self) -> Weights:
        """Of both programs."""
        return Weights((self.model, self.guide), self.called)

    @property
    def known(self) -> Layout:
        """The layout, for checks that need one."""
        assert self.layout is not None
        return self.layout

    @property
    def observed(self) -> Sites:
        """Observed sites of the model that belong to the rows."""
        return {n: s for n, s in self.run.model.items() if s["is_observed"] and n in self.known.model}


def stores_of(model: Program, guide: Program) -> StoreState:
    """The caller's param store, and what fitted programs bring with them."""
    found = {kind: dict(content) for kind, content in current_store().items()}
    for program in (model, guide):
        if isinstance(program, Fitted):
            for kind, content in program.store.items():
                found[kind] |= content
    return found


def bare(program: Program) -> Program:
    """The program itself, of one that was fitted."""
    return program.func if isinstance(program, Fitted) else program


def _as_refusal(error: Exception) -> ProgramError:
    refusal = ProgramError(f"The pair raised {type(error).__name__} as it was looked at: {error}", code="PV201")
    refusal.__cause__ = error
    return refusal


@dataclass
class Ran:
    """Sites of both programs on a few rows, and the parameters that they used with gradients, by id."""

    guide: Sites
    model: Sites
    used: set[int]


class _Uses(TorchFunctionMode):
    """Note which parameters go into operations, with gradients and without; to ask for a shape is no operation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()
        self.without_gradient: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function as it is."""
        if getattr(func, "__name__", "") not in _NO_USE or func is _DATA:
            self._note(
                [args, *(kwargs or {}).values()], self.found if torch.is_grad_enabled() else self.without_gradient
            )
        return func(*args, **(kwargs or {}))

    def _note(self, nested: Any, found: set[int]) -> None:
        for value in nested:
            if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
                found.add(id(value))
            elif isinstance(value, list | tuple):
                self._note(value, found)


# What asks for the shape of a tensor, or gives it another: of the result nothing may be used.
_NO_USE = ("__get__", "expand", "expand_as", "reshape", "view", "unsqueeze", "repeat")
_DATA = torch.Tensor.data.__get__  # pyright: ignore[reportAttributeAccessIssue]
