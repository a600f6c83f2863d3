"""What a command asks for by name, made: the rows, and a program that is built for them."""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pplvae.data import DATA_SETS, Data, load_data
from pplvae.errors import ProgramError, UnknownNameError
from pplvae.guides import GUIDES
from pplvae.isolate import isolated
from pplvae.likelihoods import LIKELIHOODS
from pplvae.models import MODELS
from pplvae.priors import PRIORS

Spec = dict[str, Any]  # model, data, latent and the rest, as they were asked for: a run folder keeps it

OF_DATA = (  # options of `load_data`
    "binarise",
    "classes",
    "labels",
    "ids",
    "header",
    "scale",
    "missing",
    "standardise",
    "layer",
    "total",
)
_MOST_LATENT = 100_000
_LATENT = 8  # where neither the command nor the class says how many
_PARTS = {"likelihood": LIKELIHOODS, "prior": PRIORS, "guide": GUIDES}


def made(spec: Spec, seed: int) -> tuple[Data, Any]:
    """The rows and the program; names are looked up first, since rows may take long to read.

    Raises:
        ProgramError: no latents or more than fit into a memory, or a model that does not take what is asked for.
    """
    if spec["latent"] is not None and not 1 <= spec["latent"] <= _MOST_LATENT:
        raise ProgramError(
            f"`latent`, numbers for each row, must be between 1 and {_MOST_LATENT}, got {spec['latent']}."
        )
    kind = _model_class(spec["model"])
    _check_parts(kind, spec)
    data = load_data(spec["data"], seed=seed, **{name: spec[name] for name in OF_DATA if name in spec})
    return data, built(kind, spec, data, seed)


def settled(spec: Spec, data: Data) -> Spec:
    """What is asked for, with what follows from the rows: the likelihood, where the model leaves it open."""
    kind = MODELS.get(spec["model"])
    if spec.get("likelihood") is not None or kind is None or "likelihood" not in inspect.signature(kind).parameters:
        return spec
    values = data.train.values
    if "observed" in data.train.roles:
        values = values[data.train.tensors[1 + data.train.roles.index("observed")].bool()]
    return spec | {"likelihood": default_likelihood(values)}


def default_likelihood(values: Tensor) -> str:
    """The name of a likelihood that can produce such values; numbers without a zero among them are no counts."""
    if bool(((values == 0) | (values == 1)).all()):
        return "bernoulli"
    if bool(((values >= 0) & (values <= 1)).all()):
        return "continuous-bernoulli"
    counts = bool(((values >= 0) & (values == values.round())).all())
    return "negative-binomial" if counts and bool((values == 0).any()) else "gaussian"


def portable_model(model: str) -> str:
    """A file's absolute path, so that the run folder can be used from elsewhere."""
    file, colon, attribute = model.rpartition(":")
    return f"{Path(file).resolve()}{colon}{attribute}" if colon and Path(file).is_file() else model


def portable_data(data: str) -> str:
    """Likewise for the rows; a name stays what `load_data` takes it for, whatever files lie around."""
    named = data.replace("-", "_") in DATA_SETS
    return str(Path(data).resolve()) if not named and Path(data).exists() else data


def _check_parts(kind: Callable[..., Any], spec: Spec) -> None:
    takes, parts = inspect.signature(kind).parameters, _parts(spec)
    fixed = [f"--{name}" for name in parts if name not in takes]
    if fixed:
        raise ProgramError(f"{spec['model']} has no choice of {', '.join(fixed)}; `--model vae` is composed of parts.")
    for name, chosen in parts.items():
        if spec["model"] in MODELS and chosen not in _PARTS[name]:  # a model of one's own may have parts of its own
            raise UnknownNameError(name, chosen, _PARTS[name])


def _parts(spec: Spec) -> dict[str, Any]:
    return {name: spec[name] for name in _PARTS if spec.get(name) is not None}


def built(kind: Callable[..., Any], spec: Spec, data: Data, seed: int) -> Any:
    """The model's class, made with what its constructor takes of the data's and the command's sizes."""
    given = {"visible": data.train.values.shape[-1]} | _parts(settled(spec, data))
    takes = inspect.signature(kind).parameters
    if spec["latent"] is not None:
        given["latent"] = spec["latent"]
    elif "latent" in takes and takes["latent"].default is inspect.Parameter.empty:
        given["latent"] = _LATENT
    with isolated(seed):  # the same initial weights for the same seed
        program = kind(**{name: value for name, value in given.items() if name in takes})
    for part in ("model", "guide"):
        if not callable(getattr(program, part, None)):
            raise ProgramError(
                f"{spec['model']} has no method `{part}(v)`: it must have the Pyro programs model and guide."
            )
    return program


def _model_class(name: str) -> Callable[..., Any]:
    return MODELS[name] if name in MODELS else attributes_of(name)[0]


def attributes_of(name: str) -> list[Any]:
    """What a Python file holds under a name, `my_file.py:MyVAE`, or under several by commas; the file is run, once.

    Raises:
        ProgramError: no such file.
        UnknownNameError: no such name in it.
    """
    if ":" not in name:
        raise UnknownNameError("model", name, [*MODELS, "my_file.py:MyVAE"])
    file, _, attributes = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ProgramError(f"There is no file {file!r} (of {name!r}).")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ProgramError(f"{file!r} is no Python file (of {name!r}).")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return [_attribute(module, file, one.strip()) for one in attributes.split(",")]


def _attribute(module: Any, file: str, attribute: str) -> Any:
    if not hasattr(module, attribute):
        known = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise UnknownNameError(f"class in {file!r}", attribute, known or ["(it has no nn.Module)"])
    return getattr(module, attribute)
