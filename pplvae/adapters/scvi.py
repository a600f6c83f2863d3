"""Models of scvi-tools as Pyro pairs."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pplvae.adapters.distributions import row_by_row
from pplvae.errors import ProgramError
from pplvae.models.checks import unique_name

# Of a cell, by scvi-tools' names; those that a model has been set up with.
_KEYS = ("X", "batch", "labels", "extra_continuous_covs", "extra_categorical_covs", "size_factor")
_NEEDED = ("inference", "generative", "z_encoder", "gene_likelihood", "n_latent")


@dataclass
class ScviPair:
    """What `from_scvi` gives: `model, guide = pair`.

    Attributes:
        model: p(v, h), a Pyro program that is an `nn.Module` and holds the module of scvi-tools.
        guide: q(h | v), the same.
        rows: the cells, as both take them.
        names: of the tensors in them.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    rows: tuple[Tensor, ...]
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.model, self.guide))


def from_scvi(model: Any, tensors: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]] | None = None) -> ScviPair:
    """Make a Pyro pair of `scvi.model.SCVI`, `LinearSCVI`, or one of the models that are written in Pyro.

    The library size is observed or a latent of its own, as the module has it. Batches and covariates are given, not
    modelled: they are the rows' further tensors.

    Args:
        model: of `scvi.model`, or its module.
        tensors: a batch of scvi-tools, or an iterable of them such as a data loader; by default the cells that the
            model was made with.

    Raises:
        ProgramError: a module of another kind, or one without cells.
    """
    module = getattr(model, "module", model)
    cells = _together(_own_cells(model) if tensors is None else tensors)
    if hasattr(module, "_get_fn_args_from_batch") and hasattr(module, "guide"):
        return _written_in_pyro(module, cells)
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing or hasattr(module, "classifier"):
        raise ProgramError(
            f"{type(module).__name__} is no module that is read here: those are scvi-tools' `VAE` (SCVI, LinearSCVI) "
            "and modules written in Pyro. Write its pair by hand, or use `from_torch` with its networks."
        )
    names = tuple(name for name in _KEYS if name in cells)
    return ScviPair(ScviModel(module, names), ScviGuide(module, names), tuple(cells[name] for name in names), names)


class _Program(nn.Module):
    """A program of a module of scvi-tools.

    Args:
        module: of scvi-tools.
        names: of the tensors that it is called with.
    """

    def __init__(self, module: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.vae, self._names = module, names

    def _cells(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        pyro.module(unique_name(self), self)
        return dict(zip(self._names, tensors, strict=True))


class ScviGuide(_Program):
    """q(h | v) of a module of scvi-tools: latent site "z", and "library" where its size is not observed."""

    def forward(self, *tensors: Tensor) -> None:
        """Draw each cell's latents."""
        cells = self._cells(tensors)
        found = self.vae.inference(**self.vae._get_inference_input(cells))
        with pyro.plate("data", len(tensors[0])):
            pyro.sample("z", row_by_row(found["qz"]))
            if found["ql"] is not None:
                pyro.sample("library", row_by_row(found["ql"]))


class ScviModel(_Program):
    """p(v, h) of a module of scvi-tools: latent sites as in `ScviGuide`, observed site "x"."""

    def forward(self, *tensors: Tensor) -> None:
        """Draw each cell's latents, and observe its counts."""
        cells = self._cells(tensors)
        counts = cells["X"]
        zeros = torch.zeros(len(counts), self.vae.n_latent, dtype=counts.dtype, device=counts.device)
        with pyro.plate("data", len(counts)):
            z = pyro.sample("z", dist.Normal(zeros, zeros + 1).to_event(1))  # pyright: ignore[reportArgumentType]
            library = self._library(cells)
            drawn = {"z": self.vae.z_encoder.z_transformation(z), "library": library}
            found = self.vae.generative(**self.vae._get_generative_input(cells, drawn))
            pyro.sample("x", row_by_row(found["px"]), obs=counts)

    def _library(self, cells: Mapping[str, Tensor]) -> Any:
        """The log of each cell's library size, of shape (cell, 1)."""
        if self.vae.use_observed_lib_size:
            return cells["X"].sum(1, keepdim=True).log()
        mean, variance = self.vae._compute_local_library_params(cells["batch"])
        return pyro.sample("library", row_by_row(dist.Normal(mean, variance.sqrt())))


def _written_in_pyro(module: Any, cells: Mapping[str, Tensor]) -> ScviPair:
    arguments, _ = module._get_fn_args_from_batch(cells)
    names = tuple(inspect.signature(module.guide.forward).parameters)[: len(arguments)]
    # Its plates have the size that training has told them; before any there is none.
    sized = {"n_obs": len(arguments[0])} if "n_obs" in inspect.signature(module.guide.forward).parameters else {}
    return ScviPair(partial(module.model, **sized), partial(module.guide, **sized), tuple(arguments), names)


def _own_cells(model: Any) -> Iterable[Mapping[str, Tensor]]:
    if not hasattr(model, "_make_data_loader"):
        raise ProgramError("A module has no cells. Pass the model, or `tensors=`, batches of a data loader.")
    return model._make_data_loader(adata=model.adata)


def _together(tensors: Any) -> dict[str, Tensor]:
    batches = [tensors] if isinstance(tensors, Mapping) else list(tensors)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
