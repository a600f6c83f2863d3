"""Pyro's own examples, from their source, against each row's own guide found in plain torch: a table in docs."""

import math
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyro

import pplvae
from benchmarks import machine, pyro_images, pyro_tables
from benchmarks.pyro_by_hand import Scores, by_hand
from benchmarks.pyro_images import Example
from benchmarks.table import console
from benchmarks.truth import as_markdown, written
from pplvae.errors import PplvaeError

PAGE = Path(__file__).parent.parent / "docs" / "pyro_examples.md"
ALLOWED = 0.05, 3.0  # nats, and standard errors of the difference: an example may be off by one of them

Make = Callable[[Path, int], Example]  # from the root of the checkout and a number of rows
EXAMPLES: dict[str, tuple[Make, int]] = {
    "vae": (pyro_images.vae, 6),
    "cvae": (pyro_images.cvae, 6),
    "ss_vae_M2, labelled": (pyro_images.m2_labelled, 6),
    "ss_vae_M2, unlabelled": (pyro_images.m2_unlabelled, 2),
    "dmm": (pyro_tables.dmm, 6),
    "scanvi": (pyro_tables.scanvi, 3),
    "air": (pyro_images.air, 3),
    "ProdLDA": (pyro_tables.prod_lda, 6),
    "vae_flow_prior": (pyro_images.flow_prior, 4),
    "svi_flow_guide": (pyro_tables.flow_guide, 4),
    "easyguide": (pyro_tables.easyguide, 4),
    "contrib.cevae": (pyro_tables.cevae, 6),
    "lda": (pyro_tables.lda, 2),
}
_HEAD = (
    *("example", "accepted", "rows", "ELBO", "by hand", "gap", "by hand", "off by: ELBO, gap (s.e.)"),
    *("agree", "converged", "seconds", "by hand"),
)


def main(root: Path, *, quick: bool, threads: int) -> None:
    """Run every example, print its line, and unless it is quick write the page after each.

    Args:
        root: of a checkout of Pyro.
        quick: the first two examples only, to see that everything runs.
        threads: of torch.
    """
    machine.pin(threads)
    run = f"Pyro {pyro.__version__} as installed, its examples at {_commit(root)}; pplvae {pplvae.__version__}."
    lines = []
    for name, (make, rows) in list(EXAMPLES.items())[: 2 if quick else None]:
        lines.append(_line(name, make, root, rows))
        console.print(" | ".join(lines[-1]), soft_wrap=True)
        if not quick:
            PAGE.write_text(written(PAGE.read_text(), {"examples": f"{run}\n\n{as_markdown(_HEAD, lines)}"}))


def _line(name: str, make: Make, root: Path, rows: int) -> Sequence[str]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    example = make(root, rows)
    began = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of grey values and globals: the page says so
            found = pplvae.amortisation_gap(example.model, example.guide, example.rows).rows
    except PplvaeError as error:
        return [name, f"no: {error}", str(rows), *[""] * (len(_HEAD) - 3)]
    ours, took = _scores(found), time.process_time() - began
    began = time.process_time()
    theirs = by_hand(example.start, example.elbo, steps=example.steps, step=example.step)
    elbo, gap = _off(ours, theirs)
    return [
        *(name, "yes", str(rows)),
        *(f"{ours.elbo:.3f} ± {ours.elbo_stderr:.3f}", f"{theirs.elbo:.3f} ± {theirs.elbo_stderr:.3f}"),
        *(f"{ours.gap:.3f} ± {ours.gap_stderr:.3f}", f"{theirs.gap:.3f} ± {theirs.gap_stderr:.3f}"),
        f"{elbo[0]:+.3f} ({elbo[1]:+.1f}), {gap[0]:+.3f} ({gap[1]:+.1f})",
        "yes" if all(_agree(*off) for off in (elbo, gap)) else "NO",
        f"{100 * float((found['status'] == 'converged').mean()):.0f} %",
        *(f"{took:.0f}", f"{time.process_time() - began:.0f}"),
    ]


def _scores(rows: object) -> Scores:
    """Means over rows of a comparison, with their Monte Carlo errors."""
    names = "elbo_amortised", "amortisation_gap"
    means = [float(rows[name].mean()) for name in names]  # pyright: ignore
    errors = [float(np.sqrt(np.square(rows[f"{name}_stderr"]).sum())) / rows.sizes["row"] for name in names]  # pyright: ignore
    return Scores(means[0], errors[0], means[1], errors[1])


def _off(ours: Scores, theirs: Scores) -> tuple[tuple[float, float], tuple[float, float]]:
    """Differences of ELBO and gap, in nats and in standard errors."""
    nats = ours.elbo - theirs.elbo, ours.gap - theirs.gap
    errors = math.hypot(ours.elbo_stderr, theirs.elbo_stderr), math.hypot(ours.gap_stderr, theirs.gap_stderr)
    elbo, gap = ((off, off / max(error, 1e-12)) for off, error in zip(nats, errors, strict=True))
    return elbo, gap


def _agree(nats: float, errors: float) -> bool:
    return abs(nats) <= ALLOWED[0] or abs(errors) <= ALLOWED[1]


def _commit(root: Path) -> str:
    """The commit of a checkout, where it is one; a plain folder has none."""
    said = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    is_its_own = said.returncode == 0 and (root / ".git").exists()
    return f"commit {said.stdout[:12]}" if is_its_own else "a commit that the folder does not tell"
