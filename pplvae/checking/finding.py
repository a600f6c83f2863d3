"""One thing that is wrong with a program: its code, in words, where, and what to write instead."""

import re
from dataclasses import dataclass
from pathlib import Path

from pplvae.checking.codes import CODES, Severity


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: stays the same from version to version; `docs/findings` explains it.
        sentence: what is wrong, with names and numbers.
        program: "model" or "guide"; empty where it is about both, or about the rows.
        name: of the site, plate or parameters.
        instead: lines to write; an example where the program's own names are not known.
        file: of the program; empty where it is not known.
        line: of the statement, from 1; 0 where it is not known.
    """

    code: str
    sentence: str
    program: str = ""
    name: str = ""
    instead: str = ""
    file: str = ""
    line: int = 0

    @property
    def severity(self) -> Severity:
        """Of its code: "error", "warning" or "note"."""
        return CODES[self.code].severity

    @property
    def explanation(self) -> tuple[str, str]:
        """What it means, and what helps."""
        return CODES[self.code].meaning, CODES[self.code].right

    def __str__(self) -> str:
        where = f"{_shown(self.file)}:{self.line}: " if self.file else ""
        about = " ".join([*([self.program] if self.program else []), *([repr(self.name)] if self.name else [])])
        lines = [f"{where}{self.severity} {self.code}" + (f" ({about})" if about else ""), f"    {self.sentence}"]
        said = "Write:" if self.instead else "Such as:"
        says_how = re.search(r"`[^`]*\(.*`", self.sentence)
        cure = (self.instead or ("" if says_how else CODES[self.code].right)).splitlines()
        lines += [f"    {said if k == 0 else ' ' * len(said)} {text}" for k, text in enumerate(cure)]
        return "\n".join(lines)


def _shown(file: str) -> str:
    """A path as a terminal's user has it: from where they are, if it lies below."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
