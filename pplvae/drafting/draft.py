"""A program for rows: what they hold, what is proposed for them and why, and the text of it."""

import keyword
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pplvae.data import Rows
from pplvae.drafting.latent import LATENT
from pplvae.drafting.lines import lines_of, one_line
from pplvae.drafting.observed import OBSERVED, PROPOSED
from pplvae.drafting.values import (
    BINARY,
    CLASSES,
    COUNTS,
    REAL,
    SHARE,
    UNIT,
    Columns,
    columns_of,
    constant_columns,
    skewed_columns,
)
from pplvae.errors import DataError, ProgramError, UnknownNameError

_MOST_APART = 100  # columns that may have kinds of their own; more are taken as of one kind
_STEPS = 3000  # of a fit, about
_BATCH = 128  # rows of a step, as `fit` has it
_KINDS = {
    BINARY: "zeros and ones",
    UNIT: "numbers from 0 to 1",
    SHARE: "numbers between 0 and 1",
    CLASSES: "classes",
    COUNTS: "counts",
    REAL: "real numbers",
}
_FAMILY = "factorised-gaussian"
_SHOWN = 5  # names of columns, in a reason


@dataclass(frozen=True)
class Draft:
    """A program, and why it is as it is.

    Attributes:
        text: of the file.
        name: of its class.
        likelihoods: by the kind of column that each is for.
        guide: name of the family.
        latent: dimension of h.
        reading: what `load_data` is to be told about the rows.
        flags: the same as words of a command line, each with a blank before it.
        reasons: sentences.
    """

    text: str
    name: str
    likelihoods: Mapping[str, str]
    guide: str
    latent: int
    reading: Mapping[str, Any]
    flags: str
    reasons: tuple[str, ...]


