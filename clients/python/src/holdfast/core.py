"""What a ledger's connection is made of; holds and the façade share one of these."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from .breaker import Breaker
from .bus import Bus
from .journal import Journal
from .lookups import Assets, Quotes
from .settler import Settler

T = TypeVar("T")
PRUNE_S = 3_600.0


class Core:
    """The parts, and the tasks that outlive whoever started them."""

    def __init__(self, bus: Bus, journal: Journal | None, scales: Mapping[str, int] | None) -> None:
        self.bus = bus
        self.quotes = Quotes(bus)
        self.assets = Assets(bus, scales)
        self.providers: dict[str, Breaker] = {}
        self.holds = {"captured": 0, "released": 0, "kept": 0, "unsettled": 0}
        self._journal = journal
        self._settler = Settler(bus, journal, self.assets, self.spawn) if journal else None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self._hearts: set[asyncio.Task[None]] = set()

    @property
    def journal(self) -> Journal:
        """The journal; `RuntimeError` when the ledger was connected without one."""
        if self._journal is None:
            raise RuntimeError("holds need a journal: connect with journal='<a file of this process>'")
        return self._journal

    @property
    def settler(self) -> Settler:
        """What settles the holds of the journal."""
        if self._settler is None:
            raise RuntimeError("holds need a journal: connect with journal='<a file of this process>'")
        return self._settler

    @property
    def settling(self) -> int:
        """Holds whose end is being pursued in the background."""
        return self._settler.pending if self._settler else 0

    def breaker(self, provider: str) -> Breaker:
        """The circuit breaker of calls to `provider`."""
        return self.providers.setdefault(provider, Breaker())

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that is kept until it is done, whoever waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def beat(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A heartbeat, which ends with its hold, or with the ledger at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._hearts.add(task)
        task.add_done_callback(self._hearts.discard)
        return task

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Does `work` to its end, even when whoever awaits it is cancelled."""
        return await asyncio.shield(self.spawn(work))

    async def start(self) -> None:
        """Takes up what the journal has left."""
        if self._journal is not None:
            await self._journal.prune()
            await self.settler.recover()
            self.beat(self._prune())

    async def stop(self, timeout_s: float) -> None:
        """Waits for what is being settled, at most `timeout_s`; the rest stays in the journal."""
        if self._stopped:
            return
        self._stopped = True
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout_s)
        left = [*self._tasks, *self._hearts]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.bus.close()
        if self._journal is not None:
            await self._journal.close()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_S)
            await self.journal.prune()
