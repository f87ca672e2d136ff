"""What fails around a hold: disks that are full, extensions that are lost, callers that are interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from calls import ESTIMATE, MODEL, REPORTED, RESERVED
from conftest import FUNDS, balance_at, connect, until
from stack import Stack

from holdfast import Ledger, Percentile, ProviderError, errors, sync
from holdfast.bus import Bus
from holdfast.envelope import Command
from holdfast.journal import Journal
from holdfast.outcomes import Captured, Released

USAGE = {"input": 1000, "output": 250}


async def full(*_: Any) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_full_disk_does_not_lose_the_settlement(
    ledger: Ledger, account: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = ledger._core.journal
    with monkeypatch.context() as patch:
        async with ledger.hold(account, **ESTIMATE) as hold:
            await hold.dispatched()
            hold.observe(USAGE)
            patch.setattr(journal, "settling", full)
        assert isinstance(hold.outcome, Captured)
        assert hold.outcome.amount == REPORTED
        assert ledger.metrics()["settling"] == 1
        await asyncio.sleep(0.2)
    await ledger.settled()
    row = await journal.row(hold.id)
    assert row is not None
    assert (row.state, row.settle_id) == ("ended", str(hold.outcome.id))
    assert "is sent anyway" in caplog.text
    assert FUNDS - (await ledger.top_up(account, FUNDS)).posted + FUNDS == REPORTED


async def test_a_disk_that_is_full_for_a_while_is_pursued(
    ledger: Ledger, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = ledger._core.journal
    async with ledger.hold(account, **ESTIMATE) as hold:
        await hold.dispatched()
        hold.observe(USAGE)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "ended", full)
            captured = await hold.capture()
    await ledger.settled()
    row = await journal.row(hold.id)
    assert row is not None
    assert (row.state, row.settle_id) == ("ended", str(captured.id))


async def test_a_lost_extension_is_tried_again_soon(
    ledger: Ledger, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, int]] = []
    ask = Bus.ask

    async def losing(bus: Bus, verb: str, account: str, body: bytes, *more: Any, **options: Any) -> Any:
        if verb == "extend":
            asked.append((time.monotonic(), json.loads(body)["ttl_ms"]))
            if len(asked) == 1:
                raise errors.Unavailable("lost")
        return await ask(bus, verb, account, body, *more, **options)

    monkeypatch.setattr(Bus, "ask", losing)
    async with ledger.hold(account, **ESTIMATE, ttl_s=1.6):
        started = time.monotonic()

        async def twice() -> bool:
            return len(asked) == 2

        await until(twice, "the second extension")
        assert asked[1][0] - started < 1.5, "before the hold's time is over"
        assert [ttl for _, ttl in asked] == [1600, 1600]


async def test_near_the_longest_life_what_is_left_is_asked_for(
    ledger: Ledger, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.hold.LIFE_MAX_S", 0.9)
    asked: list[int] = []
    ask = Bus.ask

    async def noting(bus: Bus, verb: str, account: str, body: bytes, *more: Any, **options: Any) -> Any:
        if verb == "extend":
            asked.append(json.loads(body)["ttl_ms"])
        return await ask(bus, verb, account, body, *more, **options)

    monkeypatch.setattr(Bus, "ask", noting)
    async with ledger.hold(account, **ESTIMATE, ttl_s=1.0) as hold:
        heart = hold._heart
        assert heart is not None

        async def ended() -> bool:
            return heart.done()

        await until(ended, "the last extension")
    assert len(asked) == 1
    assert 300 < asked[0] <= 400
    assert isinstance(hold.outcome, Released)


async def test_a_reserve_is_worth_deciding_for_a_minute(
    ledger: Ledger, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives: list[int] = []

    class Noted(Command):
        def __init__(self, *members: Any) -> None:
            super().__init__(*members)
            lives.append(self.exp - self.iat)

    monkeypatch.setattr("holdfast.bus.Command", Noted)
    await ledger.reserve(account, "0.1")
    await ledger.deduct(account, "0.1")
    assert lives[0] >= 60_000 > lives[1]


async def test_cancelled_while_it_is_written_down_ends_the_row(
    ledger: Ledger, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = ledger._core.journal
    reserving, entered = journal.reserving, asyncio.Event()

    async def slow(*members: Any) -> bool:
        entered.set()
        await asyncio.sleep(0.05)
        return await reserving(*members)

    hold = ledger.hold(account, **ESTIMATE, job_id=f"job {account}")
    with monkeypatch.context() as patch:
        patch.setattr(journal, "reserving", slow)
        opening = asyncio.create_task(hold.open())
        await entered.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

        async def ended() -> bool:
            row = await journal.row(hold.id)
            return row is not None and row.state == "ended"

        await until(ended, "the row's end")
    async with ledger.hold(account, **ESTIMATE, job_id=f"job {account}"):
        pass


async def test_a_model_without_output_can_be_sized_by_experience(ledger: Ledger, account: str) -> None:
    model = "text-embedding-3-small"
    for _ in range(20):
        await ledger._core.journal.sample(model, 0)
    async with ledger.hold(
        account, model=model, provider="openai", input_tokens=1000, sizing=Percentile(95)
    ) as hold:
        assert hold.reserved.amount > 0


async def test_nobody_else_reads_the_journal(journal: Path, ledger: Ledger) -> None:
    for path in (journal, journal.with_name(journal.name + "-wal")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    theirs, text = tmp_path / "app.db", tmp_path / "text"
    with sqlite3.connect(theirs) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    text.write_text("hello" * 500)
    for path in (theirs, text):
        mode, before = path.stat().st_mode, path.read_bytes()
        with pytest.raises(ValueError, match="no journal of Holdfast"):
            await Journal(path).open()
        assert (path.stat().st_mode, path.read_bytes()) == (mode, before)


async def test_what_fails_to_start_lets_go_of_its_journal(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "started.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "prune", full)
        with pytest.raises(sqlite3.OperationalError):
            await connect(stack, path)
    await (await connect(stack, path)).close()


class Soft(BaseException):
    """As a worker's soft time limit."""


