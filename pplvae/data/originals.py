"""The public files of named data sets, as the arrays that are kept of them: see `convert`."""

import csv
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pplvae.data.readers import FASHION_ROWS, amat, idx
from pplvae.errors import DataError

Arrays = dict[str, np.ndarray]
Convert = Callable[[Sequence[Path]], Arrays]

_PARTS = ("train", "valid", "test")
_VARIABLE_GENES, _DISPERSION = 2000, 100.0
_NOTHING = -200  # what the sensors of the air report where they measured nothing
_LOWEST_KEY, _KEYS = 21, 88  # of a piano, as MIDI numbers them
_BIRDS = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")


def mnist_static(files: Sequence[Path]) -> Arrays:
    """Larochelle's three text files, eight pixels to a byte."""
    parts = amat(files, None).parts
    return {f"x_{part}": np.packbits(parts[part].reshape(-1, 784), axis=1) for part in _PARTS}


def fashion_first(files: Sequence[Path]) -> Arrays:
    """The first rows of the training images and labels."""
    table = idx([*files, *files], None)
    return {"x_train": table.parts["train"][:FASHION_ROWS], "y_train": table.labels["train"][:FASHION_ROWS]}


def omniglot(files: Sequence[Path]) -> Arrays:
    """Background and evaluation drawings: ink made bright, shrunk to the means of areas, split at random."""
    from PIL import Image  # imported late: few need it

    drawings = []
    for path in files:
        with np.load(path, allow_pickle=False) as archive:
            drawings.append(archive["images"])
    ink = ~np.concatenate(drawings)
    drawers = ink.shape[1]
    grey = np.uint8(255) * ink.reshape(-1, *ink.shape[2:])
    small = np.stack([np.asarray(Image.fromarray(one).resize((28, 28), Image.Resampling.BOX)) for one in grey])
    count = len(small)
    train = 3 * count // 4
    arrays: Arrays = {}
    for part, chosen in _split(count, {"train": train, "test": count - train}).items():
        arrays |= {f"x_{part}": small[chosen], f"y_{part}": (chosen // drawers).astype(np.int16)}
        arrays[f"drawer_{part}"] = (chosen % drawers).astype(np.uint8)
    return arrays


def frey_faces(files: Sequence[Path]) -> Arrays:
    """The frames, 28 × 20."""
    return {"x": np.asarray(_unpickled(files[0]), dtype=np.uint8).reshape(-1, 28, 20)}


def silhouettes(files: Sequence[Path]) -> Arrays:
    """Marlin's matrix: turned upright, the object made 1, split at random."""
    from scipy.io import loadmat  # imported late: SciPy takes a while

    matrix = loadmat(files[0])
    pictures = (1 - matrix["X"]).reshape(-1, 28, 28).transpose(0, 2, 1).astype(np.uint8)
    names = np.array([str(name[0]) for name in matrix["classnames"].ravel()])
    count = len(pictures)
    train, valid = 4100 * count // 8671, 2264 * count // 8671
    sizes = {"train": train, "valid": valid, "test": count - train - valid}
    arrays: Arrays = {"class_names": names}
    for part, chosen in _split(count, sizes).items():
        arrays |= {f"x_{part}": pictures[chosen], f"y_{part}": matrix["Y"].ravel()[chosen].astype(np.uint8)}
    return arrays


def pbmc_facs(files: Sequence[Path]) -> Arrays:
    """Sparse counts, labels and genes, and which genes vary most among the training cells."""
    whole = _from_r(files[0])["pbmc_facs"]
    arrays: Arrays = {}
    for prefix, ending in (("", ""), ("test_", "_test")):
        matrix = _sparse_of_r(whole[f"counts{ending}"])
        if not prefix:
            arrays["hvg"] = _variable_genes(matrix.toarray().astype(np.float64)).astype(np.int32)
        arrays |= _stored(prefix, matrix.data, matrix.indices, matrix.indptr)
        arrays[f"{prefix}shape"] = np.array(matrix.shape, np.int32)
        cells = whole[f"samples{ending}"]
        arrays |= {f"{prefix}cell_type": _text(cells["celltype"]), f"{prefix}subpop": _text(cells["subpop"])}
    genes = whole["genes"]
    return arrays | {"gene_symbol": _text(genes["symbol"]), "gene_id": _text(genes["ensembl"])}


def cortex_zeisel(files: Sequence[Path]) -> Arrays:
    """The larger matrix of counts, cells first."""
    whole = _from_r(files[0])["zeisel"]
    counts = whole["count.matrix.large"]
    return {
        "x": np.asarray(counts).T.astype(np.uint16),
        "gene": _text(counts.coords[counts.dims[0]].values),
        "cell_type": _text(whole["labels"]),
        "library_size": np.asarray(whole["library.size"]).astype(np.int32),
    }


def newsgroups(files: Sequence[Path]) -> Arrays:
    """Training documents, test documents, words. A line is a number and pairs "word:count", words counted from 1."""
    lines = files[2].read_text(encoding="utf-8").splitlines()
    arrays: Arrays = {"vocab": np.array([line.split(" ")[0] for line in lines if line.strip()])}
    for prefix, path in zip(("train_", "test_"), files[:2], strict=True):
        documents = [line.split()[1:] for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [sorted(tuple(map(int, pair.split(":"))) for pair in document) for document in documents if document]
        words, counts = np.array([pair for document in pairs for pair in document]).T
        arrays |= _stored(prefix, counts, words - 1, np.cumsum([0, *map(len, pairs)]))
    return arrays


def chorales(files: Sequence[Path]) -> Arrays:
    """Lists of notes at every step, as piano rolls of all sequences one after another, and their lengths."""
    arrays: Arrays = {}
    for part, sequences in _unpickled(files[0]).items():
        steps = [notes for sequence in sequences for notes in sequence]
        rolls = np.zeros((len(steps), _KEYS), np.uint8)
        for roll, notes in zip(rolls, steps, strict=True):
            roll[[int(note) - _LOWEST_KEY for note in notes]] = 1
        arrays |= {f"{part}_x": rolls, f"{part}_len": np.array([len(sequence) for sequence in sequences], np.int32)}
    return arrays


def air_quality(files: Sequence[Path]) -> Arrays:
    """Hours and sensors, NaN where nothing was measured."""
    with files[0].open(encoding="utf-8-sig", newline="") as file:
        head, *lines = (line for line in csv.reader(file) if line and line[0])
    values = np.array([[float(cell) for cell in line[2:15]] for line in lines], np.float32)
    values[values == _NOTHING] = np.nan
    hours = np.array([f"{line[0]}T{line[1]:0>8}" for line in lines], "datetime64[s]")
    return {"x": values, "columns": np.array(head[2:15]), "time": hours}


def penguins(files: Sequence[Path]) -> Arrays:
    """Four measurements of each bird, NaN where there is none, and what is known of it."""
    with files[0].open(encoding="utf-8", newline="") as file:
        birds = [{name: "" if cell == "NA" else cell for name, cell in bird.items()} for bird in csv.DictReader(file)]
    arrays = {name: np.array([bird[name] for bird in birds]) for name in ("species", "island", "sex")}
    values = np.array([[float(bird[name] or "nan") for name in _BIRDS] for bird in birds], np.float32)
    years = np.array([int(bird["year"]) for bird in birds], np.int16)
    return arrays | {"x": values, "columns": np.array(_BIRDS), "year": years}


def _split(count: int, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Positions of each part, sorted: of a permutation that stays the same in every version of NumPy."""
    order, found, start = np.random.RandomState(0).permutation(count), {}, 0
    for part, size in sizes.items():
        found[part] = np.sort(order[start : start + size])
        start += size
    return found


class _OnlyNumbers(pickle.Unpickler):
    """A pickle may call any function; this one may make NumPy's numbers and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("scalar", "_reconstruct"):
            return getattr(np._core.multiarray, name)  # pyright: ignore[reportAttributeAccessIssue]
        raise DataError(f"A pickle of numbers was expected, and this one asks for {module}.{name}: it was not read.")


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        return _OnlyNumbers(file, encoding="latin1").load()


def _from_r(path: Path) -> Any:
    try:
        import rdata  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{path.name!r} is a file of R: reading it needs rdata, `pip install 'pplvae[data]'`."
        ) from error
    return rdata.read_rda(path)


def _sparse_of_r(matrix: Any) -> Any:
    """Rows of a matrix that R stores by columns."""
    from scipy import sparse  # imported late: SciPy takes a while

    parts = (np.asarray(matrix.x), np.asarray(matrix.i), np.asarray(matrix.p))
    found = sparse.csc_array(parts, shape=tuple(int(size) for size in matrix.Dim)).tocsr()
    found.sort_indices()
    return found


def _stored(prefix: str, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> Arrays:
    return {
        f"{prefix}data": data.astype(np.uint16),
        f"{prefix}indices": indices.astype(np.uint16),
        f"{prefix}indptr": indptr.astype(np.int32),
    }


def _variable_genes(counts: np.ndarray) -> np.ndarray:
    """Genes by the variance of their clipped Pearson residuals, largest first (Lause et al., 2021)."""
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    residuals = (counts - expected) / np.sqrt(expected + expected**2 / _DISPERSION)
    most = np.sqrt(len(counts))
    variance = residuals.clip(-most, most).var(0)
    return np.argsort(-variance, kind="stable")[:_VARIABLE_GENES]


def _text(values: Any) -> np.ndarray:
    return np.array([str(value) for value in values])
