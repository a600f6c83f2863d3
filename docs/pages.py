"""Make the pages of docs/pages and their screenshots, each from a fit of its own: `python docs/pages.py wine faces`.

The digits and the wines come with scikit-learn; the others are downloaded, or read from the folder that PPLVAE_DATA
names.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_wine

import pplvae
from pplvae import likelihoods
from pplvae.data import Data, Rows
from pplvae.models import composed_vae

HERE = Path(__file__).parent / "pages"
_FITTED = 5000  # rows of each part, at most
SHOTS = {"": ("light", 1180, 2600), "_dark": ("dark", 1180, 1900), "_phone": ("light", 390, 1700)}


@dataclass(frozen=True)
class Recipe:
    """What is fitted to what, and how much of it is compared."""

    data: str
    likelihood: type
    latent: int
    hidden: tuple[int, ...]
    epochs: int
    rows: int = 1000


RECIPES = {
    "digits": Recipe("digits", likelihoods.Bernoulli, 8, (128,), 200),
    "mnist": Recipe("mnist_static_binarized", likelihoods.Bernoulli, 20, (200,), 10, rows=200),
    "cells": Recipe("pbmc_facs", likelihoods.NegativeBinomial, 10, (128,), 20, rows=100),
    "faces": Recipe("frey_faces", likelihoods.GaussianShared, 10, (200,), 200, rows=200),
    "wine": Recipe("wine", likelihoods.GaussianShared, 2, (32,), 300),
}


def main() -> None:
    """Make those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--to", type=Path, default=HERE, help="folder of the pages")
    parser.add_argument("--quick", action="store_true", help="fewer rows and epochs: to see that everything runs")
    parser.add_argument("--shots", action="store_true", help="take the screenshots, too (Playwright and Chromium)")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        recipe = replace(RECIPES[name], rows=20, epochs=2) if options.quick else RECIPES[name]
        path = made(recipe, options.to / f"{name}.html")
        print(path)
        if options.shots:
            shoot(path)


def made(recipe: Recipe, path: Path) -> Path:
    """Fit, compare, ask what is to blame, and write the page."""
    data = less(wines() if recipe.data == "wine" else pplvae.load_data(recipe.data), _FITTED)
    columns = data.train.values.shape[-1]
    takes_columns = recipe.likelihood is not likelihoods.Bernoulli
    law = recipe.likelihood(columns) if takes_columns else recipe.likelihood()
    torch.manual_seed(0)
    vae = composed_vae(columns, recipe.latent, recipe.hidden, likelihood=law)
    fit = pplvae.fit(vae.model, vae.guide, data, epochs=recipe.epochs, progress=sys.stderr.isatty())
    some = less(data, recipe.rows)
    found = pplvae.compare(vae.model, vae.guide, some, families=["full_covariance"])
    pair, rows = (vae.model, vae.guide), some.test
    few = {"most_rows": recipe.rows // 3, "epochs": min(recipe.epochs, 30)}
    beside = {
        "What is to blame": pplvae.attribute(*pair, data.train, rows, **few),
        "What the latents carry": pplvae.latent_use(*pair, rows),
        "Is the guide's uncertainty honest?": pplvae.calibrate(*pair, rows),
    }
    title = f"What amortisation costs: a {recipe.likelihood.__name__} VAE on {recipe.data}"
    return found.report(path, history=fit.history, settings=fit.settings, title=title, beside=beside)


def wines() -> Data:
    """A table with named columns, and ids and labels."""
    table = load_wine(as_frame=True).frame.rename_axis("bottle")
    with TemporaryDirectory() as folder:
        table.to_csv(Path(folder, "wine.csv"))
        return pplvae.load_data(Path(folder, "wine.csv"), ids="bottle", labels="target", standardise=True)


def less(data: Data, count: int) -> Data:
    """At most so many rows of each part."""

    def some(rows: Rows) -> Rows:
        return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:count])]

    return replace(data, train=some(data.train), valid=some(data.valid), test=some(data.test))


def shoot(path: Path) -> None:
    """Screenshots in both themes, and on a phone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for ending, (theme, width, height) in SHOTS.items():
            page = browser.new_page(color_scheme=theme, viewport={"width": width, "height": height})
            page.goto(path.absolute().as_uri())
            page.wait_for_selector("body[data-ready=yes]")
            for place in range(0, 9000, 400):  # charts are drawn when they come into view
                page.evaluate(f"scrollTo(0, {place})")
                page.wait_for_timeout(80)
            page.locator(".tabulator-row").first.click()
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(300)
            part = {"x": 0, "y": 0, "width": width, "height": height}
            pixels = page.screenshot(clip=part, full_page=True)
            picture = Image.open(BytesIO(pixels)).convert("RGB").quantize(128)
            picture.save(path.with_name(f"{path.stem}{ending}.png"), optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
