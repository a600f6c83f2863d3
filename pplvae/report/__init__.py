"""The page: one self-contained HTML file that says what amortisation costs."""

from pplvae.report.page import write_report

__all__ = ["write_report"]
