"""Notebooks at a small size: what their front matter says under `smaller` is put in the place of what stands there."""

import re

import yaml
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

_FRONT = re.compile(r"---\n(.*?)\n---\n", re.S)


def smaller(text: str) -> str:
    """The text of a page at a small size."""
    front = _FRONT.match(text)
    if not front:
        return text
    body = text[front.end() :]
    for large, small in (yaml.safe_load(front[1]).get("smaller") or {}).items():
        if large not in body:
            raise ValueError(f"{large!r} is to be made smaller, and does not stand there.")
        body = body.replace(large, small)
    return text[: front.end()] + body


def read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Called for each page that is read."""
    content[0] = smaller(content[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
