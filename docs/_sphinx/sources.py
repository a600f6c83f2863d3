"""{source}`pplvae/training/loop.py:train`: a link to that place, in a page of the site that shows the file."""

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from places import ROOT, Place, PlaceError, place
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole
from sphinx.util.typing import ExtensionMetadata

_SHOWN: set[str] = set()  # files that a page links to


def link(where: Place, docname: str, text: str) -> nodes.reference:
    """A link from a page to a place."""
    _SHOWN.add(where.path)
    up = "../" * docname.count("/")
    anchor = f"#line-{where.first}" if where.name else ""
    page = f"source/{where.path.removesuffix('.py')}.html{anchor}"
    return nodes.reference("", "", nodes.literal(text=text), refuri=up + page, internal=True)


class Source(SphinxRole):
    """The role `source`."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The link; a place that is not there is a warning."""
        try:
            return [link(place(self.text), self.env.docname, shown(self.text))], []
        except PlaceError as error:
            message = self.inliner.reporter.warning(str(error), line=self.lineno)
            return [nodes.literal(text=self.text)], [message]


def shown(text: str) -> str:
    """A place as readers see it: the name, with its file only where there is no name."""
    path, _, name = text.partition(":")
    return name or path


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file."""
    layout = HtmlFormatter(linespans="line", wrapcode=True)
    for path in sorted(_SHOWN):
        code = highlight((ROOT / path).read_text(encoding="utf-8"), PythonLexer(stripnl=False), layout)
        yield f"source/{path.removesuffix('.py')}", {"title": path, "body": f"<h1>{path}</h1>{code}"}, "page.html"


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.add_role("source", Source())
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
