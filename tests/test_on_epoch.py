"""Who is told of each epoch: what, when, and what becomes of those that raise or want to stop."""

import pytest
import torch
from oracles import random_linear

import pplvae


def fitted(told, **how):
    model, v = random_linear(0, rows=60)
    how = {"epochs": 4, "batch_size": 30, "lr": 0.01, "validation": v[:20]} | how
    return pplvae.fit(model.model, model.guide, v, on_epoch=told, **how), model


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_every_epoch_is_told_as_the_history_has_it():
    heard = []
    fit, _ = fitted([lambda epoch, values: heard.append((epoch, values))] * 2, validation=None)
    assert [epoch for epoch, _ in heard] == [0, 0, 1, 1, 2, 2, 3, 3]
    for epoch, values in heard:
        assert set(values) == {"objective", "kl_weight", "seconds"}  # no validation rows, no number
        assert values == {name: float(fit.history[name][epoch]) for name in values}
        assert all(type(value) is float for value in values.values())


def test_one_that_draws_and_trains_on_nothing_changes_no_bit():
    def busy(epoch, values):
        torch.manual_seed(epoch)
        torch.rand(3)
        values.clear()

    fit, model = fitted(busy)
    plain, other = fitted(None)
    assert all(map(torch.equal, weights(model), weights(other)))
    assert fit.history.drop_vars("seconds").identical(plain.history.drop_vars("seconds"))


def test_what_it_raises_is_raised_and_nothing_is_lost(tmp_path):
    def full_disk(epoch, _):
        if epoch == 2:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fitted(full_disk, run=tmp_path)
    heard = []
    resumed, model = fitted(lambda epoch, _: heard.append(epoch), run=tmp_path, existing="resume")
    plain, other = fitted(None)
    assert heard == [3]
    assert all(map(torch.equal, weights(model), weights(other)))
    assert resumed.history["objective"].identical(plain.history["objective"])


@pytest.mark.parametrize(("wish", "epochs"), [(True, 2), (1, 4), ("done", 4)])
def test_only_true_itself_ends_the_fit(wish, epochs):
    fit, _ = fitted([lambda epoch, _: wish if epoch == 1 else None, lambda *_: None])
    assert fit.history.sizes["epoch"] == epochs
    assert fit.status.name == ("STOPPED" if epochs == 2 else "COMPLETED")
    assert ("after epoch 1" in fit.message) == (epochs == 2)


@pytest.mark.parametrize("wrong", [3, [print, "log"]])
def test_what_cannot_be_called_is_refused_before_the_first_epoch(wrong):
    with pytest.raises(TypeError, match=r"on_epoch\(epoch, values\)"):
        fitted(wrong)
