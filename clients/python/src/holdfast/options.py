"""How a call is reserved for and settled: the keywords of `Ledger.hold`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Required, TypedDict

from .settlement import Failure, classify
from .sizing import Sizing, WorstCase

WORST_CASE = WorstCase()


@dataclass(frozen=True, kw_only=True)
class HoldOptions:
    """How a call is reserved for and settled; `Ledger.hold` describes each."""

    model: str
    input_tokens: int | Mapping[str, int] = 0
    max_output_tokens: int = 0
    job_id: str | None = None
    provider: str | None = None
    variant: str | None = None
    sizing: Sizing = WORST_CASE
    ttl_s: float = 600.0
    overage: Literal["reject", "cap", "draw"] = "draw"
    on_expiry: Literal["release", "capture"] | None = None
    late: Literal["charge", "reject"] | None = None
    on_abort: Literal["drain", "delivered"] = "delivered"
    drain_s: float = 60.0
    fit: bool = False
    min_output_tokens: int = 1
    traceparent: str | None = None
    classify: Callable[[BaseException], Failure] = classify


class BilledKeywords(TypedDict, total=False):
    """The keywords that `hold` and `billed` share; see `Ledger.hold`."""

    model: Required[str]
    max_output_tokens: int
    provider: str | None
    variant: str | None
    sizing: Sizing
    ttl_s: float
    overage: Literal["reject", "cap", "draw"]
    on_expiry: Literal["release", "capture"] | None
    late: Literal["charge", "reject"] | None
    on_abort: Literal["drain", "delivered"]
    drain_s: float
    fit: bool
    min_output_tokens: int
    traceparent: str | None
    classify: Callable[[BaseException], Failure]


class HoldKeywords(BilledKeywords, total=False):
    """The keywords of `hold`; see `Ledger.hold`."""

    input_tokens: int | Mapping[str, int]
    job_id: str | None
