"""Writes small files of AnnData, to be run with each version of anndata whose files are kept in anndata.zip.

    python make_anndata.py FOLDER

The versions were 0.6.22, 0.7.8 and 0.12.19. Only NumPy, SciPy, pandas and anndata are needed, and none of pplvae.
"""

import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

X = (np.arange(18.0).reshape(6, 3) % 5).astype("f4")
KINDS = {"dense": np.asarray, "rows": sparse.csr_matrix, "columns": sparse.csc_matrix}


def write(folder):
    """A file of each kind of matrix; since 0.8 also stores of zarr in both formats."""
    version = tuple(map(int, anndata.__version__.split(".")[:2]))
    for kind, made in KINDS.items():
        obs = pd.DataFrame(
            {
                "total": X.sum(1) + 1,
                "cell_type": pd.Categorical(list("xyxzzy"), categories=["z", "y", "x"]),
                "text": list("pqrstu"),
                "passed": [True, False] * 3,
            },
            index=[f"cell {i}" for i in range(6)],
        )
        if version >= (0, 8):
            obs["score"] = pd.array([1, None, 3, 4, 5, 6], dtype="Int64")
        some = anndata.AnnData(made(X), obs=obs, var=pd.DataFrame({"n": [1, 2, 3]}, index=["g1", "g2", "g3"]))
        if version >= (0, 7):
            some.layers["counts"] = made(2 * X)
        some.raw = some
        name = "{}.{}_{}".format(*version, kind)
        some.write(str(folder / (name + ".h5ad"))) if version < (0, 12) else some.write_h5ad(folder / (name + ".h5ad"))
        if version >= (0, 12):
            for number in (2, 3):
                anndata.settings.zarr_write_format = number
                some.write_zarr(folder / f"{name}_format_{number}.zarr")


write(Path(sys.argv[1]))
