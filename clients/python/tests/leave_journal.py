"""Leaves a journal as a process does that dies: writes `journal-from-python.sql`, which Rust recovers.

Run it after a change of what the journal has: `PYTHONPATH=src python tests/leave_journal.py`.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from calls import ESTIMATE
from conftest import balance_at
from stack import REPOSITORY, Stack

from holdfast import Hold, Ledger, Retry
from holdfast.journal import Journal

HERE = Path(__file__).parent
SCHEMA = REPOSITORY / "clients/python/src/holdfast/journal.sql"
CALLS = ["reserving", "reserved", "kept", "reported", "delivered", "settling", "part", "part and rest"]
"""What is left of each call; the account has its name."""
PATIENT = Retry(attempts=1, attempt_s=60.0)
WRITTEN_S = 1.0


async def main() -> None:
    stack = Stack()
    try:
        with tempfile.TemporaryDirectory() as folder:
            ledger = await Ledger.connect(
                stack.nats,
                token=stack.token,
                audience=stack.audience,
                journal=Path(folder) / "journal.sqlite",
                retry=PATIENT,
            )
            async with ledger:
                text = await left(stack, ledger)
    finally:
        stack.stop()
    (HERE / "journal-from-python.sql").write_text(text, encoding="utf-8")


async def left(stack: Stack, ledger: Ledger) -> str:
    """What the journal has in the middle of every call."""
    holds: dict[str, Hold] = {}
    for name in CALLS:
        await ledger.open_account(name)
        told = await ledger.top_up(name, "1")
        await balance_at(ledger, name, told.position)
        await ledger._core.assets.scale(name)
        holds[name] = ledger.hold(name, **ESTIMATE)
        if name != "reserving":
            await holds[name].open()
        if name not in {"reserving", "reserved"}:
            await holds[name].dispatched()
    holds["reported"].observe({"input": 2000, "output": 9000})
    holds["delivered"].observe_text("x" * 42)
    holds["part"].observe({"input": 1000})
    holds["part and rest"].observe({"input": 1000, "output": 250})
    stack.pause()
    try:
        waiting = [
            asyncio.create_task(work)
            for work in (
                holds["reserving"].open(),
                holds["settling"].capture({"input": 1000, "output": 250}),
                holds["part"].capture({"input": 1000}, final=False),
                holds["part and rest"].capture({"input": 1000}, final=False),
            )
        ]
        await asyncio.sleep(WRITTEN_S)
        text = await dump(ledger._core.journal)
    finally:
        stack.resume()
    await asyncio.gather(*waiting)
    return text


async def dump(journal: Journal) -> str:
    """The journal as SQL."""

    def read() -> str:
        names = [name for _, name, *_ in journal._db.execute("PRAGMA table_info(hold)")]
        columns = " || ', ' || ".join(f"quote({name})" for name in names)
        found = journal._db.execute(f"SELECT {columns} FROM hold ORDER BY created_ms, hold").fetchall()
        rows = "".join(f"INSERT INTO hold VALUES ({values});\n" for (values,) in found)
        return f"-- Written by clients/python/tests/leave_journal.py.\n{SCHEMA.read_text('utf-8')}{rows}"

    return await journal._run(read)


if __name__ == "__main__":
    asyncio.run(main())
