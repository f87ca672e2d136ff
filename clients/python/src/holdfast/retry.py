"""Pauses that grow."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """How often and how long a command is tried before its caller is told `Unavailable`.

    Each of `attempts` waits `attempt_s` for the outcome; between two is a pause of `pause_s`, which
    doubles up to `pause_max_s` and is shortened at random by up to a half, so that many clients do
    not come back together.
    """

    attempts: int = 3
    attempt_s: float = 3.0
    pause_s: float = 0.2
    pause_max_s: float = 30.0

    @property
    def patience_s(self) -> float:
        """When the last attempt has ended at the latest."""
        pauses = (min(self.pause_s * 2.0**n, self.pause_max_s) for n in range(self.attempts - 1))
        return self.attempts * self.attempt_s + sum(pauses)

    def pauses(self) -> Iterator[float]:
        """The pauses, without end."""
        pause = self.pause_s
        while True:
            yield pause * random.uniform(0.5, 1.0)  # noqa: S311
            pause = min(pause * 2, self.pause_max_s)
