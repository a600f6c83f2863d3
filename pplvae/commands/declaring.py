"""Commands made of functions: their options, their exit status, and what becomes of refused input and of Ctrl-C."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup

from pplvae._version import __version__
from pplvae.commands.options import Takes, in_python, keywords_from, with_options
from pplvae.commands.saying import Voice
from pplvae.commands.words import going_on, in_options, usage_in_words
from pplvae.data import DATA_SETS
from pplvae.errors import PplvaeError, RanksError, UnknownNameError
from pplvae.isolate import ended_like_ctrl_c
from pplvae.ranks.group import of_torchrun

REFUSED, NONFINITE, WORSE, FOUND, INTERRUPTED, TERMINATED = 2, 3, 4, 5, 130, 143
STATUSES = (
    "Exit status: 0 done; 2 an input was refused (the message says why); 3 the fit's loss stopped being finite; 4 the "
    "second run is worse; 5 `check` found errors or warnings, or `verify-distributed` something wrong; 130 "
    "interrupted; 143 asked to end."
)
REFUSALS = (PplvaeError, ValueError, ImportError, OSError)
Folder = typer.Option("--run", "--folder", help="Run folder to write; torchrun takes `--run` for an option of its own.")

# What several commands have.
RunFolder = Annotated[Path, typer.Argument(help="A run folder, written by `pplvae fit` or `pplvae demo`.")]
Model = Annotated[
    str | None, typer.Option(help="For a run whose model is a file that you have not named yourself, or have moved.")
]
Force = Annotated[bool, typer.Option("--force", help="Even if the model's file has been edited since the fit.")]
Others = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[OTHER]...", help="More runs that have been compared on the same rows."),
]
Parquet = Annotated[
    bool, typer.Option("--parquet", help="Write the rows to gap.parquet beside the page, too (needs pyarrow).")
]
Table = Annotated[
    str,
    typer.Option(
        help="A path to a .npy, .npz, .parquet, .h5ad, .zarr or text file (.csv, .tsv, ...), or one of "
        f"{', '.join(DATA_SETS)}."
    ),
]
Program = Annotated[
    str,
    typer.Argument(
        metavar="FILE.py:NAME",
        help="A class as of `pplvae fit`; an object with `model` and `guide`; or both by name, FILE.py:MODEL,GUIDE. "
        "Without a name, the functions `model` and `guide` of the file.",
    ),
]
Latent = Annotated[
    int | None, typer.Option(min=1, help="Dimension of h; by default what the model's class says, else 8.")
]
TensorBoardFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write the numbers of each epoch for TensorBoard, too (needs it installed)."),
]
Part = Annotated[str, typer.Option(help="Of which rows: train, valid or test.")]


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"pplvae {__version__}")
        raise typer.Exit
    return asked


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]

Found = tuple[int, dict[str, Any]]  # the exit status of a command, and what it tells in JSON
_COMMON = {
    "threads": (
        Annotated[int | None, typer.Option(min=1, help="CPU threads for torch; by default torch's own choice.")],
        None,
    ),
    "json": (
        Annotated[bool, typer.Option("--json", help="Print one JSON object; all else goes to standard error.")],
        False,
    ),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")], False),
}


class Interrupted(Exception):
    """Ctrl-C; its text is the command that goes on."""


class Verbs(TyperGroup):
    """The commands; what is mistyped is refused like all other input, with the nearest that there is."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the words before the command."""
        if not args:  # answered with the help
            return super().make_context(info_name, args, parent, **extra)
        with _mistyping_refused():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Read the words of the command, and carry it out."""
        with _mistyping_refused():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is asked for."""
        if args and args[0] not in self.commands and args[0][:1] != "-":
            shown = [name for name, command in self.commands.items() if not command.hidden]
            ctx.fail(str(UnknownNameError("command", args[0], shown)))
        return super().resolve_command(ctx, args)


@contextmanager
def _mistyping_refused() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not hasattr(error, "format_message"):  # that of all errors of typer's parser, and of no other
            raise
        message = usage_in_words(error)
        Voice().problem(message)
        Voice(json="--json" in sys.argv).answer(" ".join(sys.argv[1:2]), REFUSED, {"error": message})
        raise typer.Exit(REFUSED) from error


def command_of(
    app: typer.Typer, *takes: Takes, examples: tuple[str, str], on_ranks: bool = False
) -> Callable[..., Any]:
    """Make a command of a function that speaks through a voice, its first argument.

    Args:
        app: to which it is added.
        takes: keywords of Python functions that are its options, and reach it as `**keywords`.
        examples: commands that work, for its help.
        on_ranks: whether several processes that torchrun has started may do it together.
    """

    def register(work: Callable[..., Found]) -> Callable[..., None]:
        signature, keywords = with_options(work, takes, _COMMON), keywords_from(takes)

        @wraps(work)
        def command(*given: Any, **options: Any) -> None:
            bound = signature.bind(*given, **options)
            bound.apply_defaults()
            values = bound.arguments
            threads = values.pop("threads")
            if threads is not None:
                torch.set_num_threads(threads)
            voice = Voice(json=values.pop("json"), quiet=values.pop("quiet"))

            def carry_out() -> Found:
                if of_torchrun()[1] > 1 and not on_ranks:
                    raise ValueError(f"`pplvae {work.__name__}` runs in one process: start it without torchrun.")
                return work(voice, **{n: in_python(keywords[n], v) if n in keywords else v for n, v in values.items()})

            status, found = _ended(carry_out, voice, app)
            voice.answer(work.__name__.replace("_", "-"), status, found)
            if status:
                raise typer.Exit(status)

        vars(command)["__signature__"] = signature
        command.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
        epilog = "\n\n".join(["Examples:", *examples])
        return app.command(epilog=epilog)(command)

    return register


def in_words(app: typer.Typer, message: str) -> str:
    """A message of the Python functions, in the words of the command line."""
    commands: Any = typer.main.get_command(app)
    return in_options(message, {option.name for command in commands.commands.values() for option in command.params})


def is_early(leaving: BaseException) -> bool:
    """Whether Ctrl-C came before a command was at work; typer makes an exit of it, as a rule."""
    cause = getattr(leaving.__context__, "__cause__", None)
    return isinstance(leaving, KeyboardInterrupt) or isinstance(cause, KeyboardInterrupt)


def _ended(work: Callable[[], Found], voice: Voice, app: typer.Typer) -> Found:
    """What a command comes to; refused input ends in one line, not in a traceback."""
    with ended_like_ctrl_c() as asked_to_end:
        try:
            status, found = work()
        except REFUSALS as error:
            said = not isinstance(error, RanksError) or not error.elsewhere or not of_torchrun()[0]
            status, found = REFUSED, {"error": in_words(app, str(error))} if said else {}
        except (KeyboardInterrupt, Interrupted) as leaving:
            again = str(leaving) or going_on(sys.argv[1:], resume=False)
            status, found = INTERRUPTED, {"error": f"interrupted. Go on with `{again}`."}
    if "error" in found:
        voice.problem(found["error"])
    return TERMINATED if asked_to_end and status == INTERRUPTED else status, found
