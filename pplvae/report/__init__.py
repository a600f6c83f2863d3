"""Pages: one self-contained HTML file each."""

from pplvae.report.page import write_report
from pplvae.report.plain import write_plain

__all__ = ["write_plain", "write_report"]
