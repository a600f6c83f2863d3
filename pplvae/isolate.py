"""The only code that touches process state: param store, generators, validation flags, dtype, grad, modes, signals.

Everything public runs inside `isolated`, so a call leaves the process as it found it, also when it raises.
"""

import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

StoreState = dict[str, Any]  # Pyro's own: params and constraints by name

_OF_A_LIBRARYS_FUTURE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
_LIBRARIES = r"(torch|pyro|zuko)(\.|$)"


@contextmanager
def isolated(seed: int, *, store: StoreState | None = None, dtype: torch.dtype | None = None) -> Iterator[StoreState]:
    """Run a block with a param store, random generators, flags and default dtype of its own.

    Args:
        seed: seeds torch, NumPy and `random` inside the block.
        store: the param store's content inside the block; by default what the caller's store holds now. Parameters
            that the block creates are added to this dictionary and do not reach the caller's store.
        dtype: the default dtype inside the block, so that a program's `torch.zeros(3)` fits its rows.

    Yields:
        The content of the block's param store; up to date once the block has ended without an exception.
    """
    state = current_store() if store is None else store
    with ExitStack() as stack:
        stack.enter_context(generators_kept())
        stack.enter_context(_dtype_kept(dtype))
        stack.enter_context(_futures_unsaid())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_run_as_written())
        # Zero overrides: the context only restores the four flags, which importing zuko, say, would switch off.
        stack.enter_context(pyro.settings.context(**_validation_flags()))
        stack.enter_context(pyro.get_param_store().scope(state))  # type: ignore[arg-type]
        reseed(seed)
        yield state


def current_store() -> StoreState:
    """A shallow copy of the caller's param store: the same tensors under the same names."""
    return dict(pyro.get_param_store().get_state())


def empty_store() -> StoreState:
    """The state of a param store that holds nothing."""
    return {"params": {}, "constraints": {}}


def validation(on: bool) -> Any:
    """A context in which Pyro's and torch's argument checks are on or off."""
    return pyro.settings.context(**dict.fromkeys(_validation_flags(), on))


@contextmanager
def unwarned() -> Iterator[None]:
    """Leave out every warning of a block that runs a program in the machinery of a library, or imports a library.

    Under `-W error` a warning of the machinery would pass for a program that the machinery cannot follow. Nothing of
    the program's own is lost: it is also run as it is written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def import_zuko() -> Any:
    """The package zuko, imported so that validation stays as it is: on import, zuko switches torch's off for everybody.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    with pyro.settings.context(**_validation_flags()):
        try:
            import zuko
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("Flows are made by zuko: `pip install 'pplvae[flows]'`.", name="zuko") from error
    return zuko


def reseed(*seed: int) -> None:
    """Seed torch (all devices), NumPy and `random` from a tuple of integers. Only inside `isolated`."""
    words = np.random.SeedSequence([abs(part) for part in seed]).generate_state(2)
    torch.manual_seed(int(words[0]))
    reseed_beside_torch(int(words[1]))  # programs may use NumPy's global generator


def reseed_beside_torch(seed: int) -> None:
    """Seed NumPy and `random`, whose numbers no graph of torch operations draws. Only inside `isolated`."""
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def evaluation_mode(*programs: Callable[..., Any]) -> Iterator[None]:
    """Put every module that a program uses into eval mode, and back as it was at the end.

    Which modules a stranger's function holds cannot be known from outside, so each one is switched as it is first
    called; those that a program is, or is a method of, are switched at once.
    """
    found: dict[nn.Module, bool] = {}

    def switch(module: nn.Module, _args: Any = None) -> None:
        if module.training:
            found.setdefault(module, True)
            module.training = False

    for root in root_modules(*programs):
        for module in root.modules():
            switch(module)
    try:
        with before_each_module(switch):
            yield
    finally:
        for module in found:
            module.training = True


