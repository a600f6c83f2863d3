"""`check` finds what is planted, says where, and finds nothing in programs that are right."""

import linecache
import re
from pathlib import Path

import numpy as np
import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import process_state
from pyro.distributions.transforms import conditional_spline
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pplvae
from pplvae.checking import check as running
from pplvae.checking.codes import CODES
from pplvae.errors import DataError, ProgramError, UnknownNameError

ROWS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Right(nn.Module):
    """A pair of which each plant changes one method."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)

    def prior(self, v):
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def latent(self, v):
        return pyro.sample("h", self.prior(v))

    def likelihood(self, h):
        return dist.Normal(self.decoder(h), 1.0).to_event(1)

    def observed(self, h, v):
        pyro.sample("v", self.likelihood(h), obs=v)

    def model(self, v):
        pyro.module("right", self)
        with pyro.plate("data", len(v)):
            self.observed(self.latent(v), v)

    def encode(self, v):
        loc, raw = self.encoder(v).chunk(2, -1)
        return loc, raw.exp()

    def posterior(self, v):
        return dist.Normal(*self.encode(v)).to_event(1)

    def guide(self, v):
        pyro.module("right", self)
        posterior = self.posterior(v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", posterior)


def found_in(pair, rows=ROWS, **options):
    """What is found of a class, or of an object, that has both programs."""
    pair = pair() if isinstance(pair, type) else pair
    return pplvae.check(pair.model, pair.guide, rows, **options)


def codes_of(checked):
    return {finding.code for finding in checked}


# ------------------------------------------------------------------------------ plants, and the line that has each


class Raises(Right):
    def encode(self, v):
        return self.encoder(v).chunks(2, -1)  # here


class WritesIntoItsWeights(Right):
    def likelihood(self, h):
        self.decoder.weight.clamp_(-1.0, 1.0)
        return super().likelihood(h)


class WrongEvents(Right):
    def likelihood(self, h):
        return dist.Normal(self.decoder(h), 1.0)

    def observed(self, h, v):
        pyro.sample("v", self.likelihood(h), obs=v)  # here


class Broadcast(Right):
    def observed(self, h, v):
        pyro.sample("v", dist.Normal(self.decoder(h)[:, 0], 1.0), obs=v[:, :1])  # here


class SomeRowsOnly(Right):
    def observed(self, h, v):
        for k in range(1 + int((v > 1.9).any())):
            pyro.sample(f"v{k}", self.likelihood(h), obs=v)  # here


class OtherSizes(Right):
    def observed(self, h, v):
        pyro.sample("v", dist.Normal(self.decoder(h)[:, :2], 1.0).to_event(1), obs=v)  # here


class OtherName(Right):
    def latent(self, v):
        return pyro.sample("z", self.prior(v))  # here


class OtherShape(Right):
    def likelihood(self, h):
        return super().likelihood(h.expand(-1, 2))

    def guide(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(self.encoder(v)[:, :1], 1.0).to_event(1))  # here


class OutsideThePrior(Right):
    def prior(self, v):
        return dist.HalfNormal(torch.ones(2)).to_event(1)

    def guide(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(*self.encode(v), validate_args=False).to_event(1))  # here


class MaskedInTheModel(Right):
    def latent(self, v):
        with pyro.poutine.mask(mask=v[:, 0] > 0):
            return pyro.sample("h", self.prior(v))


class HiddenContext(Right):
    def __init__(self):
        super().__init__()
        self.flow = conditional_spline(2, context_dim=3)

    def guide(self, v):
        with pyro.plate("data", len(v)):
            base = self.prior(v).expand([len(v)])
            pyro.sample("h", dist.TransformedDistribution(base, [self.flow.condition(v)]))  # here


class NoPlate(Right):
    def model(self, v):  # here
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))
        self.observed(h, v)


class FixedSize(Right):
    def model(self, v):
        with pyro.plate("data", 30):
            self.observed(self.latent(v), v)

    def observed(self, h, v):
        pyro.sample("v", self.likelihood(h), obs=v)  # here


class Loop(Right):
    def model(self, v):
        for i in pyro.plate("data", len(v)):
            h = pyro.sample(f"h{i}", self.prior(v))
            pyro.sample(f"v{i}", self.likelihood(h), obs=v[i])

    def guide(self, v):
        for i in pyro.plate("data", len(v)):
            pyro.sample(f"h{i}", self.posterior(v[i]))


class Subsampled(Right):
    def model(self, v):
        with pyro.plate("data", len(v), subsample_size=2) as index:  # here
            pyro.sample("v", self.likelihood(self.latent(v)), obs=v[index])

    def guide(self, v):
        with pyro.plate("data", len(v), subsample_size=2) as index:  # here
            pyro.sample("h", self.posterior(v[index]))


class Permuted(Right):
    def model(self, v):
        with pyro.plate("data", size=1_000_000, subsample_size=len(v)):
            self.observed(self.latent(v), v)

    def guide(self, v):
        with pyro.plate("data", size=1_000_000, subsample_size=len(v)):  # here
            pyro.sample("h", self.posterior(v))


class NoSize(Right):
    def guide(self, v):
        with pyro.plate("data"):
            pyro.sample("h", self.posterior(v))  # here


class OutsideThePlate(Right):
    def model(self, v):
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))
        with pyro.plate("data", len(v)):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            self.observed(h + u.unsqueeze(-1), v)

    def guide(self, v):
        pyro.sample("h", self.posterior(v))  # here
        with pyro.plate("data", len(v)):
            pyro.sample("u", dist.Normal(v[:, 0], 1.0))


class SomeOfThePlate(Right):
    def model(self, v):
        with pyro.plate("data", len(v), dim=-2):
            self.several(torch.zeros(len(v), 1))
            pyro.sample("v", dist.Normal(self.decoder.bias, 1.0).to_event(1), obs=v.unsqueeze(1))

    def guide(self, v):
        with pyro.plate("data", len(v), dim=-2):
            self.several(v[:, :1])

    def several(self, loc):
        with pyro.plate("parts", 4, subsample=torch.tensor([0, 2])):
            pyro.sample("h", dist.Normal(loc.expand(-1, 2), 1.0))  # here


class Undeclared:
    def __init__(self):
        self.right = Right()

    def model(self, v):
        pyro.module("decoder", self.right.decoder)
        with pyro.plate("data", len(v)):
            self.right.observed(self.right.latent(v), v)

    def guide(self, v):
        loc, raw = self.right.encoder(v).chunk(2, -1)  # here
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, raw.exp()).to_event(1))


class NoParameters:
    def model(self, v):  # here
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

    def guide(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(v / 2, 0.7).to_event(1))


class CutOff(Right):
    def encode(self, v):
        loc, raw = self.encoder(v).detach().chunk(2, -1)
        return loc, raw.exp()

    def guide(self, v):
        pyro.module("encoder", self.encoder)  # here
        posterior = self.posterior(v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", posterior)


class Idle(Right):
    def __init__(self):
        super().__init__()
        self.spare = [nn.Linear(3, 3)]  # not one of its modules

    def guide(self, v):
        pyro.module("spare", self.spare[0])  # here
        super().guide(v)


class OneName(Right):
    def model(self, v):
        pyro.module("net", self.decoder)
        with pyro.plate("data", len(v)):
            self.observed(self.latent(v), v)

    def guide(self, v):
        pyro.module("net", self.encoder)  # here
        posterior = self.posterior(v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", posterior)


class MadeAnew(Right):
    def encode(self, v):
        torch.manual_seed(1)
        loc, raw = pyro.module("fresh", nn.Linear(3, 4))(v).chunk(2, -1)  # here
        return loc, raw.exp()


class OfTheBatch(Right):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def posterior(self, v):
        return super().posterior(self.norm(v))


class AcrossRows(Right):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1)

    def posterior(self, v):
        one_step = v.unsqueeze(1)
        return super().posterior(self.attention(one_step, one_step, one_step)[0].squeeze(1))


class ByTheLargest(Right):
    """More of the same rows do not change it."""

    def guide(self, v):
        posterior = self.posterior(v / v.max())
        with pyro.plate("data", len(v)):
            pyro.sample("h", posterior)  # here


class Dropping(nn.Module):
    def forward(self, h):
        return nn.functional.dropout(h, 0.5)


class Random(Right):
    def __init__(self):
        super().__init__()
        self.dropping = Dropping()

    def observed(self, h, v):
        pyro.sample("v", dist.Normal(self.dropping(self.decoder(h)), 1.0).to_event(1), obs=v)  # here


class RandomByNumPy(Right):
    """Log q of a normal stays as it is where its mean and its draw move together."""

    def guide(self, v):
        loc, scale = self.encode(v)
        noise = torch.from_numpy(np.random.normal(size=loc.shape))
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc + noise, scale).to_event(1))  # here


class NothingObserved(Right):
    def observed(self, h, v):
        pyro.sample("v", self.likelihood(h))  # here


class ObservedInTheGuide(Right):
    def guide(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", self.posterior(v), obs=v[:, :2])


class ScaledInTheModel(Right):
    def latent(self, v):
        with pyro.poutine.scale(scale=0.1):
            return pyro.sample("h", self.prior(v))  # here


class ScaledLikelihood(Right):
    def observed(self, h, v):
        with pyro.poutine.scale(scale=10.0):
            pyro.sample("v", self.likelihood(h), obs=v)  # here


class Backwards(Right):
    def model(self, v):
        pyro.module("right", self)
        with pyro.plate("data", len(v)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            self.observed(torch.stack([a, b], -1), v)

    def guide(self, v):
        pyro.module("right", self)
        loc, scale = self.encode(v)
        with pyro.plate("data", len(v)):
            b = pyro.sample("b", dist.Normal(loc[:, 0], scale[:, 0]))  # here
            pyro.sample("a", dist.Normal(loc[:, 1] + b, scale[:, 1]))


class Bits(Right):
    def likelihood(self, h):
        return dist.Bernoulli(logits=self.decoder(h), validate_args=None).to_event(1)

    def observed(self, h, v):
        pyro.sample("v", self.likelihood(h), obs=v)  # here


class BitsUnchecked(Bits):
    def likelihood(self, h):
        return dist.Bernoulli(logits=self.decoder(h), validate_args=False).to_event(1)


class TooSmall(Right):
    def observed(self, h, v):
        scale = torch.where(v[:, :1] > 1.5, 0.0, 1.0)
        pyro.sample("v", dist.Normal(self.decoder(h), scale, validate_args=False).to_event(1), obs=v)  # here


class Saturated(Right):
    def __init__(self):
        super().__init__()
        self.float()

    def observed(self, h, v):
        pyro.sample("v", dist.Bernoulli((40 * self.decoder(h)).sigmoid()).to_event(1), obs=v)  # here


class OneForAll(Right):
    def encode(self, v):
        loc = pyro.param("loc", torch.zeros(2))
        return loc.expand(len(v), 2), torch.ones(len(v), 2)

    def guide(self, v):
        posterior = self.posterior(v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", posterior)  # here


class SayingNothing(Right):
    def likelihood(self, h):
        return dist.Normal(self.decoder(1e-4 * h), 1.0).to_event(1)

    def encode(self, v):
        loc, raw = (1e-5 * self.encoder(v)).chunk(2, -1)
        return loc, raw.exp()

    def guide(self, v):
        posterior = self.posterior(v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", posterior)  # here


COUNTS = torch.poisson(2 * torch.ones(30, 3), generator=torch.Generator().manual_seed(1)).double()
GREY = torch.rand(30, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

PLANTS = [  # code, pair, rows, words
    ("PV201", Raises, ROWS, "AttributeError.*chunks"),
    ("PV201", WritesIntoItsWeights, ROWS, "leaf Variable.*in-place"),
    ("PV202", Right, ROWS.float(), "float32, and the programs work with float64"),
    ("PV204", WrongEvents, ROWS, r"batch shape \(\d, 3\).*`Normal\(...\).to_event\(1\)`"),
    ("PV205", Broadcast, ROWS, r"\(3, 1\).*\(3,\).*broadcast to \(3, 3\)"),
    ("PV206", SomeRowsOnly, ROWS, r"\['v1'\] exist for some rows"),
    ("PV207", OtherSizes, ROWS, "a row has 3 numbers, and the model gives it 2"),
    ("PV210", OtherName, ROWS, r"misses \['z'\]"),
    ("PV211", OtherShape, ROWS, r"\(3, 1\) in the guide and \(3, 2\) in the model"),
    ("PV212", OutsideThePrior, ROWS, "outside the support of the model's HalfNormal"),
    ("PV213", MaskedInTheModel, ROWS, "masked in one program"),
    ("PV214", HiddenContext, ROWS, r"is a flow.*pplvae\.local"),
    ("PV220", NoPlate, ROWS, "The model has no plate"),
    ("PV221", FixedSize, ROWS, "plate's size must be the number of rows"),
    ("PV222", Loop, ROWS, "Python loop over rows"),
    ("PV223", Subsampled, ROWS, "takes 2 of the rows"),
    ("PV224", Permuted, ROWS, "permutes all 1000000"),
    ("PV225", NoSize, ROWS, "'data' has no size"),
    ("PV226", OutsideThePlate, ROWS, r"follows the rows: \(3, 2\) on 3 rows, \(5, 2\) on 5"),
    ("PV227", SomeOfThePlate, ROWS, "'parts', which holds 2 of its 4 members"),
    ("PV230", NoParameters, ROWS, "no parameters"),
    ("PV231", Undeclared, ROWS, r"Linear\(in_features=3.*without declaring"),
    ("PV232", CutOff, ROWS, "'encoder.weight', 'encoder.bias'"),
    ("PV233", Idle, ROWS, "'spare', and on these rows use it nowhere"),
    ("PV234", OneName, ROWS, "'net' stands for more than one"),
    ("PV234", MadeAnew, ROWS, "'fresh' stands for more than one"),
    ("PV240", OfTheBatch, ROWS, r"`BatchNorm1d\(3.*track_running_stats"),
    ("PV240", AcrossRows, ROWS, "`MultiheadAttention`.*batch_first=True"),
    ("PV240", ByTheLargest, ROWS, "'h' of the guide.*rows influence each other"),
    ("PV241", Random, ROWS, r"outside `pyro.sample`.*`Dropping\(\)`"),
    ("PV241", RandomByNumPy, ROWS, "'h' of the guide"),
    ("PV210", NothingObserved, ROWS, r"The model observes nothing.*obs=v"),
    ("PV210", ObservedInTheGuide, ROWS, r"The guide observes \['h'\].*leave out `obs=`"),
    ("PV250", ScaledInTheModel, ROWS, "'h' in the model and not in the guide"),
    ("PV251", ScaledLikelihood, ROWS, r"weights the sites \['v'\]"),
    ("PV253", Backwards, ROWS, "in the order b, a, the model in the order a, b"),
    ("PV260", Bits, GREY, "Bernoulli takes 0 or 1"),
    ("PV261", BitsUnchecked, GREY, "validate_args=False"),
    ("PV262", TooSmall, ROWS, "'v' of the model"),
    ("PV263", Saturated, (ROWS > 0).float(), "in float32 and .* in float64"),
    ("PV270", OneForAll, ROWS, "all 30 different rows the same"),
    ("PV270", SayingNothing, ROWS, "carry nothing"),
    ("PV271", Right, COUNTS, "are counts, from 0"),
    ("PV271", Right, (ROWS > 0).double(), "zeros and ones"),
    ("PV272", Right, 100 * ROWS, "Of the 3 columns at the site 'v' 3 are far"),
]
OF_MORE = {"PV203", "PV235", "PV236", "PV252"}  # tested below


@pytest.mark.parametrize(("code", "pair", "rows", "words"), PLANTS, ids=[f"{c}-{p.__name__}" for c, p, *_ in PLANTS])
def test_what_is_planted_is_found_with_its_line(code, pair, rows, words):
    made = pair()
    before = process_state()
    checked = found_in(made, rows)
    assert process_state() == before
    found = [finding for finding in checked if finding.code == code]
    assert len(found) >= 1, str(checked)
    assert any(re.search(words, finding.sentence) for finding in found), str(checked)
    assert str(found[0]) in str(checked)
    marked = [k for k, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# here")]
    own = [k for k in marked if pair in _classes_of_line(k)]
    if own:
        assert (found[0].file, found[0].line) in [(__file__, k) for k in own]
    others = {finding.code for finding in checked if finding.severity != "note"} - {code}
    assert not others - ALSO.get(pair, set()), str(checked)


# What a plant has beside it.
ALSO = {OneName: {"PV231"}, MadeAnew: {"PV231"}, NoSize: set(), Loop: {"PV210"}}


def _classes_of_line(line):
    """The class that stands around a line of this file."""
    above = [linecache.getline(__file__, k) for k in range(line, 0, -1)]
    name = next(re.match(r"class (\w+)", text)[1] for text in above if text.startswith("class "))
    return [globals()[name]]


def test_every_code_is_planted():
    assert {code for code, *_ in PLANTS} | OF_MORE == set(CODES)


def test_a_right_pair_has_no_finding():
    checked = found_in(Right)
    assert len(checked) == 0, str(checked)
    assert checked.unchecked == {}
    assert checked.passed
    assert set(checked.objectives.values()) == {""}
    assert str(checked).startswith("Nothing found, on 30 rows.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("program", programs.ALL, ids=[program.__name__ for program in programs.ALL])
def test_programs_of_outsiders_that_are_right_have_none(program, dtype):
    torch.set_default_dtype(dtype)
    checked = pplvae.check(*program())
    torch.set_default_dtype(torch.float64)
    assert len(checked) == 0, str(checked)
    assert checked.unchecked == {}


# ------------------------------------------------------------------------------ what needs more than a class


def test_weights_on_another_device():
    pair = Right()
    pair.decoder.to("meta")
    (finding,) = (one for one in found_in(pair) if one.severity == "error")
    assert finding.code == "PV203"
    assert "The rows lie on cpu, the weights on cpu, meta" in finding.sentence


def an_earlier_model_of_the_same_names():
    first = Right()
    SVI(first.model, first.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(ROWS)


def test_names_that_an_earlier_model_holds():
    """The second model does not train: the finding is true. In an empty store it does, and there is none."""
    an_earlier_model_of_the_same_names()
    pair = Right()
    assert "PV235" in codes_of(found_in(pair))
    before = pair.decoder.weight.clone()
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(5):
        svi.step(ROWS)
    assert torch.equal(pair.decoder.weight, before)
    pyro.clear_param_store()
    assert len(found_in(pair)) == 0
    svi.step(ROWS)
    assert not torch.equal(pair.decoder.weight, before)
    assert len(found_in(pair)) == 0  # the store holds this one's


MODULE = """
import pyro, torch
import pyro.distributions as dist
from pyro.infer import RenyiELBO, Trace_ELBO

