"""The documentation site: `python -m sphinx -W -n docs build/site`.

Notebooks run at a small size, in minutes, to see that everything works. With PPLVAE_DOCS=full they run as they stand
there; what that gave is kept in `docs/kept`, and taken from it as long as the code is the same.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_sphinx"), str(HERE.parent)]
os.environ.setdefault("PYTHONPATH", str(HERE.parent))  # of the kernels that run notebooks
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small steps: two threads wait for each other where a core is busy
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # bars of tqdm are plain text there

from pplvae._version import __version__  # noqa: E402

FULL = os.environ.get("PPLVAE_DOCS") == "full"

project = "pplvae"
author = "The pplvae developers"
copyright = author
release = version = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "equations",
    "sources",
    "beside",
    "llms",
    "kept" if FULL else "smaller",
]
exclude_patterns = ["_sphinx", "_templates", "kept", "pages", "figures"]
default_role = "code"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "cache" if FULL else "force"
nb_execution_cache_path = str(HERE / "kept")
nb_execution_raise_on_error = True
nb_execution_timeout = 3600
nb_execution_in_temp = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # nothing is fetched from elsewhere

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autosummary_generate = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!pplvae\.).*"),  # names of other libraries: their sites are not asked
    # What stands in annotations only.
    ("py:.*", r"pplvae\..*\.(Base|Batch|Branch|CutDraws|Fitted|Layout|TorchGuide|TorchModel|_Some|_T)"),
]

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "pplvae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "header_links_before_dropdown": 7,
}
