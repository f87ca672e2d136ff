"""The settlement table, end to end: a real provider, a real ledger, balances to the nano-dollar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from calls import DELIVERED, ESTIMATE, MODEL, REPORTED, RESERVED, call, charged, chunks, rows
from conftest import FUNDS, balance_at, until
from provider import TEXT, Provider
from stack import Stack

from holdfast import (
    AlreadySettled,
    Capped,
    CostsNothing,
    Hold,
    InsufficientFunds,
    Ledger,
    NotDispatched,
    Percentile,
    ProviderCircuitOpen,
    ProviderError,
    Usage,
    errors,
    usage_of,
)
from holdfast.outcomes import Captured, Released

Http = httpx2.AsyncClient


async def nothing_is_called(_: Http, hold: Hold) -> None:
    assert hold.reserved.amount == RESERVED


async def fails_before_the_call(_: Http, __: Hold) -> None:
    raise ValueError("a bug of the caller's")


async def dispatched_but_not_sent(_: Http, hold: Hold) -> None:
    await hold.dispatched()
    raise NotDispatched


async def read_whole(http: Http, hold: Hold, path: str) -> None:
    async for _ in hold.stream(chunks(http, path)):
        pass


async def leave_after_two(http: Http, hold: Hold) -> None:
    seen = 0
    async for _ in hold.stream(chunks(http, "/gated")):
        seen += 1
        if seen == 2:
            break


async def observe_by_hand(http: Http, hold: Hold) -> None:
    await hold.dispatched()
    hold.observe(usage_of(await call(http, "/ok")))


async def status_without_exception(http: Http, hold: Hold) -> None:
    answer = await hold.call(http.post, "/500")
    assert answer.status_code == 500


async def raise_for_status(http: Http, hold: Hold) -> None:
    await hold.dispatched()
    (await http.post("/429")).raise_for_status()


async def error_after_output(http: Http, hold: Hold) -> None:
    await read_two(http, hold)
    raise ProviderError("an error event in the stream")


async def read_two(http: Http, hold: Hold) -> None:
    with suppress(httpx2.RemoteProtocolError):
        await read_whole(http, hold, "/cut")


def calls(path: str) -> Callable[[Http, Hold], Awaitable[Any]]:
    return lambda http, hold: hold.call(call, http, path)


def streams(path: str) -> Callable[[Http, Hold], Awaitable[Any]]:
    return lambda http, hold: read_whole(http, hold, path)


RELEASED = Decimal(0)
ROWS: list[tuple[str, Any, str, Decimal | None]] = [
    # What happens, how, the reason that is booked, and what is charged; None is a hold that is kept.
    ("never sent", nothing_is_called, "not_dispatched", RELEASED),
    ("an error before the call", fails_before_the_call, "not_dispatched", RELEASED),
    ("the client says it was not sent", dispatched_but_not_sent, "not_dispatched", RELEASED),
    ("429", calls("/429"), "provider_error", RELEASED),
    ("500", calls("/500"), "provider_error", RELEASED),
    ("500 that nobody raised", status_without_exception, "provider_error", RELEASED),
    ("429 as the client's own exception", raise_for_status, "provider_error", RELEASED),
    ("success", calls("/ok"), "completed", REPORTED),
    ("success by hand", observe_by_hand, "completed", REPORTED),
    ("a whole stream", streams("/stream"), "completed", REPORTED),
    ("an explicit zero", calls("/zero"), "completed", Decimal(0)),
    ("success without usage", calls("/no-usage"), "usage_missing", RESERVED),
    ("a stream without usage", streams("/stream-no-usage"), "usage_missing", RESERVED),
    ("a cut stream", streams("/cut"), "aborted", DELIVERED),
    ("a cut stream that was caught", read_two, "aborted", DELIVERED),
    ("a reader who left", leave_after_two, "aborted", DELIVERED),
    ("an error after output", error_after_output, "aborted", DELIVERED),
    ("a time-out", calls("/hang"), "kept", None),
    ("a connection that was lost", calls("/gone"), "kept", None),
    ("a stream cut before the first chunk", streams("/cut-before"), "kept", None),
]


@pytest.mark.parametrize(
    ("what", "reason", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
async def test_the_table(
    ledger: Ledger, account: str, http: Http, journal: Path, what: Any, reason: str, expected: Decimal | None
) -> None:
    hold = ledger.hold(account, **ESTIMATE)
    with suppress(ValueError, NotDispatched, ProviderError, httpx2.HTTPError):
        async with hold:
            await what(http, hold)
    assert await charged(ledger, account, hold) == (expected or 0)
    balance = await ledger.balance(account)
    assert balance.held == (RESERVED if expected is None else 0)
    await ledger.close()
    [row] = rows(journal)
    assert row["state"] == "ended"
    assert row["ending"] == "kept" if expected is None else json.loads(row["settle_body"])["reason"] == reason


async def test_usage_and_trace_are_booked_with_the_charge(ledger: Ledger, account: str, http: Http) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with ledger.hold(account, **ESTIMATE, traceparent=parent) as hold:
        await hold.call(call, http, "/ok")
    assert isinstance(hold.outcome, Captured)
    assert (hold.outcome.amount, hold.outcome.absorbed) == (REPORTED, 0)
    assert hold.outcome.released == RESERVED - REPORTED
    with pytest.raises(ValueError, match="traceparent"):
        ledger.hold(account, **ESTIMATE, traceparent="01-no")


async def test_a_hold_cannot_be_settled_twice(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE) as hold:
        released = await hold.release("the user changed their mind")
        assert isinstance(released, Released)
        for again in (hold.release(), hold.capture({"input": 1}), hold.dispatched()):
            with pytest.raises(AlreadySettled):
                await again
        with pytest.raises(AlreadySettled):
            hold.observe({"input": 1})
    assert hold.outcome == released


async def test_settling_twice_at_once_settles_once(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE) as hold:
        both = await asyncio.gather(hold.capture({"input": 10}), hold.release(), return_exceptions=True)
    assert [isinstance(one, AlreadySettled) for one in both].count(True) == 1


async def test_an_explicit_capture_charges_what_it_says(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE) as hold:
        await hold.dispatched()
        captured = await hold.capture(Usage({"input": 10, "cache_read": 100, "output": 2}))
    assert captured.amount == Decimal("0.000011")


async def test_a_long_call_is_charged_in_parts(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE) as hold:
        await hold.dispatched()
        hold.observe({"input": 1000, "output": 100})
        first = await hold.capture(final=False)
        assert first.amount == Decimal("0.00055")
        assert first.held == RESERVED - first.amount
        hold.observe({"output": 250})
        second = await hold.capture({"output": 50}, final=False)
        assert second.amount == Decimal("0.000125")
    assert isinstance(hold.outcome, Captured)
    assert hold.outcome.amount == Decimal("0.00025")
    assert await charged(ledger, account, hold) == REPORTED


async def test_more_than_was_held_is_drawn(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, model=MODEL, input_tokens=10, max_output_tokens=1) as hold:
        await hold.dispatched()
        hold.observe({"input": 1000, "output": 250})
    assert await charged(ledger, account, hold) == REPORTED


async def test_what_the_ledger_rejects_at_the_end_is_raised(ledger: Ledger, account: str) -> None:
    with pytest.raises(errors.HoldReleased):
        async with ledger.hold(account, model=MODEL, input_tokens=10, late="reject") as hold:
            await hold.dispatched()
            hold.observe({"input": 10})
            await ledger.release(account, hold=hold.id)
    with pytest.raises(ValueError, match="theirs") as theirs:
        async with ledger.hold(account, model=MODEL, input_tokens=10, late="reject") as hold:
            await hold.dispatched()
            hold.observe({"input": 10})
            await ledger.release(account, hold=hold.id)
            raise ValueError("theirs")
    assert "hold_released" in theirs.value.__notes__[0]


async def test_what_is_held_is_captured_where_more_is_rejected(
    ledger: Ledger, account: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with ledger.hold(account, model=MODEL, input_tokens=10, overage="reject") as hold:
        await hold.dispatched()
        hold.observe({"input": 1000})
    assert isinstance(hold.outcome, Captured)
    assert hold.outcome.amount == hold.reserved.amount
    assert "more than is held" in caplog.text
    row = await ledger._core.journal.row(hold.id)
    assert row is not None
    assert (row.state, row.settle_id) == ("ended", str(hold.outcome.id))


async def test_what_is_affordable_is_told_and_may_be_taken(ledger: Ledger, account: str) -> None:
    worst: Any = {"model": MODEL, "input_tokens": 1200, "max_output_tokens": 1_000_000}
    affordable = 399_856  # (1 - 0.00036) / 0.0000025
    with pytest.raises(InsufficientFunds) as poor:
        await ledger.hold(account, **worst).open()
    assert poor.value.affordable_output_tokens == affordable
    with pytest.raises(InsufficientFunds):
        await ledger.hold(account, **worst, fit=True, min_output_tokens=affordable + 1).open()
    async with ledger.hold(account, **worst, fit=True, job_id=f"fit {account}") as hold:
        assert hold.max_output_tokens == affordable
        assert hold.reserved.available == 0
    assert await charged(ledger, account, hold) == 0


async def test_a_hold_can_be_capped(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE, sizing=Capped("0.005")) as hold:
        assert hold.reserved.amount == Decimal("0.005")
        assert hold.max_output_tokens == 4000
    with pytest.raises(ValueError, match="without any output"):
        await ledger.hold(account, **ESTIMATE, sizing=Capped("0.0001")).open()


async def test_a_hold_can_be_sized_by_experience(ledger: Ledger, account: str, http: Http) -> None:
    for _ in range(20):
        async with ledger.hold(account, **ESTIMATE, sizing=Percentile(90)) as hold:
            assert hold.reserved.amount == RESERVED
            await hold.call(call, http, "/ok")
    async with ledger.hold(account, **ESTIMATE, sizing=Percentile(90)) as hold:
        assert hold.reserved.amount == Decimal("0.000985")  # 1,200 of input, 250 of output


async def test_a_job_is_reserved_once(ledger: Ledger, account: str) -> None:
    job = f"job {account}"
    async with ledger.hold(account, **ESTIMATE, job_id=job):
        with pytest.raises(errors.HoldExists):
            await ledger.hold(account, **ESTIMATE, job_id=job).open()
    with pytest.raises(errors.HoldExists):
        await ledger.hold(account, **ESTIMATE, job_id=job).open()


async def test_a_call_that_costs_nothing_needs_no_hold(ledger: Ledger, account: str, journal: Path) -> None:
    asked = ledger.metrics()["commands"]["asked"]
    with pytest.raises(CostsNothing, match="costs nothing"):
        async with ledger.hold(account, model=MODEL, input_tokens=0):
            pytest.fail("there is no hold")
    assert ledger.metrics()["commands"]["asked"] == asked, "nothing was sent"
    await ledger.close()
    assert rows(journal) == []


async def test_a_part_of_nothing_is_told_before_it_is_sent(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE) as hold:
        await hold.dispatched()
        with pytest.raises(ValueError, match="nothing was observed"):
            await hold.capture(final=False)
        with pytest.raises(ValueError, match="must cost something"):
            await hold.capture({"output": 0}, final=False)
        hold.observe({"input": 1000, "output": 250})
    assert await charged(ledger, account, hold) == REPORTED


async def test_a_rejected_part_is_charged_at_the_end(ledger: Ledger, account: str, journal: Path) -> None:
    async with ledger.hold(account, model=MODEL, input_tokens=10, overage="reject") as hold:
        await hold.dispatched()
        hold.observe({"input": 6})
        with pytest.raises(errors.ExceedsHold):
            await hold.capture({"input": 1000}, final=False)
        row = await ledger._core.journal.row(hold.id)
        assert row is not None
        assert (row.state, row.observed, row.settle_id) == ("dispatched", '{"input":6}', None)
    assert await charged(ledger, account, hold) == Decimal("0.0000018")


async def test_an_unpriced_model_is_not_free(ledger: Ledger, account: str) -> None:
    with pytest.raises(errors.UnpricedModel):
        await ledger.hold(account, model="no-such-model").open()


async def test_a_hold_is_extended_while_its_call_runs(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE, ttl_s=0.6) as hold:

        async def is_extended() -> bool:
            expires_at = await ledger._core.bus.query(f"hold.{token(account)}.{hold.id}")
            return bool(expires_at["expires_at"] > expires_at_first["expires_at"])

        async def is_projected() -> bool:
            with suppress(errors.NotFound):
                return (await ledger.hold_state(account, hold.id)).status == "open"
            return False

        await until(is_projected, "the reserve")
        expires_at_first = await ledger._core.bus.query(f"hold.{token(account)}.{hold.id}")
        await until(is_extended, "the extension")
    assert isinstance(hold.outcome, Released)


def token(account: str) -> str:
    from holdfast.envelope import subject_token

    return subject_token(account)


async def test_a_cancelled_reader_settles_what_came(
    ledger: Ledger, account: str, http: Http, provider: Provider
) -> None:
    hold, reader = await cancelled_after_two(ledger, account, http)
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert isinstance(hold.outcome, Captured), "settled before the cancellation goes on"
    assert await charged(ledger, account, hold) == DELIVERED
    assert not provider.gate.is_set()


async def test_a_drained_stream_is_charged_as_reported(
    ledger: Ledger, account: str, http: Http, provider: Provider
) -> None:
    hold, reader = await cancelled_after_two(ledger, account, http, on_abort="drain")
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert hold.outcome is None, "whoever was cancelled does not wait for the drain"
    provider.gate.set()

    async def is_settled() -> bool:
        return hold.outcome is not None

    await until(is_settled, "the drain")
    assert await charged(ledger, account, hold) == REPORTED


async def test_a_drain_has_a_bound(ledger: Ledger, account: str, http: Http) -> None:
    async with ledger.hold(account, **ESTIMATE, on_abort="drain", drain_s=0.05) as hold:
        await leave_after_two(http, hold)
    assert await charged(ledger, account, hold) == DELIVERED


async def cancelled_after_two(
    ledger: Ledger, account: str, http: Http, **options: Any
) -> tuple[Hold, asyncio.Task[None]]:
    hold = ledger.hold(account, **ESTIMATE, **options)
    two = asyncio.Event()

    async def read() -> None:
        seen = 0
        async with hold:
            async for chunk in hold.stream(chunks(http, "/gated")):
                assert chunk["candidates"][0]["content"]["parts"][0]["text"] == TEXT
                seen += 1
                if seen == 2:
                    two.set()

    reader = asyncio.create_task(read())
    await two.wait()
    reader.cancel()
    return hold, reader


async def test_a_cancelled_call_is_kept(ledger: Ledger, account: str, http: Http, provider: Provider) -> None:
    hold = ledger.hold(account, **ESTIMATE)

    async def ask() -> None:
        async with hold:
            await hold.call(call, http, "/hang")

    asking = asyncio.create_task(ask())

    async def is_seen() -> bool:
        return "/hang" in provider.seen

    await until(is_seen, "the provider has the request")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await balance_at(ledger, account, hold.reserved.position)).held == RESERVED


async def test_a_generator_that_is_closed_settles(ledger: Ledger, account: str, http: Http) -> None:
    hold = ledger.hold(account, **ESTIMATE)

    async def words() -> AsyncIterator[dict[str, Any]]:
        async with hold:
            async for chunk in hold.stream(chunks(http, "/gated")):
                yield chunk

    generator = words()
    await anext(generator)
    await anext(generator)
    await generator.aclose()  # type: ignore[attr-defined]
    assert await charged(ledger, account, hold) == DELIVERED


async def test_a_decorated_function_is_billed(ledger: Ledger, account: str, http: Http) -> None:
    seen: list[int] = []

    @ledger.billed(
        account=lambda user, prompt: user,
        input_tokens=lambda user, prompt: len(prompt),
        model=MODEL,
        max_output_tokens=4000,
    )
    async def ask(hold: Hold, user: str, prompt: str) -> dict[str, Any]:
        """Asks."""
        seen.append(hold.max_output_tokens)
        return await call(http, "/ok")

    answer = await ask(account, "x" * 1200)
    assert answer["usageMetadata"]["promptTokenCount"] == 1000
    assert (seen, ask.__name__, ask.__doc__) == ([4000], "ask", "Asks.")

    async def is_charged() -> bool:
        return (await ledger.balance(account)).posted == FUNDS - REPORTED

    await until(is_charged, "the charge")


async def test_a_provider_that_fails_is_not_called_for_a_while(
    ledger: Ledger, account: str, http: Http, provider: Provider
) -> None:
    for _ in range(5):
        with pytest.raises(ProviderError):
            async with ledger.hold(account, **ESTIMATE) as hold:
                await hold.call(call, http, "/500")
    with pytest.raises(ProviderCircuitOpen):
        async with ledger.hold(account, **ESTIMATE) as hold:
            await hold.call(call, http, "/ok")
    with pytest.raises(ProviderCircuitOpen):
        async with ledger.hold(account, **ESTIMATE) as hold:
            await read_whole(http, hold, "/stream")
    assert provider.seen == ["/500"] * 5
    assert isinstance(hold.outcome, Released)
    breaker = ledger.metrics()["providers"]["google"]
    assert (breaker["state"], breaker["failures"], breaker["short_circuits"]) == ("open", 5, 2)
    assert ledger.metrics()["holds"]["released"] == 7


async def test_a_cancelled_capture_is_carried_out(ledger: Ledger, stack: Stack, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE) as hold:
        await hold.dispatched()
        hold.observe({"input": 1000, "output": 250})
        asked = ledger.metrics()["commands"]["asked"]
        stack.pause()
        try:
            capturing = asyncio.create_task(hold.capture())

            async def is_asked() -> bool:
                return bool(ledger.metrics()["commands"]["asked"] > asked)

            await until(is_asked, "the capture is under way")
            capturing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await capturing
        finally:
            stack.resume()

    async def is_settled() -> bool:
        return hold.outcome is not None

    await until(is_settled, "the capture whose caller was cancelled")
    assert await charged(ledger, account, hold) == REPORTED
