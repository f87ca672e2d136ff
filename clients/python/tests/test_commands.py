"""Every command and query, against the real ledger."""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal

import pytest
from conftest import balance_at, connect, until
from stack import Stack

from holdfast import Ledger, Retry, errors
from holdfast.ids import command_id, hold_id
from holdfast.keys import ServiceKeys
from holdfast.outcomes import CapturedLate


async def test_money_comes_in_and_goes_out(ledger: Ledger) -> None:
    account = f"ann+{uuid.uuid4()}@example.com"
    opened = await ledger.open_account(account, tier="pro", overdraft_limit="0.5")
    assert (opened.kind, opened.asset, opened.available) == ("account_opened", "USD", 0)
    topped_up = await ledger.top_up(account, "25.000000001", external_ref=account)
    deducted = await ledger.deduct(account, Decimal("0.05"), reason="a page")
    assert deducted.posted == Decimal("24.950000001")
    refunded = await ledger.refund(account, deducted.position, amount="0.02", reason="half a page")
    assert (refunded.of, refunded.amount) == (deducted.position, Decimal("0.02"))
    by_id = await ledger.refund(account, deducted.id, reason="the rest")
    assert by_id.amount == Decimal("0.03")
    reversed_ = await ledger.reverse_top_up(account, topped_up.id, amount="20", reason="chargeback")
    set_ = await ledger.set_account(account, tier="free", status="frozen")
    found = await balance_at(ledger, account, set_.position)
    assert (found.tier, found.status, found.posted) == ("free", "frozen", Decimal("5.000000001"))
    assert found.posted == reversed_.posted
    with pytest.raises(errors.AccountFrozen) as frozen:
        await ledger.deduct(account, "1")
    assert frozen.value.remembered


async def test_a_hold_is_reserved_extended_increased_and_captured(ledger: Ledger, account: str) -> None:
    reserved = await ledger.reserve(account, "0.1", job_id=f"job {account}", ttl_ms=60_000, saga="s/1")
    assert reserved.hold == hold_id("backend", f"job {account}")
    extended = await ledger.extend(account, reserved.hold, 120_000)
    assert extended.expires_at > reserved.expires_at
    increased = await ledger.increase(account, reserved.hold, "0.1")
    assert increased.held == Decimal("0.2")
    part = await ledger.capture(account, hold=reserved.hold, amount="0.05", final=False)
    assert part.held == Decimal("0.15")
    captured = await ledger.capture(account, job_id=f"job {account}", amount="0.01", reason="done")
    assert (captured.amount, captured.released, captured.absorbed) == (Decimal("0.01"), Decimal("0.14"), 0)
    await balance_at(ledger, account, captured.position)
    state = await ledger.hold_state(account, reserved.hold)
    assert (state.status, state.captured, state.saga) == ("settled", Decimal("0.06"), "s/1")
    with pytest.raises(errors.HoldSettled) as settled:
        await ledger.release(account, hold=reserved.hold)
    assert settled.value.winner == errors.Winner("captured", captured.position)


async def test_a_released_hold_may_be_captured_late(ledger: Ledger, account: str) -> None:
    reserved = await ledger.reserve(account, "0.1", late="charge")
    released = await ledger.release(account, hold=reserved.hold, reason="gave up")
    assert not released.tombstone
    late = await ledger.capture(account, hold=reserved.hold, amount="0.04")
    assert isinstance(late, CapturedLate)
    assert late.posted == Decimal("0.96")
    tombstone = await ledger.release(account, hold=uuid.uuid4())
    assert tombstone.tombstone


async def test_the_same_key_is_the_same_command(ledger: Ledger, account: str) -> None:
    first = await ledger.deduct(account, "0.1", key=f"page {account}")
    again = await ledger.deduct(account, "0.10", key=f"page {account}")
    assert (again.id, again.position, again.replayed) == (first.id, first.position, True)
    assert first.id == command_id("backend", "deduct", f"page {account}")
    assert (await ledger.command(first.id))["position"] == first.position
    with pytest.raises(errors.IdempotencyConflict) as conflict:
        await ledger.deduct(account, "0.2", key=f"page {account}")
    assert not conflict.value.remembered
    with pytest.raises(ValueError, match="not both"):
        await ledger.deduct(account, "0.1", key="k", id=uuid.uuid4())


