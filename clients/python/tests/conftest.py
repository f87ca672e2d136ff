"""Fixtures: one ledger for the whole run, a connection and an account for each test."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from provider import Provider
from stack import Stack

from holdfast import Ledger, Retry
from holdfast.errors import NotFound
from holdfast.outcomes import Balance

DEADLINE_S = 20.0
FUNDS = Decimal(1)
PATIENT = Retry(attempts=4, attempt_s=5.0, pause_s=0.05)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    stack = Stack()
    yield stack
    stack.stop()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest_asyncio.fixture
async def ledger(stack: Stack, journal: Path) -> AsyncIterator[Ledger]:
    async with await connect(stack, journal) as ledger:
        yield ledger


async def connect(stack: Stack, journal: Path | None = None, retry: Retry = PATIENT) -> Ledger:
    return await Ledger.connect(
        stack.nats, token=stack.token, audience=stack.audience, journal=journal, retry=retry
    )


@pytest_asyncio.fixture
async def account(ledger: Ledger) -> str:
    """An account with one dollar."""
    name = f"user {uuid.uuid4()}"
    await ledger.open_account(name)
    await ledger.top_up(name, FUNDS)
    return name


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest_asyncio.fixture
async def http(provider: Provider) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=provider.url, timeout=0.3) as http:
        yield http


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.01)


async def balance_at(ledger: Ledger, account: str, position: int) -> Balance:
    """The balance once the projections have the event at `position`."""

    async def is_there() -> bool:
        try:
            return (await ledger.balance(account)).position >= position
        except NotFound:
            return False

    await until(is_there, f"the projections at {position}")
    return await ledger.balance(account)