def model(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

def guide(v):
    weight = pyro.param("weight", torch.tensor(0.4))
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(weight * v, 0.7).to_event(1))

def train():
    loss = Trace_ELBO()(model, guide)
    other = RenyiELBO(num_particles=2)(model, guide)
    return [*loss.parameters(), *other.parameters()]
"""


def written(folder, content):
    """A file's names."""
    path = folder / "mine.py"
    path.write_text(content)
    names = {}
    exec(compile(content, str(path), "exec"), names)
    return path, names


def test_elbos_that_are_called_as_modules(tmp_path):
    path, names = written(tmp_path, MODULE)
    assert names["train"]() == []
    found = [one for one in pplvae.check(names["model"], names["guide"], ROWS) if one.code == "PV236"]
    lines = [path.read_text().splitlines()[one.line - 1].strip() for one in found]
    assert lines == [
        "loss = Trace_ELBO()(model, guide)",
        "other = RenyiELBO(num_particles=2)(model, guide)",
    ]
    right = MODULE.replace("Trace_ELBO()(model, guide)", "Trace_ELBO()(made, guide)").replace(
        "RenyiELBO(num_particles=2)", "made"
    )
    _, names = written(tmp_path, right)
    assert len(pplvae.check(names["model"], names["guide"], ROWS)) == 0


