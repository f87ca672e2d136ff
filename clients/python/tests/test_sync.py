"""The façade without asyncio, from ordinary threads."""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from calls import DELIVERED, ESTIMATE, REPORTED, RESERVED
from conftest import DEADLINE_S
from provider import Provider
from stack import Stack

from holdfast import AlreadySettled, ProviderError, errors
from holdfast.outcomes import Captured, Released
from holdfast.sync import Ledger


@pytest.fixture
def sync_ledger(stack: Stack, tmp_path: Path) -> Iterator[Ledger]:
    journal = tmp_path / "sync.sqlite"
    with Ledger.connect(stack.nats, token=stack.token, audience=stack.audience, journal=journal) as ledger:
        yield ledger


def opened(ledger: Ledger) -> str:
    account = str(uuid.uuid4())
    ledger.open_account(account)
    ledger.top_up(account, "1")
    return account


def test_every_command(sync_ledger: Ledger) -> None:
    account = opened(sync_ledger)
    topped_up = sync_ledger.top_up(account, "1")
    deducted = sync_ledger.deduct(account, Decimal("0.5"))
    assert sync_ledger.refund(account, deducted.id, reason="r").posted == 2
    assert sync_ledger.reverse_top_up(account, topped_up.position, reason="r").posted == 1
    assert sync_ledger.set_account(account, tier="pro").kind == "account_set"
    reserved = sync_ledger.reserve(account, "0.1")
    assert sync_ledger.extend(account, reserved.hold, 700_000).expires_at > reserved.expires_at
    assert sync_ledger.increase(account, reserved.hold, "0.1").held == Decimal("0.2")
    assert sync_ledger.capture(account, hold=reserved.hold, amount="0.1", final=False).held == Decimal("0.1")
    released = sync_ledger.release(account, hold=reserved.hold)
    deadline = time.monotonic() + DEADLINE_S
    while sync_ledger.balance(account).position < released.position:
        assert time.monotonic() < deadline
    assert sync_ledger.hold_state(account, reserved.hold).status == "released"
    assert sync_ledger.command(released.id)["position"] == released.position
    assert sync_ledger.quote("gemini-2.5-flash").provider == "google"
    assert sync_ledger.metrics()["commands"]["rejected"] == 0
    with pytest.raises(errors.HoldReleased):
        sync_ledger.release(account, hold=reserved.hold)


async def test_a_call_is_settled_by_the_same_table(sync_ledger: Ledger, provider: Provider) -> None:
    await asyncio.to_thread(make_calls, sync_ledger, provider.url)


def make_calls(ledger: Ledger, url: str) -> None:
    account = opened(ledger)
    with httpx2.Client(base_url=url) as http:
        with ledger.hold(account, **ESTIMATE) as hold:
            assert hold.call(lambda: http.post("/ok").json())["usageMetadata"]["promptTokenCount"] == 1000
        assert isinstance(hold.outcome, Captured)
        assert hold.outcome.amount == REPORTED
        with pytest.raises(ProviderError), ledger.hold(account, **ESTIMATE) as hold:
            hold.dispatched()
            raise ProviderError(status=500)
        assert isinstance(hold.outcome, Released)
        with ledger.hold(account, **ESTIMATE) as hold:
            whole = list(hold.stream(chunks(http, "/stream")))
        assert (len(whole), hold.outcome.posted if hold.outcome else None) == (3, 1 - 2 * REPORTED)
        with pytest.raises(httpx2.RemoteProtocolError), ledger.hold(account, **ESTIMATE) as hold:
            list(hold.stream(chunks(http, "/cut")))
        assert isinstance(hold.outcome, Captured)
        assert hold.outcome.amount == DELIVERED
        with ledger.hold(account, **ESTIMATE) as hold:
            hold.dispatched()
            hold.observe_text("x" * 100)
            hold.observe({"input": 1000, "output": 250})
            assert hold.capture().amount == REPORTED
            with pytest.raises(AlreadySettled):
                hold.release()
        with ledger.hold(account, **ESTIMATE, on_abort="drain") as hold:
            next(iter(hold.stream(chunks(http, "/stream"))))
        assert isinstance(hold.outcome, Captured)
        assert hold.outcome.amount == REPORTED
        with ledger.hold(account, **ESTIMATE) as hold:
            assert hold.max_output_tokens == 4000
    assert isinstance(hold.outcome, Released)
    assert hold.outcome.amount == RESERVED


def chunks(http: httpx2.Client, path: str) -> Iterator[dict[str, Any]]:
    with http.stream("POST", path) as answer:
        for line in answer.iter_lines():
            yield json.loads(line)


def test_the_call_sees_the_context_of_its_caller(sync_ledger: Ledger) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("mine")
    with sync_ledger.hold(opened(sync_ledger), **ESTIMATE) as hold:
        assert hold.call(variable.get) == "mine"


def test_many_threads_share_one_ledger(sync_ledger: Ledger) -> None:
    account = opened(sync_ledger)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: sync_ledger.deduct(account, "0.01"), range(40)))
    assert min(outcome.posted for outcome in found) == Decimal("0.6")


def test_what_cannot_connect_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("holdfast.bus.CONNECT_S", 0.2)
    with pytest.raises(errors.Unavailable):
        Ledger.connect("nats://127.0.0.1:1", token="hf1_x", audience="ledger.dev")
    assert [thread.name for thread in threading.enumerate() if thread.name == "holdfast"] == []
