"""Checks and their report: `ok NAME` for what held, `FAILED NAME: why` for what did not.

A check is a `with report.check(NAME):` block. It fails by raising, and the run goes on with the
next one; but when two in a row meet `Silence` nobody is there, and the run ends.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Failure(AssertionError):
    """Something is not as it must be; the message says what was expected and what was there."""


class Silence(Failure):
    """An answer that must come did not."""


class Unreachable(Silence):
    """Nobody to ask."""


def expect(what: str, expected: Any, got: Any) -> None:
    """Fails unless `got` is `expected`."""
    if got != expected:
        raise Failure(f"{what}: expected {expected!r}, got {got!r}")


class Report:
    """Counts the checks."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self._silent = False

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """One check: its block."""
        try:
            yield
        except Silence as silence:
            self._fail(name, str(silence))
            if self._silent or isinstance(silence, Unreachable):
                raise
            self._silent = True
        except Failure as failure:
            self._fail(name, str(failure))
        except Exception as error:  # The test's own mistake, or a server's: shown with its place.
            self._fail(name, f"{error!r}\n{traceback.format_exc()}")
        else:
            self.passed += 1
            self._silent = False
            print(f"ok {name}", flush=True)

    def close(self) -> int:
        """Prints the sum and returns the exit code."""
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1

    def _fail(self, name: str, why: str) -> None:
        self.failed += 1
        print(f"FAILED {name}: {why}", flush=True)
