"""Adam's update as plain operations is that of torch's own optimiser."""

import pytest
import torch

from pplvae.training.adam import adam_update, begin_adam, is_plain_adam


def steps(update, clip=None):
    """Twenty updates of two tensors, the second without a gradient at first."""
    torch.manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(3, 2, dtype=torch.float64)),
        torch.nn.Parameter(torch.randn(4, dtype=torch.float64)),
    ]
    optimiser = torch.optim.Adam(parameters, lr=0.03, betas=(0.8, 0.99), eps=1e-6)
    for k in range(20):
        slopes = [torch.randn_like(p) * 3 for p in parameters]
        update(optimiser, parameters, slopes if k > 4 else [slopes[0], None], clip)
    return [p.detach() for p in parameters], optimiser


def by_torch(optimiser, parameters, slopes, clip):
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = slope
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()


def by_us(optimiser, parameters, slopes, clip):
    begin_adam(optimiser, parameters)
    adam_update(optimiser, parameters, slopes, torch.tensor(True), clip)


@pytest.mark.parametrize("clip", [None, 0.7])
def test_the_same_steps_and_the_same_state(clip):
    ours, our_state = steps(by_us, clip)
    theirs, their_state = steps(by_torch, clip)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(our_state.state.values(), their_state.state.values(), strict=True):
        for name in ("step", "exp_avg", "exp_avg_sq"):
            # torch counts steps in its default dtype, its fused kernel in float32
            torch.testing.assert_close(a[name], b[name], rtol=1e-10, atol=1e-12, check_dtype=name != "step")


def test_nothing_moves_where_the_loss_is_not_finite():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam([parameter])
    begin_adam(optimiser, [parameter])
    adam_update(optimiser, [parameter], [torch.full((2,), torch.nan)], torch.tensor(False), None)
    assert torch.equal(parameter, torch.ones(2))
    assert all(float(value.sum()) == 0 for value in optimiser.state[parameter].values())


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (torch.optim.Adam, True),
        (lambda ps: torch.optim.Adam(ps, amsgrad=True), False),
        (lambda ps: torch.optim.Adam(ps, weight_decay=0.1), False),
        (torch.optim.AdamW, False),
        (lambda ps: torch.optim.SGD(ps, lr=0.1), False),
    ],
)
def test_which_optimisers_are_plain(make, plain):
    assert is_plain_adam(make([torch.nn.Parameter(torch.ones(2))])) == plain
