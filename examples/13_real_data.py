"""Every likelihood on real rows: one recipe a likelihood and data set, its ELBOs, and a figure worth looking at.

`python examples/13_real_data.py --list` names the recipes; `python examples/13_real_data.py topics --figure topics.png`
runs one. Without arguments the bundled digits are fitted. Other data sets are downloaded, or read from the folder that
the environment variable PPLVAE_DATA names (`pplvae.load_data` says where a copy must lie). The table that these runs
give is in `docs/real_data.md`.
"""

import argparse
import inspect
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import nn

import pplvae
from pplvae import likelihoods
from pplvae.guides import FactorisedGaussian
from pplvae.models import VAE, DeepMarkov, IncompleteVAE, composed_vae
from pplvae.priors import StandardNormal


@dataclass
class Recipe:
    """A data set, a likelihood, and the sizes of the networks."""

    data: str
    likelihood: type[nn.Module]
    picture: str
    latent: int = 20
    hidden: tuple[int, ...] = (200,)
    epochs: int = 50
    lr: float = 1e-3
    load: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    prior: str = "standard-normal"


# Short names for what several recipes share.
_STOCHASTIC, _GREY_LEVELS = {"binarise": "stochastic"}, {"scale": 1 / 16, "binarise": "none"}
_NB, _ZINB = likelihoods.NegativeBinomial, likelihoods.ZeroInflatedNegativeBinomial

RECIPES = {
    "digits": Recipe("digits", likelihoods.Bernoulli, "pictures", 8, (128,), 200),
    "grey-levels": Recipe(
        "digits", likelihoods.Categorical, "pictures", 8, (128,), 100, load=_GREY_LEVELS, options={"classes": 17}
    ),
    "mnist": Recipe("mnist", likelihoods.ContinuousBernoulli, "pictures", 20, (200, 200), 15),
    "binary-mnist": Recipe("mnist_static_binarized", likelihoods.Bernoulli, "pictures", 50, (200, 200), 30),
    "fashion": Recipe("fashion_mnist", likelihoods.ContinuousBernoulli, "pictures", 20, (200, 200), 30),
    "omniglot": Recipe("omniglot", likelihoods.Bernoulli, "pictures", 50, (200, 200), 30, load=_STOCHASTIC),
    "silhouettes": Recipe("caltech101_silhouettes", likelihoods.Bernoulli, "pictures", 20, (200,), 100),
    "faces": Recipe("frey_faces", likelihoods.Beta, "pictures", 10, (200,), 200, prior="flow"),
    "faces-gaussian": Recipe("frey_faces", likelihoods.Gaussian, "pictures", 10, (200,), 200),
    "faces-shared": Recipe("frey_faces", likelihoods.GaussianShared, "pictures", 10, (200,), 200),
    "faces-fixed": Recipe("frey_faces", likelihoods.GaussianFixed, "pictures", 10, (200,), 200, options={"scale": 0.1}),
    "blood-cells": Recipe("pbmc_facs", _NB, "cells", 10, (128,), 20),
    "brain-cells": Recipe("cortex_zeisel", _ZINB, "cells", 10, (128,), 200),
    "brain-cells-poisson": Recipe("cortex_zeisel", likelihoods.Poisson, "cells", 10, (128,), 200),
    "topics": Recipe("newsgroups20_bow", likelihoods.Multinomial, "topics", 20, (200,), 60, 2e-3),
    "chorales": Recipe("jsb_chorales", likelihoods.Bernoulli, "chorales", 16, (64,), 40, 3e-3),
    "air-quality": Recipe("air_quality_uci", likelihoods.GaussianShared, "missing", 6, (128,), 60),
    "penguins": Recipe("penguins", likelihoods.GaussianShared, "missing", 2, (32,), 400),
}


class Topics(nn.Module):
    """Word logits from a mixture of topics: each topic is a line of the matrix that can be read.

    References:
        Autoencoding variational inference for topic models (Srivastava and Sutton, 2017), arXiv 1703.01488.
    """

    def __init__(self, topics, words):
        super().__init__()
        self.words = nn.Linear(topics, words)

    def forward(self, h):
        """One head: the logits of the words."""
        return (self.words(h.softmax(-1)),)


