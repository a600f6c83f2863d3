"""The command line: demo, fit, compare, report. Each option is a keyword of the Python function of that name.

What a command runs is imported once its options have been read: help and typos do not wait for it.
"""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from pplvae.commands.spec import Spec, made, portable_data, portable_model, settled
from pplvae.commands.words import going_on, in_options
from pplvae.data import DATA_SETS
from pplvae.errors import PplvaeError, PplvaeWarning, printable
from pplvae.guides import GUIDES
from pplvae.isolate import ended_like_ctrl_c
from pplvae.likelihoods import LIKELIHOODS
from pplvae.models import MODELS
from pplvae.objectives import OBJECTIVES, named_objective
from pplvae.priors import PRIORS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row.\n\n"
    "Start with [bold]pplvae demo[/bold]. Exit status: 0 done; 2 an input was refused (the message says why); "
    "3 the fit's loss stopped being finite; 4 the second run is worse; 130 interrupted; 143 asked to end.",
)

_REFUSED, _NONFINITE, _WORSE, _INTERRUPTED, _TERMINATED = 2, 3, 4, 130, 143
_UNFINISHED = {"NONFINITE": _NONFINITE, "INTERRUPTED": _INTERRUPTED}  # by the name of the fit's status

_err = Console(stderr=True, highlight=False, soft_wrap=True)

