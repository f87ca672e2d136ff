"""A circuit breaker: after several failures in a row nothing is sent for a while, then one probe.

```text
closed ── failures_max in a row ──▶ open ── after open_s ──▶ half_open ── probe ──▶ closed | open
```
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

FAILURES_MAX = 5
OPEN_S = 5.0


@dataclass
class Breaker:
    """Counts failures in a row. `open_s` is how long it stays open before it lets one probe through."""

    failures_max: int = FAILURES_MAX
    open_s: float = OPEN_S
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    opened_at: float | None = None
    probing: bool = False
    counters: dict[str, int] = field(
        default_factory=lambda: {"successes": 0, "failures": 0, "short_circuits": 0, "opened": 0}
    )

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        if self.opened_at is None:
            return "closed"
        return "half_open" if self.clock() - self.opened_at >= self.open_s else "open"

    def admits(self) -> bool:
        """Whether a call may be sent now; of a half-open one only the first, until that has ended."""
        state = self.state
        if state == "closed":
            return True
        if state == "half_open" and not self.probing:
            self.probing = True
            return True
        self.counters["short_circuits"] += 1
        return False

    def succeeded(self) -> None:
        """The call was answered."""
        self.counters["successes"] += 1
        self.failures, self.opened_at, self.probing = 0, None, False

    def failed(self) -> None:
        """The call was not answered, or badly."""
        self.counters["failures"] += 1
        self.failures += 1
        if self.probing or self.failures >= self.failures_max:
            self.counters["opened"] += self.opened_at is None or self.probing
            self.opened_at, self.probing = self.clock(), False

    def abandoned(self) -> None:
        """The call ended without telling anything, so a probe that it was is over."""
        self.probing = False

    def metrics(self) -> dict[str, int | str]:
        """State and counters."""
        return {"state": self.state, "failures_in_a_row": self.failures, **self.counters}
