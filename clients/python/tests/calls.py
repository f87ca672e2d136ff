"""What the end-to-end tests of holds share: the model, its prices, and how the provider is called."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict

import httpx2

from holdfast import Hold, Ledger, NotDispatched, ProviderError

MODEL = "gemini-2.5-flash"


class Estimate(TypedDict):
    """Those keywords of a hold that every test needs."""

    model: str
    input_tokens: int
    max_output_tokens: int


ESTIMATE: Estimate = {"model": MODEL, "input_tokens": 1200, "max_output_tokens": 4000}
RESERVED = Decimal("0.01036")
"""1,200 tokens at $0.30 and 4,000 at $2.50 a million."""
REPORTED = Decimal("0.000925")
"""1,000 tokens at $0.30 and 250 at $2.50 a million."""
DELIVERED = Decimal("0.0003875")
"""The input estimate of 1,200 tokens, and 42 bytes of text, which count as 11 tokens of output."""


async def call(http: httpx2.AsyncClient, path: str) -> dict[str, Any]:
    """The provider's answer; its errors as a careful caller tells them."""
    try:
        answer = await http.post(path)
    except httpx2.ConnectError as error:
        raise NotDispatched(str(error)) from error
    if answer.is_error:
        raise ProviderError(answer.text, answer.status_code)
    found: dict[str, Any] = answer.json()
    return found


async def chunks(http: httpx2.AsyncClient, path: str) -> AsyncIterator[dict[str, Any]]:
    """The provider's stream, which opens its own connection when it is read first."""
    async with http.stream("POST", path) as answer:
        async for line in answer.aiter_lines():
            yield json.loads(line)


def rows(journal: Path) -> list[sqlite3.Row]:
    """What the journal of a closed ledger has, the oldest first."""
    with sqlite3.connect(journal) as db:
        db.row_factory = sqlite3.Row
        found = db.execute("SELECT * FROM hold ORDER BY created_ms, hold").fetchall()
    db.close()
    return found


async def charged(ledger: Ledger, account: str, hold: Hold) -> Decimal:
    """What the account has paid of its dollar, once the projections have the hold's last event."""
    from conftest import FUNDS, balance_at

    position = (hold.outcome or hold.reserved).position
    return FUNDS - (await balance_at(ledger, account, position)).posted
