"""kill -9 at every point of a call, then a new process on the same journal: one end, the right amount."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from calls import DELIVERED, ESTIMATE, REPORTED, RESERVED, rows
from conftest import FUNDS, balance_at, connect, until
from provider import Provider
from stack import REPOSITORY, Stack

from holdfast import Breaker, Ledger, Retry, errors

HERE = Path(__file__).parent
ENDS = {"captured", "captured_late", "released", "hold_expired"}
POINTS = [
    # Where it dies, the state that the journal has then, the one end that follows, and the charge.
    ("reserve before", "reserving", "released", Decimal(0)),
    ("reserve after", "reserving", "released", Decimal(0)),
    ("reserved", "reserved", "released", Decimal(0)),
    ("in-call", "dispatched", None, Decimal(0)),
    ("mid-stream", "dispatched", "captured", DELIVERED),
    ("answered", "dispatched", "captured", REPORTED),
    ("capture before", "settling", "captured", REPORTED),
    ("capture after", "settling", "captured", REPORTED),
]


@pytest.mark.parametrize(("point", "state", "end", "charge"), POINTS, ids=[row[0] for row in POINTS])
async def test_a_killed_process_leaves_one_end(
    stack: Stack,
    tmp_path: Path,
    account: str,
    provider: Provider,
    point: str,
    state: str,
    end: str,
    charge: Any,
) -> None:
    journal = tmp_path / "victim.sqlite"
    await run_victim(stack, journal, account, provider, point)
    assert [row["state"] for row in rows(journal)] == [state]
    async with await connect(stack, journal) as heir:
        await heir.settled()
        ends = await ends_of(stack, heir, account, expected=0 if end is None else 1)
        assert ends == ([] if end is None else [end])
        balance = await heir.balance(account)
    assert FUNDS - balance.posted == charge
    assert balance.held == (RESERVED if end is None else 0)
    [row] = rows(journal)
    assert row["state"] == "ended"
    assert row["ending"] == "kept" if end is None else json.loads(row["ending"])["kind"] == end
    async with await connect(stack, journal) as another:
        await another.settled()
        assert another.metrics()["commands"]["asked"] == 0


@pytest.mark.parametrize("point", ["part before", "part after"])
async def test_a_killed_process_leaves_a_part_and_the_rest(
    stack: Stack, tmp_path: Path, account: str, provider: Provider, point: str
) -> None:
    journal = tmp_path / "victim.sqlite"
    await run_victim(stack, journal, account, provider, point)
    [left] = rows(journal)
    assert (left["state"], left["observed"]) == ("settling", '{"input":0,"output":250}')
    assert json.loads(left["settle_body"])["final"] is False
    async with await connect(stack, journal) as heir:
        await heir.settled()
        assert await ends_of(stack, heir, account, expected=2) == ["captured", "captured"]
        balance = await heir.balance(account)
    assert (FUNDS - balance.posted, balance.held) == (REPORTED, 0)
    [row] = rows(journal)
    assert (row["state"], json.loads(row["settle_body"])["reason"]) == ("ended", "aborted")


async def run_victim(stack: Stack, journal: Path, account: str, provider: Provider, point: str) -> None:
    arguments = [stack.nats, stack.token, stack.audience, str(journal), account, provider.url, point]
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    victim = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "victim.py"),
        *arguments,
        env={**os.environ, "PYTHONPATH": path + os.pathsep + os.environ.get("PYTHONPATH", "")},
    )
    assert await victim.wait() == -signal.SIGKILL


async def ends_of(stack: Stack, ledger: Ledger, account: str, expected: int) -> list[str]:
    """The events of the account that end a hold, once the projections have as many as expected."""
    found: list[str] = []

    async def are_there() -> bool:
        async with httpx2.AsyncClient(base_url=stack.http, headers={"X-INTERNAL-TOKEN": stack.token}) as http:
            answer = await http.get(f"/accounts/{quote(account)}/statement")
        found[:] = [event["kind"] for event in answer.json()["events"] if event["kind"] in ENDS]
        return len(found) >= expected

    await until(are_there, f"{expected} ends of the holds of {account}")
    return found


async def test_a_journal_belongs_to_one_process(ledger: Ledger, stack: Stack, journal: Path) -> None:
    with pytest.raises(errors.JournalInUse, match="a file of its own"):
        await connect(stack, journal)


async def test_a_journal_that_another_program_left_is_settled(
    stack: Stack, tmp_path: Path, ledger: Ledger, account: str
) -> None:
    """What is in the file is all that counts: here its rows are written by hand."""
    quoted = await ledger.quote("gemini-2.5-flash")
    usage = quoted.usage({"input": 1200, "output": 4000}, "estimated")
    reserved = await ledger.reserve(account, str(RESERVED), usage=usage, overage="draw")
    journal = tmp_path / "left.sqlite"
    schema = (REPOSITORY / "clients/python/src/holdfast/journal.sql").read_text(encoding="utf-8")
    body = json.dumps({"hold": str(reserved.hold), "amount": str(RESERVED), "usage": usage})
    with sqlite3.connect(journal) as db:
        db.executescript(schema)
        db.execute(
            "INSERT INTO hold VALUES (?, ?, 'dispatched', ?, ?, ?, 'reported', NULL, NULL, NULL, NULL, 1, 1)",
            (str(reserved.hold), account, str(reserved.id), body, '{"input":1000,"output":250}'),
        )
    db.close()
    async with await connect(stack, journal) as heir:
        await heir.settled()
    [row] = rows(journal)
    assert json.loads(row["ending"])["amount"] == str(REPORTED)
    assert json.loads(row["settle_body"])["reason"] == "aborted"
    position = json.loads(row["ending"])["position"]
    assert (await balance_at(ledger, account, position)).posted == FUNDS - REPORTED


async def test_what_the_ledger_does_not_answer_is_pursued(stack: Stack, tmp_path: Path, account: str) -> None:
    impatient = Retry(attempts=1, attempt_s=0.2, pause_s=0.05)
    async with await connect(stack, tmp_path / "j.sqlite", impatient) as ledger:
        try:
            async with ledger.hold(account, **ESTIMATE) as hold:
                await hold.dispatched()
                hold.observe({"input": 1000, "output": 250})
                stack.pause()
            assert hold.outcome is None
            assert ledger.metrics()["settling"] == 1
            with pytest.raises(errors.Unavailable):
                await ledger.hold(account, **ESTIMATE).open()
        finally:
            stack.resume()
        await ledger.settled()
        assert await ends_of(stack, ledger, account, expected=2) == ["released", "captured"]
        assert (await ledger.balance(account)).posted == FUNDS - REPORTED


async def test_a_partial_capture_without_an_outcome_is_asked_for_again(
    stack: Stack, tmp_path: Path, account: str
) -> None:
    impatient = Retry(attempts=1, attempt_s=0.5, pause_s=0.05)
    async with await connect(stack, tmp_path / "j.sqlite", impatient) as ledger:
        async with ledger.hold(account, **ESTIMATE) as hold:
            await hold.dispatched()
            hold.observe({"input": 1000, "output": 100})
            stack.pause()
            try:
                with pytest.raises(errors.Unavailable):
                    await hold.capture(final=False)
            finally:
                stack.resume()
            hold.observe({"output": 250})

            async def is_up() -> bool:
                try:
                    return (await ledger.balance(account)).held < RESERVED
                except errors.Unavailable:
                    return False

            await until(is_up, "the part that waited in the stream")
        assert hold.outcome is not None
        balance = await balance_at(ledger, account, hold.outcome.position)
        assert (FUNDS - balance.posted, balance.held) == (REPORTED, 0)


async def test_the_end_follows_a_part_that_no_outcome_came_for(
    stack: Stack, tmp_path: Path, account: str
) -> None:
    impatient = Retry(attempts=1, attempt_s=0.5, pause_s=0.05)
    async with await connect(stack, tmp_path / "j.sqlite", impatient) as ledger:
        async with ledger.hold(account, **ESTIMATE) as hold:
            await hold.dispatched()
            hold.observe({"input": 1000, "output": 100})
            stack.pause()
            try:
                for part in ({"input": 1000}, {"output": 1}):
                    with pytest.raises(errors.Unavailable):
                        await hold.capture(part, final=False)
                with pytest.raises(errors.Unavailable):
                    await hold.capture({"output": 250})
                row = await ledger._core.journal.row(hold.id)
                assert row is not None
                assert (row.state, row.observed) == ("settling", '{"output":250}')
            finally:
                stack.resume()
        await ledger.settled()
        assert await ends_of(stack, ledger, account, expected=2) == ["captured", "captured"]
        balance = await ledger.balance(account)
        assert (FUNDS - balance.posted, balance.held) == (REPORTED, 0)


async def test_a_ledger_that_does_not_answer_is_not_asked_for_a_while(
    stack: Stack, journal: Path, account: str, tmp_path: Path
) -> None:
    breaker = Breaker(failures_max=1, open_s=60.0)
    ledger = await Ledger.connect(
        stack.nats,
        token=stack.token,
        audience=stack.audience,
        journal=tmp_path / "j.sqlite",
        retry=Retry(attempts=1, attempt_s=0.2),
        breaker=breaker,
    )
    await ledger.quote("gemini-2.5-flash")
    await ledger._core.assets.scale(account)
    stack.pause()
    try:
        with pytest.raises(errors.Unavailable):
            await ledger.deduct(account, "0.1")
    finally:
        stack.resume()
    with pytest.raises(errors.LedgerCircuitOpen):
        await ledger.hold(account, **ESTIMATE).open()
    assert ledger.metrics()["ledger"]["state"] == "open"
    assert ledger.metrics()["settling"] == 0, "nothing was reserved, so nothing is to be released"
    breaker.open_s = 0.0
    async with ledger, ledger.hold(account, **ESTIMATE) as hold:
        assert ledger.metrics()["ledger"]["state"] == "closed"
    assert hold.outcome is not None
