"""Drafts of programs: they suit their rows, pass `check`, say what they mean, and need us only at their end."""

import ast
import json
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from torch import distributions as td
from typer.testing import CliRunner

import pplvae
from pplvae.cli import app
from pplvae.data import Rows
from pplvae.drafting.draft import draft
from pplvae.drafting.latent import LATENT
from pplvae.drafting.observed import OBSERVED, PROPOSED
from pplvae.drafting.values import kind_of
from pplvae.errors import DataError, ProgramError, UnknownNameError
from pplvae.programs.simulation import draw_rows

COUNT = 240


def table(seed=0, holes=0.0):
    """Columns of every kind, of which two follow one latent each."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(COUNT, 2))
    frame = pd.DataFrame(
        {
            "age": (45 + 12 * h[:, 0] + 3 * rng.normal(size=COUNT)).round(),
            "income": np.exp(10 + 0.5 * h[:, 1] + 0.3 * rng.normal(size=COUNT)),
            "smoker": rng.random(COUNT) < 0.4,
            "visits": rng.poisson(np.exp(1 + 0.4 * h[:, 0])),
            "region": rng.integers(1, 6, COUNT),
            "share": 1 / (1 + np.exp(-h[:, 1])),
            "grey": np.clip(rng.normal(0.5, 0.4, COUNT), 0, 1),
        }
    ).astype(float)
    return frame.mask(rng.random(frame.shape) < holes)


def rows_of(frame):
    """Rows as `load_data` gives them, with a mask where something is missing."""
    values = torch.tensor(frame.to_numpy(), dtype=torch.get_default_dtype())
    columns = np.array(frame.columns)
    if not frame.isna().to_numpy().any():
        return Rows((values,), np.arange(len(frame)), columns=columns)
    return Rows(pplvae.with_mask(values), np.arange(len(frame)), columns=columns, roles=("observed",))


def counts(roles=("total",), columns=7):
    values = torch.poisson(3 * torch.rand(COUNT, columns))
    values[0, 0] = 0
    more = {"total": values.sum(1, keepdim=True) + 5}
    return Rows((values, *(more[role] for role in roles)), np.arange(COUNT), roles=roles)


def plain(values, **known):
    return Rows((torch.as_tensor(values, dtype=torch.get_default_dtype()),), np.arange(len(values)), **known)


def sequences():
    v = (torch.rand(COUNT, 5, 3) < 0.3).to(torch.get_default_dtype())
    lengths = torch.randint(2, 6, (COUNT,))
    v[torch.arange(5) >= lengths.unsqueeze(1)] = 0
    return Rows((v, lengths), np.arange(COUNT), roles=("lengths",))


ROWS = {
    "mixed": lambda: rows_of(table()),
    "mixed with holes": lambda: rows_of(table(holes=0.2)),
    "binary": lambda: plain(torch.rand(COUNT, 6) < 0.3),
    "grey pictures": lambda: plain(torch.rand(COUNT, 12).mul(1.4).sub(0.2).clamp(0, 1), image_shape=(3, 4)),
    "shares": lambda: plain(0.1 + 0.8 * torch.rand(COUNT, 4)),
    "classes": lambda: plain(torch.randint(0, 4, (COUNT, 5))),
    "counts": lambda: counts(()),
    "counts with totals": counts,
    "many counts": lambda: counts((), columns=120),
    "real": lambda: plain(torch.randn(COUNT, 5)),
    "one column": lambda: plain(torch.randn(COUNT, 1)),
    "sequences": sequences,
}


def made(rows, **asked):
    """A draft, and the pair that it defines; nothing of it is ours."""
    found = draft(rows, "my_model.py", "rows.csv", {}, **asked)
    upper, _, _ = found.text.partition("\nif __name__")
    assert "pplvae" not in upper.partition('"""\n\n')[2]
    namespace = {"__name__": "my_model"}
    exec(compile(upper, "my_model.py", "exec"), namespace)
    torch.manual_seed(1)
    return found, namespace[found.name]()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 1, 0, 1], "binary"),
        ([0, 0.2, 0.7, 1], "unit"),
        ([0.1, 0.2, 0.7, 0.9], "share"),
        ([1, 2, 3, 4, 5, 5, 1], "classes"),
        ([0, 1, 2, 2, 0, 1], "classes"),
        ([0] * 30 + [1] * 10 + [2], "counts"),
        ([0, 3, 17, 204], "counts"),
        ([1987, 1999, 2004], "real"),  # years
        ([5, 17, 23, 31], "real"),
        ([-1, 0, 1], "real"),
        ([0.5, 1.5], "real"),
        ([], "real"),
    ],
)
def test_the_kind_of_values(values, kind):
    assert kind_of(torch.tensor(values, dtype=torch.float64)) == kind


