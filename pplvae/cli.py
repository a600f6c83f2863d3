"""The command line: demo, fit, compare, report. Each option is a keyword of the Python function of that name."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

import pplvae
from pplvae.data import DATA_SETS, Data, Rows
from pplvae.errors import PplvaeError, ProgramError, StoreError, UnknownNameError
from pplvae.fit import digest
from pplvae.guides import GUIDES
from pplvae.isolate import isolated
from pplvae.likelihoods import LIKELIHOODS
from pplvae.models import MODELS
from pplvae.objectives import OBJECTIVES, named_objective
from pplvae.priors import PRIORS
from pplvae.store import HISTORY, RUN, occupied, open_datasets, read_json, read_spec
from pplvae.training import FitStatus

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row.\n\n"
    "Start with [bold]pplvae demo[/bold]. Exit status: 0 done; 2 an input was refused (the message says why); "
    "3 the fit's loss stopped being finite; 4 the second run is worse; 130 interrupted.",
)

_REFUSED, _NONFINITE, _WORSE, _INTERRUPTED = 2, 3, 4, 130
_PARTS = ("likelihood", "prior", "guide")
_SPEC, _COMPARISON, _PAGE = "command.json", "comparison.nc", "report.html"

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

RunFolder = Annotated[Path, typer.Argument(help="A run folder, written by `pplvae fit` or `pplvae demo`.")]
Seed = Annotated[int, typer.Option(help="Names all random numbers: the same seed gives the same bits.")]
Particles = Annotated[
    int | None, typer.Option(help="Draws per row for scoring, even; by default as many as --stderr needs.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads for torch; by default torch's own choice.")]


@app.command()
def demo(
    run: Annotated[Path, typer.Option(help="Run folder to write (replaced if it exists).")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = 300,
    seed: Seed = 0,
) -> None:
    """Fit a Bernoulli VAE to the digits bundled with scikit-learn, and report its amortisation gap, offline."""
    _fit_to(
        run,
        {"model": "bernoulli-vae", "latent": 8, "data": "digits", "binarise": None, "labels": None, "scale": 1.0},
        {"epochs": epochs, "seed": seed, "existing": "overwrite"},
    )
    _compare_in(run, {"seed": seed})
    _report_of(run)


@app.command()
def fit(
    data: Annotated[
        str, typer.Option(help=f"A path to a .npy, .npz, .csv or .parquet file, or one of {', '.join(DATA_SETS)}.")
    ] = "digits",
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(MODELS)}; or yours, as [bold]my_file.py:MyVAE[/bold].")
    ] = "vae",
    likelihood: Annotated[str | None, typer.Option(help=f"p(v | h): {', '.join(LIKELIHOODS)}.")] = None,
    prior: Annotated[str | None, typer.Option(help=f"p(h): {', '.join(PRIORS)}.")] = None,
    guide: Annotated[str | None, typer.Option(help=f"q(h; λ(v)): {', '.join(GUIDES)}.")] = None,
    run: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/fit"),
    latent: Annotated[int, typer.Option(help="Dimension of h.")] = 8,
    objective: Annotated[str, typer.Option(help=f"One of {', '.join(OBJECTIVES)}.")] = "TraceMeanField_ELBO",
    objective_particles: Annotated[int | None, typer.Option(help="Draws per row of the objective.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Step size of Adam.")] = 1e-3,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation ELBO.")
    ] = None,
    compile: Annotated[
        bool, typer.Option(help="Put the training step through torch's compiler: seconds once, then faster steps.")
    ] = False,
    binarise: Annotated[
        str | None, typer.Option(help="none, threshold, fixed or stochastic; by default threshold for digits only.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Label column (.csv, .parquet) or array (.npz).")] = None,
    scale: Annotated[float, typer.Option(help="Values are divided by it: 255 for bytes.")] = 1.0,
    missing: Annotated[
        str | None,
        typer.Option(
            help="Missing values (NaN, empty fields): refuse; or mask, for a model whose programs take (v, observed). "
            "By default mask for air_quality_uci and penguins."
        ),
    ] = None,
    seed: Seed = 0,
    existing: Annotated[str, typer.Option(help="If the folder holds a run: refuse, resume or overwrite.")] = "refuse",
    threads: Threads = None,
) -> None:
    """Fit a model and its guide to rows; write weights, history and settings to a run folder.

    A model of your own is a class with two Pyro programs as methods, `model(v)` and `guide(v)`, which is made with
    `visible=` (columns of the data) and `latent=` if its `__init__` takes them. Its file is run as Python: use files
    that you trust.
    """
    _set_threads(threads)
    spec = {"model": _portable(model), "latent": latent, "data": _portable_data(data)}
    spec |= {"binarise": binarise, "labels": labels}
    spec |= {"likelihood": likelihood, "prior": prior, "guide": guide}
    options = {"objective": named_objective(objective, objective_particles), "epochs": epochs}
    options |= {"batch_size": batch_size, "lr": lr, "clip": clip}
    options |= {"patience": patience, "compile": compile, "seed": seed, "existing": existing}
    _fit_to(run, spec | {"scale": scale, "missing": missing}, options)


@app.command()
def compare(
    run: RunFolder,
    other: Annotated[
        Path | None, typer.Argument(help="A second run that has been compared on the same rows: print the differences.")
    ] = None,
    seed: Seed = 0,
    particles: Particles = None,
    stderr: Annotated[float, typer.Option(help="Nats per row: the largest Monte Carlo standard error.")] = 0.1,
    families: Annotated[str, typer.Option(help="Richer families, by commas: full_covariance, flow, mixture.")] = "",
    evidence: Annotated[str, typer.Option(help="importance, ais, or none to leave log p(v) out.")] = "importance",
    screen: Annotated[float | None, typer.Option(help="Skip rows whose gap is below so many nats for sure.")] = None,
    margin: Annotated[float, typer.Option(help="With OTHER: nats per row that it may lose.")] = 0.0,
    tolerance: Annotated[float, typer.Option(help="Nats; smaller optimises each row longer.")] = 0.01,
    max_steps: Annotated[int, typer.Option(help="Optimisation steps per row at most.")] = 3000,
    threads: Threads = None,
) -> None:
    """Optimise a guide for every train and test row of a run, and print where the nats go.

    With OTHER, compare two runs row by row instead, from what was saved; exit status 4 if OTHER's amortised ELBO is
    lower by more than the margin (one-sided, 1 %).
    """
    _set_threads(threads)
    if other is not None:
        pair = pplvae.compare_runs(*(pplvae.load_comparison(folder / _COMPARISON) for folder in (run, other)))
        _out.print(str(pair), markup=False)
        raise typer.Exit(_WORSE if pair.worse(margin) else 0)
    chosen = None if evidence == "none" else evidence
    options = {"seed": seed, "particles": particles, "stderr": stderr, "evidence": chosen}
    options |= {"tolerance": tolerance, "max_steps": max_steps}
    options |= {"families": [name.strip() for name in families.split(",") if name.strip()]}
    _compare_in(run, options | {"screen": False if screen is None else screen})


@app.command()
def report(run: RunFolder) -> None:
    """Write the HTML page of a run that has been compared."""
    _report_of(run)


def main() -> None:
    """Run the command line; refused input ends in one line and exit status 2, not in a traceback."""
    try:
        app()
    except (PplvaeError, ValueError, ImportError) as error:
        _err.print(f"[bold red]pplvae:[/bold red] {_plain(error)}")
        sys.exit(_REFUSED)
    except KeyboardInterrupt:
        _err.print("[bold red]pplvae:[/bold red] interrupted.")
        sys.exit(_INTERRUPTED)


def _fit_to(run: Path, spec: dict[str, Any], options: dict[str, Any]) -> None:
    data = _load(spec, options["seed"])
    _out.print(str(data), markup=False)
    program = _build(spec, data, options["seed"])
    with occupied(run, run / _SPEC, spec | {"seed": options["seed"]}, options["existing"]):
        fitted = pplvae.fit(program.model, program.guide, data, run=run, progress=True, **options)
    if options["existing"] != "refuse":
        for name in (_COMPARISON, _PAGE):  # of the earlier fit
            (run / name).unlink(missing_ok=True)
    _out.print(repr(fitted), markup=False)
    _out.print(f"Run folder: {run}", markup=False)
    if fitted.status is FitStatus.NONFINITE:
        raise typer.Exit(_NONFINITE)
    if fitted.status is FitStatus.INTERRUPTED:
        _out.print(f"Go on with `--existing resume --run {run}`.", markup=False)
        raise typer.Exit(_INTERRUPTED)


def _compare_in(run: Path, options: dict[str, Any]) -> None:
    spec = read_spec(run / _SPEC)
    data = _load(spec, spec["seed"])
    _check_rows(run, data.train)
    program = _build(spec, data, spec["seed"])
    fitted = pplvae.load_fit(run, program.model, program.guide, data.train)
    result = pplvae.compare(fitted.model, fitted.guide, data, progress=True, **options)
    result.save(run / _COMPARISON)
    _out.print(f"\n{result}\n", markup=False)
    _out.print(f"Rows: {run / _COMPARISON}", markup=False)


def _check_rows(run: Path, train: Rows) -> None:
    """Refuse training rows that are not those of the fit; older runs do not say which these were."""
    known = read_json(run / RUN).get("settings", {}).get("rows_digest")
    if known is not None and known != digest(train):
        raise StoreError(
            f"{str(run)!r} was fitted to other training rows than the data have now. Put the data back as they were, "
            "or fit again."
        )


def _report_of(run: Path) -> None:
    result = pplvae.load_comparison(run / _COMPARISON)
    settings = read_json(run / RUN)["settings"] | read_json(run / _SPEC)["spec"]
    history = open_datasets(run / HISTORY, "history")["history"]
    _out.print(f"Page: {result.report(run / _PAGE, history=history, settings=settings)}", markup=False)


def _load(spec: dict[str, Any], seed: int) -> Data:
    names = ("binarise", "labels", "scale", "missing")
    return pplvae.load_data(spec["data"], seed=seed, **{name: spec[name] for name in names if name in spec})


def _build(spec: dict[str, Any], data: Data, seed: int) -> Any:
    """The model's class, made with what its constructor takes of the data's and the command's sizes."""
    kind = _model_class(spec["model"])
    sizes = {"visible": data.train.values.shape[-1], "latent": spec["latent"]}
    parts = {name: spec[name] for name in _PARTS if spec.get(name) is not None}
    takes = inspect.signature(kind).parameters
    fixed = [f"--{name}" for name in parts if name not in takes]
    if fixed:
        raise ProgramError(f"{spec['model']} has no choice of {', '.join(fixed)}; `--model vae` is composed of parts.")
    with isolated(seed):  # the same initial weights for the same seed
        program = kind(**{name: value for name, value in (sizes | parts).items() if name in takes})
    for part in ("model", "guide"):
        if not callable(getattr(program, part, None)):
            raise ProgramError(
                f"{spec['model']} has no method `{part}(v)`: it must have the Pyro programs model and guide."
            )
    return program


def _model_class(name: str) -> Callable[..., Any]:
    if name in MODELS:
        return MODELS[name]
    if ":" not in name:
        raise UnknownNameError("model", name, [*MODELS, "my_file.py:MyVAE"])
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ProgramError(f"There is no file {file!r} (of `--model {name}`).")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ProgramError(f"{file!r} is no Python file (of `--model {name}`).")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    if not hasattr(module, attribute):
        known = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise UnknownNameError(f"class in {file!r}", attribute, known or ["(it has no nn.Module)"])
    return getattr(module, attribute)


def _portable(model: str) -> str:
    """A file's absolute path, so that the run folder can be used from elsewhere."""
    file, colon, attribute = model.rpartition(":")
    return f"{Path(file).resolve()}{colon}{attribute}" if colon and Path(file).is_file() else model


def _portable_data(data: str) -> str:
    """Likewise for the rows; a name stays what `load_data` takes it for, whatever files lie around."""
    named = data.replace("-", "_") in DATA_SETS
    return str(Path(data).resolve()) if not named and Path(data).is_file() else data


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _plain(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error))
