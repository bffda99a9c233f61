"""Tokens a second, over the time that training itself takes."""

import time


class Speed:
    """Measures the tokens a second of training; `mark` leaves out what happened before, validation say."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def mark(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def tokens_per_second(self, num_tokens: int) -> float:
        """Give the rate since the last call or mark, and start the clock again."""
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        self.seconds += elapsed
        return num_tokens / max(elapsed, 1e-9)