@pytest.fixture
def sync_ledger(stack: Stack, tmp_path: Path) -> Iterator[sync.Ledger]:
    path = tmp_path / "sync.sqlite"
    with sync.Ledger.connect(stack.nats, token=stack.token, audience=stack.audience, journal=path) as ledger:
        yield ledger


def opened(ledger: sync.Ledger) -> str:
    account = str(uuid.uuid4())
    ledger.open_account(account)
    ledger.top_up(account, "1")
    return account


def test_an_interrupted_opening_is_released(
    sync_ledger: sync.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = opened(sync_ledger)
    ask = Bus.ask

    async def slow(bus: Bus, verb: str, *more: Any, **options: Any) -> Any:
        if verb == "reserve":
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            await asyncio.sleep(0.2)
        return await ask(bus, verb, *more, **options)

    def interrupt(*_: Any) -> None:
        raise Soft

    monkeypatch.setattr(Bus, "ask", slow)
    before = signal.signal(signal.SIGALRM, interrupt)
    hold = sync_ledger.hold(account, **ESTIMATE)
    try:
        with pytest.raises(Soft), hold:
            pytest.fail("it was not opened")
    finally:
        signal.signal(signal.SIGALRM, before)
    deadline = time.monotonic() + 10
    journal = sync_ledger._ledger._core.journal
    while True:
        row = sync_ledger._loop.run(journal.row(hold.id))
        if row is not None and row.state == "ended":
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sync_ledger.top_up(account, "1").held == 0


def test_calls_and_streams_run_in_the_thread_of_their_caller(sync_ledger: sync.Ledger) -> None:
    account = opened(sync_ledger)
    seen = []

    def chunks() -> Iterator[str]:
        seen.append(threading.get_ident())
        yield "x" * 8

    with sync_ledger.hold(account, **ESTIMATE) as hold:
        hold.call(lambda: seen.append(threading.get_ident()))
    with sync_ledger.hold(account, **ESTIMATE) as hold:
        assert list(hold.stream(chunks())) == ["x" * 8]
    assert set(seen) == {threading.get_ident()}


def test_more_calls_at_once_than_a_pool_has_threads(sync_ledger: sync.Ledger) -> None:
    account = opened(sync_ledger)
    count = min(32, (os.cpu_count() or 1) + 4) + 8
    together, ends = threading.Barrier(count), []

    def ask() -> None:
        with sync_ledger.hold(account, model=MODEL, input_tokens=10, max_output_tokens=5) as hold:
            hold.call(lambda: together.wait(20))
        ends.append(hold.outcome)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [isinstance(end, Captured) for end in ends] == [True] * count


async def test_a_status_that_is_none_is_kept(ledger: Ledger, account: str) -> None:
    class Rpc(Exception):
        code = 1013

    async def fails(error: Exception) -> None:
        raise error

    for error in (Rpc(), ProviderError("gateway", 524)):
        hold = ledger.hold(account, **ESTIMATE)
        with pytest.raises(type(error)):
            async with hold:
                await hold.call(fails, error)
        assert hold.outcome is None
    assert (await balance_at(ledger, account, hold.reserved.position)).held == RESERVED * 2


async def test_a_tool_call_that_came_is_charged(ledger: Ledger, account: str) -> None:
    async def source() -> Any:
        for _ in range(50):
            yield {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "x" * 40}}]}}]}
        raise ConnectionError("broke")

    hold = ledger.hold(account, **ESTIMATE)
    with pytest.raises(ConnectionError):
        async with hold:
            async for _ in hold.stream(source()):
                pass
    assert isinstance(hold.outcome, Captured)
    assert hold.outcome.amount == hold.quote.price({"input": 1200, "output": 500})
    assert hold.outcome.amount > Decimal(0)
