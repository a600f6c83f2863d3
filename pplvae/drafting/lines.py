"""The lines of a program that depend on what its rows hold: columns of each kind, their likelihood, what is missing."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pplvae.data import Rows
from pplvae.drafting.observed import OBSERVED, Observed
from pplvae.drafting.values import Columns
from pplvae.errors import printable

_WIDTH = 120
_INDENTED = 16  # letters before a line of the programs, at most
_MANY = 100  # columns: counts of more are shares of the row's total, those of fewer have a mean each
_SHOWN = 8  # names of columns, in a comment


@dataclass
class Lines:
    """What a template is filled in with.

    Attributes:
        constants: lines before the class.
        parameters: lines of its constructor.
        inputs: how many numbers the encoder is shown.
        outputs: how many the decoder gives.
        heads: lines that take those apart.
        sites: lines of the model that observe the columns.
        seen: what the encoder is shown, side by side.
    """

    constants: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    inputs: str = ""
    outputs: str = ""
    heads: list[str] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


def lines_of(rows: Rows, groups: Sequence[Columns], likelihoods: Mapping[str, str]) -> Lines:
    """The lines for columns of each kind.

    Args:
        rows: whose values they are.
        groups: the columns by kind.
        likelihoods: a name of `OBSERVED` by kind.
    """
    whole = len(groups) == 1
    parts = [_Part(rows, columns, OBSERVED[likelihoods[columns.kind]], whole) for columns in groups]
    lines = Lines()
    for part in parts:
        lines.constants += part.constants()
        lines.parameters += part.parameters()
        lines.sites += ([""] if lines.sites else []) + part.site()
    sizes = [size for part in parts for size in part.outputs()]
    inputs = [part.numbers() for part in parts]
    features = [part.features() for part in parts]
    if "observed" in rows.roles:
        features.append("observed")
        inputs.append("visible" if whole else str(sum(len(columns.places) for columns in groups)))
    heads = ", ".join(head for part in parts for head in part.heads())
    made = "self.decoder(h)"
    if "," in heads:
        made += ".chunk(2, -1)" if whole else f".split([{', '.join(sizes)}], -1)"
    one_line = _fits(f"{heads} = {made}")
    lines.heads = [f"{heads} = {made}"] if one_line else [f"numbers = {made}", f"{heads} = numbers"]
    lines.seen = features
    lines.inputs, lines.outputs = _sum(inputs), _sum(sizes)
    return lines


@dataclass(frozen=True)
class _Part:
    """Columns of one kind, and their likelihood; alone in the program, or beside others."""

    rows: Rows
    columns: Columns
    law: Observed
    whole: bool

    @property
    def missing(self) -> bool:
        return "observed" in self.rows.roles

    @property
    def name(self) -> str:
        return self.columns.kind.upper()

    @property
    def suffix(self) -> str:
        return "" if self.whole else f"_{self.columns.kind}"

    @property
    def classes(self) -> int:
        return int(self.columns.high - self.columns.low) + 1 if self.law is OBSERVED["categorical"] else 1

    @property
    def has_means(self) -> bool:
        """Whether the decoder gives factors of each column's mean count, and not shares of the row's total."""
        is_counts = any("{log_mean}" in line for line in self.law.before)
        few = len(self.columns.places) <= _MANY or "lengths" in self.rows.roles
        return is_counts and "total" not in self.rows.roles and few

    @property
    def has_units(self) -> bool:
        """Whether the columns' own means and spreads stand in the program."""
        return not self.whole and "{standard}" in self.law.features

    def constants(self) -> Iterator[str]:
        if not self.whole:
            names = [one_line(k if self.rows.columns is None else self.rows.columns[k]) for k in self.columns.places]
            more = ", ..." if len(names) > _SHOWN else ""
            yield "# " + textwrap.shorten(f"{', '.join(names[:_SHOWN])}{more}", _WIDTH - 10, placeholder=" ...")
            yield from _assigned(self.name, self.columns.places)
        if self.has_units:
            yield from _assigned(f"{self.name}_MEAN", self.columns.means)
            yield from _assigned(f"{self.name}_SPREAD", self.columns.spreads)
        elif self.has_means:
            yield from _assigned(self._mean, [max(mean, 0.001) for mean in self.columns.means])

    def parameters(self) -> Iterator[str]:
        if self.has_units:
            for word in ("MEAN", "SPREAD"):
                of = f"{self.name}_{word}"
                yield f'self.register_buffer("{word.lower()}{self.suffix}", torch.tensor({of}))'
        elif self.has_means:
            yield f'self.register_buffer("mean{self.suffix}", torch.tensor({self._mean}))'
        yield from self._filled_in(self.law.parameters)

    def numbers(self) -> str:
        """How many numbers the encoder is shown of these columns."""
        return self._times(self.classes)

    def outputs(self) -> list[str]:
        return [self._times(self.classes)] * len(self.law.heads)

    def heads(self) -> list[str]:
        return [head + self.suffix for head in self.law.heads]

    def features(self) -> str:
        return self.law.features.format(**self._names("v"))

    def site(self) -> list[str]:
        in_steps = "lengths" in self.rows.roles
        names = self._names("v[:, t]" if in_steps else "v")
        label = 'f"v_{t}"' if in_steps else f'"v{self.suffix}"'
        before = [line.format(**names) for line in self.law.before]
        law = self.law.law.format(**names)
        known = "inside" if in_steps else "known" if self.missing else ""
        if self.missing:
            before.append(f"known = {self._observed}.bool()")
        if self.missing and self.law.inside:
            names["x"] = f"torch.where(known, {names['x']}, {self.law.inside.format(**names)})"
        value = self.law.value.format(**names)
        ending = ".to_event(1).mask(inside)" if in_steps else ".mask(known).to_event(1)" if known else ".to_event(1)"
        line = f"pyro.sample({label}, {law}{ending}, obs={value})"
        if _fits(line):
            return [*before, line]
        return [*before, f"p = {law}", f"pyro.sample({label}, p{ending}, obs={value})"]

    @property
    def _mean(self) -> str:
        return "MEAN" if self.whole else f"{self.name}_MEAN"

    @property
    def _observed(self) -> str:
        return "observed" if self.whole else f"observed[:, {self.name}]"

    def _times(self, classes: int) -> str:
        if self.whole:
            return "visible" if classes == 1 else f"visible * {classes}"
        return str(len(self.columns.places) * classes)

    def _filled_in(self, texts: Sequence[str]) -> list[str]:
        return [text.format(**self._names("v")) for text in texts]

    def _names(self, v: str) -> dict[str, Any]:
        x = v if self.whole else f"{v}[:, {self.name}]"
        s = self.suffix
        observed = f" * {self._observed}" if self.missing else ""
        total = "total" if "total" in self.rows.roles else f"{v}.sum(-1, keepdim=True)"
        return {
            "x": x,
            "s": s,
            "n": "visible" if self.whole else len(self.columns.places),
            "first": int(self.columns.low),
            "classes": self.classes,
            "loc": f"self.mean{s} + self.spread{s} * loc{s}" if self.has_units else f"loc{s}",
            "scale": f"self.spread{s} * scale{s}" if self.has_units else f"scale{s}",
            "standard": f"({x} - self.mean{s}) / self.spread{s}{observed}" if self.has_units else x,
            "log_mean": f"self.mean{s}.log() + logits{s}"
            if self.has_means
            else f"{total}.clamp(min=1).log() + torch.log_softmax(logits{s}, -1)",
        }


def one_line(text: object) -> str:
    """What comes from a file, for a comment: it cannot begin a line of its own, or turn the direction of reading."""
    return " ".join(printable(str(text)).split())


def _assigned(name: str, numbers: Sequence[float]) -> list[str]:
    """A list of numbers, on as many lines as it needs."""
    inside = ", ".join(repr(float(f"{n:.6g}")) if isinstance(n, float) else str(n) for n in numbers)
    line = f"{name} = [{inside}]"
    if len(line) <= _WIDTH:
        return [line]
    return [f"{name} = [", *textwrap.wrap(f"{inside},", _WIDTH, initial_indent="    ", subsequent_indent="    "), "]"]


def _fits(line: str) -> bool:
    return len(line) + _INDENTED <= _WIDTH


def _sum(sizes: Sequence[str]) -> str:
    """Of numbers, or of expressions in `visible`."""
    if all(size.isdigit() for size in sizes):
        return str(sum(map(int, sizes)))
    if set(sizes) == {"visible"} and len(sizes) > 1:
        return f"{len(sizes)} * visible"
    return " + ".join(sizes)
