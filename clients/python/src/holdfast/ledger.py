"""`Ledger`: everything that can be asked of Holdfast, from asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack
from uuid import UUID

from . import billed as billing
from .amounts import Amount, amount_text
from .breaker import Breaker
from .bus import Bus, Json, body_bytes
from .core import Core
from .envelope import subject_token
from .hold import Hold
from .ids import command_id, new_id
from .journal import Journal
from .keys import ServiceKeys
from .options import BilledKeywords, HoldKeywords, HoldOptions
from .outcomes import (
    AccountOpened,
    AccountSet,
    Balance,
    Captured,
    CapturedLate,
    Deducted,
    Extended,
    HoldState,
    Increased,
    Outcome,
    Refunded,
    Released,
    Reserved,
    ToppedUp,
    TopUpReversed,
    outcome_of,
    read,
)
from .pricing import Quote
from .retry import Retry
from .trace import trace_member

CLOSE_S = 10.0
P = ParamSpec("P")
T = TypeVar("T")
O = TypeVar("O", bound=Outcome)  # noqa: E741


class Ledger:
    """A connection to the ledger, for one service. Make one with `connect`; use it as a context manager.

    Amounts are `Decimal` or `str` in whole units of the account's asset; a float is a `TypeError`.
    Every command takes `id` or `key`, for callers who can come back: the same `id`, or the same `key`
    (which stands for an id), is answered with the first outcome, `replayed`. Without either each call
    is a new command. A command raises its rejection (`errors.py` has a class for each code), or
    `Unavailable` when no outcome came in time.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    @classmethod
    async def connect(
        cls,
        nats_url: str,
        *,
        token: str | Sequence[str],
        audience: str,
        issuer: str = "backend",
        journal: str | Path | None = None,
        generation: int = 1,
        assets: Mapping[str, int] | None = None,
        retry: Retry | None = None,
        breaker: Breaker | None = None,
    ) -> Self:
        """Connects, and takes up what the journal has left.

        `nats_url` has user and password in it. `token` is the root token or the service's derived
        line (`hfk1.…`); during a rotation up to three, the newest first: commands are signed with
        each. `journal` is a file of this process alone, which `hold` needs. `assets` are the decimals
        of assets other than `USD` and `CREDIT`, by code.

        `Unavailable` when NATS does not answer; `JournalInUse` when another process has the journal.
        """
        secrets = [token] if isinstance(token, str) else list(token)
        keys = [ServiceKeys.read(secret, issuer, generation) for secret in secrets]
        opened = None if journal is None else Journal(journal)
        if opened is not None:
            await opened.open()
        try:
            bus = Bus(keys, audience, retry or Retry(), breaker or Breaker())
            await bus.connect(nats_url)
        except BaseException:
            if opened is not None:
                await opened.close()
            raise
        core = Core(bus, opened, assets)
        try:
            await core.start()
        except BaseException:
            await core.stop(0.0)
            raise
        return cls(core)

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Waits up to `timeout_s` for what is being settled; the rest stays in the journal."""
        await self._core.stop(timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Accounts and money

    async def open_account(
        self,
        account: str,
        *,
        tier: str | None = None,
        asset: str | None = None,
        overdraft_limit: Amount | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> AccountOpened:
        """Opens an account; the same terms again are answered with the first outcome."""
        body = {"tier": tier, "asset": asset, "overdraft_limit": _text(overdraft_limit)}
        return await self._ask(AccountOpened, "open_account", account, body, id, key)

    async def set_account(
        self,
        account: str,
        *,
        tier: str | None = None,
        overdraft_limit: Amount | None = None,
        status: Literal["active", "frozen", "closed"] | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> AccountSet:
        """Changes an account's terms; what is left out stays."""
        body = {"tier": tier, "overdraft_limit": _text(overdraft_limit), "status": status}
        return await self._ask(AccountSet, "set_account", account, body, id, key)

    async def top_up(
        self,
        account: str,
        amount: Amount,
        *,
        external_ref: str | None = None,
        note: str | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> ToppedUp:
        """Adds money that came in; an `external_ref` is booked once, whatever the id."""
        body = {"amount": amount_text(amount), "external_ref": external_ref, "note": note}
        return await self._ask(ToppedUp, "top_up", account, body, id, key)

    async def reverse_top_up(
        self,
        account: str,
        of: int | UUID,
        *,
        reason: str,
        amount: Amount | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> TopUpReversed:
        """Takes a top-up back, by its position or its command id; all that is left unless `amount`."""
        body = {"of": _event(of), "amount": _text(amount), "reason": reason}
        return await self._ask(TopUpReversed, "reverse_top_up", account, body, id, key)

    async def deduct(
        self,
        account: str,
        amount: Amount,
        *,
        reason: str | None = None,
        usage: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> Deducted:
        """Charges at once, without a hold. `usage` is what `Quote.usage` makes."""
        body = {"amount": amount_text(amount), "reason": reason, "usage": usage}
        body["trace"] = trace_member(traceparent)
        return await self._ask(Deducted, "deduct", account, body, id, key)

    async def refund(
        self,
        account: str,
        of: int | UUID,
        *,
        reason: str,
        amount: Amount | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> Refunded:
        """Gives a charge back, by its position or its command id; all that is left unless `amount`."""
        body = {"of": _event(of), "amount": _text(amount), "reason": reason}
        return await self._ask(Refunded, "refund", account, body, id, key)

    # Holds, by hand

    async def reserve(
        self,
        account: str,
        amount: Amount,
        *,
        hold: UUID | None = None,
        job_id: str | None = None,
        ttl_ms: int | None = None,
        overage: Literal["reject", "cap", "draw"] | None = None,
        on_expiry: Literal["release", "capture"] | None = None,
        late: Literal["charge", "reject"] | None = None,
        saga: str | None = None,
        usage: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> Reserved:
        """Promises money to a call. Not in the journal: whoever reserves by hand settles by hand."""
        body = {
            "amount": amount_text(amount),
            "hold": _uuid(hold),
            "job_id": job_id,
            "ttl_ms": ttl_ms,
            "overage": overage,
            "on_expiry": on_expiry,
            "late": late,
            "saga": saga,
            "usage": usage,
            "trace": trace_member(traceparent),
        }
        return await self._ask(Reserved, "reserve", account, body, id, key)

    async def capture(
        self,
        account: str,
        *,
        hold: UUID | None = None,
        job_id: str | None = None,
        amount: Amount | None = None,
        final: bool | None = None,
        reason: str | None = None,
        usage: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> Captured | CapturedLate:
        """Charges through a hold (`hold` or `job_id`); all that is held unless `amount`."""
        body = {
            "hold": _uuid(hold),
            "job_id": job_id,
            "amount": _text(amount),
            "final": final,
            "reason": reason,
            "usage": usage,
            "trace": trace_member(traceparent),
        }
        return await self._ask(Captured, "capture", account, body, id, key)

    async def release(
        self,
        account: str,
        *,
        hold: UUID | None = None,
        job_id: str | None = None,
        reason: str | None = None,
        traceparent: str | None = None,
        id: UUID | None = None,
        key: str | None = None,
    ) -> Released:
        """Frees a hold; one that was never reserved becomes a tombstone and never can be."""
        body = {"hold": _uuid(hold), "job_id": job_id, "reason": reason}
        body["trace"] = trace_member(traceparent)
        return await self._ask(Released, "release", account, body, id, key)

    async def extend(
        self, account: str, hold: UUID, ttl_ms: int, *, id: UUID | None = None, key: str | None = None
    ) -> Extended:
        """Gives a hold `ttl_ms` from now, never less than it had."""
        return await self._ask(Extended, "extend", account, {"hold": str(hold), "ttl_ms": ttl_ms}, id, key)

    async def increase(
        self, account: str, hold: UUID, amount: Amount, *, id: UUID | None = None, key: str | None = None
    ) -> Increased:
        """Promises `amount` more to a hold."""
        body = {"hold": str(hold), "amount": amount_text(amount)}
        return await self._ask(Increased, "increase", account, body, id, key)

    # Queries

    async def balance(self, account: str) -> Balance:
        """An account, as the projections have it; `NotFound` when there is none."""
        return read(Balance, await self._core.bus.query(f"balance.{subject_token(account)}"))

    async def hold_state(self, account: str, hold: UUID) -> HoldState:
        """A hold, as the projections have it; `NotFound` when there is none."""
        return read(HoldState, await self._core.bus.query(f"hold.{subject_token(account)}.{hold}"))

    async def command(self, id: UUID) -> Json:
        """The stored outcome of a command of this service as JSON, a rejection included."""
        return await self._core.bus.query(f"command.{self._core.bus.issuer}.{id}")

    async def quote(self, model: str, *, provider: str | None = None, variant: str | None = None) -> Quote:
        """The rates of `model`, at most a minute old; `UnpricedModel` when it has none."""
        return await self._core.quotes.get(model, provider, variant)

    # Calls of models

    def hold(self, account: str, **options: Unpack[HoldKeywords]) -> Hold:
        """A hold around one call of `model`, for `async with`; it needs a journal.

        A call whose price is zero needs no hold: `CostsNothing`.

        | keyword | meaning |
        |---|---|
        | `model`, `provider?`, `variant?` | whose price holds |
        | `input_tokens` | the estimate: a count, or counts by dimension |
        | `max_output_tokens` | the most that the call may produce |
        | `sizing` | `WorstCase()`, `Capped("0.05")` or `Percentile(95)` |
        | `fit`, `min_output_tokens` | on `InsufficientFunds`, try once with as many as can be paid |
        | `job_id` | stands for the hold's id, which is used once |
        | `ttl_s` | the hold's time, 600; it is extended while the block runs |
        | `overage`, `on_expiry`, `late` | the hold's policies; `draw` unless chosen otherwise |
        | `on_abort`, `drain_s` | `delivered`, or `drain` to read a stream on for so many seconds |
        | `traceparent` | W3C trace context; else that of OpenTelemetry's current span |
        | `classify` | what an exception says about the provider, instead of `settlement.classify` |
        """
        return Hold(self._core, account, HoldOptions(**options))

    def billed(
        self,
        *,
        account: str | Callable[..., str],
        input_tokens: int | Mapping[str, int] | Callable[..., int | Mapping[str, int]] = 0,
        job_id: Callable[..., str | None] | None = None,
        **options: Unpack[BilledKeywords],
    ) -> Callable[[billing.Billable[P, T]], Callable[P, Awaitable[T]]]:
        """Decorates `async def ask(hold, …)`: each call of `ask(…)` is a hold around `hold.call`.

        `account`, `input_tokens` and `job_id` may be functions of the call's arguments. What the
        function returns is read for usage; inside, the hold may be told as usual.
        """
        counted = input_tokens if callable(input_tokens) else None
        fixed = 0 if callable(input_tokens) else input_tokens
        whose = account if callable(account) else lambda *_, **__: account
        chosen = HoldOptions(input_tokens=fixed, **options)
        return billing.billed(self._core, chosen, whose, counted, job_id)

    # Itself

    async def settled(self) -> None:
        """Waits until everything that earlier processes or lost outcomes left is settled."""
        await self._core.settler.idle()

    def metrics(self) -> dict[str, Any]:
        """Figures since the start: commands, holds, circuit breakers, and holds still to be settled."""
        core = self._core
        return {
            "commands": dict(core.bus.counters),
            "holds": dict(core.holds),
            "ledger": core.bus.breaker.metrics(),
            "providers": {name: breaker.metrics() for name, breaker in core.providers.items()},
            "settling": core.settling,
        }

    async def _ask(  # noqa: PLR0917
        self, cls: type[O], verb: str, account: str, body: Json, id: UUID | None, key: str | None
    ) -> O:
        if id is not None and key is not None:
            raise ValueError("give an id or a key, not both")
        bus = self._core.bus
        command = command_id(bus.issuer, verb, key) if key is not None else id or new_id()
        claim = id is not None or key is not None
        found = outcome_of(await bus.ask(verb, account, body_bytes(**body), command, claim=claim))
        if not isinstance(found, cls):
            raise TypeError(f"{verb} was answered with {found.kind}")
        return found


def _text(amount: Amount | None) -> str | None:
    return None if amount is None else amount_text(amount)


def _uuid(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _event(of: int | UUID) -> int | str:
    return of if isinstance(of, int) else str(of)
