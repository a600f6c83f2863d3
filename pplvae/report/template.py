"""What all pages have in common: one file, written whole, in which text from outside is escaped."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from pplvae.store import write_text


def text_of(*name: str) -> str:
    """A file of this folder."""
    return files("pplvae.report").joinpath(*name).read_text(encoding="utf-8")


def filled(template: str, **content: Any) -> str:
    """A template of this folder, filled in.

    Args:
        template: its file's name.
        content: by the names that the template has for it.
    """
    pages = Environment(loader=PackageLoader("pplvae.report", "."), autoescape=True)
    pages.filters["code"] = _with_code
    return pages.get_template(template).render(content)


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Write a page; see `filled`."""
    return write_text(path, filled(template, **content))


def _with_code(sentence: str) -> Markup:
    """A sentence whose `names in backticks` stand as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))  # escaped first
