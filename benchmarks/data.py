"""Rows of the workloads, from the folder of shared data beside the checkout; digits come with scikit-learn."""

import os
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.measure import Missing

SHARED = Path(os.environ.get("PPLVAE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def digits() -> Tensor:
    """1797 rows of 64 grey values in [0, 1], shuffled."""
    return _shuffled(torch.as_tensor(load_digits().data / 16, dtype=torch.float32))


def mnist(part: str) -> Tensor:
    """Rows of the fixed binarisation of MNIST, 784 columns of 0 and 1, shuffled (its test rows are sorted by digit).

    Args:
        part: "train" (50 000 rows) or "test" (10 000).
    """
    archive = np.load(_file("mnist_static_binarized/mnist_static_binarized.npz"))
    return _shuffled(torch.as_tensor(np.unpackbits(archive[f"x_{part}"], axis=1), dtype=torch.float32))


def blood_cells() -> Tensor:
    """3774 cells by the counts of their 2000 most variable genes, shuffled."""
    archive = np.load(_file("pbmc_facs/pbmc_facs.npz"))
    indptr = archive["indptr"]
    counts = np.zeros((len(indptr) - 1, 16791), np.float32)
    counts[np.repeat(np.arange(len(counts)), np.diff(indptr)), archive["indices"]] = archive["data"]
    return _shuffled(torch.as_tensor(counts[:, archive["hvg"]]))


def _file(name: str) -> Path:
    if not (SHARED / name).exists():
        raise Missing(f"{SHARED / name} is not at hand")
    return SHARED / name


def _shuffled(rows: Tensor) -> Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
