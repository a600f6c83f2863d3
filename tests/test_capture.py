"""A captured graph is the function to the bit, and what cannot be captured, or has changed, is noticed."""

import warnings

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pplvae.errors import CaptureError, PplvaeWarning
from pplvae.programs import capture
from pplvae.programs.capture import Captured, Replayed, agree


def slope(weight):
    """Like a log-density's: differentiates inside, and reads a parameter from outside."""

    def function(u):
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = (torch.tanh(u @ weight) * torch.tensor(0.3)).square().sum() - 0.5 * u.square().sum()
            return torch.autograd.grad(value, u)[0], value.detach()

    return function


def same(captured, function, *inputs):
    """Both run from the same state of the generator: the same bits, and the same state afterwards."""
    state = torch.get_rng_state()
    ours = captured(*inputs)
    moved = torch.get_rng_state()
    torch.set_rng_state(state)
    theirs = function(*inputs)
    assert torch.equal(moved, torch.get_rng_state())
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_on_other_inputs(dtype):
    function = slope(torch.randn(4, 6, dtype=dtype))
    captured = Captured(function, [torch.randn(5, 4, dtype=dtype)])
    for _ in range(3):
        same(captured, function, torch.randn(5, 4, dtype=dtype))


def test_a_bound_method_and_two_inputs():
    class Holder:
        weight = torch.randn(3)

        def method(self, a, b):
            return [a * self.weight - b]

    holder = Holder()
    same(Captured(holder.method, [torch.zeros(2, 3), torch.zeros(2, 3)]), holder.method, *torch.randn(2, 2, 3))


def test_no_gradient_is_recorded():
    weight = nn.Parameter(torch.randn(3))
    (found,) = Captured(lambda u: [u * weight], [torch.zeros(3)])(torch.ones(3))
    assert not found.requires_grad


def test_tensors_from_elsewhere_stay_live():
    weight, held = nn.Parameter(torch.randn(3, 3)), {"shift": torch.randn(3)}

    def function(u):
        return [u @ weight.detach() + held["shift"]]

    captured = Captured(function, [torch.zeros(2, 3)])
    with torch.no_grad():
        weight.mul_(-2)
        held["shift"].add_(1)
    same(captured, function, torch.randn(2, 3))


def test_literals_are_folded():
    """What is made of numbers alone is computed once; the parameter beside it is read each time."""
    weight = torch.randn(3)

    def function(u):
        scale = (torch.tensor(2.0) * torch.ones_like(u)).exp().sqrt()
        return [u * scale + weight]

    captured = Captured(function, [torch.zeros(3)])
    names = {str(node.target) for node in captured.graph.graph.nodes if node.op == "call_function"}
    assert not any(word in name for name in names for word in ("exp", "sqrt", "ones_like", "lift_fresh"))
    assert any(bound is weight for bound in captured.bound)
    same(captured, function, torch.randn(3))


def test_views_that_show_their_source_as_it_lies_are_left_out():
    def function(u):
        same = u.t().t().detach().expand(3, 3).view(3, 3).permute(1, 0).mT
        return [same + 1]

    captured = Captured(function, [torch.zeros(3, 3)])
    assert [str(node.target) for node in captured.graph.graph.nodes if node.op == "call_function"] == [
        "aten.add.Tensor"
    ]
    same(captured, function, torch.randn(3, 3))


def test_views_that_look_like_their_source_and_show_other_numbers_are_kept():
    """The second window reaches past the first, and a conjugate lies where the number does."""

    def function(u):
        z = torch.complex(u, u + 1)
        return [u[:2].as_strided((2,), (1,), 1) * 2, torch.view_as_real(z.conj() * 2)]

    same(Captured(function, [torch.zeros(3)]), function, torch.randn(3))


def test_shapes_are_noted_in_one_mode(monkeypatch):
    """A mode for each operation takes as long as all the rest of a capture."""
    made, begin = [], FakeTensorMode.__init__

    def counting(self, *args, **options):
        made.append(self)
        begin(self, *args, **options)

    monkeypatch.setattr(FakeTensorMode, "__init__", counting)
    Captured(slope(torch.randn(4, 6)), [torch.randn(5, 4)])
    assert len(made) == 1


def test_a_literal_that_is_written_to_is_made_afresh():
    def function(u):
        total = torch.zeros(3)
        for row in u:
            total += row
        return [total]

    captured = Captured(function, [torch.zeros(4, 3)])
    for _ in range(3):
        same(captured, function, torch.randn(4, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda u: [u if u.sum() > 0 else -u],
        lambda u: [u * u.max().item()],
        lambda u: [u * float(u[0])],
    ],
    ids=["branch", "item", "float"],
)
def test_python_that_looks_at_a_value_is_refused_in_words(function):
    with pytest.raises(CaptureError, match=r"Python branch, or a number, is taken from a tensor's value"):
        Captured(function, [torch.ones(3)])


