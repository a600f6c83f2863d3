"""What several ranks do, or one alone: fits of programs of every style, comparisons, and what is to be refused.

Run by torchrun with a folder as its one argument; every rank writes what it has found to FOLDER/RANK.pt.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import programs
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import nn

import pplvae
from pplvae.ranks.group import ranks
from pplvae.training import passing
from pplvae.training import steps as steps_module
from pplvae.training.weights import Weights


def with_dropout():
    model, guide, rows = programs.bound_methods_with_pyro_module()
    drop = nn.Dropout(0.3)
    return model, lambda x: guide(drop(x)), rows


def with_a_latent_of_all_rows():
    """As long as some rank's share of a batch: its noise must not be taken for that of rows."""
    size, rows = 3, programs.real(columns=3)

    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(size), 1.0).to_event(1))
        with pyro.plate("data", len(rows), subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(size))
        pyro.sample("scale", dist.LogNormal(loc, 0.1).to_event(1))
        weight = pyro.param("weight", torch.full((3,), 0.5))
        with pyro.plate("data", len(rows), subsample_size=len(x)):
            pyro.sample("z", dist.Normal(weight * x, 0.5).to_event(1))

    return model, guide, rows


def with_states_to_sum_over():
    rows = programs.real(columns=2)
    decoder, encoder = nn.Linear(3, 2), nn.Linear(2, 3)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(decoder(k), 1.0).to_event(1), obs=x)

    @config_enumerate
    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.OneHotCategorical(logits=encoder(x)))

    return model, guide, rows


def changed(change, of=programs.lognormal_latent):
    """A pair whose guide is given other rows in training."""
    model, guide, rows = of()
    return model, lambda x: guide(change(x) if torch.is_grad_enabled() else x), rows


def that_mixes_rows():
    return changed(lambda x: x - x.mean(0))


def that_draws_on_its_own():
    return changed(lambda x: x * (1 + 0.1 * np.random.rand()))


def of_other_rows():
    model, guide, rows = programs.lognormal_latent()
    return model, guide, rows + ranks().rank


def that_fails_on_one_rank():
    """In its second step, after what is looked at before the first."""
    calls = []

    def failing(x):
        calls.append(None)
        if len(calls) == 6 and ranks().rank == 1:
            raise KeyError("no such word")
        return x

    return changed(failing)


def coming_apart():
    """A fit in which rank 0, which alone is told of epochs, moves a parameter."""
    found = []

    def program():
        found[:] = programs.pair_of_modules()
        return found

    def move(epoch, _values):
        if epoch == 1:
            with torch.no_grad():
                found[1].encoder.weight[0, 0] += 1e-9

    return fitted(program, on_epoch=move)


def of_a_row_too_large():
    """Whose loss becomes infinite on one rank."""
    model, guide, rows = programs.lognormal_latent()
    rows = rows.clone()
    rows[4] = 1e200
    return model, guide, rows


OBJECTIVES = {with_states_to_sum_over: "TraceEnum_ELBO"}
FITS = {
    program.__name__: partial(lambda program: fitted(program), program)
    for program in (
        programs.pair_of_modules,
        programs.gamma_latent,
        programs.nested_plates,
        programs.plate_with_size_and_subsample,
        with_dropout,
        with_a_latent_of_all_rows,
        with_states_to_sum_over,
    )
} | {
    "in pieces": lambda: fitted(programs.pair_of_modules, accumulate=2),
    "importance weighted": lambda: fitted(programs.pair_of_modules, objective="IWAE"),
    "guide alone": lambda: fitted(programs.pair_of_modules, train="guide", clip=0.5),
    "stopped": lambda: fitted(programs.pair_of_modules, on_epoch=lambda epoch, _: epoch == 1),
    "looked at": lambda: fitted(programs.pair_of_modules, compare_every=2, compare_rows=3),
}
REFUSED = {
    "rows mixed": lambda: fitted(that_mixes_rows),
    "noise of its own": lambda: fitted(that_draws_on_its_own),
    "rows normalised": lambda: fitted(programs.convolutions_with_batchnorm_and_dropout),
    "latents of a batch": lambda: fitted(programs.pair_of_modules, objective="InfoVAE"),
    "free bits": lambda: fitted(programs.pair_of_modules, objective="FreeBits"),
    "a batch too small": lambda: fitted(programs.pair_of_modules, batch_size=1),
    "other rows": lambda: fitted(of_other_rows),
    "other settings": lambda: fitted(programs.pair_of_modules, lr=0.01 * (1 + ranks().rank)),
    "failing on one rank": lambda: fitted(that_fails_on_one_rank),
    "coming apart": coming_apart,
    "broken off": lambda: fitted(of_a_row_too_large),
}


def fitted(program, **options):
    """A fit of few steps, some of them replayed: weights and history; or why it was refused."""
    torch.manual_seed(0)
    model, guide, rows = program()
    rows = pplvae.data.as_rows(rows)[:8]
    # The last batch has one row: one of two ranks has none.
    asked = {"objective": OBJECTIVES.get(program, "Trace_ELBO"), "epochs": 4, "batch_size": 7, "lr": 0.01}
    asked |= {"seed": 3, "noise": "rows", "validation": rows[:5]}
    try:
        fit = pplvae.fit(model, guide, rows, **asked | options)
    except (pplvae.errors.PplvaeError, ValueError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    found = {name: fit.history[name].values for name in ("objective", "elbo_validation", "elbo_validation_stderr")}
    gaps = [name for name in fit.history.data_vars if "_gap" in str(name)]
    found |= {f"look {name}": fit.history[name].values for name in gaps}
    with pyro.get_param_store().scope({kind: dict(values) for kind, values in fit.model.store.items()}):
        weights = Weights((fit.model, fit.guide), []).all()
    found |= {f"weight {name}": value.detach().numpy().copy() for name, value in weights.items()}
    return found | {"status": fit.status.name, "best": fit.best_epoch, "steps": fit.steps, "message": fit.message}


def resumed(folder, epochs=4, existing="refuse"):
    return fitted(programs.pair_of_modules, run=folder / "run", epochs=epochs, existing=existing)


MEASURED = {"compare": {"simulated": 6}, "amortisation_gap": {}, "log_evidence": {}}


def measured(name, folder):
    """A comparison in chunks of 4 rows: every column and every attribute."""
    torch.manual_seed(1)
    model, guide, rows = programs.pair_of_modules()
    rows = {"train": rows, "test": rows[:6] * 0.5}
    # Without a folder, ranks find one of their own.
    store = None if name == "amortisation_gap" else folder / f"{name}.zarr"
    options = MEASURED[name] | {"particles": 20, "max_steps": 20, "chunk_size": 4, "store": store}
    result = getattr(pplvae, name)(model, guide, rows, **options)
    found = {str(key): values.values for key, values in result.rows.variables.items()}
    return found | {f"attribute {key}": value for key, value in result.rows.attrs.items()}


def at_once():
    """Replay steps after two plain ones, and compare ranks often."""
    steps_module._PLAIN_FIRST, steps_module._SHARE = 2, float("inf")
    passing._STEPS_UNCOMPARED = 3


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    at_once()
    where, here = Path(sys.argv[1]), ranks()
    found = {name: fit() for name, fit in (FITS | REFUSED).items()}
    found |= {name: measured(name, where) for name in MEASURED} | {"resumed": resumed(where, epochs=2)}
    torch.save(found, where / f"{here.rank}.pt")
