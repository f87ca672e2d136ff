"""A process that is killed at a given point of a call. Run by `test_kill.py`, which settles after it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import httpx2
from calls import ESTIMATE, call, chunks

from holdfast import Hold, Ledger
from holdfast.bus import Bus

NATS, TOKEN, AUDIENCE, JOURNAL, ACCOUNT, PROVIDER, POINT = sys.argv[1:]


def die(*_: Any) -> None:
    """As with kill -9: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


async def die_in_call() -> None:
    die()


def die_around(verb: str, when: str) -> None:
    """Dies before a command of `verb` is published, or when the bus has it."""
    publish = Bus._publish

    async def dying(bus: Bus, subject: str, payload: bytes, timeout: float) -> None:
        if f".{verb}." in subject and when == "before":
            die()
        await publish(bus, subject, payload, timeout)
        if f".{verb}." in subject:
            die()

    Bus._publish = dying  # type: ignore[method-assign,assignment]


async def read_two(ledger: Ledger, hold: Hold, http: httpx2.AsyncClient) -> None:
    """Reads two chunks, and waits until the journal has them."""
    stream = hold.stream(chunks(http, "/gated"))
    await anext(stream)
    await anext(stream)
    while (row := await ledger._core.journal.row(hold.id)) is None or row.observed is None:
        await asyncio.sleep(0.01)


async def main() -> None:
    if " " in POINT:
        verb, when = POINT.split(" ")
        die_around("capture" if verb == "part" else verb, when)
    ledger = await Ledger.connect(NATS, token=TOKEN, audience=AUDIENCE, journal=JOURNAL)
    async with (
        ledger,
        httpx2.AsyncClient(base_url=PROVIDER) as http,
        ledger.hold(ACCOUNT, **ESTIMATE) as hold,
    ):
        if POINT == "reserved":
            die()
        elif POINT == "in-call":
            await hold.call(die_in_call)
        elif POINT == "mid-stream":
            await read_two(ledger, hold, http)
            die()
        elif POINT.startswith("part"):
            await hold.dispatched()
            hold.observe({"input": 1000, "output": 250})
            await hold.capture({"input": 1000}, final=False)
        await hold.call(call, http, "/ok")
        if POINT == "answered":
            die()


asyncio.run(main())
