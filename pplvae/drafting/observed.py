"""How a program says that columns follow a likelihood: one entry for each, of lines that a user would write."""

from dataclasses import dataclass

from pplvae.drafting.values import BINARY, CLASSES, COUNTS, REAL, SHARE, UNIT

_COUNT_KINDS = (COUNTS, BINARY, CLASSES)
_OVERDISPERSED = (  # lines of negative binomial counts
    "log_mean{s} = {log_mean}",
    "inverse_dispersion{s} = 0.01 + F.softplus(self.free_inverse_dispersion{s})",
    "log_odds{s} = log_mean{s} - inverse_dispersion{s}.log()",
)


@dataclass(frozen=True)
class Observed:
    """A likelihood, in lines of a program.

    In its texts `{x}` are the columns of v, `{s}` a suffix that tells columns of several kinds apart, `{n}` is how many
    there are, `{first}` and `{classes}` are the least code and the number of classes, and `{loc}`, `{scale}` and
    `{log_mean}` what is said of these with or without the columns' own units.

    Attributes:
        kinds: of columns that it can be asked of; the first is the one that it is proposed for.
        heads: what the decoder gives of each column, by name.
        law: the distribution, an expression.
        why: in a sentence that begins with its name.
        parameters: lines of the constructor.
        before: lines before the distribution.
        features: what the encoder is shown, an expression.
        value: what is observed, an expression.
        inside: a number of its support, in place of the filler of missing values, 0, where that is none.
    """

    kinds: tuple[str, ...]
    heads: tuple[str, ...]
    law: str
    why: str
    parameters: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    features: str = "{x}"
    value: str = "{x}"
    inside: str = ""


OBSERVED = {
    "bernoulli": Observed((BINARY,), ("logits",), "dist.Bernoulli(logits=logits{s})", "the law of zeros and ones"),
    "continuous-bernoulli": Observed(
        (UNIT, SHARE, BINARY),
        ("logits",),
        "dist.ContinuousBernoulli(logits=logits{s})",
        "a density on [0, 1], both ends included (a Bernoulli of grey values is none)",
    ),
    "beta": Observed(
        (SHARE,),
        ("logits",),
        "dist.Beta(mean{s} * concentration{s}, (1 - mean{s}) * concentration{s})",
        "a density between 0 and 1, with a learned concentration for each column",
        ("self.free_concentration{s} = nn.Parameter(torch.full(({n},), 3.0))",),
        (
            "mean{s} = 0.001 + 0.998 * torch.sigmoid(logits{s})",
            "concentration{s} = 0.1 + F.softplus(self.free_concentration{s})",
        ),
        inside="0.5",
    ),
    "categorical": Observed(
        (CLASSES, BINARY),
        ("logits",),
        "dist.Categorical(logits=logits{s}.unflatten(-1, (-1, {classes})))",
        "classes without an order, each with a probability of its own",
        ('self.register_buffer("codes{s}", torch.arange({first}, {first} + {classes}))',),
        features="({x}.unsqueeze(-1) == self.codes{s}).flatten(-2).to(v.dtype)",
        value="({x} - {first}).long()",
        inside="{first}",
    ),
    "poisson": Observed(
        _COUNT_KINDS,
        ("logits",),
        "dist.Poisson(log_mean{s}.exp())",
        "counts of independent events",
        before=("log_mean{s} = {log_mean}",),
        features="torch.log1p({x})",
    ),
    "negative-binomial": Observed(
        _COUNT_KINDS,
        ("logits",),
        "dist.NegativeBinomial(inverse_dispersion{s}, logits=log_odds{s})",
        "counts that may vary more than Poisson counts, with a learned dispersion for each column",
        ("self.free_inverse_dispersion{s} = nn.Parameter(torch.ones({n}))",),
        _OVERDISPERSED,
        "torch.log1p({x})",
    ),
    "zero-inflated-negative-binomial": Observed(
        _COUNT_KINDS,
        ("logits", "gate_logits"),
        "dist.ZeroInflatedNegativeBinomial(inverse_dispersion{s}, logits=log_odds{s}, gate_logits=gate_logits{s})",
        "negative binomial counts, with zeros beyond those",
        ("self.free_inverse_dispersion{s} = nn.Parameter(torch.ones({n}))",),
        _OVERDISPERSED,
        "torch.log1p({x})",
    ),
    "gaussian-shared": Observed(
        (REAL, UNIT, SHARE, CLASSES, COUNTS),
        ("loc",),
        "dist.Normal({loc}, {scale})",
        "real numbers, with a learned noise for each column, shared by all rows",
        ("self.free_scale{s} = nn.Parameter(torch.zeros({n}))",),
        ("scale{s} = 0.03 + F.softplus(self.free_scale{s})",),
        "{standard}",
    ),
    "gaussian": Observed(
        (REAL, UNIT, SHARE, CLASSES, COUNTS),
        ("loc", "free_scale"),
        "dist.Normal({loc}, {scale})",
        "real numbers, with mean and noise of each column and row from the decoder",
        before=("scale{s} = 0.03 + F.softplus(free_scale{s})",),
        features="{standard}",
    ),
}

PROPOSED = {
    BINARY: "bernoulli",
    UNIT: "continuous-bernoulli",
    SHARE: "beta",
    CLASSES: "categorical",
    COUNTS: "negative-binomial",
    REAL: "gaussian-shared",
}
