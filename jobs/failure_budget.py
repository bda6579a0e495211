"""How many inputs may fail before a run that goes wrong in general is stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.errors import UsageError


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``count`` quarantined inputs, or at most the ``share`` (0 to 1) of all planned ones."""

    count: int | None = None
    share: float | None = None

    def most(self, planned: int) -> int:
        """How many of ``planned`` inputs may fail."""
        return self.count if self.count is not None else math.floor((self.share or 0.0) * planned + 1e-9)

    def is_spent(self, failed: int, planned: int) -> bool:
        """Whether ``failed`` is more than that."""
        return failed > self.most(planned)


def read_budget(text: str) -> Budget:
    """``1%``, ``0.5%`` or ``20``.

    Raises:
        UsageError: it is neither.
    """
    try:
        if text.endswith("%"):
            share = float(text.removesuffix("%")) / 100
            if 0 <= share <= 1:
                return Budget(share=share)
        elif text.isdecimal():
            return Budget(count=int(text))
    except ValueError:
        pass
    raise UsageError(f"--max-failures takes a number of files or a share, 20 or 1%, not '{text}'")
