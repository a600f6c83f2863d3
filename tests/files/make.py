"""Make an archive with one file of each kind in the present format: `python tests/files/make.py`.

`tests/test_formats.py` reads the archives of all formats. That of a format is made by the version that raises
`store.FORMAT`, and again until that version is released. From then on it stays as it is: it stands for the files that
people have.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent.parent)]

from contracts.test_results import CASES, rows_of, world  # noqa: E402

import pplvae  # noqa: E402
from pplvae.models import FactorAnalysis  # noqa: E402
from pplvae.store import FORMAT  # noqa: E402

FIT = {"epochs": 2, "batch_size": 4, "seed": 0}


def programs():
    """The programs of the run folder."""
    torch.manual_seed(0)
    return FactorAnalysis(3, 2).double()


def sums(result):
    """A number for each column of numbers of a result."""
    columns = {str(name): column.values for name, column in result.rows.data_vars.items()}
    return {name: float(np.nansum(values)) for name, values in columns.items() if values.dtype.kind == "f"}


def make(folder):
    """Write every kind of file, and what must be found in them."""
    model, guide, v = world()
    expected = {}
    for name, case in CASES.items():
        result = case.make(model, guide, rows_of(v[: max(4, case.fewest)]))
        result.save(folder / f"{name.replace(' ', '_')}.nc")
        expected[name] = sums(result)
    rows, linear = v[:8, :3].contiguous(), programs()
    np.save(folder / "rows.npy", rows.numpy())
    fit = pplvae.fit(linear.model, linear.guide, rows, run=folder / "run", **FIT)
    weights = pplvae.log_weights(fit.model, fit.guide, rows)
    expected["run"] = {"log_weights": float(weights.sum())}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
        shutil.make_archive(str(HERE / f"format_{FORMAT}"), "zip", temporary)