def test_every_kind_has_a_likelihood_that_can_have_it():
    for kind, name in PROPOSED.items():
        assert OBSERVED[name].kinds[0] == kind


@pytest.mark.parametrize("kind", ROWS)
def test_a_draft_passes_the_checks_and_can_be_measured(kind):
    rows = ROWS[kind]()
    found, pair = made(rows)
    checked = pplvae.check(pair.model, pair.guide, rows)
    assert not checked.findings, str(checked)
    assert not checked.unchecked
    pplvae.fit(pair.model, pair.guide, rows, epochs=2, objective=LATENT[found.guide].objective)
    gap = pplvae.amortisation_gap(pair.model, pair.guide, rows[:2], particles=20, max_steps=40)
    assert np.isfinite(gap.rows["elbo_local"]).all()


@pytest.mark.parametrize("kind", ROWS)
def test_a_draft_is_as_formatters_leave_it(kind):
    found, _ = made(ROWS[kind]())
    assert max(map(len, found.text.splitlines())) <= 120
    assert not [line for line in found.text.splitlines() if line != line.rstrip()]
    assert "\n\n\n\n" not in found.text


@pytest.mark.parametrize("guide", LATENT)
@pytest.mark.parametrize("kind", ["mixed with holes", "counts with totals"])
def test_every_guide(guide, kind):
    rows = ROWS[kind]()
    _, pair = made(rows, guide=guide)
    assert not pplvae.check(pair.model, pair.guide, rows).findings
    fitted = pplvae.fit(pair.model, pair.guide, rows, epochs=1, objective=LATENT[guide].objective)
    assert np.isfinite(fitted.history["objective"]).all()


@pytest.mark.parametrize("name", OBSERVED)
def test_every_likelihood_that_is_asked_for(name):
    kinds = {"binary": "binary", "unit": "grey pictures", "share": "shares", "classes": "classes", "counts": "counts"}
    for kind in OBSERVED[name].kinds:
        rows = ROWS[kinds.get(kind, kind)]()
        found, pair = made(rows, likelihood=name)
        assert list(found.likelihoods.values()) == [name]
        checked = pplvae.check(pair.model, pair.guide, rows)
        assert all(finding.code in ("PV214", "PV271", "PV272") for finding in checked), str(checked)


def log_prob_by_hand(pair, v, observed, h):
    """The log density of the mixed table, column by column, from torch's own distributions."""
    real, binary, counts_, classes, share, grey = [0, 1], [2], [3], [4], [5], [6]
    names = ["real", "binary", "counts", "classes", "share", "unit"]
    heads = dict(zip(names, pair.decoder(h).split([2, 1, 1, 5, 1, 1], -1), strict=True))
    soft = torch.nn.functional.softplus
    scale = 0.03 + soft(pair.free_scale_real)
    spread, mean = pair.spread_real, pair.mean_real
    r = 0.01 + soft(pair.free_inverse_dispersion_counts)
    c = 0.1 + soft(pair.free_concentration_share)
    m = 0.001 + 0.998 * torch.sigmoid(heads["share"])
    rate = (heads["counts"] + pair.mean_counts.log()).exp()
    known = observed.bool()
    inside = torch.where(known[:, share], v[:, share], 0.5)
    parts = {
        "real": (real, td.Normal(mean + spread * heads["real"], spread * scale).log_prob(v[:, real])),
        "binary": (binary, td.Bernoulli(logits=heads["binary"]).log_prob(v[:, binary])),
        "counts": (counts_, td.NegativeBinomial(r, probs=rate / (rate + r)).log_prob(v[:, counts_])),
        "classes": (classes, heads["classes"].log_softmax(-1).gather(1, (v[:, classes].long() - 1).clamp(min=0))),
        "share": (share, td.Beta(m * c, (1 - m) * c).log_prob(inside)),
        "unit": (grey, td.ContinuousBernoulli(logits=heads["unit"]).log_prob(v[:, grey])),
    }
    return sum((log_prob * known[:, places]).sum(1) for places, log_prob in parts.values())


def test_a_mixed_table_has_the_density_that_is_meant():
    rows = rows_of(table(holes=0.2))
    _, pair = made(rows)
    v, observed = rows.tensors
    h = torch.randn(COUNT, pair.latent)
    with pyro.condition(data={"h": h}):
        trace = pyro.poutine.trace(pyro.condition(pair.model, data={"h": h})).get_trace(v, observed)
    trace.compute_log_prob()
    found = sum(site["log_prob"] for name, site in trace.nodes.items() if name.startswith("v_"))
    torch.testing.assert_close(found, log_prob_by_hand(pair, v, observed, h))


