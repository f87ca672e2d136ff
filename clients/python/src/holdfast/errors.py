"""What can go wrong: one class for each code of the ledger, in three families, and this client's own.

`Rejected`: the account's state said no, and the answer to that id is remembered for ever.
`Refused`: the command could not be read, or its id was used for something else; nothing is remembered.
`Unavailable`: no outcome came in time. Only this one says nothing about what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID


@dataclass(frozen=True)
class Winner:
    """The event that ended a hold: its kind and its position in the log."""

    kind: str
    position: int


class LedgerError(Exception):
    """The ledger said no, or said nothing.

    `code` is the stable code; `detail` a sentence for people, which may change; `outcome` the whole
    outcome as JSON, empty when there was none.
    """

    code: ClassVar[str] = "unknown"

    def __init__(self, detail: str, outcome: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{self.code}: {detail}")
        self.detail = detail
        self.outcome: Mapping[str, Any] = outcome or {}

    @property
    def command_id(self) -> UUID | None:
        """The command that was asked, where there was one."""
        found = self.outcome.get("id")
        return UUID(found) if isinstance(found, str) else None

    @property
    def remembered(self) -> bool:
        """Whether the same command id will be answered like this for ever."""
        return self.outcome.get("kind") == "rejected"

    def balance(self, name: str) -> Decimal | None:
        """`posted`, `held` or `available` at that moment, where the outcome has it."""
        found = self.outcome.get(name)
        return Decimal(found) if isinstance(found, str) else None


class Rejected(LedgerError):
    """The state of the account said no. A new try needs a new id."""


class Refused(LedgerError):
    """The command was no command, or not this one. Nothing was written."""


class Unavailable(LedgerError):
    """No outcome came in time, so it is not known what happened.

    Never answer this with a new id, which might charge twice: ask again under the same one.
    """

    code = "unavailable"


class _Ended(Rejected):
    @property
    def winner(self) -> Winner | None:
        """The event that ended the hold."""
        found = self.outcome.get("winner")
        return Winner(found["kind"], found["position"]) if isinstance(found, dict) else None


class AccountNotFound(Rejected):
    """No account of this id was ever opened."""

    code = "account_not_found"


class AccountExists(Rejected):
    """The account was opened before on other terms."""

    code = "account_exists"


class AccountFrozen(Rejected):
    """The account takes no reserve, deduct or increase."""

    code = "account_frozen"


class AccountClosed(Rejected):
    """The account is closed, for ever."""

    code = "account_closed"


class AccountNotEmpty(Rejected):
    """Only an account with nothing posted and no open hold can be closed."""

    code = "account_not_empty"


class LimitInUse(Rejected):
    """The overdraft limit would be below what is in use."""

    code = "limit_in_use"


class BalanceOverflow(Rejected):
    """A sum would not fit into 64 bits."""

    code = "balance_overflow"


class ExternalRefUsed(Rejected):
    """This payment is booked already."""

    code = "external_ref_used"


class TopUpNotFound(Rejected):
    """`of` names no top-up of this account."""

    code = "top_up_not_found"


class ExceedsTopUp(Rejected):
    """More than is left of the top-up."""

    code = "exceeds_top_up"


class ChargeNotFound(Rejected):
    """`of` names no charge of this account."""

    code = "charge_not_found"


class ExceedsCharge(Rejected):
    """More than is left of the charge."""

    code = "exceeds_charge"


class InsufficientFunds(Rejected):
    """More than may be taken."""

    code = "insufficient_funds"

    @property
    def affordable_output_tokens(self) -> int | None:
        """How many output tokens the account could pay; None for a reserve without `usage`."""
        found = self.outcome.get("affordable_output_tokens")
        return found if isinstance(found, int) else None


class HoldExists(Rejected):
    """A hold of this id was reserved before; an id is used once."""

    code = "hold_exists"


class HoldNotFound(Rejected):
    """This account has no hold of this id."""

    code = "hold_not_found"


class ExceedsHold(Rejected):
    """The capture is larger than what is held, and the hold's overage is `reject`."""

    code = "exceeds_hold"


