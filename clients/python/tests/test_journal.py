"""The journal: its schema, its states, its lock, and what it forgets."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from stack import REPOSITORY

from holdfast.errors import JournalInUse
from holdfast.ids import new_id
from holdfast.journal import KEEP_MS, SAMPLES_MAX, Journal


@pytest_asyncio.fixture
async def opened(journal: Path) -> AsyncIterator[Journal]:
    opened = Journal(journal)
    await opened.open()
    yield opened
    await opened.close()


def test_the_schema_is_that_of_the_documentation() -> None:
    text = (REPOSITORY / "docs/llm.md").read_text(encoding="utf-8")
    block = re.search(r"```sql\n(.*?)```", text, re.DOTALL)
    schema = REPOSITORY / "clients/python/src/holdfast/journal.sql"
    assert block is not None
    assert schema.read_text(encoding="utf-8") == block[1]


async def test_a_hold_goes_through_its_states(opened: Journal) -> None:
    hold, command = new_id(), new_id()
    assert await opened.reserving(hold, "ann", command, b'{"amount":"1"}')
    assert not await opened.reserving(hold, "ann", command, b"{}"), "it has no end yet"
    await opened.reserved(hold)
    await opened.dispatched(hold)
    await asyncio.wrap_future(opened.observed(hold, '{"input":1}', "reported"))
    await opened.settling(hold, "capture", command, b'{"amount":"0.5"}')
    [row] = await opened.unfinished()
    assert (row.state, row.account, row.reserve_body) == ("settling", "ann", '{"amount":"1"}')
    assert (row.observed, row.observed_source) == ('{"input":1}', "reported")
    assert (row.settle_verb, row.settle_id, row.settle_body) == ("capture", str(command), '{"amount":"0.5"}')
    await opened.ended(hold, '{"kind":"captured"}')
    assert await opened.unfinished() == []
    assert await opened.reserving(hold, "ann", new_id(), b"{}"), "an ended one may be tried again"


async def test_nothing_brings_an_ended_hold_back(opened: Journal) -> None:
    hold = new_id()
    await opened.reserving(hold, "ann", new_id(), b"{}")
    await opened.ended(hold, "kept")
    for step in (opened.reserved(hold), opened.dispatched(hold), opened.ended(hold, "kept")):
        with pytest.raises(RuntimeError, match="no hold"):
            await step
    assert await asyncio.wrap_future(opened.observed(hold, "{}", "delivered")) == 0
    row = await opened.row(hold)
    assert row is not None
    assert (row.state, row.observed, row.ending) == ("ended", None, "kept")


async def test_what_was_observed_was_dispatched(opened: Journal) -> None:
    hold = new_id()
    await opened.reserving(hold, "ann", new_id(), b"{}")
    await opened.reserved(hold)
    await asyncio.wrap_future(opened.observed(hold, "{}", "delivered"))
    row = await opened.row(hold)
    assert row is not None
    assert row.state == "dispatched"


async def test_only_one_at_a_time_has_the_file(opened: Journal, journal: Path) -> None:
    with pytest.raises(JournalInUse):
        await Journal(journal).open()


async def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    cases = [("CREATE TABLE theirs (x)", "no journal"), ("PRAGMA application_id = 7", "no journal")]
    later = "PRAGMA application_id = 1212501068; PRAGMA user_version = 2; CREATE TABLE hold (x)"
    for n, (script, problem) in enumerate([*cases, (later, "version 2")]):
        path = tmp_path / f"{n}.sqlite"
        with sqlite3.connect(path) as db:
            db.executescript(script)
        db.close()
        with pytest.raises(ValueError, match=problem):
            await Journal(path).open()


async def test_what_ended_a_week_ago_is_forgotten(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    old, kept, young = new_id(), new_id(), new_id()
    monkeypatch.setattr("holdfast.journal.now_ms", lambda: 1)
    for hold in (old, kept):
        await opened.reserving(hold, "ann", new_id(), b"{}")
    await opened.ended(old, "kept")
    monkeypatch.setattr("holdfast.journal.now_ms", lambda: 2 + KEEP_MS)
    await opened.reserving(young, "ann", new_id(), b"{}")
    await opened.ended(young, "kept")
    await opened.prune()
    assert await opened.row(old) is None
    assert await opened.row(kept) is not None
    assert await opened.row(young) is not None


async def test_samples_are_the_newest_of_their_model(opened: Journal) -> None:
    for n in range(SAMPLES_MAX + 5):
        await opened.sample("m", n)
    await opened.sample("other", 1)
    await opened.prune()
    assert await opened.samples("m") == list(range(SAMPLES_MAX + 4, 4, -1))
    assert await opened.samples("other") == [1]