def test_what_is_missing_changes_nothing():
    """Another filler in the place of missing values, of the same support, gives the same density."""
    rows = rows_of(table(holes=0.2))
    _, pair = made(rows)
    v, observed = rows.tensors
    other = torch.where(observed.bool(), v, 1.0)
    h = torch.randn(COUNT, pair.latent)
    found = []
    for values in (v, other):
        trace = pyro.poutine.trace(pyro.condition(pair.model, data={"h": h})).get_trace(values, observed)
        found.append(trace.log_prob_sum())
    torch.testing.assert_close(*found)


def test_rows_can_be_simulated_from_a_mixed_table():
    rows = rows_of(table(holes=0.2))
    _, pair = made(rows)
    v, observed = rows.tensors
    simulated = draw_rows(pair.model, pair.guide, rows).tensors[0]
    known = observed.bool()
    assert (simulated[~known] == 0).all()
    assert (simulated != v)[known].double().mean() > 0.5
    assert set(simulated[known[:, 4], 4].tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert set(simulated[known[:, 2], 2].tolist()) == {0.0, 1.0}


def test_the_encoder_is_shown_zero_where_a_measurement_is_missing():
    rows = rows_of(table(holes=0.2))
    _, pair = made(rows)
    shown = []
    pair.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    pair.guide(*rows.tensors)
    real, missing = shown[0][:, :2], ~rows.tensors[1][:, :2].bool()
    assert bool(missing.any())
    assert not bool(real[missing].any())
    torch.testing.assert_close(shown[0][:, -7:], rows.tensors[1])


def test_a_class_that_no_training_row_has_is_refused():
    rows = rows_of(table())
    _, pair = made(rows)
    other = rows.tensors[0].clone()
    other[3, 4] = 0.0
    with pytest.raises(DataError, match=r"Rows 3 .*'v_classes'"):
        pplvae.log_weights(pair.model, pair.guide, other)


def test_padding_of_sequences_changes_nothing():
    rows = sequences()
    _, pair = made(rows)
    v, lengths = rows.tensors
    longer = torch.cat([v, torch.zeros(COUNT, 2, 3)], 1)
    torch.manual_seed(0)
    latents = {f"h_{t}": torch.randn(COUNT, pair.latent) for t in range(7)}
    found = [
        pyro.poutine.trace(pyro.condition(program, data=latents)).get_trace(values, lengths).log_prob_sum()
        for program in (pair.model, pair.guide)
        for values in (v, longer)
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])


def test_reasons_name_columns_and_what_is_odd_about_them():
    frame = table()
    frame["always"] = 3.0
    reasons = " ".join(draft(rows_of(frame), "m.py", "rows.csv", {}).reasons)
    assert "Columns age, income" in reasons
    assert "income: a long tail above" in reasons
    assert "Column always: the same value in every row" in reasons
    assert "Column region: few whole numbers, from 1 to 5" in reasons


def test_columns_in_units_of_their_own_are_standardised():
    found = draft(plain(100 + 20 * torch.randn(COUNT, 3)), "m.py", "rows.csv", {"ids": "name"})
    assert found.reading == {"ids": "name", "standardise": True}
    assert 'pplvae.load_data("rows.csv", ids="name", standardise=True)' in found.text
    assert "--data rows.csv --ids name --standardise" in found.text


def test_genes_that_are_rare_are_counts_like_the_others():
    values = torch.poisson(torch.linspace(0.2, 5, 20).expand(COUNT, 20))
    values[:, 0] = (torch.arange(COUNT) < 9).double()
    found = draft(plain(values, columns=np.array([f"gene {k}" for k in range(20)])), "m.py", "rows.csv", {})
    assert found.likelihoods == {"counts": "negative-binomial"}


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"likelihood": "bernouli"}, UnknownNameError, "bernoulli"),
        ({"guide": "flows"}, UnknownNameError, "flow"),
        ({"likelihood": "poisson"}, ProgramError, "gaussian-shared"),
    ],
)
def test_what_cannot_be_drafted_is_refused(asked, error, words):
    with pytest.raises(error, match=words):
        draft(ROWS["real"](), "m.py", "rows.csv", {}, **asked)
    with pytest.raises(ProgramError, match=r"my_model\.py"):
        draft(ROWS["real"](), "2 fast.py", "rows.csv", {})


