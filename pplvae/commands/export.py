"""The rows of a result in a file for other tools, by its ending."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from pplvae.commands.folders import RESULTS, result_of, spec_of
from pplvae.commands.saying import Voice
from pplvae.data.annotated_files import names_of_rows
from pplvae.data.hdf5 import append_columns
from pplvae.errors import StoreError, UnknownNameError
from pplvae.netcdf import written_out
from pplvae.results.base import PREFIX, Result
from pplvae.results.observations import observations_of
from pplvae.store import write_whole


def export_from(voice: Voice, run: Path, to: Path, what: str, *, force: bool) -> dict[str, Any]:
    """Write the rows of a result that a run keeps.

    Args:
        voice: that says what there is to say.
        run: its folder.
        to: the file; a .csv or .parquet has a line for each row, a .nc the rows as xarray has them. A .h5ad is a copy
            of the one that the run was fitted to, with the rows' numbers in its table `obs`.
        what: which result.
        force: write over a file that is there.

    Raises:
        UnknownNameError: no such result, or an ending that nobody writes.
        StoreError: there is no such result yet, or a file is there already.
        ImportError: for .parquet, pyarrow is not installed.
    """
    if what not in RESULTS:
        raise UnknownNameError("result", what, RESULTS)
    if to.suffix.lower() not in _WRITERS:
        raise UnknownNameError("ending of a file", to.suffix, _WRITERS)
    if to.exists() and not force:
        raise StoreError(f"{str(to)!r} is there already. Choose another name, or add `--force` to write over it.")
    result: Result = result_of(run, RESULTS[what])
    writer = _WRITERS[to.suffix.lower()]
    write_whole(to, lambda temporary: writer(result, temporary, run))
    voice.line(f"{result.rows.sizes['row']} rows: {to}")
    columns = [str(name) for name in result.rows.data_vars]
    return {"run": str(run), "what": what, "file": str(to), "rows": result.rows.sizes["row"], "columns": columns}


def _csv(result: Result, path: Path, _run: Path) -> None:
    result.to_dataframe().to_csv(path)


def _parquet(result: Result, path: Path, _run: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "A .parquet file is written by pyarrow, which is not installed: `pip install 'pplvae[data]'`, or write a "
            ".csv or .nc."
        ) from error
    result.to_dataframe().to_parquet(path, engine="pyarrow")


def _netcdf(result: Result, path: Path, _run: Path) -> None:
    rows: xr.Dataset = written_out(path, result.rows)
    path.write_bytes(rows.to_netcdf(engine="h5netcdf"))


def _annotated(result: Result, path: Path, run: Path) -> None:
    spec = spec_of(run)
    source = Path(spec["data"])
    if source.suffix.lower() != ".h5ad":
        raise StoreError(
            f"A .h5ad is a copy of the file that a run was fitted to, with its rows' numbers beside, but this one was "
            f"fitted to {spec['data']!r}. Write a .csv, .parquet or .nc."
        )
    names = names_of_rows(source, spec.get("ids"))
    columns = observations_of(result.rows, names, repr(str(source)), PREFIX)
    shutil.copyfile(source, path)
    append_columns(path, columns)


_WRITERS: dict[str, Callable[[Result, Path, Path], None]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".nc": _netcdf,
    ".h5ad": _annotated,
}
