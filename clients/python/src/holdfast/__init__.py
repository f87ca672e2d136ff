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
from .pricing import Quote
from .retry import Retry
from .settlement import Failure, classify
from .sizing import Capped, Percentile, WorstCase
from .usage import Seen, Usage, usage_of

__version__ = "0.1.0"
__all__ = [
    "AlreadySettled",
    "Breaker",
    "Capped",
    "CostsNothing",
    "Failure",
    "Hold",
    "InsufficientFunds",
    "JournalInUse",
    "Ledger",
    "LedgerCircuitOpen",
    "LedgerError",
    "NotDispatched",
    "Percentile",
    "ProviderCircuitOpen",
    "ProviderError",
    "Quote",
    "Refused",
    "Rejected",
    "Retry",
    "Seen",
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
