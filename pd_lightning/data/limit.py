"""How much of a split is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A number of blocks, a share of those there are, or all of them.

    Args:
        setting: Name of the setting in `data`, for the message.
        value: A whole number from 1 on, a float in (0, 1] for a share, or None for all.

    Raises:
        ValueError: The value is neither.
    """

    setting: str
    value: int | float | None = None

    def __post_init__(self) -> None:
        if self.value is None or (0 < self.value <= 1 if isinstance(self.value, float) else self.value >= 1):
            return
        raise ValueError(
            f"data.{self.setting} must be at least 1 block, or a share above 0.0 and up to 1.0, got {self.value}. "
            f"Correct data.{self.setting}."
        )

    def of(self, available: int) -> int:
        """Blocks to use of those available: of a share the nearest number, 1 at least."""
        if self.value is None:
            return available
        wanted = max(1, round(self.value * available)) if isinstance(self.value, float) else self.value
        return min(available, wanted)
