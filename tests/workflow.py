"""What every shipped part must go through: fit, save and load, gaps; and that the command line makes it by name."""

import torch

import pplvae
from pplvae.commands import fitting, measuring
from pplvae.commands.folders import COMPARISON
from pplvae.commands.spec import made
from pplvae.comparison import attribution, retraining


def check_pair(make, rows, folder, **options):
    """Fit a program, read its run back into a fresh one, and compare it row by row.

    Args:
        make: gives the program (with methods model and guide), new each time.
        rows: to fit and to compare; a few dozen.
        folder: for the run.
        options: of the fit.

    Returns:
        The fitted program and its comparison.
    """
    torch.manual_seed(0)
    program = make().double()
    fit = pplvae.fit(program.model, program.guide, rows, validation=rows, run=folder, **{"epochs": 2} | options)
    assert fit.status is pplvae.FitStatus.COMPLETED
    torch.manual_seed(1)  # other initial weights, which loading must replace
    other = make().double()
    back = pplvae.load_fit(folder, other.model, other.guide, rows)
    weights, again = (pplvae.log_weights(some.model, some.guide, rows, particles=2) for some in (fit, back))
    assert torch.equal(weights, again)
    gap = pplvae.amortisation_gap(fit.model, fit.guide, rows, particles=10, max_steps=3)
    assert gap.rows["elbo_local"].notnull().all()
    return program, gap


def check_command(data, folder, **parts):
    """Fit and compare on the command line; the part is asked for by name."""
    run = folder / "run"
    fitting.fit(data=str(data), run=run, latent=2, epochs=1, **parts)
    measuring.compare(run, particles=10, max_steps=3, evidence="none")
    assert COMPARISON.path(run).exists()


def check_name(data, **parts):
    """What the command line makes of the names of parts weighs rows; the program."""
    rows, program = made({"model": "vae", "data": str(data), "latent": 2} | parts, seed=0)
    v = rows.train.values[:5].double()
    assert pplvae.log_weights(program.double().model, program.guide, v).isfinite().all()
    return program


def shorten_attribution(monkeypatch, *, trainings=True):
    """What an attribution has no options for, small: its trainings and the evidence are tested elsewhere."""
    small = {"simulated": 0, "annealing": pplvae.Annealing(particles=2, temperatures=2)}
    monkeypatch.setattr(attribution, "compare", lambda *given, **how: pplvae.compare(*given, **how | small))
    if trainings:
        monkeypatch.setattr(retraining, "_FEWEST_STEPS", 2)
