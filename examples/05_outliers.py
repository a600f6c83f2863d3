"""Does an encoder give strangers away? The amortisation gap as an out-of-distribution score, on the digits.

A Bernoulli VAE is fitted to the digits 0 to 7. Strangers to it are: digits 8 and 9, which it has never seen; digits 0
to 7 shifted by one pixel; and the same transposed (still strokes, in other places).

Run it: `python examples/05_outliers.py --figure roc.png`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import pplvae
from pplvae.plots import outlier_roc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--rows", type=int, default=None, help="compare so many rows of each kind; all by default")
parser.add_argument("--figure", type=Path, default=None, help="write the ROC curves of the digits 8 and 9 here")
arguments = parser.parse_args()

torch.manual_seed(0)
data = pplvae.load_data("digits", seed=0)
vae = pplvae.models.BernoulliVAE(visible=64, latent=8)
known = {part.name: part[part.labels < 8] for part in (data.train, data.valid, data.test)}
fit = pplvae.fit(
    vae.model, vae.guide, known["train"], validation=known["valid"], epochs=arguments.epochs, seed=0, progress=True
)
print(fit)

# No picture stands on both sides, so that the rows are independent, as the standard errors take them to be.
inside, others = known["test"][::2], known["test"][1::2]
pictures = others.values.reshape(-1, 8, 8)
kinds = {
    "digits 0-7": inside,
    "digits 8-9": data.test[data.test.labels >= 8],
    "shifted": replace(others, tensors=(pictures.roll(1, dims=-1).flatten(1),)),
    "transposed": replace(others, tensors=(pictures.mT.flatten(1),)),
}
kinds = {name: rows[: arguments.rows] for name, rows in kinds.items()}
comparison = pplvae.compare(fit.model, fit.guide, kinds, seed=0, progress=True)
print(comparison)

for kind in list(kinds)[1:]:
    outliers = pplvae.outlier_scores(comparison.part("digits 0-7"), comparison.part(kind))
    print(f"\n{outliers}")
    if arguments.figure and kind == "digits 8-9":
        outlier_roc(outliers).figure.savefig(arguments.figure, dpi=150)
        print("Figure:", arguments.figure)