async def test_what_is_refused_has_a_class_and_its_data(ledger: Ledger, account: str) -> None:
    with pytest.raises(errors.InsufficientFunds) as poor:
        await ledger.reserve(account, "1.5")
    assert poor.value.balance("available") == 1
    assert poor.value.affordable_output_tokens is None
    with pytest.raises(errors.AccountNotFound):
        await ledger.deduct(f"nobody {account}", "1")
    with pytest.raises(errors.InvalidCommand):
        await ledger.deduct(account, "0.0000000001")
    with pytest.raises(errors.NotFound):
        await ledger.balance(f"nobody {account}")
    with pytest.raises(errors.NotFound):
        await ledger.command(uuid.uuid4())
    with pytest.raises(errors.UnpricedModel):
        await ledger.quote("no-such-model")
    with pytest.raises(errors.TooLarge):
        await ledger.deduct(account, "1", reason="x" * 70_000)


@pytest.mark.parametrize("amount", [0.1, 1, True, None])
async def test_only_decimals_and_strings_are_amounts(ledger: Ledger, amount: object) -> None:
    with pytest.raises(TypeError):
        await ledger.deduct("user-1", amount)  # type: ignore[arg-type]


async def test_a_derived_line_signs_as_well_as_the_root(stack: Stack, account: str) -> None:
    keys = ServiceKeys.derive(stack.token, "backend")
    import base64

    def b64(key: bytes) -> str:
        return base64.urlsafe_b64encode(key).rstrip(b"=").decode()

    line = ".".join(
        ["hfk1", "backend", keys.command.kid, b64(keys.command.key), keys.outcome.kid, b64(keys.outcome.key)]
    )
    async with await Ledger.connect(stack.nats, token=[line], audience=stack.audience) as ledger:
        assert (await ledger.deduct(account, "0.1")).posted == Decimal("0.9")
        with pytest.raises(RuntimeError, match="journal"):
            await ledger.hold(account, model="gemini-2.5-flash").open()


async def test_a_foreign_key_gets_no_answer(stack: Stack) -> None:
    impatient = Retry(attempts=2, attempt_s=0.2, pause_s=0.01)
    token = "hf1_" + "forged-ABCDEFGHIJKLMNOP-0123456789"
    ledger = await Ledger.connect(stack.nats, token=token, audience=stack.audience, retry=impatient)
    async with ledger:
        with pytest.raises(errors.Unavailable) as unavailable:
            await ledger.open_account("forged")
        assert unavailable.value.command_id is not None
        assert ledger.metrics()["commands"] | {"retries": 1, "unavailable": 1} == ledger.metrics()["commands"]


async def test_nats_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.bus.CONNECT_S", 0.5)
    with pytest.raises(errors.Unavailable, match="cannot connect"):
        await Ledger.connect("nats://127.0.0.1:1", token="hf1_x", audience="ledger.dev")


async def test_a_paused_ledger_answers_the_same_command_later(stack: Stack, account: str) -> None:
    impatient = Retry(attempts=2, attempt_s=0.2, pause_s=0.01)
    async with await connect(stack, retry=impatient) as ledger:
        key = f"top-up of {account}"
        stack.pause()
        try:
            with pytest.raises(errors.Unavailable):
                await ledger.top_up(account, "1", key=key)
        finally:
            stack.resume()

        async def is_decided() -> bool:
            try:
                await ledger.command(command_id("backend", "top_up", key))
            except (errors.NotFound, errors.Unavailable):
                return False
            return True

        await until(is_decided, "the command that waited in the stream")
        again = await ledger.top_up(account, "1", key=key)
        assert (again.replayed, again.posted) == (True, 2)


async def test_a_hundred_at_once_each_get_their_own_outcome(ledger: Ledger, account: str) -> None:
    keys = [f"{account} {n}" for n in range(100)]
    found = await asyncio.gather(*(ledger.deduct(account, "0.001", key=key) for key in keys))
    assert [outcome.id for outcome in found] == [command_id("backend", "deduct", key) for key in keys]
    last = max(outcome.position for outcome in found)
    assert (await balance_at(ledger, account, last)).posted == Decimal("0.9")
