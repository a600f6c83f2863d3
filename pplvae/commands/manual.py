"""The manual of the command line, made of what its help says: `pplvae manual > docs/command_line.md`."""

import re
from collections.abc import Iterator
from typing import Any

# What `--json` prints, beside `pplvae` (the version), `command` and `status`; by command.
_RESULT = {
    "run": "the folder",
    "file": "that it was written to",
    "kind": "of result",
    "settings": "on which the numbers depend",
    "summary": "numbers in nats per row, by name and then by the labels of each dimension (part, term, quantile, ...)",
    "warnings": "what a reader must know",
}
_PAGE = {
    "page": "its file",
    "beside": "headings of the sections of other results",
    "parquet": "the file of the rows, or null",
}
JSON = {
    "fit": {
        "run": "the folder",
        "model": "its name",
        "data": "their name",
        "fit": "`status`, `message`, `steps`, `epochs`, `best_epoch`, and with validation rows `elbo_validation`, "
        "`elbo_validation_stderr`",
    },
    "new": {
        "file": "that was written",
        "class": "in it",
        "likelihoods": "by kind of column",
        "guide": "the family",
        "latent": "dimension of h",
        "load_data": "keywords that the rows are read with",
        "reasons": "sentences",
    },
    "draw": {
        "program": "as it was named",
        "data": "likewise",
        "sites": "of both programs, each with `given`, the sites that it is computed from",
        "picture": "the file, if one was asked for",
    },
    "check": {
        "program": "as it was named",
        "data": "likewise",
        "rows": "how many were looked at closely",
        "findings": "the worst first: `severity`, `code`, `sentence`, `program`, `name`, `instead`, `file`, `line`, "
        "`meaning`",
        "sites": "of both programs: `program`, `name`, `kind`, `distribution`, `rows` (their axis), `batch`, `event`, "
        "`plates`",
        "objectives": "why each cannot be used; null where it can",
        "unchecked": "what could not be looked at, and why",
        "ignored": "findings that comments leave out",
    },
    "verify-distributed": {
        "model": "its name",
        "data": "their name",
        "ranks": "how many were held against one",
        "found": "by name: `value`, and `right`, which is null for figures that are no tests",
    },
    "compare": _RESULT,
    "compare RUN OTHER": {
        "run": "the first",
        "other": "the second",
        "margin": "in nats per row",
        "worse": "true or false",
        "verdict": "the same as a sentence",
        **{name: _RESULT[name] for name in ("kind", "settings", "summary", "warnings")},
    },
    "attribute": _RESULT | {"advice": "what to change, most nats first"},
    "calibrate": _RESULT,
    "latents": _RESULT,
    "report": _PAGE | {"run": "the folder"},
    "runs": {
        "folder": "where they lie",
        "runs": "newest first: `run`, `when`, `model`, `data`, `status`, `epochs`, `elbo`, `elbo_stderr`, `gap`, "
        "`gap_stderr`, `damaged` (why a folder cannot be read); null where not known",
    },
    "export": {
        "run": "the folder",
        "what": "which result",
        "file": "that was written",
        "rows": "how many",
        "columns": "their names",
    },
}
JSON["demo"] = JSON["fit"] | {"comparison": "as of compare"} | _PAGE

_HEAD = """\
# The command line

This page is printed by `pplvae manual`. Every `pplvae COMMAND --help` says the same.

{statuses}

On a terminal results are tables, and work that takes long has a bar with the time left. In a pipe or a file they are
plain text, without colours; `NO_COLOR=1` leaves colours out on a terminal too. `--json` prints one object (below) to
standard output and everything else to standard error; where a command fails, the object has `error`. `--quiet` says
nothing but warnings and errors. `pplvae --install-completion` lets the shell complete commands and options; `pplvae
--version` prints the version.
"""


def manual_of(group: Any, statuses: str) -> str:
    """The manual, in Markdown.

    Args:
        group: the commands, as click has them.
        statuses: the exit statuses, in words.
    """
    shown = {name: command for name, command in group.commands.items() if not command.hidden}
    lines = [_HEAD.format(statuses=statuses)]
    lines += [line for name, command in shown.items() for line in _about(name, command)]
    lines += [
        "## What `--json` prints",
        "",
        "Beside `pplvae` (the version), `command` and `status`, in nats per row:",
        "",
    ]
    for name in [*shown, *(name for name in JSON if name not in shown)]:
        lines.append(f"- `{name}`: " + "; ".join(f"`{key}`, {words}" for key, words in JSON[name].items()) + ".")
    return "\n".join(lines) + "\n"


def _about(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    yield f"## pplvae {name}"
    yield ""
    yield _plain(command.help)
    yield ""
    for argument in arguments:
        yield f"- `{argument.name.upper()}`: {_plain(argument.help)}"
    for option in options:
        yield f"- `{' '.join([*option.opts, *option.secondary_opts])}`: {_plain(option.help)}{_default(option)}"
    _, *examples = command.epilog.split("\n\n")
    yield ""
    yield from (f"    {example}" for example in examples)
    yield ""


def _default(option: Any) -> str:
    if option.required:
        return " Must be given."
    plain = option.default is None or option.default is False or option.default == ""
    return "" if plain else f" Default: {option.default}."


def _plain(text: str | None) -> str:
    """Help without the marks that rich reads."""
    return re.sub(r"\[/?bold\]", "`", text or "").strip()