@pytest.mark.parametrize("category", [FutureWarning, DeprecationWarning, UserWarning])
def test_a_warning_under_capture_is_no_failure(category):
    """Also under `-W error`, as in these tests: it may be torch's own."""

    def function(u):
        if get_proxy_mode() is not None:
            warnings.warn("This part of torch is deprecated.", category, stacklevel=1)
        return [u + 1]

    same(Captured(function, [torch.zeros(3)]), function, torch.randn(3))


def test_another_failure_is_named():
    def function(u):
        raise RuntimeError("no such network\nand more")

    with pytest.raises(CaptureError, match=r"RuntimeError: no such network$"):
        Captured(function, [torch.ones(3)])


@pytest.mark.parametrize(
    "function",
    [
        lambda u: [u + torch.randn_like(u)],
        lambda u: [u * torch.bernoulli(torch.full_like(u, 0.3)), torch.rand(2)],
        lambda u: [torch.normal(u, 1.0)],
        lambda u: [nn.functional.dropout(u, 0.4)],
    ],
    ids=["randn_like", "bernoulli and rand", "normal", "dropout"],
)
def test_draws_are_those_of_the_function(function):
    captured = Captured(function, [torch.zeros(50)])
    first, second = (captured(torch.ones(50))[0] for _ in range(2))
    assert not torch.equal(first, second)
    same(captured, function, torch.ones(50))


def test_an_unused_draw_moves_the_generator_on():
    def function(u):
        torch.randn(7)
        return [u + torch.randn_like(u)]

    same(Captured(function, [torch.zeros(3)]), function, torch.zeros(3))


def test_writes_into_buffers_are_kept():
    def network():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    ours, theirs = network(), network()
    captured = Captured(lambda u: [ours(u)], [torch.randn(8, 3)])
    ours.load_state_dict(theirs.state_dict())  # the capture itself may have run it
    for _ in range(3):
        u = torch.randn(8, 3)
        assert torch.equal(captured(u)[0], theirs(u).detach())
    assert float(theirs[1].running_mean.abs().max()) > 0
    for name, buffer in theirs.named_buffers():
        assert torch.equal(dict(ours.named_buffers())[name], buffer), name


def test_a_graph_keeps_no_tensor_beside_its_inputs():
    """A compiler would take each for one more input that lies in the same memory, and mend that at every call."""
    network, scale = nn.Linear(3, 4), torch.tensor(2.0)
    captured = Captured(lambda u: [scale * network(u)], [torch.randn(8, 3)])
    kept = [*captured.graph.parameters(), *captured.graph.buffers(), *vars(captured.graph).values()]
    assert not any(isinstance(value, torch.Tensor) for value in kept)
    assert len(captured.bound) == 3


