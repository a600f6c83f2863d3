"""What in a program follows from what, read off the operations that it runs: no test on a few rows could exclude it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pplvae.isolate import generators_kept, unwarned, validation
from pplvae.programs.batch import Batch
from pplvae.programs.reading import Program, run_guide, run_model
from pplvae.programs.sites import values_of

Sources = int  # a set of numbered sources: bit k stands for source k
_EVERY_DRAW: Sources = 1


def depends_on_draws(function: Callable[[], Sequence[Tensor]]) -> bool:
    """Whether a result of a function follows from a random number that it draws; if nobody can tell, yes.

    Args:
        function: run once; gives tensors, drawing from torch's generator.
    """
    try:
        with unwarned(), _Following(of_draws=_EVERY_DRAW) as following:
            return any(following.sources(value) for value in function())
    except Exception:  # an operation that cannot be followed; what else is wrong with a program has been said before
        return True


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
    own = {name: 1 << k for k, name in enumerate(constants)}
    try:
        with validation(False), generators_kept(), torch.no_grad(), unwarned(), _Following() as following:
            with _Apart(following, own):
                drawn = run_guide(guide, batch, {}, None)
            sites = run_model(model, batch, values_of(drawn))
            priors = {
                name: scale_and_mask(sites[name]["fn"].log_prob(value), sites[name]["scale"], sites[name]["mask"])
                for name, value in constants.items()
            }
            unmoved = {name for name, prior in priors.items() if not following.sources(prior) & own[name]}
    except Exception:  # as above
        return frozenset(ordered)
    return frozenset(ordered | unmoved)


def drawn_in_order(guide: Mapping[str, Any], model: Mapping[str, Any]) -> set[str]:
    """Latents of both programs at which the guide has drawn every latent that precedes them in the model."""
    ours, theirs = ([name for name, site in sites.items() if not site["is_observed"]] for sites in (guide, model))
    place = {name: k for k, name in enumerate(ours)}
    found, latest = set(), -1
    for name in theirs:
        if name in place:
            if latest < place[name]:
                found.add(name)
            latest = max(latest, place[name])
    return found


class _Apart(Messenger):
    """Copy each draw, so that what follows from it can be told from what follows from its distribution.

    Args:
        following: notes the copies.
        own: the source that the draw of each latent counts as.
    """

    def __init__(self, following: "_Following", own: Mapping[str, Sources]) -> None:
        super().__init__()
        self._following, self._own = following, own

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and not site_is_subsample(msg):
            msg["value"] = msg["value"].clone()
            self._following.add(msg["value"], self._own.get(msg["name"], 0))


class _Following(TorchDispatchMode):
    """Follow sources through operations, views and what is written into memory too, while these are run.

    What follows from a source is noted of the memory in which it lies. That is kept, so that no other tensor gets it.

    Args:
        of_draws: the source that every random number counts as; none by default.
    """

    def __init__(self, of_draws: Sources = 0) -> None:
        super().__init__()
        self._of_draws = of_draws
        self._memory: dict[int, tuple[Any, Sources]] = {}
        self._in_python: Sources = 0  # of numbers taken out of tensors: whatever comes later may hang on them
        self._escapes = _Escapes(self)

    def __enter__(self) -> "_Following":
        self._escapes.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._escapes.__exit__(*raised)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, which takes seconds, to keep it out of `__torch_dispatch__`

    def sources(self, tensor: Tensor) -> Sources:
        """What a tensor follows from."""
        _, sources = self._memory.get(tensor.untyped_storage()._cdata, (None, 0))
        return sources | self._in_python

    def add(self, tensor: Tensor, sources: Sources) -> None:
        """Note that a tensor follows from some sources."""
        memory = tensor.untyped_storage()
        self._memory[memory._cdata] = memory, sources | self.sources(tensor)

    def leave(self, tensor: Tensor) -> None:
        """Note that Python, or NumPy, has been given the numbers of a tensor."""
        self._in_python |= self.sources(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation as it is, and note what its results follow from."""
        kwargs = kwargs or {}
        found, kind = func(*args, **kwargs), _kind(func)
        sources = self._of_draws if kind.draws else 0
        if kind.reads_numbers and self._memory:
            for tensor in _tensors((args, *kwargs.values())):
                sources |= self.sources(tensor)
        if sources:
            written = (args[k] if k < len(args) else kwargs.get(name) for k, name in kind.written)
            for tensor in _tensors((found, *written)):
                self.add(tensor, sources)
            self._in_python |= sources if kind.seen_by_python else 0
        return found


class _Escapes(TorchFunctionMode):
    """See tensors leave by doors that are no operations, so that no dispatch shows them.

    Args:
        following: is told.
    """

    def __init__(self, following: _Following) -> None:
        super().__init__()
        self._following = following

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function as it is."""
        if getattr(func, "__name__", "") in _DOORS and args and isinstance(args[0], Tensor):
            self._following.leave(args[0])
        return func(*args, **(kwargs or {}))


_DOORS = ("tolist", "numpy", "__array__", "__dlpack__", "data_ptr", "__cuda_array_interface__")


class _Kind(NamedTuple):
    """What an operation does: the arguments that it writes into are given by place and name."""

    draws: bool
    reads_numbers: bool
    seen_by_python: bool
    written: tuple[tuple[int, str], ...]


@cache
def _kind(func: Any) -> _Kind:
    arguments = enumerate(func._schema.arguments)
    return _Kind(
        draws=torch.Tag.nondeterministic_seeded in func.tags,
        reads_numbers=func not in _OF_SHAPE_ONLY,
        seen_by_python=bool(_SEEN_BY_PYTHON & {*func.tags}),
        written=tuple((k, argument.name) for k, argument in arguments if argument.is_write),
    )


_aten = torch.ops.aten
_OF_SHAPE_ONLY = {
    *(_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default, _aten.empty_like.default),
    *(_aten.new_ones.default, _aten.new_zeros.default, _aten.new_full.default, _aten.new_empty.default),
}
# The result is a number in Python, or it says how many there are of something.
_SEEN_BY_PYTHON = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _tensors(nested: Iterable[Any]) -> Iterator[Tensor]:
    for value in nested:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