def program_of(recipe, rows):
    """The model of a recipe, with likelihood and networks of the sizes of its rows."""
    columns = rows.values.shape[-1]
    options = dict(recipe.options)
    if "visible" in inspect.signature(recipe.likelihood).parameters:
        options["visible"] = columns
    law = recipe.likelihood(**options)
    if recipe.picture == "chorales":
        return DeepMarkov(columns, recipe.latent, recipe.hidden[0], likelihood=law)
    if recipe.picture == "missing":
        return IncompleteVAE(columns, recipe.latent, recipe.hidden, likelihood=law)
    if recipe.picture == "topics":
        family = FactorisedGaussian(columns, recipe.latent, recipe.hidden)
        return VAE(columns, StandardNormal(recipe.latent), Topics(recipe.latent, columns), law, family)
    return composed_vae(columns, recipe.latent, recipe.hidden, likelihood=law, prior=recipe.prior)


def first_steps(data, steps=32):
    """The beginning of each sequence: the cost of a chain grows with its length."""

    def cut(rows):
        v, lengths = rows.tensors
        return replace(rows, tensors=(v[:, :steps], lengths.clamp(max=steps)))

    return replace(data, train=cut(data.train), valid=cut(data.valid), test=cut(data.test))


def some(rows, count, seed=0):
    """At most `count` rows, chosen at random."""
    return rows[np.random.default_rng(seed).permutation(len(rows))[:count]]


def draw_pictures(recipe, program, data):
    """Held-out rows, what the model makes of their latents, and rows of its own."""
    rows = some(data.test, 10)
    with torch.no_grad():
        h = program.family(program.likelihood.features(rows.values)).mean
        ours = program.prior(h).sample(torch.Size([10]))
        kinds = {"held-out": rows.values} | {
            name: expected(program.given(latents)) for name, latents in (("reconstructed", h), ("generated", ours))
        }
    height, width = data.test.image_shape
    colours = "gray" if recipe.data == "frey_faces" else "gray_r"  # ink is dark, faces are light
    figure, panels = plt.subplots(3, 10, figsize=(10, 3 * height / width + 0.6))
    for line, (name, pictures) in zip(panels, kinds.items(), strict=True):
        line[0].set_title(name, loc="left", fontsize="medium")
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(picture.reshape(height, width), cmap=colours, vmin=0, vmax=float(rows.values.max()))
            panel.axis("off")
    return figure


def expected(law):
    """Mean of v; of a categorical one, whose classes are grey levels here, their mean."""
    if hasattr(law.base_dist, "probs") and law.base_dist.probs.ndim == 3:
        probs = law.base_dist.probs
        return (probs * torch.arange(probs.shape[-1])).sum(-1)
    return law.mean


