"""The journal: what a process knows of its holds, in a file that survives it.

**Correctness.** Every statement runs in one thread, in the order in which it was asked for, and is
on the disk when its await returns (`synchronous=FULL`). Rows only go forward: each update names the
states it may come from, so a late observation cannot bring an ended hold back. The file is locked
for as long as it is open; the lock goes with the process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from .bus import now_ms
from .errors import JournalInUse

APPLICATION_ID = 1212501068
VERSION = 1
KEEP_MS = 7 * 24 * 3_600_000
"""Ended rows go after a week."""
SAMPLES_MAX = 500
"""Samples kept of each model; a percentile of more would tell no more."""
KEPT = "kept"
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A hold in the journal, as its schema says."""

    hold: str
    account: str
    state: str
    reserve_id: str
    reserve_body: str
    observed: str | None
    observed_source: str | None
    settle_verb: str | None
    settle_id: str | None
    settle_body: str | None
    ending: str | None


COLUMNS = ", ".join(field.name for field in fields(Row))


class Journal:
    """A journal in `path`. Its methods may be awaited from one event loop."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="holdfast-journal")
        self._db: sqlite3.Connection

    async def open(self) -> None:
        """Opens and locks the file, and makes it where it is not there yet.

        `JournalInUse` when another process has it; `ValueError` when it is something else.
        """
        opening = self._thread.submit(_open, self.path)
        try:
            self._db = await asyncio.shield(asyncio.wrap_future(opening))
        except BaseException:
            opening.add_done_callback(_close_opened)
            self._thread.shutdown(wait=False)
            raise

    async def close(self) -> None:
        """Waits for what is being written and closes the file."""
        await self._run(self._db.close)
        self._thread.shutdown(wait=True)

    async def reserving(self, hold: UUID, account: str, command: UUID, body: bytes) -> bool:
        """A reserve is about to be published; false when the hold is in the journal without an end."""
        now = now_ms()
        return (
            await self._write(
                "INSERT INTO hold (hold, account, state, reserve_id, reserve_body, created_ms, updated_ms)"
                " VALUES (?, ?, 'reserving', ?, ?, ?, ?) ON CONFLICT (hold) DO UPDATE SET"
                " account = excluded.account, state = 'reserving', reserve_id = excluded.reserve_id,"
                " reserve_body = excluded.reserve_body, observed = NULL, observed_source = NULL,"
                " settle_verb = NULL, settle_id = NULL, settle_body = NULL, ending = NULL,"
                " created_ms = excluded.created_ms, updated_ms = excluded.updated_ms WHERE state = 'ended'",
                (str(hold), account, str(command), body.decode(), now, now),
            )
            > 0
        )

    async def reserved(self, hold: UUID) -> None:
        """The reserve's outcome is known."""
        await self._set(hold, "state = 'reserved'", "state = 'reserving'")

    async def dispatched(self, hold: UUID) -> None:
        """The request is about to go to the provider."""
        await self._set(hold, "state = 'dispatched'", "state IN ('reserved', 'dispatched')")

    def observed(self, hold: UUID, tokens: str, source: str) -> Future[int]:
        """What is known to have been used and not charged yet; a call that used something was sent."""
        return self._thread.submit(
            self._execute,
            "UPDATE hold SET observed = ?, observed_source = ?, updated_ms = ?,"
            " state = CASE state WHEN 'reserved' THEN 'dispatched' ELSE state END"
            " WHERE hold = ? AND state <> 'ended'",
            (tokens, source, now_ms(), str(hold)),
        )

    async def settling(self, hold: UUID, verb: str, command: UUID, body: bytes) -> None:
        """A capture or release is about to be published."""
        await self._set(
            hold,
            "state = 'settling', settle_verb = ?, settle_id = ?, settle_body = ?",
            "state <> 'ended'",
            verb,
            str(command),
            body.decode(),
        )

    async def parting(
        self, hold: UUID, command: UUID, body: bytes, observed: str | None, source: str | None
    ) -> None:
        """A partial capture is about to be published; `observed` is what it leaves to be charged."""
        await self._set(
            hold,
            "state = 'settling', settle_verb = 'capture', settle_id = ?, settle_body = ?,"
            " observed = ?, observed_source = ?",
            "state NOT IN ('settling', 'ended')",
            str(command),
            body.decode(),
            observed,
            source,
        )

    async def reopened(self, hold: UUID, observed: str | None, source: str | None) -> None:
        """A partial capture has its outcome; `observed` is what is to be charged still."""
        await self._set(
            hold,
            "state = 'dispatched', settle_verb = NULL, settle_id = NULL, settle_body = NULL,"
            " observed = ?, observed_source = ?",
            "state = 'settling'",
            observed,
            source,
        )

    async def ended(self, hold: UUID, ending: str) -> None:
        """The hold has its end: an outcome as JSON, or `kept`."""
        await self._set(hold, "state = 'ended', ending = ?", "state <> 'ended'", ending)

    async def row(self, hold: UUID) -> Row | None:
        """What is known of one hold."""
        rows = await self._rows("hold = ?", str(hold))
        return rows[0] if rows else None

    async def unfinished(self) -> list[Row]:
        """Every hold without an end, the oldest first."""
        return await self._rows("state <> 'ended' ORDER BY created_ms, hold")

    async def sample(self, model: str, output: int) -> None:
        """Remembers how many output tokens a call of `model` produced."""
        await self._write("INSERT INTO sample VALUES (?, ?, ?)", (model, output, now_ms()))

    async def samples(self, model: str) -> list[int]:
        """Output tokens of the newest calls of `model`."""
        query = "SELECT output FROM sample WHERE model = ? ORDER BY at_ms DESC, rowid DESC LIMIT ?"
        found = await self._run(lambda: self._db.execute(query, (model, SAMPLES_MAX)).fetchall())
        return [output for (output,) in found]

    async def prune(self) -> None:
        """Forgets what ended more than a week ago, and samples that have been followed by enough."""
        oldest = now_ms() - KEEP_MS
        await self._write("DELETE FROM hold WHERE state = 'ended' AND updated_ms < ?", (oldest,))
        await self._write(
            "DELETE FROM sample WHERE rowid IN (SELECT rowid FROM (SELECT rowid, row_number() OVER"
            " (PARTITION BY model ORDER BY at_ms DESC, rowid DESC) AS n FROM sample) WHERE n > ?)",
            (SAMPLES_MAX,),
        )

    async def _set(self, hold: UUID, assignments: str, condition: str, *values: str | None) -> None:
        sql = f"UPDATE hold SET {assignments}, updated_ms = ? WHERE hold = ? AND {condition}"  # noqa: S608
        if not await self._write(sql, (*values, now_ms(), str(hold))):
            raise RuntimeError(f"the journal has no hold {hold} with {condition}")

    async def _rows(self, condition: str, *values: str) -> list[Row]:
        sql = f"SELECT {COLUMNS} FROM hold WHERE {condition}"  # noqa: S608
        found = await self._run(lambda: self._db.execute(sql, values).fetchall())
        return [Row(*values) for values in found]

    async def _write(self, sql: str, values: tuple[Any, ...]) -> int:
        return await self._run(lambda: self._execute(sql, values))

    def _execute(self, sql: str, values: tuple[Any, ...]) -> int:
        return self._db.execute(sql, values).rowcount

    async def _run(self, step: Callable[[], T]) -> T:
        # Shielded: a write that was asked for is made, whoever stops waiting for it.
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(step)))


