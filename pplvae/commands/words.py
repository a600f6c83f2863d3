"""Messages in the words of the command line: what a keyword is in Python is an option there."""

import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from pplvae.errors import UnknownNameError
from pplvae.likelihoods import LIKELIHOODS
from pplvae.ranks.group import of_torchrun

_KEYWORD = re.compile(r"`(?:load_data\(\.\.\., )?(\w+)=([^`()]*)\)?`")
_BARE = re.compile(r"`(\w+)`")
_LIKELIHOOD = re.compile(r"`likelihoods\.(\w+)`")
# In a message a user's programs, rows and distributions.
_OTHERS = ("model", "guide", "prior", "data", "scale", "part")


def in_options(message: str, options: Collection[str]) -> str:
    """A message of the Python functions with options for keywords.

    Args:
        message: as it is for Python, with code between backquotes.
        options: names of the keywords that are options.

    >>> in_options("Load with `load_data(..., missing='mask')`, or raise `epochs`.", ["missing", "epochs"])
    'Load with `--missing mask`, or raise `--epochs`.'
    """
    names = {each.__name__: name for name, each in LIKELIHOODS.items()}

    def keyword(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"`{_option(name, value)}`" if name in options else found[0]

    def bare(found: re.Match[str]) -> str:
        return f"`{_flag(found[1])}`" if found[1] in options and found[1] not in _OTHERS else found[0]

    def likelihood(found: re.Match[str]) -> str:
        return f"`--likelihood {names[found[1]]}`" if found[1] in names else found[0]

    return _LIKELIHOOD.sub(likelihood, _BARE.sub(bare, _KEYWORD.sub(keyword, message)))


def usage_in_words(error: Any) -> str:
    """What is wrong with the words of a command, of which the parser has made an error.

    Args:
        error: of typer's parser; one of an option that is not there has its name.
    """
    context = getattr(error, "ctx", None)
    if context is None:
        return error.format_message()
    if hasattr(error, "option_name") and error.option_name not in (known := _options_of(context)):
        return str(UnknownNameError("option", error.option_name, known))
    path = " ".join(["pplvae", *([context.info_name] if context.parent else [])])
    message = error.format_message()
    return message if message.startswith("Unknown") else f"{message.rstrip('.')}. See `{path} --help`."


def _options_of(context: Any) -> list[str]:
    options = context.command.get_params(context)
    return [name for one in options for name in (*one.opts, *one.secondary_opts) if name.startswith("--")]


def going_on(words: Sequence[str], *, resume: bool) -> str:
    """The command that goes on with one of these words; a fit that has begun is to be resumed.

    >>> going_on(["fit", "--existing=refuse", "--run", "my run"], resume=True)
    "pplvae fit --run 'my run' --existing resume"
    """
    if not resume:
        return _begun_with(words)
    kept = [word for i, word in enumerate(words) if "--existing" not in (word.split("=")[0], *words[i - 1 : i])]
    return _begun_with([*kept, "--existing", "resume"])


def _begun_with(words: Sequence[str]) -> str:
    """The words after those that start the program; how many ranks torchrun starts is not ours to know."""
    return ("torchrun ... -m " if of_torchrun()[1] else "") + shlex.join(["pplvae", *words])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _option(name: str, value: str) -> str:
    if value in ("True", "False"):
        return _flag(name) if value == "True" else _flag(f"no_{name}")
    text = value[1:-1] if value[:1] in ("'", '"') else value
    return f"{_flag(name)} {text if text == '...' else shlex.quote(text)}"
