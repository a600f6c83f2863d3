"""Before the first step: bring a pair to its rows, run it once, and collect what there is to train."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pplvae.data import Rows
from pplvae.errors import PplvaeWarning, ProgramError, RowwiseError
from pplvae.isolate import StoreState, called_modules, empty_store, evaluation_mode, root_modules
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair, scaling_plate_size
from pplvae.programs.opening import floating_dtype
from pplvae.programs.reading import Layout, Program, log_extra, log_guide, log_model, run_guide
from pplvae.programs.sites import values_of
from pplvae.programs.support import check_support
from pplvae.training.weights import Fitted, Weights


@dataclass
class Start:
    """What the fit knows of the programs after it has run them once.

    Attributes:
        weights: all tensors of the pair.
        layout: where its rows lie; None for a pair that cannot be scored row by row.
        plate_size: size of a data plate that scales a minibatch up to it; None if no plate scales.
        trained: those of the parameters that the fit moves.
        held: modules that are not to change in any way: in eval mode, for their running means.
        modules: those that the programs call.
    """

    weights: Weights
    layout: Layout | None
    plate_size: int | None
    trained: dict[str, Tensor] = field(default_factory=dict)
    held: list[nn.Module] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trained = self.trained or self.weights.parameters


def follow_rows(model: Program, guide: Program, rows: Rows) -> torch.dtype | None:
    """Bring the modules to the rows' device and floating dtype, and return that dtype."""
    dtype = floating_dtype(rows.tensors)
    for root in root_modules(model, guide):
        root.to(device=rows.values.device, dtype=dtype)
    return dtype


def merged_stores(model: Program, guide: Program) -> StoreState:
    """An empty param store, or what earlier fits of the two programs left in theirs."""
    merged = empty_store()
    for program in (model, guide):
        if isinstance(program, Fitted):
            # New leaves, so that the earlier fit keeps its own; what belongs to a module is trained in place.
            for name, value in program.store["params"].items():
                leaf = value if isinstance(value, nn.Parameter) else value.detach().clone().requires_grad_()
                merged["params"].setdefault(name, leaf)
            merged["constraints"].update(program.store["constraints"])
    return merged


def prepare(model: Program, guide: Program, train: Rows, held_out: Rows | None) -> Start:
    """Run the programs once, so that their parameters exist, and check them and the rows."""
    with evaluation_mode(model, guide), called_modules() as called:
        try:
            layout = inspect_pair(model, guide, train.tensors, needs_latents=False)
        except RowwiseError:
            if held_out is not None:
                raise
            layout = None
        if layout is not None and held_out is not None:
            check_support(model, guide, layout, held_out.tensors)
        size = scaling_plate_size(model, guide, train.tensors)
    weights = Weights((model, guide), called)
    if not weights.parameters:
        raise ProgramError(
            "The programs declare no parameters, so there is nothing to fit. Make them (methods of) an nn.Module, or "
            'register networks with `pyro.module("decoder", decoder)` and tensors with `pyro.param`.',
            code="PV230",
        )
    for warning in undeclared(weights, called):
        warnings.warn(warning, stacklevel=3)
    return Start(weights, layout, size, modules=called)


def hold_model(model: Program, guide: Program, rows: Rows, start: Start) -> None:
    """Let the fit change only parameters, and modules in train mode, that the guide uses and the model does not.

    Raises:
        RowwiseError: the pair cannot be scored row by row, so the two programs cannot be told apart.
        ProgramError: the guide has no parameters of its own.
    """
    if start.layout is None:
        raise RowwiseError("To train the guide alone, the pair must be one that can be scored row by row.")
    if not start.layout.guide:
        raise ProgramError("The guide has no latents, so there is no guide to train alone.")
    batch, parameters = Batch.of([tensor[:3] for tensor in rows.tensors]), start.weights.parameters
    with evaluation_mode(model, guide):
        with called_modules() as in_guide:
            sites = run_guide(guide, batch, start.layout.guide, (0,))
        log_q = log_guide(sites, start.layout).sum() + sum(value.sum() for value in values_of(sites).values())
        log_q = log_q + log_extra(sites)
        values = {name: value.detach() for name, value in values_of(sites).items()}
        with called_modules() as in_model:
            log_p, _ = log_model(model, batch, values, start.layout)
    of_guide, of_model = (
        torch.autograd.grad(value, list(parameters.values()), allow_unused=True) if value.requires_grad else ()
        for value in (log_q, log_p.sum())
    )
    shared = [name for name, slope in zip(parameters, of_model, strict=False) if slope is not None]
    found = {
        name: parameters[name]
        for name, slope in zip(parameters, of_guide, strict=False)
        if slope is not None and name not in shared
    }
    if not found:
        raise ProgramError(
            "The guide has no parameters that the model does not use too, so it cannot be trained alone."
        )
    start.trained = found
    start.held = [module for module in in_model if all(module is not other for other in in_guide)]


def undeclared(weights: Weights, called: list[nn.Module]) -> Iterator[PplvaeWarning]:
    """Networks that the programs call but do not declare: they would silently not be trained."""
    declared = {id(parameter) for parameter in weights.parameters.values()}
    forgotten = [
        repr(module)
        for module in called
        if any(p.requires_grad and id(p) not in declared for p in module.parameters(recurse=False))
    ]
    if forgotten:
        yield PplvaeWarning(
            f"The programs use {', '.join(forgotten[:3])} without declaring it, so it is not trained. Register it with "
            '`pyro.module("name", network)`, or, if it is frozen on purpose, set `requires_grad_(False)`.',
            code="PV231",
            at=("", forgotten[0]),
            instead='pyro.module("name", network)',
        )
