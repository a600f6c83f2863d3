"""Parameters: none, undeclared, out of reach of every gradient, or two under one name."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pplvae.checking.doors import found_in
from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair
from pplvae.training.preparation import undeclared

_MOST = 4  # names in a sentence


def none_declared(pair: Pair) -> Iterator[Finding]:
    """Programs without parameters."""
    if not pair.weights.parameters:
        yield Finding(
            "PV230",
            "The programs declare no parameters: `fit` refuses them, and `compare` measures them as they are.",
        )


def not_declared(pair: Pair) -> Iterator[Finding]:
    """Networks that are used and not declared."""
    for warning in undeclared(pair.weights, pair.called):
        yield found_in(warning, pair)


def out_of_reach(pair: Pair) -> Iterator[Finding]:
    """Parameters that are used and that no gradient reaches, and networks that are declared and not used."""
    missed = _missed(pair)
    cut = [name for name, parameter in missed.items() if id(parameter) in pair.run.used]
    if cut:
        yield Finding(
            "PV232",
            f"No gradient reaches the parameters {_listed(cut)}, though the programs use them: on the way there is a "
            "`detach()`, `.data` or `.item()`. A fit would leave them as they are.",
            *_whose(cut[0], pair),
        )
    declared = {name: {n for _, n in pair.seen.declared if _network(n) == name} for name in _networks(pair)}
    for name, parameters in declared.items():
        if all(_plain(one) in missed and _plain(one) not in cut for one in parameters):
            yield Finding(
                "PV233",
                f"The programs declare {name!r}, and on these rows use it nowhere, or under `no_grad` only.",
                *next(key for key in pair.seen.declared if _network(key[1]) == name),
            )


def _missed(pair: Pair) -> dict[str, Tensor]:
    """Parameters of these programs that the ELBO has no gradient to, by name."""
    found = {_plain(name): parameter for name, parameter in pair.weights.parameters.items()}
    sites = [*pair.run.guide.values(), *pair.run.model.values()]
    terms = [site["fn"].log_prob(site["value"]) for site in sites]
    # What a baseline is made of is trained by a loss of its own.
    terms += [
        site["infer"]["baseline"].get("baseline_value") for site in sites if (site["infer"] or {}).get("baseline")
    ]
    total = sum((term.sum() for term in terms if isinstance(term, Tensor)), torch.zeros(()))
    if not found or not total.requires_grad:
        return found
    slopes = torch.autograd.grad(total, [*found.values()], allow_unused=True)
    return {name: parameter for (name, parameter), slope in zip(found.items(), slopes, strict=True) if slope is None}


def _networks(pair: Pair) -> list[str]:
    return [*dict.fromkeys(_network(name) for _, name in pair.seen.declared)]


def _network(name: str) -> str:
    """The name under which a network was registered, of one of its parameters."""
    return name.split("$$$")[0]


def two_of_one_name(pair: Pair) -> Iterator[Finding]:
    """Names in the param store that stand for something else than what is declared under them."""
    twice, old = [], []
    for (program, name), one in pair.seen.declared.items():
        several = len(pair.seen.networks.get(name, ())) > 1
        other_shape = one.given.shape != one.held.shape
        if several or (other_shape and (_other(program), name) in pair.seen.declared):
            twice.append((program, name))
        elif other_shape or (isinstance(one.given, nn.Parameter) and not _is_held(one.given, one.held)):
            old.append((program, name))
    for known, module in _by_module(twice):
        yield Finding(
            "PV234",
            f"The name {module!r} stands for more than one network or shape in the param store. The first that was "
            "registered is trained, the others are not. Give each a name of its own, and make networks outside the "
            "programs, once.",
            *known,
        )
    for known, module in _by_module(old):
        yield Finding(
            "PV235",
            f"Under the name {module!r} the param store holds other tensors than the {known[0]} has now, of an earlier "
            "model perhaps. Pyro's `SVI` would train those, and these stay as they are: call "
            "`pyro.clear_param_store()`, or make models under `pyro.get_param_store().scope()`.",
            *known,
            "pyro.clear_param_store()",
        )


def _is_held(given: Tensor, held: Tensor) -> bool:
    return given is held or given.data_ptr() == held.data_ptr()


def _by_module(names: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], str]]:
    """One for all parameters of a network: that of its first, and the network's name."""
    told = set()
    for program, name in names:
        module = _network(name)
        if module not in told:
            told.add(module)
            yield (program, name), module


def _other(program: str) -> str:
    return "guide" if program == "model" else "model"


def _plain(name: str) -> str:
    """The name of a parameter as a user knows it."""
    return name.removeprefix("param.").replace("$$$", ".")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST]))
    return shown + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _whose(name: str, pair: Pair) -> tuple[str, str]:
    """Which program declares a parameter, and its name there."""
    return next(((program, n) for program, n in pair.seen.places if n and _plain(n) == name), ("", name))
