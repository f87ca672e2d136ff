"""Outcomes of commands, and answers to queries, as typed values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

AMOUNTS = frozenset(
    ["amount", "posted", "held", "available", "absorbed", "released", "captured", "overdraft_limit"]
)
UUIDS = frozenset(["id", "hold"])
TIMES = frozenset(["reserved_at"])
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What every accepted command is told: the balances are those right after its event."""

    id: UUID
    position: int
    kind: str
    account: str
    asset: str
    posted: Decimal
    held: Decimal
    available: Decimal
    replayed: bool


@dataclass(frozen=True, kw_only=True)
class AccountOpened(Outcome):
    """The account is open."""


@dataclass(frozen=True, kw_only=True)
class AccountSet(Outcome):
    """The account has new terms."""


@dataclass(frozen=True, kw_only=True)
class ToppedUp(Outcome):
    """`amount` came in."""

    amount: Decimal


@dataclass(frozen=True, kw_only=True)
class TopUpReversed(Outcome):
    """`amount` was taken back of the top-up at position `of`."""

    amount: Decimal
    of: int


@dataclass(frozen=True, kw_only=True)
class Deducted(Outcome):
    """`amount` was charged."""

    amount: Decimal


@dataclass(frozen=True, kw_only=True)
class Reserved(Outcome):
    """`amount` is promised to `hold` until `expires_at` (Unix milliseconds)."""

    hold: UUID
    amount: Decimal
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class Captured(Outcome):
    """`amount` was charged, `absorbed` borne by the house, `released` freed."""

    hold: UUID
    amount: Decimal
    absorbed: Decimal
    released: Decimal = Decimal(0)


@dataclass(frozen=True, kw_only=True)
class CapturedLate(Captured):
    """A capture after the hold's end: `amount` was charged, `absorbed` borne by the house."""


@dataclass(frozen=True, kw_only=True)
class Released(Outcome):
    """`amount` was freed; a `tombstone` is a hold that was never reserved and never can be."""

    hold: UUID
    amount: Decimal
    tombstone: bool = False


@dataclass(frozen=True, kw_only=True)
class Extended(Outcome):
    """The hold's time is `expires_at` (Unix milliseconds)."""

    hold: UUID
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class Increased(Outcome):
    """`amount` more is promised to `hold`."""

    hold: UUID
    amount: Decimal


@dataclass(frozen=True, kw_only=True)
class Refunded(Outcome):
    """`amount` was given back of the charge at position `of`."""

    amount: Decimal
    of: int


KINDS: dict[str, type[Outcome]] = {
    "account_opened": AccountOpened,
    "account_set": AccountSet,
    "topped_up": ToppedUp,
    "top_up_reversed": TopUpReversed,
    "deducted": Deducted,
    "reserved": Reserved,
    "captured": Captured,
    "captured_late": CapturedLate,
    "released": Released,
    "extended": Extended,
    "increased": Increased,
    "refunded": Refunded,
}


@dataclass(frozen=True, kw_only=True)
class Balance:
    """An account as the projections have it. `status` is `active`, `frozen` or `closed`."""

    account: str
    asset: str
    tier: str
    status: str
    posted: Decimal
    held: Decimal
    available: Decimal
    overdraft_limit: Decimal
    position: int


@dataclass(frozen=True, kw_only=True)
class HoldState:
    """A hold as the projections have it: `amount` is still held, `captured` was charged so far.

    `status` is `open`, `settled`, `released`, `expired` or `tombstone`.
    """

    hold: UUID
    account: str
    status: str
    amount: Decimal
    captured: Decimal
    absorbed: Decimal
    policies: Mapping[str, str]
    reserved_at: datetime | None
    position: int
    ended: Mapping[str, Any] | None = None
    job_id: str | None = None
    saga: str | None = None


def outcome_of(raw: Mapping[str, Any]) -> Outcome:
    """The typed outcome of an accepted command; one of a kind that came later is a plain `Outcome`."""
    return read(KINDS.get(raw["kind"], Outcome), raw)


def read(cls: type[T], raw: Mapping[str, Any]) -> T:
    """A `cls` from JSON; members that it does not have are ignored, as later versions may add some."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: _value(name, raw[name]) for name in names if name in raw})


def _value(name: str, raw: Any) -> Any:
    if raw is None:
        return None
    if name in AMOUNTS:
        return Decimal(raw)
    if name in UUIDS:
        return UUID(raw)
    return datetime.fromisoformat(raw) if name in TIMES else raw
