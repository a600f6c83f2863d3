"""Arrays and groups of arrays out of a store, as its reader leaves them: plain numbers and texts, nothing to run."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tree:
    """An array, or what lies under names.

    Attributes:
        attributes: what the store says of it.
        array: the numbers or texts; None of a group, or of what is neither.
        members: by name.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    array: np.ndarray | None = None
    members: dict[str, "Tree"] = field(default_factory=dict)

    def get(self, name: str) -> "Tree | None":
        """What lies under a name, of several levels by slashes; None for nothing."""
        found: Tree | None = self
        for part in name.split("/"):
            found = None if found is None else found.members.get(part)
        return found
