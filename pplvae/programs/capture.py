"""A function of tensors, run once and kept as the graph of torch operations that it ran: its Python is paid for once.

What the function reads from elsewhere (parameters, buffers, tensors in closures) stays live: the graph sees what is
written into them later. What is no tensor (numbers, branches taken, the size of a batch) is frozen as it was.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pplvae.errors import CaptureError, PplvaeWarning
from pplvae.isolate import unwarned
from pplvae.programs.price import Until

_aten = torch.ops.aten
# Views that may reach beyond their source, or change the sign of what they show.
_NOT_AS_THEY_LIE = (_aten.as_strided.default, _aten._conj.default, _aten._neg_view.default)
_OF_SHAPE_ONLY = (_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default, _aten.new_zeros.default)

# When `Replayed` captures: each call counts its numbers, and _CALL for its Python; at _WORTH in all it captures. That
# takes 0.05 to 0.1 s, 1 s more in a new process, and saves a quarter to a half of every later call.
_WORTH, _CALL = 2**22, 2**15
_UNCHECKED = 100
CAPTURED_TOLERANCE, COMPILED_TOLERANCE = 1e-5, 1e-4  # relative to the largest number; a compiler rounds differently


class Captured:
    """A graph of torch operations, with the tensors that it read from elsewhere.

    Args:
        function: of tensors, to a sequence of tensors. It may differentiate, and draw from torch's generator.
        inputs: what it is run on; the graph is one for their shapes, dtypes and device.
        seconds: after which the capture is given up.

    Attributes:
        graph: takes the inputs, then `bound`.
        bound: tensors that the function read from elsewhere, and what depends on nothing.

    Raises:
        CaptureError: the function failed under capture, or was too long; the usual reason is a Python branch on a
            tensor's value.
    """

    def __init__(
        self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], seconds: float = math.inf
    ) -> None:
        try:
            with unwarned(), Until(seconds):
                self.graph = _traced(function, inputs)
            self.bound = self._simplified()
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(clause(error)) from error

    def _simplified(self) -> list[Tensor]:
        bound = _lift_attributes(self.graph)
        _drop_aliases(self.graph)
        _fold_constants(self.graph, bound)
        _copy_what_is_kept(self.graph)
        kept = _drop_unused(self.graph, bound)
        self.graph.recompile()
        return kept

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph, without recording gradients."""
        with torch.no_grad():
            return self.graph.forward(*inputs, *self.bound)