class Counting:
    """A function that counts how often its Python runs."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *inputs):
        self.calls += 1
        return self.function(*inputs)


@pytest.fixture
def twenty_plain_calls(monkeypatch):
    monkeypatch.setattr(capture, "_WORTH", 20 * capture._CALL)


def test_replayed_captures_sooner_what_takes_longer():
    calls = []
    for size in (1, 2**20, 2**23, 2**25):
        function = Counting(lambda u: [u[:1]])
        replayed, u = Replayed(function), torch.zeros(1)
        for _ in range(600):
            replayed(u[:1], size=size)
        calls.append(function.calls)
    checks = [5, 6, 6, 6]  # every hundredth
    assert calls == [128 + 1 + checks[0], 4 + 1 + checks[1], 1 + 1 + checks[2], 1 + 1 + checks[3]]


@pytest.mark.usefixtures("twenty_plain_calls")
def test_replayed_captures_after_its_plain_calls():
    weight = torch.randn(4, 6)
    function = Counting(slope(weight))
    replayed = Replayed(function)
    for call in range(60):
        u = torch.randn(5, 4)
        found = replayed(u)
        for one, other in zip(found, slope(weight)(u), strict=True):
            assert torch.equal(one, other)
        if call < 20:
            assert function.calls == call + 1
    assert function.calls == 22  # the capture, and the check of its first numbers
    replayed(torch.randn(7, 4))  # another shape begins anew
    assert function.calls == 23


@pytest.mark.usefixtures("twenty_plain_calls")
def test_replayed_keeps_a_graph_for_each_shape_and_dtype():
    function = Counting(lambda u: [2 * u])
    replayed = Replayed(function)
    for _ in range(40):
        for u in (torch.randn(3), torch.randn(4), torch.randn(3, dtype=torch.float32)):
            assert torch.equal(replayed(u)[0], 2 * u)
            assert replayed(u)[0].dtype == u.dtype
    assert function.calls == 3 * 22


@pytest.mark.usefixtures("twenty_plain_calls")
def test_replayed_calls_what_cannot_be_captured():
    function = Counting(lambda u: [u if u.sum() > 0 else -u])
    replayed = Replayed(function)
    for _ in range(30):
        u = torch.randn(5)
        assert torch.equal(replayed(u)[0], u * torch.where(u.sum() > 0, 1.0, -1.0))
    assert function.calls == 31  # once for the capture that failed
    assert not replayed(torch.ones(5, requires_grad=True))[0].requires_grad


@pytest.mark.usefixtures("twenty_plain_calls")
def test_replayed_falls_back_when_a_python_number_changes():
    """A number is frozen in the graph: the change is seen at the next hundredth call, and the function called again."""
    factor = [1.0]
    replayed = Replayed(lambda u: [u * factor[0]])
    u = torch.randn(5)
    found = []

    def call_often():
        for call in range(130):
            factor[0] = 1.0 if call < 50 else 3.0
            found.append(float((replayed(u)[0] / u).mean()))

    with pytest.warns(PplvaeWarning, match="a Python number that changes"):
        call_often()
    expected = [1.0] * 120 + [3.0] * 10
    assert found == pytest.approx(expected)
    factor[0] = 5.0  # and from then on at once
    assert torch.equal(replayed(u)[0], u * 5.0)


@pytest.mark.usefixtures("twenty_plain_calls")
def test_replayed_notices_a_graph_that_was_wrong_from_the_start():
    """A branch taken by a count that goes on: what it did under capture is not what it does next."""
    count = [0]

    def function(u):
        count[0] += 1
        return [u * count[0]]

    replayed = Replayed(function)

    def call_often():
        for _ in range(40):
            before = count[0]
            (found,) = replayed(torch.ones(2))
            assert count[0] > before
            assert torch.equal(found, torch.full((2,), float(count[0])))

    with pytest.warns(PplvaeWarning, match="gave other numbers"):
        call_often()


@pytest.mark.parametrize(
    ("one", "other", "yes"),
    [
        ([1.0, 1e-9], [1.0, 0.0], True),  # measured by the largest number
        ([1.0, 2e-4], [1.0, 0.0], False),
        ([1000.0, 5e-3], [1000.0, 0.0], True),
        ([torch.nan, 1.0], [torch.nan, 1.0], True),
        ([torch.nan, 1.0], [1.0, 1.0], False),
        ([torch.inf, 1.0], [torch.inf, 1.0], True),
        ([torch.inf, 1.0], [-torch.inf, 1.0], False),
        ([torch.inf, 1.0], [1.0, 1.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([1e-14, 0.0], [0.0, 0.0], True),
        ([1e-3, 0.0], [0.0, 0.0], False),
    ],
)
def test_agree(one, other, yes):
    assert agree(torch.tensor(one), torch.tensor(other), 1e-5) == yes


def recurrent(kind=nn.LSTM, **options):
    """Differentiates a recurrent net of float32, whose kernel keeps something for its gradient."""
    net = kind(2, 3, batch_first=True, **options).float()

    def function(u):
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            return torch.autograd.grad(net(u)[0].square().sum(), u)

    return function


@pytest.mark.usefixtures("twenty_plain_calls")
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}])
def test_replayed_calls_what_cannot_be_replayed(options):
    function = recurrent(**options)
    replayed, u = Replayed(function), torch.randn(4, 5, 2, dtype=torch.float32)
    for _ in range(30):
        assert torch.equal(replayed(u)[0], function(u)[0])


@pytest.mark.usefixtures("twenty_plain_calls")
def test_replayed_goes_on_where_a_graph_raises_later(monkeypatch):
    calls = []

    class Tired(Captured):
        def __call__(self, *inputs):
            calls.append(1)
            if len(calls) > 5:
                raise RuntimeError("no memory")
            return super().__call__(*inputs)

    monkeypatch.setattr(capture, "Captured", Tired)
    replayed, u = Replayed(lambda u: [3 * u]), torch.randn(4)
    for _ in range(60):
        assert torch.equal(replayed(u)[0], 3 * u)
    assert len(calls) == 6