@contextmanager
def held_in_evaluation(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hold some modules, themselves and not what is in them, in eval mode."""
    switched = [module for module in modules if module.training]
    for module in switched:
        module.training = False
    try:
        yield
    finally:
        for module in switched:
            module.training = True


@contextmanager
def called_modules() -> Iterator[list[nn.Module]]:
    """Collect the modules that are called in a block, each once, in order: a stranger's function does not list them."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _args: Any) -> None:
        if all(module is not other for other in found):
            found.append(module)

    with before_each_module(note):
        yield found


@contextmanager
def calls_of_modules() -> Iterator[list[tuple[nn.Module, Any, Any]]]:
    """Collect what modules are given and what they give in a block, a call within another before that one."""
    found: list[tuple[nn.Module, Any, Any]] = []
    hook = register_module_forward_hook(lambda module, given, gives: found.append((module, given, gives)))
    try:
        with unwarned():  # as below
            yield found
    finally:
        hook.remove()


@contextmanager
def before_each_module(call: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Call a function of each module, and of its arguments, before it is run in a block."""
    hook = register_module_forward_pre_hook(call)
    try:
        with warnings.catch_warnings():
            # That it may be called twice for what `torch.compile` has wrapped.
            warnings.filterwarnings("ignore", message="Using `torch.compile")
            yield
    finally:
        hook.remove()


@contextmanager
def calls_through(kind: type[nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    """Run calls of one kind of module through a function of the plain call, the module and its arguments.

    A hook on all modules would do the same, but what `torch.compile` has wrapped warns of one.
    """
    own, plain = "__call__" in vars(kind), kind.__call__

    def through(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return call(plain, module, *args, **kwargs)

    kind.__call__ = through  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        if own:
            kind.__call__ = plain  # pyright: ignore[reportAttributeAccessIssue]
        else:
            del kind.__call__


def root_modules(*programs: Callable[..., Any]) -> list[nn.Module]:
    """The modules that the programs are, or are methods of: each once, in order."""
    roots: list[nn.Module] = []
    for fn in programs:
        inner: Any = fn
        while not isinstance(inner, nn.Module) and hasattr(inner, "func"):  # functools.partial, or a fitted program
            inner = inner.func
        for candidate in (inner, getattr(inner, "__self__", None)):
            if isinstance(candidate, nn.Module) and all(candidate is not root for root in roots):
                roots.append(candidate)
    return roots


def _validation_flags() -> dict[str, bool]:
    return {name: value for name, value in pyro.settings.get().items() if name.startswith("validate_")}


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the random generators as they were found, whatever a block does to them."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextmanager
def ended_like_ctrl_c() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` in a block when the process is asked to end: whatever heeds Ctrl-C heeds SIGTERM.

    Yields:
        The number of that signal, once it has come.
    """
    came: list[int] = []

    def end(number: int, _frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    with _handled({signal.SIGTERM: end}):
        yield came


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the end of a block, which must be short."""
    came: list[int] = []
    with _handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda number, _frame: came.append(number))):
        yield
    for number in came[:1]:
        signal.raise_signal(number)


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Handle signals otherwise in a block; other threads than the first neither receive any nor may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that Python has not set, and cannot set again
                signal.signal(number, handler)


@contextmanager
def _run_as_written() -> Iterator[None]:
    """Run modules and functions that `torch.compile` has wrapped as they are written.

    Neither hooks that switch modes, nor a graph of the whole step, nor torch.func reach into what it makes of them.
    """
    dynamo = sys.modules.get("torch._dynamo")  # to import it takes seconds; before that nothing is compiled
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    if dynamo is None or set_stance is None:
        yield
        return
    with set_stance("force_eager"), dynamo.config.patch(error_on_nested_fx_trace=False):
        yield


@contextmanager
def _futures_unsaid() -> Iterator[None]:
    """Leave out what libraries say of their own code's future: `-W error` would make exceptions of it."""
    with warnings.catch_warnings():
        for category in _OF_A_LIBRARYS_FUTURE:
            warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
        yield


@contextmanager
def _dtype_kept(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    try:
        if dtype is not None:
            torch.set_default_dtype(dtype)
        yield
    finally:
        torch.set_default_dtype(before)