def draft(
    rows: Rows,
    file: str | Path,
    data: str,
    reading: Mapping[str, Any],
    *,
    likelihood: str | None = None,
    guide: str | None = None,
    latent: int | None = None,
) -> Draft:
    """Write a program that suits some rows.

    Args:
        rows: to train on.
        file: that it is for; the class is named after it.
        data: that `load_data` finds the rows by.
        reading: its keywords, beyond its own defaults.
        likelihood: p(v | h), one of `OBSERVED`; by default what suits the values, column by column.
        guide: family of q(h; λ_φ(v)), one of `LATENT`.
        latent: dimension of h.

    Raises:
        UnknownNameError: a likelihood or a guide that no draft has.
        ProgramError: a file whose name no class can be named after; a likelihood that the values cannot have.
        DataError: no columns.
    """
    if guide is not None and guide not in LATENT:
        raise UnknownNameError("guide of a draft", guide, LATENT)
    if likelihood is not None and likelihood not in OBSERVED:
        raise UnknownNameError("likelihood of a draft", likelihood, OBSERVED)
    module, name = _named_after(Path(file))
    family = _family(rows, guide)
    values, observed = _flat(rows)
    count = values.shape[1]
    latent = latent or max(1, min(8, count // 2))
    groups = columns_of(values, observed, apart=likelihood is None and _has_columns_apart(rows, count))
    chosen = {columns.kind: _chosen(columns, likelihood) for columns in groups}
    wants_units = _wants_units(groups, chosen, reading)
    reading = dict(reading) | ({"standardise": True} if wants_units else {})
    reasons = _about_columns(rows, groups, chosen, values, observed) + _about_programs(
        rows, wants_units, latent, family
    )
    flags = _flags(reading)
    said = {
        "name": name,
        "module": module,
        "file": Path(file).name,
        "data_name": _in_docstring(Path(data).name),
        "shell_data": _in_docstring(shlex.quote(data)),
        "flags": f" {_in_docstring(flags)}" if flags else "",
        "load": ", ".join([_quoted(data), *(f"{key}={_quoted(value)}" for key, value in reading.items())]),
        "epochs": max(20, min(1000, 10 * round(_STEPS * _BATCH / len(rows) / 10))),
        "latent": latent,
        "hidden": 64 if count < 20 else 256 if count >= 200 else 128,
        "guide": LATENT[family],
        "guide_name": family.replace("-", " "),
        "rows": _in_words(rows, groups, count),
        "columns": count,
        "whole": len(groups) == 1,
        "arguments": ", ".join(["v", *rows.roles]),
        **vars(lines_of(rows, groups, chosen)),
    }
    text = _rendered("sequence.py.jinja" if "lengths" in rows.roles else "program.py.jinja", said)
    return Draft(text, name, chosen, family, latent, reading, flags, reasons)


def _family(rows: Rows, guide: str | None) -> str:
    if "lengths" in rows.roles and guide not in (None, _FAMILY):
        raise ProgramError(
            f"The draft for sequences has one guide, a factorised Gaussian for each step; got {guide!r}."
        )
    return guide or _FAMILY


def _has_columns_apart(rows: Rows, count: int) -> bool:
    """Whether columns may be of different kinds: those of a table with names."""
    alike = rows.columns is None or rows.image_shape is not None or {"total", "lengths"} & set(rows.roles)
    return not alike and count <= _MOST_APART


def _flat(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of shape (row, column), and which of them count; steps of sequences one below the other."""
    values = rows.values
    if "lengths" in rows.roles:
        lengths = rows.tensors[1 + rows.roles.index("lengths")]
        values = values[torch.arange(values.shape[1]) < lengths.unsqueeze(-1)]
    elif values.ndim != 2:
        raise DataError(
            f"A draft is for rows of columns, or for sequences with their lengths; got {tuple(values.shape)}."
        )
    observed = torch.ones_like(values, dtype=torch.bool)
    if "observed" in rows.roles:
        observed = rows.tensors[1 + rows.roles.index("observed")].bool()
    return values, observed


def _chosen(columns: Columns, likelihood: str | None) -> str:
    if likelihood is None:
        return PROPOSED[columns.kind]
    if columns.kind not in OBSERVED[likelihood].kinds:
        fitting = [name for name, each in OBSERVED.items() if columns.kind in each.kinds]
        raise ProgramError(
            f"The likelihood {likelihood!r} cannot have these values ({columns.seen}). Those that can: "
            f"{', '.join(fitting)}."
        )
    return likelihood


def _about_columns(
    rows: Rows, groups: Sequence[Columns], chosen: Mapping[str, str], values: torch.Tensor, observed: torch.Tensor
) -> tuple[str, ...]:
    found = []
    for columns in groups:
        law = chosen[columns.kind]
        which = "All columns" if len(groups) == 1 else _names(rows, columns.places)
        why = f"Likelihood {law}: {OBSERVED[law].why}."
        found.append(f"{which}: {columns.seen}. {why}")
        skewed = skewed_columns(columns, values, observed) if columns.kind == REAL else []
        if skewed and len(skewed) < _MOST_APART:
            found.append(f"{_names(rows, skewed)}: a long tail above. Logarithms may suit a Gaussian better.")
    constant = constant_columns(values, observed)
    if constant and rows.image_shape is None:
        found.append(f"{_names(rows, constant)}: the same value in every row, which tells nothing; better left out.")
    if rows.image_shape is not None:
        height, width = rows.image_shape
        found.append(
            f"Pictures of {height} x {width}: the networks are dense; `network` is the place for convolutions."
        )
    if "observed" in rows.roles:
        share = float((~observed).double().mean())
        found.append(
            f"{100 * share:.2g} % of the values are missing: they are left out of the likelihood, and the encoder is "
            "shown which they are."
        )
    return tuple(found)


def _about_programs(rows: Rows, wants_units: bool, latent: int, family: str) -> tuple[str, ...]:
    found = []
    if wants_units:
        found.append("The columns are in units of their own: `standardise` gives each mean 0 and standard deviation 1.")
    found.append(f"{latent} latents, to begin with; `pplvae latents` says how many a fit makes use of.")
    if "lengths" in rows.roles:
        found.append("Steps in order: a latent for each step, which follows from the one before (a deep Markov model).")
    else:
        found.append(f"Guide {family}: {LATENT[family].why}.")
    return tuple(found)


def _names(rows: Rows, places: Sequence[int]) -> str:
    names = [one_line(k if rows.columns is None else rows.columns[k]) for k in places]
    more = f", ... ({len(names)} columns)" if len(names) > _SHOWN else ""
    return ("Columns " if len(names) > 1 else "Column ") + ", ".join(names[:_SHOWN]) + more


def _wants_units(groups: Sequence[Columns], chosen: Mapping[str, str], reading: Mapping[str, Any]) -> bool:
    """Whether all columns are for a Gaussian, and some far from mean 0 and standard deviation 1."""
    gaussian = all(law.startswith("gaussian") for law in chosen.values())
    return gaussian and len(groups) == 1 and not groups[0].standard and not reading.get("standardise")


def _in_words(rows: Rows, groups: Sequence[Columns], count: int) -> str:
    """What the rows are, for the first line of the file."""
    if "lengths" in rows.roles:
        return f"{len(rows)} sequences of {count} columns"
    if rows.image_shape is not None:
        return f"{len(rows)} pictures of {rows.image_shape[0]} x {rows.image_shape[1]}"
    if len(groups) > 1:
        return f"{len(rows)} rows of {count} columns of several kinds"
    return f"{len(rows)} rows of {count} columns, {_KINDS[groups[0].kind]}"


def _quoted(value: Any) -> str:
    """As Python code, with the quotes that formatters prefer."""
    code = repr(value)
    return f'"{code[1:-1]}"' if code[:1] == "'" and '"' not in code else code


def _in_docstring(text: str) -> str:
    """A text that cannot end the docstring that it stands in, whatever a file is called."""
    return one_line(text).replace("\\", "\\\\").replace('"', '\\"')


def _flags(reading: Mapping[str, Any]) -> str:
    """The same for a command line."""
    words = []
    for key, value in reading.items():
        name = f"--{key}"
        words += [name] if value is True else [f"--no-{key}"] if value is False else [name, shlex.quote(str(value))]
    return "".join(f" {word}" for word in words)


def _named_after(file: Path) -> tuple[str, str]:
    """Names of the module and of the class, after a file's."""
    module = re.sub(r"\W+", "_", file.stem).strip("_").lower()
    if file.suffix != ".py" or not module.isidentifier() or keyword.iskeyword(module):
        raise ProgramError(
            f"The program's class is named after its file, so that must be called like a Python module: `my_model.py`; "
            f"got {file.name!r}."
        )
    return module, "".join(word[:1].upper() + word[1:] for word in module.split("_"))


def _rendered(template: str, said: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # imported late: only drafts and pages need it

    environment = Environment(
        loader=PackageLoader("pplvae", "drafting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Python is written, not HTML
    )
    return environment.get_template(template).render(said)
