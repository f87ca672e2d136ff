"""Client of Holdfast, a pre-authorized billing ledger for LLM calls.

`Ledger` is the connection, `Ledger.hold` what wraps a call of a model; `holdfast.sync` has both
without asyncio. `holdfast.fastapi` and `holdfast.flask` guard a service with the internal token.
"""

from __future__ import annotations

from .breaker import Breaker
from .errors import (
    AlreadySettled,
    CostsNothing,
    InsufficientFunds,
    JournalInUse,
    LedgerCircuitOpen,
    LedgerError,
    NotDispatched,
    ProviderCircuitOpen,
    ProviderError,
    Refused,
    Rejected,
    Unavailable,
    UnpricedModel,
)
from .hold import Hold
from .ids import command_id, hold_id, new_id
from .ledger import Ledger
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
)
from .pricing import Quote
from .retry import Retry
from .settlement import Failure, classify
from .sizing import Capped, Percentile, WorstCase
from .usage import Seen, Usage, usage_of

__version__ = "0.1.0"
__all__ = [
    "AccountOpened",
    "AccountSet",
    "AlreadySettled",
    "Balance",
    "Breaker",
    "Capped",
    "Captured",
    "CapturedLate",
    "CostsNothing",
    "Deducted",
    "Extended",
    "Failure",
    "Hold",
    "HoldState",
    "Increased",
    "InsufficientFunds",
    "JournalInUse",
    "Ledger",
    "LedgerCircuitOpen",
    "LedgerError",
    "NotDispatched",
    "Outcome",
    "Percentile",
    "ProviderCircuitOpen",
    "ProviderError",
    "Quote",
    "Refunded",
    "Refused",
    "Rejected",
    "Released",
    "Reserved",
    "Retry",
    "Seen",
    "TopUpReversed",
    "ToppedUp",
    "Unavailable",
    "UnpricedModel",
    "Usage",
    "WorstCase",
    "classify",
    "command_id",
    "hold_id",
    "new_id",
    "usage_of",
]