RunFolder = Annotated[Path, typer.Argument(help="A run folder, written by `pplvae fit` or `pplvae demo`.")]
Seed = Annotated[int, typer.Option(min=0, help="Names all noise: the same seed gives the same bits.")]
Particles = Annotated[
    int | None,
    typer.Option(help="Monte Carlo draws per row. An even number; by default as many as --stderr needs."),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads for torch; by default torch's own choice.")]


@app.command()
def demo(
    run: Annotated[Path, typer.Option(help="Run folder to write (replaced if it exists).")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 300,
    seed: Seed = 0,
) -> None:
    """Fit a Bernoulli VAE to the digits bundled with scikit-learn, and report its amortisation gap, offline."""
    spec = {"model": "bernoulli-vae", "latent": 8, "data": "digits", "binarise": None, "labels": None, "scale": 1.0}
    words = ["fit", "--model", "bernoulli-vae", "--run", str(run), "--epochs", str(epochs), "--seed", str(seed)]
    _fit_to(run, spec, {"epochs": epochs, "seed": seed, "existing": "overwrite"}, words)
    _compare_in(run, ["compare", str(run), "--seed", str(seed)], {"seed": seed})
    from pplvae.commands.runs import report_of

    report_of(run)


@app.command()
def fit(
    data: Annotated[
        str,
        typer.Option(
            help=f"A path to a .npy, .npz, .parquet or text file (.csv, .tsv, ...), or one of {', '.join(DATA_SETS)}."
        ),
    ] = "digits",
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(MODELS)}; or yours, as [bold]my_file.py:MyVAE[/bold].")
    ] = "vae",
    likelihood: Annotated[
        str | None, typer.Option(help=f"p(v | h): {', '.join(LIKELIHOODS)}; by default what suits the values.")
    ] = None,
    prior: Annotated[str | None, typer.Option(help=f"p(h): {', '.join(PRIORS)}.")] = None,
    guide: Annotated[str | None, typer.Option(help=f"q(h; λ(v)): {', '.join(GUIDES)}.")] = None,
    run: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/fit"),
    latent: Annotated[int, typer.Option(min=1, help="Dimension of h.")] = 8,
    objective: Annotated[str, typer.Option(help=f"One of {', '.join(OBJECTIVES)}.")] = "TraceMeanField_ELBO",
    objective_particles: Annotated[int | None, typer.Option(help="Draws per row of the objective.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Step size of Adam.")] = 1e-3,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient of the loss, which is in nats per row.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop when the validation ELBO has not risen for so many epochs.")
    ] = None,
    compile: Annotated[
        bool, typer.Option(help="Put the training step through torch's compiler: seconds once, then faster steps.")
    ] = False,
    binarise: Annotated[
        str | None, typer.Option(help="none, threshold, fixed or stochastic; by default threshold for digits only.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Label column (text, .parquet) or array (.npz).")] = None,
    ids: Annotated[
        str | None,
        typer.Option(help="Column that says which row is which; by default an index, or one called id. '' for none."),
    ] = None,
    header: Annotated[
        bool | None, typer.Option(help="Whether a text begins with names of its columns; by default found out.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Values are divided by it: 255 for bytes.")] = 1.0,
    missing: Annotated[
        str | None,
        typer.Option(
            help="Missing values (NaN, empty fields): refuse; or mask, for a model whose programs take (v, observed). "
            "By default mask for air_quality_uci and penguins."
        ),
    ] = None,
    standardise: Annotated[
        bool | None,
        typer.Option(help="Give each column mean 0 and standard deviation 1: for columns with units, as a rule."),
    ] = None,
    existing: Annotated[str, typer.Option(help="If the folder holds a run: refuse, resume or overwrite.")] = "refuse",
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Fit a model and its guide to rows; write weights, history and settings to a run folder.

    A model of your own is a class with two Pyro programs as methods, `model(v)` and `guide(v)`, which is made with
    `visible=` (columns of the data) and `latent=` if its `__init__` takes them. Its file is run as Python: use files
    that you trust.
    """
    _set_threads(threads)
    spec = {"model": portable_model(model), "latent": latent, "data": portable_data(data)}
    spec |= {"binarise": binarise, "labels": labels, "ids": ids, "header": header, "standardise": standardise}
    spec |= {"likelihood": likelihood, "prior": prior, "guide": guide}
    options = {"objective": named_objective(objective, objective_particles), "epochs": epochs}
    options |= {"batch_size": batch_size, "lr": lr, "clip": clip}
    options |= {"patience": patience, "compile": compile, "seed": seed, "existing": existing}
    _fit_to(run, spec | {"scale": scale, "missing": missing}, options, sys.argv[1:])


@app.command()
def compare(
    run: RunFolder,
    other: Annotated[
        Path | None, typer.Argument(help="A second run that has been compared on the same rows: print the differences.")
    ] = None,
    families: Annotated[str, typer.Option(help="Richer families, by commas: full_covariance, flow, mixture.")] = "",
    evidence: Annotated[str, typer.Option(help="importance, ais, or none to leave log p(v) out.")] = "importance",
    screen: Annotated[float | None, typer.Option(help="Skip rows whose gap is below so many nats for sure.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="For a run whose model is a file that you have not named yourself, or have moved."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Even if the model's file has been edited since the fit.")] = False,
    margin: Annotated[float, typer.Option(help="Nats per row that may be lost. With OTHER.")] = 0.0,
    particles: Particles = None,
    stderr: Annotated[
        float,
        typer.Option(help="The largest Monte Carlo standard error of a row that is asked for, in nats."),
    ] = 0.1,
    tolerance: Annotated[
        float,
        typer.Option(help="Nats per row; a row has converged if the upper 95 % end of its shortfall is below that."),
    ] = 0.01,
    max_steps: Annotated[int, typer.Option(help="Steps of the search for each row's own guide, at most.")] = 3000,
    seed: Seed = 0,
    memory: Annotated[
        str | None,
        typer.Option(
            help='What the process may take beside the rows: a number of bytes, or text such as "2GiB". By default '
            "half of what there is, 8 GiB at most."
        ),
    ] = None,
    threads: Threads = None,
) -> None:
    """Optimise a guide for every train and test row of a run, and print where the nats go.

    Rows are written to the run folder as they are measured: interrupted, the same command goes on.

    With OTHER, compare two runs row by row instead, from what was saved; exit status 4 if OTHER's amortised ELBO is
    lower by more than the margin (one-sided, 1 %).
    """
    _set_threads(threads)
    if other is not None:
        from pplvae.commands.runs import compare_two

        raise typer.Exit(_WORSE if compare_two(run, other, margin) else 0)
    chosen = None if evidence == "none" else evidence
    options = {"seed": seed, "particles": particles, "stderr": stderr, "evidence": chosen}
    options |= {"tolerance": tolerance, "max_steps": max_steps, "memory": memory}
    options |= {"families": [name.strip() for name in families.split(",") if name.strip()]}
    named = None if model is None else portable_model(model)
    options |= {"screen": False if screen is None else screen}
    _compare_in(run, sys.argv[1:], options, named, force=force)


@app.command()
def report(run: RunFolder) -> None:
    """Write the HTML page of a run that has been compared."""
    from pplvae.commands.runs import report_of

    report_of(run)


def main() -> None:
    """Run the command line; refused input ends in one line and exit status 2, not in a traceback."""
    with warnings.catch_warnings(), ended_like_ctrl_c() as asked_to_end:
        warnings.showwarning = _show_warning
        try:
            app()
        except (PplvaeError, ValueError, ImportError, OSError) as error:
            _say(str(error))
            sys.exit(_REFUSED)
        except (KeyboardInterrupt, SystemExit) as leaving:
            status = _INTERRUPTED if _is_early(leaving) else getattr(leaving, "code", 0)
            if _is_early(leaving):
                _interrupted(going_on(sys.argv[1:], resume=False))
            sys.exit(_TERMINATED if asked_to_end and status == _INTERRUPTED else status)


def _show_warning(message: Warning | str, category: type[Warning], *_where: Any) -> None:
    _say(f"{message if category is PplvaeWarning else f'{category.__name__}: {message}'}", "yellow")


def _say(message: str, colour: str = "red") -> None:
    commands: Any = typer.main.get_command(app)
    options = {option.name for command in commands.commands.values() for option in command.params}
    _err.print(f"[bold {colour}]pplvae:[/bold {colour}] {escape(printable(in_options(message, options)))}")


def _fit_to(run: Path, spec: Spec, options: dict[str, Any], words: list[str]) -> None:
    try:
        data, program = made(spec, options["seed"])
        from pplvae.commands.runs import fit_to

        status = fit_to(run, settled(spec, data), data, program, options, going_on(words, resume=True))
    except KeyboardInterrupt:
        from pplvae.commands.runs import has_begun

        begun = options["existing"] == "refuse" and has_begun(run)
        raise _interrupted(going_on(words, resume=begun)) from None
    if status.name in _UNFINISHED:
        raise typer.Exit(_UNFINISHED[status.name])


def _compare_in(run: Path, words: list[str], options: dict[str, Any], model: str | None = None, **how: bool) -> None:
    try:
        from pplvae.commands.runs import compare_in

        compare_in(run, options, model, **how)
    except KeyboardInterrupt:
        raise _interrupted(going_on(words, resume=False)) from None


def _is_early(leaving: BaseException) -> bool:
    """Whether Ctrl-C came before a command that heeds it was at work; typer makes an exit of it, as a rule."""
    cause = getattr(leaving.__context__, "__cause__", None)
    return isinstance(leaving, KeyboardInterrupt) or isinstance(cause, KeyboardInterrupt)


def _interrupted(again: str) -> typer.Exit:
    _say(f"interrupted. Go on with `{again}`.")
    return typer.Exit(_INTERRUPTED)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
