"""What in a program follows from what, read off the operations that it runs: no test on a few rows could exclude it."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, fx

from pplvae.errors import CaptureError
from pplvae.isolate import generators_kept, validation
from pplvae.programs.batch import Batch
from pplvae.programs.capture import Captured, is_random, writes
from pplvae.programs.reading import Program, run_guide, run_model
from pplvae.programs.sites import values_of


def depends_on_draws(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> bool:
    """Whether a result of a function follows from a random number that it draws; if nobody can tell, yes.

    Args:
        function: of tensors, to a sequence of tensors, drawing from torch's generator.
        inputs: what it is run on.
    """
    try:
        graph = Captured(function, inputs).graph.graph
    except CaptureError:
        return True
    following = _following(graph, filter(is_random, graph.nodes))
    return any(node in following for node in _outputs(graph))


def unmoved_priors(
    model: Program, guide: Program, batch: Batch, guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any]
) -> frozenset[str]:
    """Latents whose distribution in the model does not follow from the guide's own draw of them, through others or not.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        batch: a few rows.
        guide_sites: of the guide on them.
        model_sites: of the model, likewise.

    Returns:
        Their names; where the operations cannot be seen, only those whose order shows it.
    """
    ordered = drawn_in_order(guide_sites, model_sites)
    constants = {name: site["value"].detach() for name, site in guide_sites.items() if name in model_sites}
    if ordered >= constants.keys():
        return frozenset(ordered)

    def draws_and_priors(*tensors: Tensor) -> list[Tensor]:
        some = replace(batch, tensors=tensors)
        with torch.no_grad():
            with _Apart():
                drawn = run_guide(guide, some, {}, None)
            sites = run_model(model, some, values_of(drawn))
            return [drawn[name]["value"] for name in constants] + [
                scale_and_mask(sites[name]["fn"].log_prob(value), sites[name]["scale"], sites[name]["mask"])
                for name, value in constants.items()
            ]

    try:
        with validation(False), generators_kept():
            graph = Captured(draws_and_priors, batch.tensors).graph.graph
    except CaptureError:
        return frozenset(ordered)
    found, count = _outputs(graph), len(constants)
    triples = zip(constants, found[:count], found[count:], strict=True)
    return frozenset(ordered | {name for name, draw, prior in triples if prior not in _following(graph, [draw])})


def drawn_in_order(guide: Mapping[str, Any], model: Mapping[str, Any]) -> set[str]:
    """Latents of both programs at which the guide has drawn every latent that precedes them in the model."""
    ours, theirs = ([name for name, site in sites.items() if not site["is_observed"]] for sites in (guide, model))
    shared = [name for name in theirs if name in ours]
    return {name for k, name in enumerate(shared) if set(shared[:k]) <= set(ours[: ours.index(name)])}


class _Apart(Messenger):
    """Copy each draw, so that what follows from it can be told from what follows from its distribution."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and not site_is_subsample(msg):
            msg["value"] = msg["value"].clone()


def _outputs(graph: fx.Graph) -> list[Any]:
    (output,) = [node for node in graph.nodes if node.op == "output"]
    return list(output.args[0])


def _following(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """The sources and all nodes that follow from them, through what is written into memory too."""
    memory: dict[fx.Node, fx.Node] = {}  # of a view, the node that owns its memory
    reached, found = set(sources), set()
    for node in graph.nodes:
        memory[node] = memory[node.args[0]] if _is_view(node) else node
        if node in reached or any(memory[source] in reached for source in node.all_input_nodes):
            reached |= {node, memory[node]}
            if writes(node):
                reached |= {memory[source] for source in _written_by(node)}
        if memory[node] in reached:
            found.add(node)
    return found


def _is_view(node: fx.Node) -> bool:
    """Whether a node gives out the memory of its first argument, or what is in a list of such."""
    if node.target is operator.getitem:
        return True
    arguments = _arguments(node)
    return bool(arguments) and arguments[0].alias_info is not None and bool(node.args) and _is_node(node.args[0])


def _written_by(node: fx.Node) -> list[fx.Node]:
    named = [(argument, node.kwargs.get(argument.name)) for argument in _arguments(node)]
    given = [(argument, value) for (argument, _), value in zip(named, node.args, strict=False)] + named
    return [value for argument, value in given if _is_node(value) and argument.alias_info is not None]  # type: ignore[misc]


def _arguments(node: fx.Node) -> Sequence[Any]:
    schema = getattr(node.target, "_schema", None)
    return () if schema is None else schema.arguments


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)
