"""Equations as MathML, written when the site is built: a page needs no script and no font for them."""

import re
from html import escape

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

_LOGGER = logging.getLogger(__name__)


def mathml(node: nodes.math | nodes.math_block, as_block: bool) -> str:
    """The equation; one that cannot be read is a warning, which a strict build refuses."""
    text = re.sub(r"\\[Bb]ig(?=[\[\](){}|])", "", node.astext()).replace(r"\dots", r"\ldots")
    text = re.sub(r"\\(log|max)(?= )", r"\\\1\\,", text)
    try:
        return tex2mathml(text, as_block=as_block)
    except MathError as error:
        _LOGGER.warning("%s: %s", error, text, location=node)
        return escape(text)


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    """An equation in a sentence."""
    writer.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """An equation of its own line."""
    writer.body.append(f'<div class="equation">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
