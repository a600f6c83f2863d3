"""What is wrong with a pair: the doors raise the first of it, `check` collects it all."""

from collections.abc import Iterable

from pplvae.errors import PplvaeError


class Refusals:
    """Told what is wrong, raises it; or keeps it, so that the next can be looked for.

    Args:
        kept: whether to keep.

    Attributes:
        found: what has been kept.
    """

    def __init__(self, *, kept: bool = False) -> None:
        self._kept = kept
        self.found: list[PplvaeError] = []

    def tell(self, errors: Iterable[PplvaeError]) -> bool:
        """Take note of what is wrong; whether anything is.

        Raises:
            PplvaeError: the first, unless it is kept.
        """
        before = len(self.found)
        for error in errors:
            if not self._kept:
                raise error
            self.found.append(error)
        return len(self.found) > before

    def end_here(self) -> None:
        """Go no further if anything has been kept, since what follows needs it to be right.

        Raises:
            PplvaeError: the first that has been kept.
        """
        if self.found:
            raise self.found[0]
