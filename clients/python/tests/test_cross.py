"""What the client in Rust left is settled by this one; its `cross_tests.rs` is the other way round.

Both journals are of the same calls, left at the same points, so both tables are the same.
"""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from calls import DELIVERED, REPORTED, rows
from conftest import FUNDS, balance_at, connect
from leave_journal import CALLS, SCHEMA
from stack import REPOSITORY, Stack

from holdfast import Ledger

FROM_RUST = REPOSITORY / "crates/calls/tests/journal-from-rust.sql"
FROM_PYTHON = REPOSITORY / "clients/python/tests/journal-from-python.sql"
PART, REST = Decimal("0.0003"), Decimal("0.000625")
REPORTED_MORE = Decimal("0.0231")
"""More than was reserved for: what the provider reports is not bounded."""
ENDS: dict[str, tuple[str, str | None, str | None, Decimal]] = {
    # The kind of the end, the reason, the source of the counts, and what is charged in all.
    "reserving": ("released", "not_dispatched", None, Decimal(0)),
    "reserved": ("released", "not_dispatched", None, Decimal(0)),
    "kept": ("kept", None, None, Decimal(0)),
    "reported": ("captured", "aborted", "reported", REPORTED_MORE),
    "delivered": ("captured", "aborted", "delivered", DELIVERED),
    "settling": ("captured", "completed", "reported", REPORTED),
    "part": ("kept", None, None, PART),
    "part and rest": ("captured", "aborted", "reported", PART + REST),
}


@pytest.mark.parametrize("path", [FROM_RUST, FROM_PYTHON], ids=["rust", "python"])
def test_a_journal_that_was_left_is_not_stale(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") in text, "write it anew, as its first line says"
    with sqlite3.connect(":memory:") as db:
        db.executescript(text)
        states = dict(db.execute("SELECT account, state FROM hold").fetchall())
    db.close()
    settling = {"settling", "part", "part and rest"}
    dispatched = {"kept", "reported", "delivered"}
    assert states == {
        name: "settling" if name in settling else "dispatched" if name in dispatched else name
        for name in CALLS
    }


@pytest.mark.parametrize("path", [FROM_RUST, FROM_PYTHON], ids=["rust", "python"])
async def test_what_another_client_left_is_settled(
    stack: Stack, ledger: Ledger, tmp_path: Path, path: Path
) -> None:
    journal = left_in(tmp_path, path)
    for row in rows(journal):
        await ledger.open_account(row["account"])
        await ledger.top_up(row["account"], FUNDS)
        if row["state"] != "reserving":
            reserve = row["reserve_body"].encode()
            await ledger._core.bus.ask("reserve", row["account"], reserve, UUID(row["reserve_id"]))
    async with await connect(stack, journal) as heir:
        await heir.settled()
    for row in rows(journal):
        kind, reason, source, charge = ENDS[row["account"].split(" of ")[0]]
        assert row["state"] == "ended", row["account"]
        if kind == "kept":
            assert (row["ending"], row["observed"]) == ("kept", None), row["account"]
            # The top-up again is told the balance, whatever the projections have.
            told = await ledger.top_up(row["account"], FUNDS)
            assert FUNDS * 2 - told.posted == charge, row["account"]
            continue
        body, ending = json.loads(row["settle_body"]), json.loads(row["ending"])
        found = (ending["kind"], body["reason"], body.get("usage", {}).get("source"))
        assert found == (kind, reason, source), row["account"]
        balance = await balance_at(ledger, row["account"], ending["position"])
        assert (FUNDS - balance.posted, balance.held) == (charge, 0), row["account"]


def left_in(folder: Path, path: Path) -> Path:
    """The journal as a file, with accounts of this run; the commands stay as they are, to the byte."""
    journal = folder / "left.sqlite"
    with sqlite3.connect(journal) as db:
        db.executescript(path.read_text(encoding="utf-8"))
        db.execute("UPDATE hold SET account = account || ?", (f" of {path.stem}",))
    db.close()
    return journal
