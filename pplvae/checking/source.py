"""What the file of a program does with it: calls that find no parameters, or that cannot be made."""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair
from pplvae.checking.places import lines_of

_NOT_CALLED = ("RenyiELBO", "TraceGraph_ELBO", "ReweightedWakeSleep")  # as modules: they have no differentiable loss


def called_as_modules(pair: Pair) -> Iterator[Finding]:
    """`ELBO()(model, guide)`: of functions it finds no parameters, and some ELBOs have no such call."""
    programs = [_inner(program) for program in (pair.model, pair.guide)]
    file = pair.seen.places["model", ""].file
    names = [getattr(program, "__name__", "") for program in programs]
    of_modules = any(isinstance(program, nn.Module) for program in programs)
    for elbo, line, given in _calls(file):
        if elbo in _NOT_CALLED:
            reason = f"{elbo} has no `differentiable_loss`, so that it cannot be called as a module"
        elif given == names and not of_modules:
            reason = (
                f"`{elbo}()({', '.join(given)})` finds the parameters of modules, and these are functions or "
                "methods: it has no parameters, and an optimiser of it trains nothing"
            )
        else:
            continue
        cure = "fit = pplvae.fit(model, guide, rows)"
        yield Finding(
            "PV236",
            f"{reason}. Use `pplvae.fit`, Pyro's `SVI`, or make both programs nn.Modules with `forward`.",
            instead=cure,
            file=file,
            line=line,
        )


def _inner(program: Any) -> Any:
    while hasattr(program, "func"):
        program = program.func
    return inspect.unwrap(program)


def _calls(file: str) -> Iterator[tuple[str, int, list[str]]]:
    """Calls `Some_ELBO(...)(a, b)` in a file: the class, the line, and the last words of a and b."""
    try:
        tree = ast.parse("".join(lines_of(file)))
    except SyntaxError:  # a cell of a notebook with a magic command
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and len(node.args) == 2:
            elbo = _last_word(node.func.func)
            if elbo.endswith("ELBO") or elbo in _NOT_CALLED:
                yield elbo, node.lineno, [_last_word(argument) for argument in node.args]


def _last_word(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