def draw_cells(recipe, program, data):
    """Posterior means of cells on a plane, coloured by cell type."""
    from sklearn.manifold import TSNE

    rows = some(data.train, 1500)
    with torch.no_grad():
        h = program.family(program.likelihood.features(rows.values)).mean
    plane = TSNE(random_state=0, init="pca").fit_transform(h.numpy())
    figure, panel = plt.subplots(figsize=(7, 5), layout="constrained")
    for kind in np.unique(rows.labels):
        panel.scatter(*plane[rows.labels == kind].T, s=6, label=str(kind))
    panel.legend(markerscale=2, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    panel.set(title="Posterior means of h (t-SNE); colours were not seen in training", xticks=[], yticks=[])
    return figure


def draw_topics(recipe, program, data):
    """The words that each topic raises most."""
    weight = program.decoder.words.weight.detach()
    with torch.no_grad():
        shares = program.family(program.likelihood.features(data.train.values)).mean.softmax(-1).mean(0)
    figure, panels = plt.subplots(2, 5, figsize=(13, 5), layout="constrained")
    for panel, topic in zip(panels.flat, shares.argsort(descending=True), strict=False):
        best = (weight[:, topic] - weight.mean(1)).topk(8)
        panel.barh(range(8), best.values)
        panel.set_yticks(range(8), data.train.columns[best.indices.numpy()], fontsize="small")
        panel.invert_yaxis()
        panel.set_title(f"mean weight {float(shares[topic]):.0%}", fontsize="small")
    panels[1][2].set_xlabel("logit of the topic over the mean of all topics")
    return figure


def draw_chorales(recipe, program, data):
    """A chorale that the model has not seen, and one of its own."""
    held_out = data.test.values[0]
    steps = len(held_out)
    with torch.no_grad():
        ours = program.generate(1, steps=steps)[0]
    figure, panels = plt.subplots(2, 1, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
    for panel, roll, name in zip(panels, (held_out, ours), ("held-out", "generated"), strict=True):
        panel.imshow(roll.T, aspect="auto", origin="lower", cmap="gray_r", interpolation="none")
        panel.set(title=name, ylabel="key", ylim=(15, 65))
    panels[1].set_xlabel("step")
    return figure


def draw_missing(recipe, program, data):
    """Entries that were hidden from held-out rows, and what is put in their place; prints the error, too."""
    v, observed = data.test.tensors
    hidden = (torch.rand(v.shape, generator=torch.Generator().manual_seed(0)) < 0.2) & observed.bool()
    filled = program.imputed_mean(v, observed * ~hidden, weighted=True)
    # Columns are standardised on the training rows: their mean is 0.
    ours, theirs = (filled - v)[hidden].square(), v[hidden].square()
    difference = theirs - ours
    stderr = float(difference.std()) / len(difference) ** 0.5
    print(f"Hidden entries of held-out rows: {int(hidden.sum())}; root mean square error, in standard deviations:")
    print(f"  imputed {float(ours.mean()) ** 0.5:.3f}, column means {float(theirs.mean()) ** 0.5:.3f};", end=" ")
    print(f"squared errors differ by {float(difference.mean()):.3f} ± {stderr:.3f}")
    most = hidden.sum(0).argsort(descending=True)[:4]
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
    for panel, column in zip(panels, most, strict=True):
        at = hidden[:, column]
        panel.scatter(v[at, column], filled[at, column], s=6, alpha=0.5)
        panel.axline((0, 0), slope=1, color="black", linewidth=0.8)
        panel.set(title=str(data.test.columns[column]), xlabel="hidden value")
    panels[0].set_ylabel("imputed (standard deviations)")
    return figure


PICTURES = {
    "pictures": draw_pictures,
    "cells": draw_cells,
    "topics": draw_topics,
    "chorales": draw_chorales,
    "missing": draw_missing,
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe", nargs="?", choices=RECIPES, default="digits")
parser.add_argument("--list", action="store_true", help="name the recipes and leave")
parser.add_argument("--epochs", type=int, default=None)
parser.add_argument("--rows", type=int, default=2000, help="evaluate at most so many rows of each part")
parser.add_argument("--figure", type=Path, default=None, help="write the figure here")
arguments = parser.parse_args()
if arguments.list:
    for name, recipe in RECIPES.items():
        print(f"{name:<22}{recipe.data:<26}{recipe.likelihood.__name__}")
    raise SystemExit

recipe = RECIPES[arguments.recipe]
torch.manual_seed(0)
data = pplvae.load_data(recipe.data, seed=0, **recipe.load)
if recipe.picture == "chorales":
    data = first_steps(data)
print(data)
program = program_of(recipe, data.train)
began = time.perf_counter()
fit = pplvae.fit(
    program.model, program.guide, data, epochs=arguments.epochs or recipe.epochs, lr=recipe.lr, seed=0, progress=True
)
seconds = time.perf_counter() - began
parameters = sum(p.numel() for p in program.parameters())
elbos = []
for part in (data.train, data.test):
    found = pplvae.amortisation_gap(
        fit.model, fit.guide, some(part, arguments.rows), max_steps=0, particles=100, seed=0
    )
    elbo = found.rows["elbo_amortised"].values
    elbos.append(f"{elbo.mean():.2f} ± {elbo.std() / len(elbo) ** 0.5:.2f}")
print("| recipe | data | likelihood | parameters | train rows | epochs | ELBO, train | ELBO, held-out | fit, s |")
row = [arguments.recipe, recipe.data, recipe.likelihood.__name__, parameters, len(data.train)]
print("| " + " | ".join(map(str, [*row, arguments.epochs or recipe.epochs, *elbos, round(seconds)])) + " |")
picture = PICTURES[recipe.picture](recipe, program, data)
if arguments.figure:
    picture.savefig(arguments.figure, dpi=110)
    print("Figure:", arguments.figure)
