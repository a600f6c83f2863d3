"""`Checked`: what was found of a pair, what its sites are, and what could not be looked at."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape

from pplvae.checking.codes import Severity
from pplvae.checking.finding import Finding
from pplvae.checking.sites import Site, as_lines
from pplvae.errors import ProgramError, printable

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, repr=False)
class Checked:
    """What is wrong with a pair. Iterate over it for its findings, the worst first.

    Attributes:
        findings: all of them.
        sites: of both programs, on the rows that were looked at.
        objectives: for each name that `fit` knows, why the pair does not suit it; "" where it does.
        unchecked: what could not be looked at, and why.
        ignored: findings that a comment in the program asks to leave out.
        looked_at: how many rows.
    """

    findings: tuple[Finding, ...]
    sites: tuple[Site, ...]
    objectives: Mapping[str, str]
    unchecked: Mapping[str, str]
    ignored: tuple[Finding, ...]
    looked_at: int

    @property
    def passed(self) -> bool:
        """Whether there is no error and no warning; notes may be there."""
        return all(finding.severity == "note" for finding in self.findings)

    def raise_if(self, severity: Severity = "error") -> None:
        """Raise what is at least so bad.

        Args:
            severity: "error", or "warning" or "note" to raise these too.

        Raises:
            ProgramError: all such findings, one after the other.
            ValueError: another word.
        """
        if severity not in _SEVERITIES:
            raise ValueError(f"`severity` must be one of {', '.join(_SEVERITIES)}, got {severity!r}.")
        bad = _SEVERITIES[: _SEVERITIES.index(severity) + 1]
        found = [finding for finding in self.findings if finding.severity in bad]
        if found:
            raise ProgramError("\n".join(map(str, found)), code=found[0].code)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __str__(self) -> str:
        rows = "1 row" if self.looked_at == 1 else f"{self.looked_at} rows"
        lines = [f"{self._counted()}, on {rows}."]
        for finding in self.findings:
            lines += ["", str(finding)]
        if self.sites:
            lines += ["", *as_lines(self.sites)]
        if self.objectives:
            by_reason = dict(_turned(self.objectives))
            lines += ["", f"Objectives: {', '.join(by_reason.pop('', ['none']))}."]
            lines += [f"Not {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        if self.unchecked:
            lines += [
                "",
                *(f"Not looked at, since {reason}: {', '.join(what)}." for reason, what in _turned(self.unchecked)),
            ]
        if self.ignored:
            left_out = ", ".join(str(finding).split("\n")[0] for finding in self.ignored)
            lines += ["", f"Left out, as comments ask: {left_out}."]
        if self.findings:
            lines += ["", "docs/findings says what each code means."]
        return "\n".join(map(printable, lines))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def _counted(self) -> str:
        counts = Counter(finding.severity for finding in self.findings)
        said = [f"{counts[word]} {word}{'s' if counts[word] > 1 else ''}" for word in _SEVERITIES if counts[word]]
        return " and ".join(said) if said else "Nothing found"


def _turned(reasons: Mapping[str, str]) -> Iterable[tuple[str, list[str]]]:
    """What has the same reason, together."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return found.items()