def discrete(v):
    with pyro.plate("data", len(v)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2)))
        pyro.sample("v", dist.Normal(k.unsqueeze(-1) * torch.ones(3), 1.0).to_event(1), obs=v)


def discrete_guide(v):
    weight = pyro.param("weight", torch.randn(3, 2))
    with pyro.plate("data", len(v)):
        pyro.sample("k", dist.Categorical(logits=v @ weight))


def test_an_objective_that_the_pair_does_not_suit():
    asked = pplvae.check(discrete, discrete_guide, ROWS, objective="IWAE")
    assert codes_of(asked) == {"PV252"}
    unasked = pplvae.check(discrete, discrete_guide, ROWS)
    assert len(unasked) == 0
    for name, reason in unasked.objectives.items():
        if reason:
            with pytest.raises(ProgramError):
                pplvae.fit(discrete, discrete_guide, ROWS, objective=name, epochs=1)
        else:
            assert pplvae.fit(discrete, discrete_guide, ROWS, objective=name, epochs=1).history.sizes["epoch"] == 1
    assert codes_of(pplvae.check(discrete, discrete_guide, ROWS, objective="ScoreFunction")) == set()
    with pytest.raises(UnknownNameError, match="IWAEE"):
        pplvae.check(discrete, discrete_guide, ROWS, objective="IWAEE")
    refused = pplvae.check(discrete, discrete_guide, ROWS, objective=pyro.infer.ReweightedWakeSleep())
    assert codes_of(refused) == {"PV252"}


