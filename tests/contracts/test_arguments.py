"""What every public function promises of its arguments: one name, default and sentence for each, rows in any form."""

import inspect
import io
import re
import sys
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from docstrings import sentence_of, text_of
from oracles import bad_guide, random_linear
from torch.utils.data import DataLoader, TensorDataset
from workflow import shorten_attribution

import pplvae
from pplvae.data import Rows
from pplvae.errors import DataError
from pplvae.results.base import Result

FUNCTIONS = {name: getattr(pplvae, name) for name in pplvae.__all__ if inspect.isfunction(getattr(pplvae, name))}
FUNCTIONS["Annealing"] = pplvae.Annealing  # settings, which are keywords too
FIRST = ("model", "guide", "rows")
LAST = ("particles", "stderr", "tolerance", "max_steps", "seed", "chunk_size", "memory", "store", "progress")

# By function and keyword, why it is not as elsewhere.
OTHER_DEFAULT = {
    ("Annealing", "particles"): "a chain costs hundreds of gradients",
    ("attribute", "particles"): "the same draws before and after a training, so that their number is fixed",
    ("calibrate", "particles"): "with 199 the levels that are printed are exact",
    ("elbo_landscape", "particles"): "the same draws at every point",
    ("gradient_noise", "particles"): "a gradient of `fit` has one",
    ("joint_kl", "particles"): "a mean over rows is what is asked for",
    ("latent_use", "particles"): "a mean over rows is what is asked for",
    ("log_weights", "particles"): "all draws are returned",
    ("posterior_means", "particles"): "a tail is fitted to them",
    ("log_evidence", "stderr"): "log p(v) is all that is measured",
    ("calibrate", "simulated"): "the simulated rows are what is measured, not a check beside it",
    ("attribute", "objective"): "works with any guide, whatever the pair was fitted with",
    ("check", "objective"): "nothing is fitted, and all can be looked at",
    ("attribute", "epochs"): "of one round of several",
    ("load_fit", "run"): "there is nothing else to load from",
    ("from_torch", "rows"): "a pair can be made without any",
    ("load_data", "scale"): "divides values; elsewhere it belongs to a distribution",
}
OTHER_WORDS = {
    ("attribute", "objective"): "what is maximised are its trainings",
    ("load_data", "seed"): "there is no noise, but a split",
    ("load_data", "labels"): "names a column, where others take the labels themselves",
    ("load_fit", "run"): "a folder that is there, and not one to be written",
    ("load_data", "scale"): "divides values; elsewhere it belongs to a distribution",
    ("from_torch", "rows"): "a sample, on which a pair is tried as it is made",
    ("fit", "compile"): "of a training step",
}
OTHER_ORDER = {
    "load_fit": "the folder is what is loaded",
    "load_data": "has no rows yet",
    "from_torch": "has no pair yet",
}
WITHOUT_BAR = {
    "check": "runs the programs on a few rows",
    "draw": "runs the programs on a few rows",
    "from_torch": "runs the networks on a few rows",
    "log_weights": "runs the programs once",
    "load_fit": "runs the programs on a few rows",
}


def parameters(name):
    return inspect.signature(FUNCTIONS[name]).parameters


def shared():
    """Keywords of several functions, and those functions."""
    takers = {}
    for name in FUNCTIONS:
        for keyword in parameters(name):
            takers.setdefault(keyword, []).append(name)
    return {keyword: names for keyword, names in takers.items() if len(names) > 1}


SHARED = pytest.mark.parametrize(("keyword", "names"), shared().items(), ids=shared())


def check_alike(keyword, found, exceptions):
    common = {value for name, value in found.items() if (name, keyword) not in exceptions}
    assert len(common) == 1, found
    for name, value in found.items():  # an exception that is none must go
        assert (name, keyword) not in exceptions or value not in common, name


@SHARED
def test_keywords_of_one_name_have_one_default(keyword, names):
    check_alike(keyword, {name: parameters(name)[keyword].default for name in names}, OTHER_DEFAULT)


@SHARED
def test_keywords_of_one_name_are_explained_alike(keyword, names):
    check_alike(keyword, {name: sentence_of(FUNCTIONS[name], keyword) for name in names}, OTHER_WORDS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_explained(name):
    for keyword in parameters(name):
        assert text_of(FUNCTIONS[name], keyword).endswith((".", ":")), keyword
        assert not re.search(r"\b(the same|likewise|see `\w+`)\.$", text_of(FUNCTIONS[name], keyword)), keyword


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in OTHER_ORDER and name != "Annealing"])
def test_arguments_come_in_one_order(name):
    asked = list(parameters(name))
    first, last = ([keyword for keyword in some if keyword in asked] for some in (FIRST, LAST))
    assert asked[: len(first)] == first
    assert asked[len(asked) - len(last) :] == last
    optional = [key for key, parameter in parameters(name).items() if parameter.kind is parameter.KEYWORD_ONLY]
    assert not set(optional) & set(FIRST)
    assert set(last) <= set(optional)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "rows" in parameters(name)])
def test_what_walks_over_rows_can_show_how_far_it_is(name):
    assert ("progress" in parameters(name)) != (name in WITHOUT_BAR)


