"""Rows in: named data sets, files, and the checks of what a user passes."""

from pplvae.data.given import is_named
from pplvae.data.load import load_data
from pplvae.data.missing import with_mask
from pplvae.data.registry import DATA_SETS
from pplvae.data.rows import Data, Rows, as_parts, as_rows, few
from pplvae.data.scaling import Scaling

__all__ = ["DATA_SETS", "Data", "Rows", "Scaling", "as_parts", "as_rows", "few", "is_named", "load_data", "with_mask"]