# ------------------------------------------------------------------------------ the result


class Several(NoPlate):
    def observed(self, h, v):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        super().observed(h, v)

    def guide(self, v):
        pyro.sample("h", self.posterior(v))


def test_all_refusals_are_told_at_once():
    programs_told = {finding.program for finding in found_in(Several) if finding.code == "PV220"}
    assert programs_told == {"model", "guide"}


def test_after_a_refusal_of_rows_the_rest_is_looked_at():
    checked = found_in(Bits, torch.cat([GREY[:20], 100 * ROWS[:10]]))
    assert "PV260" in codes_of(checked)
    assert checked.unchecked == {}
    assert codes_of(found_in(ByTheLargest, 100 * ROWS)) == {"PV240", "PV272"}


def test_the_doors_raise_the_first_of_what_is_found():
    pair = Several()
    first = next(iter(found_in(pair)))
    for verb in (pplvae.amortisation_gap, pplvae.compare):
        with pytest.raises(ProgramError) as refusal:
            verb(pair.model, pair.guide, ROWS)
        assert (refusal.value.code, str(refusal.value)) == (first.code, first.sentence)


def test_findings_can_be_raised():
    checked = found_in(Right, 100 * ROWS)
    assert not checked.passed
    checked.raise_if()
    with pytest.raises(ProgramError, match="PV272") as raised:
        checked.raise_if("warning")
    assert raised.value.code == "PV272"
    assert found_in(NoSize).passed  # a note


