"""Settling: a capture or release is written down, published, and pursued until it has an outcome.

**Correctness.** The journal has the command's id and body before the first publish, and every later
attempt, by this process or the next one on the same journal, sends that id and those bytes. So
whatever dies in between, the ledger carries it out once. A crash at each state leaves:

| state | what the next process does |
|---|---|
| `reserving`, `reserved` | releases: the call was not sent |
| `dispatched` | captures what was observed; with nothing observed it keeps the hold |
| `settling` | sends the same command again; after a part the row is `dispatched` again |
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from uuid import UUID

from ._bytes import to_json
from .amounts import units_text
from .bus import Bus, Json, body_bytes
from .errors import ExceedsHold, LedgerError, Unavailable
from .ids import new_id
from .journal import KEPT, Journal, Row
from .lookups import Assets
from .pricing import price_units, priced
from .settlement import capture_members, plus

log = logging.getLogger("holdfast")

PURSUED_AT_ONCE = 8
"""Commands in flight after a restart with many unfinished holds."""
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Settler:
    """Brings every hold of the journal to its end."""

    def __init__(self, bus: Bus, journal: Journal, assets: Assets, spawn: Spawn) -> None:
        self._bus = bus
        self._journal = journal
        self._assets = assets
        self._spawn = spawn
        self._room = asyncio.Semaphore(PURSUED_AT_ONCE)
        self._pursued: dict[str, asyncio.Task[None]] = {}
        self._unwritten: dict[UUID, tuple[str, str, bytes, UUID]] = {}

    @property
    def pending(self) -> int:
        """Holds whose end is being pursued."""
        return len(self._pursued)

    async def recover(self) -> None:
        """Takes up everything that an earlier process left."""
        for row in await self._journal.unfinished():
            self.pursue(UUID(row.hold))

    def pursue(self, hold: UUID) -> None:
        """Settles `hold` in the background, as its row says, until it has an end."""
        if str(hold) not in self._pursued:
            task = self._spawn(self._pursue(hold))
            self._pursued[str(hold)] = task
            task.add_done_callback(lambda _: self._pursued.pop(str(hold), None))

    async def idle(self) -> None:
        """Waits until nothing is pursued any more."""
        while self._pursued:
            await asyncio.wait(list(self._pursued.values()))

    async def settle(self, hold: UUID, account: str, verb: str, body: bytes) -> Json:
        """Writes down and publishes the capture or release that ends `hold`, and returns its outcome.

        A rejection is raised, and is an end too, unless it is for more than is held: then that is
        captured. On `Unavailable` it is pursued in the background. A journal that takes no writes
        does not hold it up: the same command is pursued from memory.
        """
        command = new_id()
        try:
            await self._journal.settling(hold, verb, command, body)
        except sqlite3.Error as error:
            log.error("hold %s: the journal did not take its %s, which is sent anyway: %r", hold, verb, error)
            self._unwritten[hold] = (verb, account, body, command)
        try:
            try:
                return await self.outcome(hold, verb, account, body, command)
            except ExceedsHold:
                row = await self._journal.row(hold)
                if row is None or row.state != "settling" or row.settle_id == str(command):
                    raise
                verb, account, body, command = _settling(row)
                return await self.outcome(hold, verb, account, body, command)
        except Unavailable:
            self.pursue(hold)
            raise

    async def outcome(self, hold: UUID, verb: str, account: str, body: bytes, command: UUID) -> Json:
        """Publishes what the journal has as `hold`'s command, and writes its outcome down.

        A partial capture that is `Unavailable` stays as it is, since the hold goes on; `again` asks for it.
        """
        try:
            outcome = await self._bus.ask(verb, account, body, command)
        except Unavailable:
            raise
        except LedgerError as error:
            await self._tell(hold, body, error.outcome or {"code": error.code})
            raise
        await self._tell(hold, body, outcome)
        return outcome

    async def _tell(self, hold: UUID, body: bytes, outcome: Mapping[str, Any]) -> None:
        """As `_told`; when the journal does not take it, it is asked for again until it does."""
        try:
            await self._told(hold, outcome)
        except sqlite3.Error as error:
            log.error("hold %s: the journal did not take an outcome: %r", hold, error)
            if not json.loads(body).get("final", True):
                raise Unavailable("the journal did not take the outcome of the part") from error
            self.pursue(hold)

    async def again(self, hold: UUID) -> bool:
        """Asks once more for the outcome of a partial capture that none came for; true if accepted."""
        try:
            row = await self._journal.row(hold)
            if row is None:
                raise RuntimeError(f"the journal has no hold {hold}")
            outcome = await self._ask(row)
            await self._told(hold, outcome)
        except sqlite3.Error as error:
            raise Unavailable(f"the journal failed: {error!r}") from error
        return "code" not in outcome

    async def _pursue(self, hold: UUID) -> None:
        pauses = self._bus.retry.pauses()
        while True:
            try:
                async with self._room:
                    if await self._step(hold):
                        return
            except (Unavailable, sqlite3.Error) as error:
                log.warning("hold %s is not settled yet: %r", hold, error)
                await asyncio.sleep(next(pauses))
            except (KeyError, RuntimeError, TypeError, ValueError):
                # The hold expires in time, and the row tells people what it was.
                log.exception("hold %s: its row cannot be read and is left alone", hold)
                return

    async def _step(self, hold: UUID) -> bool:
        """One command for `hold`; true when it has its end."""
        if hold in self._unwritten:
            try:
                await self._write_down(hold)
            except sqlite3.Error:
                try:
                    await self._bus.ask(*self._unwritten[hold])
                except Unavailable:
                    raise
                except LedgerError as error:
                    log.error("hold %s was not settled as meant: %s", hold, error)
                raise
        row = await self._journal.row(hold)
        if row is None or row.state == "ended":
            return True
        if row.state != "settling":
            return await self._prepare(row)
        return await self._told(hold, await self._ask(row))

    async def _write_down(self, hold: UUID) -> None:
        """Hands the journal the command that it did not take before."""
        found = self._unwritten.get(hold)
        if found is not None:
            verb, _, body, command = found
            await self._journal.settling(hold, verb, command, body)
            self._unwritten.pop(hold, None)

    async def _ask(self, row: Row) -> Mapping[str, Any]:
        """The outcome of the row's command, a rejection included; `Unavailable` is raised."""
        try:
            return await self._bus.ask(*_settling(row))
        except Unavailable:
            raise
        except LedgerError as error:
            log.error("hold %s was not settled as meant: %s", row.hold, error)
            return error.outcome or {"code": error.code}

    async def _prepare(self, row: Row) -> bool:
        """Decides, from what the journal has, how an unfinished hold ends."""
        hold = UUID(row.hold)
        if row.state in ("reserving", "reserved"):
            body = body_bytes(hold=row.hold, reason="not_dispatched", trace=_trace(row))
            await self._journal.settling(hold, "release", new_id(), body)
        elif row.observed is None:
            await self._journal.ended(hold, KEPT)
        else:
            await self._journal.settling(hold, "capture", new_id(), await self._observed(row))
        return False

    async def _observed(self, row: Row) -> bytes:
        """The body of a capture of what was observed, at the rates of the reserve.

        What cannot be priced must not let a call that was made go uncharged: then what was
        reserved for is captured.
        """
        usage = json.loads(row.reserve_body)["usage"]
        scale = await self._assets.scale(row.account)
        reason, source = "aborted", row.observed_source or "delivered"
        try:
            tokens = priced(json.loads(row.observed or "{}"), usage["rates"])
        except ValueError as error:
            log.error("hold %s: %s; what was reserved for is captured", row.hold, error)
            reason, source, tokens = "usage_missing", "estimated", usage["tokens"]
        return body_bytes(
            hold=row.hold,
            amount=units_text(price_units(tokens, usage["rates"], scale), scale),
            reason=reason,
            usage=capture_members(usage, tokens, source),
            trace=_trace(row),
        )

    async def _told(self, hold: UUID, outcome: Mapping[str, Any]) -> bool:
        """Writes the outcome down; false when it is no end: of a part, or of more than is held."""
        await self._write_down(hold)
        row = await self._journal.row(hold)
        if row is None or row.settle_body is None:
            raise RuntimeError(f"the journal has no settling hold {hold}")
        body = json.loads(row.settle_body)
        if outcome.get("code") == ExceedsHold.code and body.get("final", True) and "amount" in body:
            log.error("hold %s: %s is more than is held, which is captured", hold, body["amount"])
            # Without an amount it is all that is held, whatever that is by then.
            held = body_bytes(hold=str(hold), reason=ExceedsHold.code, trace=body.get("trace"))
            await self._journal.settling(hold, "capture", new_id(), held)
            return False
        if body.get("final", True):
            await self._journal.ended(hold, to_json(outcome).decode())
            return True
        observed, source = row.observed, row.observed_source
        if "code" in outcome:
            # It charged nothing, so that is to be charged still.
            usage = body["usage"]
            observed = to_json(plus(usage["tokens"], json.loads(observed or "{}"))).decode()
            source = source or usage["source"]
        await self._journal.reopened(hold, observed, source)
        return False


def _settling(row: Row) -> tuple[str, str, bytes, UUID]:
    if row.settle_verb is None or row.settle_id is None or row.settle_body is None:
        raise RuntimeError(f"hold {row.hold} is settling without a command")
    return row.settle_verb, row.account, row.settle_body.encode(), UUID(row.settle_id)


def _trace(row: Row) -> Any:
    return json.loads(row.reserve_body).get("trace")