BRIEF = {"max_steps": 3}
CALLS = {
    "amortisation_gap": BRIEF | {"particles": 20},
    "compare": BRIEF | {"particles": 20, "simulated": 0},
    "log_evidence": BRIEF | {"particles": 20},
    "evidence_bracket": BRIEF | {"annealing": pplvae.Annealing(particles=4, temperatures=3, schedule="linear")},
    "posterior_means": BRIEF | {"particles": 30},
    "calibrate": {"particles": 9},
    "latent_use": {"particles": 4, "mixture_draws": 20},
    "joint_kl": {"log_true": lambda v: v.sum(1), "particles": 4},
    "log_weights": {"particles": 4},
    "fit": {"epochs": 2},
    "attribute": BRIEF | {"particles": 20, "epochs": 1, "worth": 50.0, "hidden": (4,)},
}
SEVERAL = ("amortisation_gap", "compare", "log_evidence", "evidence_bracket", "posterior_means")
ROWS = 6


@pytest.fixture(autouse=True)
def short_attribution(monkeypatch):
    shorten_attribution(monkeypatch)


@cache
def rows():
    torch.set_default_dtype(torch.float64)
    return random_linear(9, rows=ROWS)[1]


def called(name, some, **options):
    """A function's answer on some rows, by a pair of its own: `fit` and `attribute` train it."""
    torch.set_default_dtype(torch.float64)
    model, _ = random_linear(9, rows=1)
    guide = model.guide if name in ("fit", "attribute") else bad_guide(model, 9)[0]
    held_out = (some,) if name == "attribute" else ()
    return FUNCTIONS[name](model.model, guide, some, *held_out, **(CALLS[name] | options))


def numbers(answer):
    """All of its columns."""
    if isinstance(answer, torch.Tensor):
        return {"weights": answer.numpy()}
    found = answer.rows if isinstance(answer, Result) else answer.history.drop_vars("seconds")
    return {str(name): column.values for name, column in found.data_vars.items()}


@cache
def plain(name):
    return numbers(called(name, rows()))


def one(name="held", **known):
    return Rows((rows(),), np.arange(ROWS), name, **known)


def data():
    return pplvae.Data(one("train"), one("valid"), one("test"), "made up")


FORMS = {
    "array": lambda: rows().numpy(),
    "tuple": lambda: (rows(),),
    "mapping": lambda: {"held": rows()},
    "mapping of arrays": lambda: {"held": (rows().numpy(),)},
    "mapping of rows": lambda: {"held": one("other")},
    "rows": lambda: one(labels=np.arange(ROWS)),
    "a table of data": lambda: data().test,
    "xarray": lambda: xr.Dataset({f"column {i}": ("row", column) for i, column in enumerate(rows().numpy().T)}),
    "loader": lambda: DataLoader(TensorDataset(rows()), batch_size=4, shuffle=True, drop_last=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_rows_in_every_form_give_the_same_numbers(name, form):
    found = numbers(called(name, FORMS[form]()))
    assert found.keys() == plain(name).keys()
    for column, values in plain(name).items():
        np.testing.assert_array_equal(found[column], values, err_msg=column)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "log_weights" and name != "fit"])
def test_a_mapping_names_its_rows(name):
    assert set(called(name, {"held": rows()}).rows["part"].values.tolist()) == {"held"}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_sets_stand_side_by_side(name):
    for several in (data(), {"train": rows(), "test": (rows().numpy(),)}):
        found = called(name, several).rows
        assert found["part"].values.tolist() == ["train"] * ROWS + ["test"] * ROWS
        for column, values in plain(name).items():
            np.testing.assert_array_equal(found[column].values, np.concatenate([values] * 2), err_msg=column)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in SEVERAL])
def test_where_one_set_is_wanted_several_are_refused_by_their_names(name):
    if name != "fit":  # which knows what to do with each of its parts
        with pytest.raises(DataError, match=r"`rows` .*`data.train`, `data.valid`, `data.test`"):
            called(name, data())
    with pytest.raises(DataError, match=r"`rows` .*2 of them: 'left', 'right'\. Choose one: `rows\['left'\]`"):
        called(name, {"left": rows(), "right": rows()})
    with pytest.raises(DataError, match="0 of them: none"):
        called(name, {})


@pytest.mark.parametrize("name", [name for name in CALLS if "chunk_size" in parameters(name)])
def test_numbers_do_not_hang_on_rows_at_once(name):
    found = numbers(called(name, rows(), chunk_size=4))
    for column, values in plain(name).items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[column], values, rtol=1e-7, atol=1e-9, err_msg=column)
        else:
            np.testing.assert_array_equal(found[column], values, err_msg=column)
    with pytest.raises(ValueError, match=r"`chunk_size`.*got 0"):
        called(name, rows(), chunk_size=0)


@pytest.mark.parametrize("name", ["posterior_means", "calibrate", "latent_use", "joint_kl"])
def test_many_draws_go_through_the_programs_a_few_rows_at_once(name):
    model, v = random_linear(9, rows=40)
    seen = []

    def watched(v):
        seen.append(len(v))
        model.model(v)

    FUNCTIONS[name](watched, model.exact_guide, v, **(CALLS[name] | {"particles": 1000}))
    assert 1000 <= max(seen) <= 2**14


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("name", [name for name in CALLS if name not in WITHOUT_BAR])
def test_progress_is_shown_on_a_terminal_only(name, monkeypatch):
    shown = {}
    for progress, stream in ((True, Terminal), (False, Terminal), (True, io.StringIO)):
        monkeypatch.setattr(sys, "stderr", stream())
        called(name, rows(), progress=progress)
        shown[progress, stream] = sys.stderr.getvalue()
    total = CALLS[name]["epochs"] if name == "fit" else ROWS
    assert f"{total}/{total}" in shown.pop((True, Terminal))
    assert set(shown.values()) == {""}