class Left(Right):
    def observed(self, h, v):
        pyro.sample(
            "v",
            self.likelihood(h),
            obs=v,
        )  # pplvae: ignore[PV271, PV272]


class LeftAtTheDef(Right):
    def model(self, v):  # pplvae: ignore[PV220]
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))
        self.observed(h, v)


def test_a_comment_leaves_a_finding_out():
    checked = found_in(Left, 100 * ROWS)
    assert len(checked) == 0
    assert [finding.code for finding in checked.ignored] == ["PV272"]
    assert "Left out" in str(checked)
    assert codes_of(found_in(LeftAtTheDef)) == set()


def test_sites_have_their_shapes():
    sites = {(site.program, site.name): site for site in found_in(Right).sites}
    assert set(sites) == {("guide", "h"), ("model", "h"), ("model", "v")}
    v = sites["model", "v"]
    assert (v.kind, v.distribution, v.rows, v.batch, v.event, v.plates) == (
        "observed",
        "Normal",
        -1,
        (30,),
        (3,),
        ("data",),
    )
    assert "<pre>" in found_in(Right)._repr_html_()


def test_a_check_that_fails_is_said_and_the_others_go_on(monkeypatch):
    def broken(pair):
        raise IndexError("no such thing")

    others = [one._replace(find=broken) if one.what.startswith("digits") else one for one in running.CHECKS]
    monkeypatch.setattr(running, "CHECKS", tuple(others))
    checked = found_in(Right, 100 * ROWS)
    assert codes_of(checked) == {"PV272"}
    assert "no such thing" in checked.unchecked["digits that float32 loses"]
    assert "Not looked at, since the programs raised IndexError: no such thing: digits" in str(checked)


def test_what_a_refusal_leaves_unchecked_is_said():
    checked = found_in(NoPlate)
    assert checked.unchecked["columns that are not standardised"] == "fit and compare refuse the pair before that"


def test_fitted_programs_bring_their_parameters():
    pair = Undeclared()

    def guide(v):
        pyro.module("encoder", pair.right.encoder)
        pair.guide(v)

    fit = pplvae.fit(pair.model, guide, ROWS, epochs=1)
    assert len(pplvae.check(fit.model, fit.guide, ROWS)) == 0


def test_rows_that_are_none():
    with pytest.raises(DataError):
        found_in(Right, torch.full((4, 3), torch.nan))
