"""Scripts as their users run them, but in this process, where all is imported, and with a short search."""

import contextlib
import functools
import io
import runpy
import sys

import pytest

import pplvae

# Asked of every call that does not say otherwise: how well a search ends is tested elsewhere.
SHORT = {
    "amortisation_gap": {"max_steps": 5},
    "compare": {"max_steps": 5, "simulated": 2},
    "posterior_means": {"max_steps": 25},
}


@pytest.fixture(name="script")
def script_in_this_process(monkeypatch, tmp_path, single_precision):
    """Runs a file with some words after it, in a folder of its own; gives what it prints."""
    monkeypatch.chdir(tmp_path)
    for name, less in SHORT.items():
        monkeypatch.setattr(pplvae, name, functools.partial(getattr(pplvae, name), **less))

    def run(path, *words):
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(str(path), run_name="__main__")
        return printed.getvalue()

    yield run
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
