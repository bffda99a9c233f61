"""How much of a split is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """The first blocks of a split: a number of them, and a share of them.

    Args:
        number: So many at most; None for no limit.
        share: This share of them, in (0, 1].
    """

    number: int | None = None
    share: float = 1.0

    def of(self, available: int) -> int:
        """Blocks to use of those available: one at least, where there are any."""
        share = available if self.share == 1 else min(available, max(1, round(self.share * available)))
        return share if self.number is None else min(share, self.number)
