"""What several ranks do, and one alone: fits of programs of every style. Run by torchrun: FOLDER is its one argument.

Every rank writes what it has found to FOLDER/RANK.pt.
"""

import sys
import warnings
from pathlib import Path

import programs
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import nn

import pplvae
from pplvae.ranks.group import ranks
from pplvae.training import steps as steps_module


def with_dropout():
    model, guide, rows = programs.bound_methods_with_pyro_module()
    drop = nn.Dropout(0.3)

    def dropping(x):
        return guide(drop(x))

    return model, dropping, rows


def with_a_latent_of_all_rows():
    rows = programs.real(columns=3, rows=programs.ROWS)

    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", programs.ROWS, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("scale", dist.LogNormal(loc, 0.1))
        weight = pyro.param("weight", torch.full((3,), 0.5))
        with pyro.plate("data", programs.ROWS, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(weight * x, 0.5).to_event(1))

    return model, guide, rows


def with_states_to_sum_over():
    rows = programs.real(columns=2, rows=programs.ROWS)
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


def that_mixes_rows():
    model, guide, rows = programs.lognormal_latent()

    def mixing(x):
        return guide(x - x.mean(0))

    return model, mixing, rows


def that_draws_on_its_own():
    import numpy as np

    model, guide, rows = programs.lognormal_latent()

    def drawing(x):
        noise = np.random.rand() if torch.is_grad_enabled() else 0.5
        return guide(x * (1 + 0.1 * noise))

    return model, drawing, rows


OBJECTIVES = {with_states_to_sum_over: "TraceEnum_ELBO", with_a_latent_of_all_rows: "Trace_ELBO"}
PROGRAMS = [programs.pair_of_modules]


def fitted(program, **options):
    """A fit of few steps, some of them replayed: weights and history; or why it was refused."""
    torch.manual_seed(0)
    model, guide, rows = program()
    rows = pplvae.data.as_rows(rows)[:11]
    # The last batch has one row: one of two ranks has none.
    asked = {"objective": OBJECTIVES.get(program, "Trace_ELBO"), "epochs": 3, "batch_size": 5, "lr": 0.01}
    asked |= {"seed": 3, "noise": "rows", "validation": rows[:7]}
    try:
        fit = pplvae.fit(model, guide, rows, **asked | options)
    except (pplvae.errors.PplvaeError, ValueError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    found = {name: fit.history[name].values for name in ("objective", "elbo_validation", "elbo_validation_stderr")}
    found |= {f"weight {name}": value.detach().numpy() for name, value in weights_of(fit).items()}
    return found | {"status": fit.status.name, "best": fit.best_epoch, "steps": fit.steps, "message": fit.message}


def weights_of(fit):
    from pplvae.training.weights import Weights

    with pyro.get_param_store().scope({k: dict(v) for k, v in fit.model.store.items()}):
        return Weights((fit.model, fit.guide), []).all()


def measured(folder):
    """Comparisons in chunks of 4 rows: every column, as it is written."""
    found = {}
    for name, call, options in (
        ("compare", pplvae.compare, {"simulated": 6, "families": ["full_covariance"]}),
        ("gap", pplvae.amortisation_gap, {}),
        ("log_evidence", pplvae.log_evidence, {}),
    ):
        torch.manual_seed(1)
        model, guide, rows = programs.pair_of_modules()
        rows = {"train": rows, "test": rows[:6] * 0.5}
        # Without a folder, ranks find one of their own.
        store = None if name == "gap" else folder / f"{name}-{ranks().size}.zarr"
        result = call(model, guide, rows, particles=20, max_steps=20, chunk_size=4, store=store, **options)
        found[name] = {str(key): values.values for key, values in result.rows.variables.items()}
        found[name] |= {"attributes": {**result.rows.attrs}}
    return found


def everything(folder):
    steps_module._PLAIN_FIRST, steps_module._SHARE = 2, float("inf")
    found = {program.__name__: fitted(program) for program in PROGRAMS}
    found |= measured(folder)
    found["pieces"] = fitted(programs.pair_of_modules, accumulate=2)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    where = Path(sys.argv[1])
    here = ranks()
    found = everything(where)
    torch.save(found, where / f"{here.rank}-of-{here.size}.pt")
