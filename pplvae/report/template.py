"""What all pages have in common: one file, written whole, in which text from outside is escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from pplvae.store import write_text


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Fill in a template of this folder.

    Args:
        path: of the page.
        template: its file's name.
        content: by the names that the template has for it.
    """
    pages = Environment(loader=PackageLoader("pplvae.report", "."), autoescape=True)
    return write_text(path, pages.get_template(template).render(content))