def _traced(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> fx.GraphModule:
    # Imported late: it takes a second.
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    # torch notes the shape of every result in a mode for fake tensors, and makes one each time unless one is set.
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        # Through a lambda, since a method's own argument would be counted among the inputs.
        return make_fx(lambda *some: function(*some))(*inputs)


def clause(error: Exception) -> str:
    """Why a function could not be captured, or a graph not be run, in a clause."""
    text = str(error).strip().split("\n")[0]
    if "data-dependent" in text or "_local_scalar_dense" in text:
        return "a Python branch, or a number, is taken from a tensor's value (`if x.sum() > 0`, `.item()`, `float(x)`)"
    return f"{type(error).__name__}: {text}"


_Bound = dict[fx.Node, Tensor]  # inputs of the graph beside those of the function


def _add_input(graph: fx.GraphModule, name: str, like: fx.Node) -> fx.Node:
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    with graph.graph.inserting_after(last):
        added = graph.graph.placeholder(name)
    added.meta = dict(like.meta)
    return added


def _lift_attributes(graph: fx.GraphModule) -> _Bound:
    """Turn tensors that the graph holds as attributes into inputs: looked up once, and seen by a compiler."""
    inputs: dict[str, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            name = str(node.target)
            if name not in inputs:
                inputs[name] = _add_input(graph, f"held_{name.replace('.', '_')}", node)
            node.replace_all_uses_with(inputs[name])
            graph.graph.erase_node(node)
    bound = {node: getattr(graph, name) for name, node in inputs.items()}
    for name in inputs:
        delattr(graph, name)  # a compiler would take it for one more input, in the same memory
    return bound


def _drop_aliases(graph: fx.GraphModule) -> None:
    """Replace a view by the first tensor on its way that lies in the same memory in the same way: the same numbers."""
    for node in list(graph.graph.nodes):
        first = source = node
        while _is_view(source):
            source = source.args[0]
            first = source if _lies_as(node, source) else first
        if first is not node:
            node.replace_all_uses_with(first)


def _is_view(node: fx.Node) -> bool:
    """Whether a node gives out the memory of its first argument, without writing into it."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.returns or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    shared = schema.returns[0].alias_info
    return shared is not None and not shared.is_write and node.target not in _NOT_AS_THEY_LIE


def _lies_as(node: fx.Node, other: fx.Node) -> bool:
    ours, theirs = node.meta.get("val"), other.meta.get("val")
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return False
    return (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


def _fold_constants(graph: fx.GraphModule, bound: _Bound) -> None:
    """Bind the results of operations on nothing but numbers: a prior's scale, the gradient of a mean."""
    written = _ever_written(graph)
    known: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in written or writes(node) or is_random(node):
            continue
        # A literal of the function, such as `torch.tensor(1.0)`, is the same each time; other tensors are live.
        if node.target is _aten.lift_fresh_copy.default and node.args[0] in bound:
            known[node] = bound[node.args[0]].clone()  # type: ignore[index]
        elif node.target in _OF_SHAPE_ONLY:
            known[node] = _compute(node, {source: _blank(source) for source in node.all_input_nodes})
        elif all(source in known for source in node.all_input_nodes):
            known[node] = _compute(node, known)
    for node, value in known.items():
        if isinstance(value, Tensor) and any(user not in known for user in node.users):
            added = _add_input(graph, f"constant_{node.name}", node)
            node.replace_all_uses_with(added)
            bound[added] = value


def _compute(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    with torch.no_grad():
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: known[source])
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _blank(node: fx.Node) -> Tensor:
    like = node.meta["val"]
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)


def _copy_what_is_kept(graph: fx.GraphModule) -> None:
    """Give out copies of inputs and constants: whoever writes into a result must not change the next one."""
    (output,) = [node for node in graph.graph.nodes if node.op == "output"]
    for node in output.all_input_nodes:
        if node.op == "placeholder":
            with graph.graph.inserting_before(output):
                copy = graph.graph.call_function(_aten.clone.default, (node,))
            output.replace_input_with(node, copy)


def _drop_unused(graph: fx.GraphModule, bound: _Bound) -> list[Tensor]:
    # A draw that nothing uses still moves the generator on.
    graph.graph.eliminate_dead_code(is_impure_node=lambda node: node.is_impure() or is_random(node))
    for node in [node for node in bound if not node.users]:
        graph.graph.erase_node(node)
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    return [bound[node] for node in inputs if node in bound]


def writes(node: fx.Node) -> bool:
    """Whether an operation writes into one of its inputs."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def is_random(node: fx.Node) -> bool:
    """Whether an operation draws from torch's generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _ever_written(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose memory an operation of the graph may write to, through views perhaps."""
    found: set[fx.Node] = set()
    waiting = [source for node in graph.graph.nodes if writes(node) for source in node.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


class Replayed:
    """A function of tensors that is captured once it has been called often enough on the same shapes to be worth it.

    The graph is held against the function when it is made and at every hundredth call from then on; a function that
    cannot be captured, or whose graph cannot be run or gives other numbers, is called as it is.

    Args:
        function: of tensors, to a sequence of tensors; always the same for the same inputs.
        compile: put the graph through torch's compiler: seconds once (kept on disk), for thousands of calls.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *, compile: bool = False) -> None:
        self._function, self._compile = function, compile
        self._graphs: dict[Any, Callable[..., Sequence[Tensor]]] = {}
        self._calls: dict[Any, int] = {}
        self._capturable = True

    def __call__(self, *inputs: Tensor, size: int = 0) -> Sequence[Tensor]:
        """The function's values, without gradients.

        Args:
            inputs: of the function.
            size: how many numbers a call goes through, beside the inputs, which says when a capture is worth it.
        """
        kind = _kind(inputs)
        # Shapes alone say when: the clock would make it another run's rounding.
        plain_first = -(-_WORTH // (_CALL + size + sum(tensor.numel() for tensor in inputs)))
        count = self._calls[kind] = self._calls.get(kind, -1) + 1
        if self._capturable and count == plain_first:
            try:
                captured = Captured(self._function, inputs)
                self._graphs[kind] = compiled(captured, inputs) if self._compile else captured
            except CaptureError as error:
                self._give_up(f"Not compiled: {error}." if self._compile else "")
        if kind not in self._graphs:
            return self._plain(inputs)
        try:
            found = self._graphs[kind](*inputs)
        except Exception as error:  # a kernel that cannot be run again, such as that of an LSTM on a CPU
            self._give_up(f"Not compiled: {clause(error)}." if self._compile else "")
            return self._plain(inputs)
        if (count - plain_first) % _UNCHECKED == 0:
            plain = self._plain(inputs)
            tolerance = COMPILED_TOLERANCE if self._compile else CAPTURED_TOLERANCE
            if not all(agree(ours, theirs, tolerance) for ours, theirs in zip(found, plain, strict=True)):
                self._give_up(
                    "Replayed, a model gave other numbers than when it is run: it depends on something that is no "
                    "tensor, such as a Python number that changes. From now on it is run as it is written, slower."
                )
                return plain
        return found

    def _give_up(self, warning: str) -> None:
        self._capturable = False
        self._graphs.clear()
        if warning:
            warnings.warn(warning, PplvaeWarning, stacklevel=3)

    def _plain(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [value.detach() for value in self._function(*inputs)]


def _kind(inputs: Sequence[Tensor]) -> Any:
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs)


def agree(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by no more than so much of the largest number of the second."""
    largest = max(float(other.abs().nan_to_num(0.0, 0.0).max()), 1e-8)
    return torch.allclose(one, other, rtol=0, atol=tolerance * largest, equal_nan=True)


def compiled(captured: Captured, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The same graph through torch's compiler, which may fuse and round differently; its work is kept on disk.

    Args:
        captured: the graph.
        inputs: of the shapes that it will be called with.

    Raises:
        CaptureError: the compiler failed: often there is no C++ compiler.
    """
    bound = [tensor.detach() for tensor in captured.bound]
    try:
        with unwarned():
            from torch import _inductor  # imported late: it takes seconds
            from torch._inductor import config

        # Draws come from torch's generator, as in the program: the same seed gives the same draws.
        with torch.no_grad(), config.patch(fallback_random=True), unwarned():
            run = _inductor.compile(captured.graph, [*(tensor.detach() for tensor in inputs), *bound])
    except Exception as error:
        raise CaptureError(f"the compiler raised {clause(error)}") from error

    def call(*inputs: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return run(*inputs, *bound)  # type: ignore[operator]

    return call
