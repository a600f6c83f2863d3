"""How a table of text is laid out: what is between its fields, what marks decimals, whether it begins with names."""

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pplvae.data.rows import few
from pplvae.errors import DataError

# What people write where there is no value, besides what pandas knows ("NA", "nan", "null", ...).
MARKERS = frozenset(
    "? ?? * ** - -- --- . .. n.d. N.D. n.d nd ND n/d N/D n.a. N.A. na none NONE Null missing Missing MISSING".split()
)
_ABSENT = MARKERS | {"", "#N/A", "N/A", "n/a", "NA", "<NA>", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None"}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
_NUMBER = re.compile(r"[+-]?((\d++\.?\d*+|\.\d++)([eE][+-]?\d+)?|inf(inity)?)", re.IGNORECASE)
_COMMA = re.compile(r"[+-]?(\d++|\d{1,3}(\.\d{3})++)?,\d++([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_BOTH = re.compile(_THOUSANDS.pattern + r"\.\d+")  # which nobody writes who writes decimal commas
_SAMPLE = 100  # lines that decide, from all over the file
_LONG = 4  # columns; a row counts to so many by chance too rarely to matter

Lines = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Layout:
    """How to read a table.

    Attributes:
        separator: between fields; " " stands for any number of blanks.
        decimal: "." or ",".
        thousands: between groups of digits, or None.
        names: of the columns, or None where the first line is a row.
        width: fields of a row.
        start: lines before the first row.
        markers: of missing values that were met.
        found: what is unusual about it, in words.
    """

    separator: str
    decimal: str
    thousands: str | None
    names: list[str] | None
    width: int
    start: int
    markers: list[str]
    found: list[str]


def layout_of(text: str, file: str, header: bool | None) -> Layout:
    """Find out how a table is laid out.

    Args:
        text: all of it.
        file: its name, for messages.
        header: whether it begins with a line of names; None to find out.

    Raises:
        DataError: lines of different numbers of fields, or a first line that may be a header and may be a row.
    """
    try:
        return _layout_of(text, file, header)
    except csv.Error as error:
        raise DataError(f"{file!r} is not a text file of fields apart by a separator: {error}.") from error


def _layout_of(text: str, file: str, header: bool | None) -> Layout:
    lines = text.split("\n")
    before = sum(1 for _ in itertools.takewhile(_is_before, lines))
    rows = [line for line in lines[before:] if line.strip()]
    sample = rows[:1] + rows[1 :: max(len(rows) // _SAMPLE, 1)]
    announced = next((line[4:5] for line in lines[:before] if line.startswith("sep=")), None)
    separator = announced or max(_SEPARATORS, key=lambda each: _merit(sample, each))
    if not sample:
        raise DataError(f"{file!r} has no rows.")
    names, width, start, markers = _walked(lines, before, separator, file)
    table = _fields(sample, separator)
    body = table[1:]
    if not _is_header(names, body, header, file):
        names, start = _names_in_comment(lines[:before], separator, width, header), before
    decimal, thousands = _marks([field for line in body or table for field in line], separator)
    found = [] if separator == "," else [f"fields apart by {_called(separator)}"]
    found += ["decimal commas"] if decimal == "," else []
    found += [f"{', '.join(map(repr, markers))} for missing values"] if markers else []
    return Layout(separator, decimal, thousands, names, width, start, markers, found)


def _is_before(line: str) -> bool:
    """Whether a line stands before the table: blank, a comment, or what tells a spreadsheet the separator."""
    return not line.strip() or line.startswith(("#", "sep="))


def _reader(lines: Iterable[str], separator: str) -> Any:
    """Lines as lists of fields; an empty line has none."""
    if separator == " ":
        lines = (line.strip() for line in lines)
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _fields(lines: Iterable[str], separator: str) -> list[list[str]]:
    return [[field.strip() for field in line] for line in _reader(lines, separator) if line]


def _merit(sample: Sequence[str], separator: str) -> tuple[bool, float, int]:
    """How well a separator explains a table: rows of one length, which hold numbers, and many of them."""
    table = _fields(sample, separator)
    body = table[1:] or table
    widths = {len(line) for line in body}
    width = max(widths, default=0)
    one_length = len(widths) == 1 and width > 1 and _fits(table[0], width, separator)
    fields = [field for line in body for field in line]
    return one_length, sum(map(_may_be_number, fields)) / max(len(fields), 1), width


def _fits(first: Sequence[str], width: int, separator: str) -> bool:
    """Whether a first line goes with rows of a width; names may leave out one for the row's own name, or for nothing.

    One name above "1,5" says nothing of the kind: that is a decimal comma.
    """
    return len(first) == width or (len(first) == width - 1 and (len(first) > 1 or separator != ","))


def _may_be_number(field: str) -> bool:
    """Whether a field is a number, by either decimal mark, or stands for a missing one."""
    return field in _ABSENT or any(kind.fullmatch(field) for kind in (_NUMBER, _COMMA, _BOTH))


def _walked(lines: Sequence[str], before: int, separator: str, file: str) -> tuple[list[str], int, int, list[str]]:
    """Go through all fields once: those of the first line, one for each column; width; lines read; missing values."""
    reader = _reader(lines[before:], separator)
    ragged: list[tuple[int, int]] = []
    markers: set[str] = set()
    first = [field.strip() for field in next(line for line in reader if line)]
    start, width, ends_empty = before + reader.line_num, 0, True
    for line in filter(None, reader):
        width = width or len(line)
        if len(line) != width:
            ragged.append((before + reader.line_num, len(line)))
        markers.update(MARKERS.intersection(line))
        ends_empty = ends_empty and not line[-1].strip()
    width = width or len(first)
    if not _fits(first, width, separator):
        ragged = [(start + 1, width), *ragged] if ragged else [(start + 1, width)]
    if ragged:
        raise DataError(
            f"{file!r} is ragged: the first line has {len(first)} fields, line {ragged[0][0]} has {ragged[0][1]} "
            f"(lines {few([number for number, _ in ragged])}), apart by {_called(separator)}. Every line must have the "
            "same number of fields; a decimal comma needs another separator, such as a semicolon."
        )
    if len(first) < width:
        first = [*first, ""] if ends_empty else ["", *first]
    return first, width, start, sorted(markers)


def _called(separator: str) -> str:
    return _SEPARATORS.get(separator, repr(separator))


def _is_header(first: Sequence[str], body: Lines, header: bool | None, file: str) -> bool:
    """Whether a first line holds names: text, or numbers that count columns, as pandas writes them for plain arrays."""
    if header is not None:
        return header
    if not all(map(_may_be_number, first)) or all(field in _ABSENT for field in first):
        return True
    columns = list(range(next(i for i, field in enumerate(first) if field), len(first)))
    numbers = [first[i] for i in columns]
    if not all(map(str.isdecimal, numbers)) or [int(n) - int(numbers[0]) for n in numbers] != list(range(len(numbers))):
        return False
    from_start = int(numbers[0]) in (0, 1)
    # Whoever writes 1.5 below would have written 1.0 above, if that were a row.
    unlike_rows = bool(body) and all(any(not line[i].isdecimal() for line in body) for i in columns)
    enough = _LONG if from_start != unlike_rows else 2
    if (from_start or unlike_rows) and len(numbers) >= enough:
        return True
    if (from_start and len(first) > 1) or unlike_rows:
        raise DataError(
            f"The first line of {file!r}, {','.join(first)}, may be a header that counts the columns, or a row. Say "
            "which: `header=True` or `header=False`."
        )
    return False


def _names_in_comment(lines: Sequence[str], separator: str, width: int, header: bool | None) -> list[str] | None:
    """Names in the last comment before the first row, as NumPy writes them."""
    comments = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    names = _fields(comments[-1:], separator)
    return names[0] if names and len(names[0]) == width and header is None else None


def _marks(fields: Sequence[str], separator: str) -> tuple[str, str | None]:
    """The decimal mark, and what stands between groups of digits."""
    if any(map(_BOTH.fullmatch, fields)):
        return ".", ","
    commas = [field for field in fields if _COMMA.fullmatch(field)]
    points = sum("." in field for field in fields if _NUMBER.fullmatch(field))
    if not commas or len(commas) < points:
        return ".", None
    if separator == "," and all(map(_THOUSANDS.fullmatch, commas)):
        return ".", ","
    return ",", "." if any("." in field for field in commas) else None