def test_names_from_files_cannot_become_code():
    """Not by the names of columns, nor by that of the file: quotes, line breaks, marks that turn the direction."""
    frame = table()
    frame.columns = ["a\nimport os", "b\r\nx = 1", 'c"""', "d\\", "e\u202eevil", "f\x0cg", "# h"]
    file = 'rows"""\nimport os\n".csv'
    found = draft(rows_of(frame), "my_model.py", file, {"ids": 'i"); import os; ("'})
    tree = ast.parse(found.text)
    imports = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert sorted(set(imports)) == ["pplvae", "pyro", "pyro.distributions", "torch"]
    kinds = {type(node).__name__ for node in tree.body}
    assert kinds == {"Expr", "Import", "ImportFrom", "Assign", "ClassDef", "FunctionDef", "If"}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (load,) = (call for call in calls if getattr(call.func, "attr", "") == "load_data")
    assert load.args[0].value == file
    assert "\u202e" not in found.text + " ".join(found.reasons)
    assert not any("\n" in reason for reason in found.reasons)


def test_the_commands_that_are_printed_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(holes=0.1).to_csv("my rows.csv", index=False)
    result = CliRunner().invoke(app, ["new", "my_model.py", "--data", "my rows.csv"])
    assert result.exit_code == 0, result.output
    check, run = (line.strip() for line in result.output.splitlines() if line.startswith("  "))
    words = shlex.split(check)
    assert words[:2] == ["pplvae", "check"]
    assert "--missing" in words
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    text = (tmp_path / "my_model.py").read_text()
    quick = ast.unparse(_Quick().visit(ast.parse(text)))
    (tmp_path / "my_model.py").write_text(quick)
    assert shlex.split(run)[0] == "python"
    subprocess.run([sys.executable, *shlex.split(run)[1:]], check=True, capture_output=True, cwd=tmp_path)
    assert (tmp_path / "my_model_gap.html").stat().st_size > 100_000


class _Quick(ast.NodeTransformer):
    """Few epochs."""

    def visit_keyword(self, node):
        return ast.keyword("epochs", ast.Constant(2)) if node.arg == "epochs" else node


def test_the_command_refuses_to_write_over_a_file(tmp_path):
    path = tmp_path / "m.py"
    path.write_text("mine")
    result = CliRunner().invoke(app, ["new", str(path), "--data", "digits"])
    assert result.exit_code == 2
    assert "--force" in result.output
    assert path.read_text() == "mine"
    result = CliRunner().invoke(app, ["new", str(path), "--data", "digits", "--force", "--json"])
    told = json.loads(result.stdout)
    assert told["class"] == "M"
    assert told["likelihoods"] == {"binary": "bernoulli"}
    assert "class M(" in path.read_text()
    assert CliRunner().invoke(app, ["new", str(tmp_path / "no" / "m.py"), "--data", "digits"]).exit_code == 2


def test_a_class_says_how_many_latents_it_has(tmp_path):
    """Without --latent a class keeps its own default; with it, it is given the number."""
    path = tmp_path / "m.py"
    assert CliRunner().invoke(app, ["new", str(path), "--data", "digits", "--latent", "3"]).exit_code == 0
    for words, size in (([], 3), (["--latent", "5"], 5)):
        result = CliRunner().invoke(app, ["draw", f"{path}:M", "--data", "digits", "--json", *words])
        sites = json.loads(result.stdout)["sites"]
        assert [site["event"] for site in sites if site["kind"] == "latent"] == [[size], [size]]


def test_the_graph_of_a_pair(tmp_path):
    pair = pplvae.models.HierarchicalVAE(visible=6, latent=2)
    rows = torch.zeros(4, 6)
    graph = pplvae.draw(pair.model, pair.guide, rows)
    assert graph.given("model", "v") == ["h_1"]
    assert graph.given("model", "h_1") == ["h_2"]
    assert graph.given("guide", "h_1") == ["h_2"]
    assert "observed  h_1" in str(graph)
    with pytest.raises(UnknownNameError, match="guide"):
        graph.save(tmp_path / "a.dot", "guides")
    with pytest.raises(UnknownNameError, match=r"\.svg"):
        graph.save(tmp_path / "a.gif")


def test_a_picture_without_graphviz(tmp_path, monkeypatch):
    pytest.importorskip("graphviz")
    pair = pplvae.models.BernoulliVAE(visible=6, latent=2)
    graph = pplvae.draw(pair.model, pair.guide, torch.zeros(4, 6))
    assert "h -> v" in graph.save(tmp_path / "a.dot").read_text()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="apt-get install graphviz"):
        graph.save(tmp_path / "a.svg")
    assert "<pre>" in graph._repr_html_()
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match=r"pplvae\[draw\]"):
        graph.save(tmp_path / "a.dot")


def test_programs_that_fail_are_refused_when_they_are_drawn():
    def model(v):
        raise ValueError("not today")

    with pytest.raises(ProgramError, match="not today"):
        pplvae.draw(model, model, torch.zeros(4, 6))
