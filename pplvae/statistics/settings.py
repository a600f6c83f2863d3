"""Settings, on which numbers depend, told apart from what was found; both are attributes of a result's rows."""

from collections.abc import Mapping
from typing import Any

import xarray as xr

# Every attribute that says what was found; all others are settings.
FOUND = (
    *("lambda", "held", "first_order_because", "bound", "weights_digest"),  # of the programs
    *("simulated", "missed", "unseen", "not_simulated_because"),  # of the search
    *("mean", "unlabelled", "permutations"),  # of groups
    *("content", "different_settings", "inside_left_out", "outside_left_out", "shared"),  # of two sets of rows
)


def settings_of(about: Mapping[Any, Any]) -> dict[str, Any]:
    """The settings among the attributes of a result's rows."""
    return {str(name): value for name, value in about.items() if name not in FOUND}


def settings_that_differ(first: xr.Dataset, second: xr.Dataset) -> str:
    """Settings under which two results were not made alike, in words; empty if there are none.

    Args:
        first: rows of a result.
        second: rows of the other.
    """
    pairs = _pairs(first, second)
    return "; ".join(
        f"{name} {before} and {after}" for name, (before, after) in pairs.items() if _differ(before, after)
    )


def settings_of_both(first: xr.Dataset, second: xr.Dataset, names: tuple[str, str]) -> dict[str, Any]:
    """The settings of two results: once where they are alike, else with the name of the result behind them.

    Args:
        first: rows of a result.
        second: rows of the other.
        names: of the two.
    """
    found: dict[str, Any] = {}
    for setting, (before, after) in _pairs(first, second).items():
        if _differ(before, after):
            found |= {f"{setting} ({name})": value for name, value in zip(names, (before, after), strict=True)}
        else:
            found[setting] = before
    return found


def _pairs(first: xr.Dataset, second: xr.Dataset) -> dict[str, tuple[Any, Any]]:
    before, after = settings_of(first.attrs), settings_of(second.attrs)
    return {name: (before.get(name, "unset"), after.get(name, "unset")) for name in {**before, **after}}


def _differ(before: Any, after: Any) -> bool:
    return str(before) != str(after)  # a file gives numbers back in NumPy's types
