"""One rank of the throughput of `benchmarks.distributed`, held to one processor; it writes RANK.json."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

import pplvae
from pplvae.ranks.group import Ranks, ranks
from pplvae.store import write_tensors

_COLUMNS, _LATENT, _CHUNK, _BATCH = 64, 10, 250, 1024


def main(*, quick: bool) -> None:
    """Compare and fit rows, after a first time that is not counted."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[local % len(processors)]})
    torch.set_num_threads(1)
    here, count = ranks(), 1000 if quick else 16000
    torch.manual_seed(0)
    rows = (torch.rand(count, _COLUMNS) < 0.3).float()
    vae = pplvae.models.BernoulliVAE(visible=_COLUMNS, latent=_LATENT)
    options = {"chunk_size": _CHUNK, "simulated": 0, "particles": 100, "evidence": None}
    pplvae.compare(vae.model, vae.guide, rows[: 4 * _CHUNK], store="first.zarr", **options)
    found: dict[str, float] = {"compare_rows": count, "fit_rows": count * 20}
    here.of_all(None)
    began, busy = time.perf_counter(), time.process_time()
    pplvae.compare(vae.model, vae.guide, rows, store="measured.zarr", **options)
    found["compare_seconds"], found["compare_busy"] = time.perf_counter() - began, time.process_time() - busy
    pplvae.fit(vae.model, vae.guide, rows, epochs=30, batch_size=_BATCH, noise="rows")
    here.of_all(None)
    began, busy, waited = time.perf_counter(), time.process_time(), Ranks.waited
    pplvae.fit(vae.model, vae.guide, rows, epochs=20, batch_size=_BATCH, noise="rows")
    found["fit_seconds"], found["fit_busy"] = time.perf_counter() - began, time.process_time() - busy
    found["waited"] = Ranks.waited - waited
    steps = 20 * -(-count // _BATCH)
    found["step"] = found["fit_seconds"] / steps
    found |= {"all_reduce": _all_reduce(here, vae), "checkpoint": _checkpoint(vae)}
    Path(f"{here.rank}.json").write_text(json.dumps(found))


def _all_reduce(here: Ranks, vae: torch.nn.Module) -> float:
    """Seconds that the sum of a gradient takes."""
    flat = torch.zeros(sum(p.numel() for p in vae.parameters()))
    here.sum_(flat)
    began = time.perf_counter()
    for _ in range(50):
        here.sum_(flat)
    return (time.perf_counter() - began) / 50


def _checkpoint(vae: torch.nn.Module) -> float:
    began = time.perf_counter()
    write_tensors(Path(f"of-{os.getpid()}.safetensors"), dict(vae.named_parameters()))
    return time.perf_counter() - began


if __name__ == "__main__":
    np.seterr(all="ignore")
    main(quick=sys.argv[1] == "quick")
