"""Pages, one self-contained HTML file each, and pieces of HTML for notebooks."""

from pplvae.report.notebook import notebook_html
from pplvae.report.page import write_report
from pplvae.report.plain import write_plain

__all__ = ["notebook_html", "write_plain", "write_report"]
