"""Rows in: named data sets, files, and the checks of what a user passes."""

from pplvae.data.load import load_data
from pplvae.data.rows import Data, Rows, as_parts, as_rows, few

__all__ = ["Data", "Rows", "as_parts", "as_rows", "few", "load_data"]
