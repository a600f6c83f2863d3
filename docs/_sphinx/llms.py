"""`llms.txt`: every page of the site with its title and first sentence, for programs that read it."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

_HEAD = """# pplvae

> Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row with standard
> errors: the amortisation gap, the approximation gap, and what is to blame for them.

"""


def write(app: Sphinx, error: Exception | None) -> None:
    """Called when the site is built."""
    if error is None and app.builder.format == "html":
        lines = [_line(app, docname) for docname in sorted(app.env.found_docs) if "generated" not in docname]
        Path(app.outdir, "llms.txt").write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def _line(app: Sphinx, docname: str) -> str:
    title = app.env.titles[docname].astext()
    paragraphs = list(app.env.get_doctree(docname).findall(nodes.paragraph))
    text = " ".join(paragraphs[0].astext().split()) if paragraphs else ""
    sentence = re.match(r".*?[.?](?= |$)", text)
    return f"- [{title}]({docname}.html)" + (f": {sentence[0]}" if sentence else "")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
