"""What loggers write is what the history has; each is tried for real where it is installed."""

import importlib.util
import os
import sys

import numpy as np
import pytest
from oracles import random_linear

import pplvae
from pplvae.loggers import MLflow, TensorBoard, Trackio, WandB


def fitted(logger):
    model, v = random_linear(0, rows=30)
    return pplvae.fit(model.model, model.guide, v, epochs=3, compare_every=3, compare_rows=5, on_epoch=logger).history


def library(name):
    return pytest.importorskip(name, reason=f"{name} is no dependency; `pip install {name}` to try it")


@pytest.mark.parametrize("kind", [WandB, Trackio])
def test_runs_are_told_the_numbers_of_an_epoch_at_its_step(kind):
    logged = {}

    class Run:
        def log(self, values, step, commit=True):
            logged[step] = values

    history = fitted(kind(Run()))
    assert list(logged) == [0, 1, 2]
    assert logged[1]["objective"] == float(history["objective"][1])
    assert ["train_gap" in values for values in logged.values()] == [False, False, True]


@pytest.mark.parametrize(("name", "make"), [("tensorboard", lambda: TensorBoard("logs")), ("mlflow", MLflow)])
def test_what_is_not_installed_is_named_with_the_line_that_installs_it(name, make, monkeypatch):
    for module in [each for each in sys.modules if each.split(".")[0] == name or each == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install .*{name}"):
        make()


@pytest.mark.filterwarnings("ignore")  # of the library
def test_tensorboard_reads_what_was_written(tmp_path):
    library("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path / "logs")
    assert not (tmp_path / "logs").exists()  # before the first epoch a fit may still be refused
    history = fitted(logger)
    read = EventAccumulator(str(tmp_path / "logs"))
    read.Reload()
    objective = read.Scalars("objective")
    assert [event.step for event in objective] == [0, 1, 2]
    np.testing.assert_allclose([event.value for event in objective], history["objective"], rtol=1e-6)
    assert [event.step for event in read.Scalars("train_gap")] == [2]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_what_was_logged(tmp_path, monkeypatch):
    mlflow = library("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    monkeypatch.chdir(tmp_path)
    with mlflow.start_run() as run:
        history = fitted(MLflow())
    found = mlflow.MlflowClient().get_metric_history(run.info.run_id, "objective")
    assert [metric.step for metric in found] == [0, 1, 2]
    np.testing.assert_allclose([metric.value for metric in found], history["objective"])


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is no dependency")
@pytest.mark.filterwarnings("ignore")
def test_a_run_of_weights_and_biases_has_the_numbers_at_its_end(tmp_path):
    import wandb

    try:
        with wandb.init(mode="offline", dir=tmp_path, project="pplvae") as run:
            history = fitted(WandB(run))
            assert run.summary["objective"] == float(history["objective"][-1])
    finally:
        wandb.teardown()
        os.environ.pop("WANDB_SERVICE", None)
    assert list(tmp_path.rglob("*.wandb"))