class HoldSettled(_Ended):
    """The hold was charged already; `winner` names the event."""

    code = "hold_settled"


class HoldReleased(_Ended):
    """The hold was released; `winner` names the event."""

    code = "hold_released"


class HoldExpired(_Ended):
    """The hold's time came; `winner` names the event."""

    code = "hold_expired"


class TtlTooLong(Rejected):
    """A hold lives at most 24 hours, extensions included."""

    code = "ttl_too_long"


class CommandExpired(Rejected):
    """It was decided after its `exp`. Nothing was taken."""

    code = "command_expired"


class PriceMismatch(LedgerError):
    """The amount is not the price of `usage` (refused), or a capture has other rates than its reserve
    (rejected)."""

    code = "price_mismatch"


class Quarantined(Rejected):
    """The ledger failed to carry this command out and set it aside."""

    code = "quarantined"


class InvalidCommand(Refused):
    """The account id or the body cannot be read; `detail` names the member."""

    code = "invalid_command"


class IdempotencyConflict(Refused):
    """This command id was used before for something else."""

    code = "idempotency_conflict"


class UnpricedModel(LedgerError):
    """The price book has no price for this model: it is refused, never free."""

    code = "unpriced_model"


class NotFound(LedgerError):
    """A query named an account, a hold or a command that is not there."""

    code = "not_found"


class InvalidRequest(LedgerError):
    """A query could not be read."""

    code = "invalid_request"


class TooLarge(LedgerError):
    """The message would have more bytes than the ledger reads. Nothing was sent."""

    code = "too_large"


class Forbidden(LedgerError):
    """The internal token is missing or wrong (HTTP only)."""

    code = "forbidden"


class MethodNotAllowed(LedgerError):
    """The route takes another method (HTTP only)."""

    code = "method_not_allowed"


class HoldAmbiguous(LedgerError):
    """The hold exists in more than one account (HTTP only)."""

    code = "hold_ambiguous"


class TooSlow(LedgerError):
    """The request's body did not arrive in time (HTTP only)."""

    code = "too_slow"


class LedgerCircuitOpen(Unavailable):
    """The ledger did not answer several times in a row, so this command was not sent at all."""


def _leaves(base: type[LedgerError]) -> list[type[LedgerError]]:
    return [base] + [leaf for child in base.__subclasses__() for leaf in _leaves(child)]


BY_CODE: dict[str, type[LedgerError]] = {
    leaf.code: leaf for leaf in reversed(_leaves(LedgerError)) if leaf.code != "unknown"
}
"""The class of each code."""


def error_of(outcome: Mapping[str, Any]) -> LedgerError:
    """The exception for an outcome with a `code`; of a code that came later, that of its family."""
    family = Rejected if outcome.get("kind") == "rejected" else Refused
    error = BY_CODE.get(outcome["code"], family)
    return error(str(outcome.get("detail", outcome["code"])), outcome)


class CostsNothing(Exception):
    """At the model's rates the call costs nothing, so it needs no hold; nothing was sent."""


class NotDispatched(Exception):
    """Raise it inside a hold when the provider's request was certainly never sent: it is released."""


class ProviderCircuitOpen(NotDispatched):
    """The provider failed several times in a row, so this call was not sent."""


class ProviderError(Exception):
    """Raise it inside a hold when the provider answered with an error, to have the hold released.

    `status` is the HTTP status, which decides whether the circuit breaker counts it.
    """

    def __init__(self, message: str = "the provider answered with an error", status: int | None = None):
        super().__init__(message)
        self.status = status


class AlreadySettled(Exception):
    """This hold was settled already; it cannot be settled twice."""


class JournalInUse(Exception):
    """Another process uses this journal. Give each process a file of its own."""
