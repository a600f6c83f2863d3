"""An equation beside the code that is it, and the test that holds it.

    ```{beside} 53
    :code: pplvae/models/vae.py:VAE.model
    :line: 'h = pyro.sample('
    :test: tests/test_models.py:test_elbo

    the equation
    ```

The numbers are the lecture's; an equation that has none there goes without. The line is shown as it stands in the file,
so that the page cannot tell an older one.
"""

import textwrap
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from places import PlaceError, place
from sources import link
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata


class Beside(SphinxDirective):
    """The directive `beside`."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar = {
        "code": directives.unchanged_required,
        "line": directives.unchanged,
        "test": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """A box of equation, line and links."""
        numbers = " ".join(self.arguments).split()
        box = nodes.container(classes=["beside"], ids=[f"eq-{number}" for number in numbers])
        if numbers:
            many = "Equations" if len(numbers) > 1 else "Equation"
            box += nodes.paragraph("", f"{many} {', '.join(numbers)} of the lecture", classes=["beside-number"])
        box += self.parse_content_to_nodes()
        missing = {"code", "test"} - set(self.options)
        if missing:
            raise self.error(f"`beside` needs {' and '.join(sorted(missing))}.")
        try:
            code = place(self.options["code"])
            code = code.line(self.options["line"]) if "line" in self.options else code
            test = place(self.options["test"])
        except PlaceError as error:
            raise self.error(str(error)) from error
        if "line" in self.options:
            text = textwrap.dedent("\n".join(code.lines))
            box += nodes.literal_block(text, text, language="python")
        docname = self.env.docname
        places = nodes.paragraph(classes=["beside-places"])
        places += [nodes.Text("Code: "), link(code, docname, f"{code.path}, line {code.first}")]
        places += [nodes.Text(" · Test: "), link(test, docname, test.name)]
        box += places
        return [box]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.add_directive("beside", Beside)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