def _close_opened(opening: Future[sqlite3.Connection]) -> None:
    """Nobody waits for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _open(path: str) -> sqlite3.Connection:
    # It tells who called which models, so nobody else reads it; what SQLite adds has the same mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    _look(path)
    Path(path).chmod(0o600)
    # One thread at a time uses it, but not always the one that opened it: at shutdown the last may differ.
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        # The lock is taken with the first access after this and kept until the file is closed.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
        _migrate(db, path)
    except sqlite3.OperationalError as error:
        db.close()
        if "locked" in str(error):
            raise JournalInUse(f"{path} is in use by another process; take a file of its own") from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def _look(path: str) -> None:
    """Makes sure that the file is a journal, or empty, before anything in it is changed."""
    db = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, timeout=0)
    try:
        _is_new(db, path)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise JournalInUse(f"{path} is in use by another process; take a file of its own") from error
        raise
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is no journal of Holdfast") from error
    finally:
        db.close()


def _migrate(db: sqlite3.Connection, path: str) -> None:
    if _is_new(db, path):
        schema = resources.files("holdfast").joinpath("journal.sql").read_text(encoding="utf-8")
        db.executescript(f"BEGIN;\n{schema}\nCOMMIT;")


def _is_new(db: sqlite3.Connection, path: str) -> bool:
    """True for an empty database, false for a journal; `ValueError` for anything else."""
    application, version, tables = (
        db.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != APPLICATION_ID:
        raise ValueError(f"{path} is no journal of Holdfast")
    if version != VERSION:
        raise ValueError(f"{path} is a journal of version {version}; this client knows {VERSION}")
    return False
