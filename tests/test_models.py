"""The shipped VAEs: composed of parts, usable by `fit` and by Pyro's own SVI."""

import copy

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO

import pplvae
from pplvae.errors import ProgramError
from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Bernoulli
from pplvae.models import MODELS, VAE
from pplvae.nets import MLP
from pplvae.priors import StandardNormal

REAL = ("gaussian-vae", "factor-analysis", "ppca", "ica", "incomplete-vae")  # the others take binary rows by default
OBJECTIVE = {"discrete-vae": "TraceEnum_ELBO"}
WITHOUT_LATENTS = ("chain-rule", "markov-chain")
SEQUENCES = ("markov-chain", "deep-markov")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_fitted_and_compared(name):
    rows = torch.randn(40, 6) if name in REAL else (torch.rand(40, 6) < 0.5).double()
    if name in SEQUENCES:
        rows = (rows.unsqueeze(1).repeat(1, 3, 1), torch.tensor([1, 2, 3, 3]).repeat(10))
    sizes = {"visible": 6} if name in WITHOUT_LATENTS else {"visible": 6, "latent": 2}
    pair = MODELS[name](**sizes).double()
    objective = OBJECTIVE.get(name, "TraceMeanField_ELBO")
    fit = pplvae.fit(pair.model, pair.guide, rows, validation=rows, objective=objective, epochs=15, lr=0.01)
    assert fit.history["elbo_validation"][-1] > fit.history["elbo_validation"][0]
    if name in WITHOUT_LATENTS:
        with pytest.raises(ProgramError, match="no latents"):
            pplvae.amortisation_gap(fit.model, fit.guide, rows)
        return
    gap = pplvae.amortisation_gap(fit.model, fit.guide, rows, particles=20, max_steps=25)
    assert gap.rows.sizes["row"] == 40


def test_pyros_own_svi_trains_two_of_a_kind():
    """One after the other in one param store: names do not collide."""
    rows = (torch.rand(40, 6) < 0.5).double()
    for _ in range(2):
        vae = pplvae.models.BernoulliVAE(6, 2).double()
        before = [p.clone() for p in vae.parameters()]
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
        for _ in range(3):
            svi.step(rows)
        assert all(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_copies_train_beside_their_original():
    rows = (torch.rand(40, 6) < 0.5).double()
    original = pplvae.models.BernoulliVAE(6, 2).double()
    for vae in (original, copy.deepcopy(original)):
        before = [p.clone() for p in vae.parameters()]
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
        svi.step(rows)
        assert all(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_a_guide_that_refines_another_models_elbo_is_refused():
    vae = pplvae.models.composed_vae(6, 2, [8], guide="semi-amortised")
    vae.decoder = MLP(2, [8], [6])
    with pytest.raises(ProgramError, match="another prior, decoder or likelihood"):
        pplvae.amortisation_gap(vae.model, vae.guide, (torch.rand(5, 6) < 0.5).float())


def test_rows_with_a_mask_are_refused_by_a_model_without_one():
    vae = pplvae.models.GaussianVAE(6, 2).double()
    with pytest.raises(ProgramError, match="IncompleteVAE"):
        pplvae.amortisation_gap(vae.model, vae.guide, pplvae.with_mask(torch.randn(5, 6)))


def test_a_new_model_is_a_few_lines():
    vae = VAE(
        6, StandardNormal(2), MLP(2, [8], [6], torch.nn.Tanh), Bernoulli(), FactorisedGaussian(6, 2, [8])
    ).double()
    assert pplvae.log_weights(vae.model, vae.guide, torch.ones(3, 6)).shape == (1, 3)
    assert vae.generate(5).shape == (5, 6)
