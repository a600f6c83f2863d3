"""Options of a command: those that it declares itself, and those that are keywords of the Python functions it calls."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer

from pplvae.commands.keywords import Keyword, keywords_of, sentences_of
from pplvae.commands.words import in_options

# Given by every command itself.
_NEVER = ("store", "progress", "run", "validation")
_KINDS = {"str": str, "float": float, "int": int, "bool": bool}  # the widest first
_LEAST = {"seed": 0}
_NONE = "none"  # stands for None where the default is something else


@dataclass(frozen=True)
class Takes:
    """Keywords of a function that are options: all that a command line can give.

    Attributes:
        home: the function's module, such as "comparison.compare".
        function: its name.
        only: these alone.
        without: not these.
        words: in place of what its docstring says, by keyword.
        defaults: in place of its own, by keyword.
    """

    home: str
    function: str
    only: Sequence[str] = ()
    without: Sequence[str] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def keywords(self) -> dict[str, Keyword]:
        """Those keywords, as the command has them."""
        known = keywords_of(self.home, self.function)
        python = [name for name, each in known.items() if _type_of(each) is None]
        return {
            name: replace(
                each,
                default=self.defaults.get(name, each.default),
                words=self.words.get(name) or _for_a_command_line(each.words, python),
            )
            for name, each in known.items()
            if name not in (*_NEVER, *self.without, *python) and name in (self.only or [name])
        }


def with_options(work: Callable[..., Any], takes: Sequence[Takes], common: Mapping[str, Any]) -> inspect.Signature:
    """The signature of a command: what its function declares, what it takes from others, and what all commands have.

    Args:
        work: the function, whose first argument is a voice, and whose `**keywords` are those of others.
        takes: which.
        common: annotation and default of each option that all commands have, by name.
    """
    own = [one for one in list(inspect.signature(work).parameters.values())[1:] if one.kind is not one.VAR_KEYWORD]
    keywords = keywords_from(takes)
    names = [*keywords, *(one.name for one in own)]
    added = {name: (_annotated(each, names), _as_text(each)) for name, each in keywords.items()} | dict(common)
    return inspect.Signature(
        own
        + [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in added.items()
        ]
    )


def keywords_from(takes: Sequence[Takes]) -> dict[str, Keyword]:
    """All keywords that a command takes; the first function to have one says what it is."""
    found: dict[str, Keyword] = {}
    for each in takes:
        found = each.keywords() | found
    return found


def in_python(keyword: Keyword, given: Any) -> Any:
    """What the function is called with for an option's value.

    Raises:
        ValueError: a list of numbers that is none.
    """
    if keyword.kind.startswith("Sequence"):
        return _listed(keyword, given)
    if given is None and keyword.default is False:
        return False
    return None if given == _NONE and _takes_none(keyword) else given


def _type_of(keyword: Keyword) -> Any:
    """What typer reads; None where a command line cannot give such a value."""
    if keyword.kind.startswith("Sequence[") or (keyword.kind == "Any" and isinstance(keyword.default, str)):
        return str
    kinds = keyword.kind.split(" | ")
    known = [name for name in _KINDS if name in kinds]
    if not known or {*kinds} - {*_KINDS, "None"}:
        return None
    kind: Any = _KINDS[known[0]]
    return kind | None if keyword.default is None or (keyword.default is False and kind is not bool) else kind


def _annotated(keyword: Keyword, options: Sequence[str]) -> Any:
    words = in_options(keyword.words, options)
    if keyword.kind.startswith("Sequence["):
        words += " By commas."
    if _takes_none(keyword):
        words = words.replace("None", _NONE)
    return Annotated[_type_of(keyword), typer.Option(help=words.replace("`", ""), min=_LEAST.get(keyword.name))]


def _as_text(keyword: Keyword) -> Any:
    if keyword.kind.startswith("Sequence["):
        return ",".join(map(str, keyword.default))
    return None if keyword.default is False and keyword.kind != "bool" else keyword.default


def _takes_none(keyword: Keyword) -> bool:
    return "None" in keyword.kind.split(" | ") and keyword.default is not None


def _listed(keyword: Keyword, given: str) -> list[Any]:
    words = [word.strip() for word in given.split(",") if word.strip()]
    if keyword.kind != "Sequence[int]":
        return words
    try:
        return [int(word) for word in words]
    except ValueError:
        raise ValueError(f"`{keyword.name}` is whole numbers, by commas, such as 256,256; got {given!r}.") from None


def _for_a_command_line(words: str, python: Sequence[str]) -> str:
    """Words without further sentences on keywords that only Python can give."""
    first, *others = sentences_of(words)
    kept = [sentence for sentence in others if not any(f"`{name}`" in sentence for name in python)]
    return " ".join([first[:1].upper() + first[1:], *kept])
