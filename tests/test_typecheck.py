"""The checks of annotations see what they are there for: types, and axes of one name that differ in length."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from typecheck import check

import pplvae
from pplvae.statistics.means import mean_and_stderr_of

Row = Float[Tensor, " row"]
FIVE, SIX = torch.zeros(5), torch.zeros(6)


@check
def difference(x: Row, *others: Row, scale: float = 1.0, **more: Row) -> Row:
    x = sum([*others, *more.values()], scale * x)
    return x[:-1] if scale == 0 else x


@check
@dataclass
class Pair:
    x: Row
    y: Row


@check
def counts(until: int) -> Iterator[Row]:
    yield torch.zeros(until)


def nested(name):
    @check
    def inner(x: Row, y: "Row") -> str:
        return name

    return inner


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: difference([0.0] * 5),
        lambda: difference(torch.zeros(5, 1)),
        lambda: difference(FIVE, SIX),
        lambda: difference(FIVE, FIVE, SIX),
        lambda: difference(FIVE, other=SIX),
        lambda: difference(x=FIVE, other=SIX),
        lambda: difference(FIVE, scale="1"),
        lambda: difference(FIVE, scale=0),
        lambda: Pair(FIVE, SIX),
        lambda: Pair(FIVE, y=SIX),
        lambda: nested("a")(FIVE, SIX),
        lambda: nested(3)(FIVE, FIVE),
        lambda: counts("5"),
        lambda: mean_and_stderr_of(np.zeros((5, 1))),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(TypeError, match="violates type hint"):
        wrong()


def test_what_fits_passes():
    assert len(difference(FIVE, FIVE, other=FIVE, scale=2)) == 5  # an int for a float
    assert len(difference(SIX)) == 6  # an axis has no length beyond its call
    assert Pair(SIX, SIX).x is SIX
    assert [len(x) for x in counts(3)] == [3]
    assert [nested(name)(FIVE, FIVE) for name in "ab"] == ["a", "b"]


@check
def chosen(some: list[int], how: Literal["first"], x: Row | float = 0.0) -> int | str:
    return some[0] if how == "first" else how


def test_what_has_passed_once_is_looked_at_again():
    """Types, shapes and dtypes that have passed are remembered: nothing else is."""
    difference(FIVE, FIVE, scale=2.0), difference(SIX), chosen([1], "first"), chosen([1], "first", FIVE)
    for wrong in (
        lambda: difference(FIVE, SIX, scale=2.0),
        lambda: difference(FIVE, FIVE, scale=0.0),
        lambda: difference(FIVE, FIVE.int(), scale=2.0),
        lambda: difference(FIVE.int()),
        lambda: difference(FIVE, FIVE, scale=[2.0]),
        lambda: chosen(["1"], "first"),
        lambda: chosen([1], "last"),
        lambda: chosen([1], "first", torch.zeros(5, 1)),
    ):
        with pytest.raises(TypeError, match="violates type hint"):
            wrong()


def test_every_function_of_the_package_is_checked():
    names = [name for _, name, _ in pkgutil.walk_packages(pplvae.__path__, "pplvae.") if name != "pplvae.__main__"]
    modules = [importlib.import_module(name) for name in names]
    unchecked = []
    for module in modules:
        own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == module.__name__]
        methods = [method for thing in own if inspect.isclass(thing) for method in vars(thing).values()]
        for thing in own + methods:
            function = inspect.unwrap(thing) if inspect.isfunction(thing) else None
            written = function is not None and function.__code__.co_filename == module.__file__
            if written and function.__annotations__ and function is thing:
                unchecked.append(f"{module.__name__}.{thing.__qualname__}")
    assert len(modules) > 100
    assert not unchecked
