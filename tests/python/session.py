"""One run against a stack: two services, the operator, and what the test itself believes.

`Session.give` is the workhorse. It gives a command that must be accepted, and checks of its
outcome that it is authentic, that nothing was told before it, that its position is the next one,
and that the balances are those that the test computed for itself. Since nobody else uses the
stack, that settles both halves of "no answer and no row" for whatever was published before.
"""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

from bus import Answer, Operator, Outcome, Service
from envelope import Command, Root, to_json
from report import Failure, expect

ZERO = Decimal(0)
SMALLEST = "0.000000001"
"""One unit of USD, whose scale is 9."""


def amount_text(amount: Decimal) -> str:
    """An amount in its shortest plain form."""
    return format(amount.normalize() if amount else ZERO, "f")


def expect_members(outcome: Outcome, **members: Any) -> None:
    """Fails unless the outcome has these members; None stands for an absent one."""
    for name, value in members.items():
        expect(f"`{name}` of {outcome}", value, outcome.get(name))


class Log:
    """What was seen of the ledger's log, which has no gaps."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.seen: dict[int, Outcome] = {}

    @property
    def end(self) -> int:
        """The last position."""
        if self.last is None:
            raise Failure("expected an accepted command before this check, got none")
        return self.last

    def append(self, outcome: Outcome) -> int:
        """Notes an outcome and returns the position that it must have."""
        position = outcome.get("position")
        if not isinstance(position, int):
            raise Failure(f"expected an outcome with a position, got {outcome}")
        due = position if self.last is None else self.last + 1
        self.last = position
        self.seen[position] = outcome
        return due


class Account:
    """An account and its balance, as last told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.posted = ZERO
        self.held = ZERO

    def change(self, outcome: Outcome, posted: Decimal, held: Decimal) -> dict[str, str]:
        """Notes the balances of an outcome and returns those that it must have after this change."""
        posted, held = self.posted + posted, self.held + held
        self.posted = Decimal(outcome.get("posted", "0"))
        self.held = Decimal(outcome.get("held", "0"))
        amounts = {"posted": posted, "held": held, "available": posted - held}
        return {name: amount_text(amount) for name, amount in amounts.items()}


class Session:
    """The stack in use."""

    def __init__(self, stack: dict[str, Any], root: Root) -> None:
        self.urls = stack["nats"]
        self.backend = Service("backend", root, stack["audience"])
        self.auth = Service("auth", root, stack["audience"])
        self.operator = Operator()
        self.log = Log()
        self.account = Account(f"wire-{uuid.uuid4().hex[:8]}")

    async def open(self) -> None:
        await self.backend.open(self.urls["services"]["backend"])
        await self.auth.open(self.urls["services"]["auth"])
        await self.operator.open(self.urls["operator"])

    async def close(self) -> None:
        for end in (self.backend, self.auth, self.operator):
            if hasattr(end, "connection"):
                await end.connection.close()

    def command(self, verb: str, body: dict[str, Any]) -> Command:
        """A new command of `backend` on the session's account."""
        return self.backend.command(verb, self.account.name, to_json(body))

    async def give(
        self, command: Command, kind: str, posted: Decimal = ZERO, held: Decimal = ZERO
    ) -> Outcome:
        """Gives a command of `backend` that must be accepted and change the balances by so much."""
        return self.take(await self.backend.ask(command), kind, posted, held)

    def take(
        self,
        answer: Answer,
        kind: str,
        posted: Decimal = ZERO,
        held: Decimal = ZERO,
        account: Account | None = None,
        code: str | None = None,
    ) -> Outcome:
        """Checks the outcome of a new command that left a row.

        It is noted before anything is compared, so that one fault fails one check and not all
        that follow.
        """
        account, outcome = account or self.account, answer.outcome
        position = self.log.append(outcome)
        balances = account.change(outcome, posted, held)
        answer.genuine()
        expect_members(outcome, kind=kind, account=account.name, replayed=False, code=code)
        expect_members(outcome, position=position, **balances)
        return outcome

    async def nothing_happened(self) -> None:
        """Gives the smallest command there is: its outcome shows that what was before it is nothing."""
        good = self.command("top_up", {"amount": SMALLEST})
        await self.give(good, "topped_up", posted=Decimal(SMALLEST))

    async def nothing_happened_to_auth(self) -> None:
        """The same on the connection of `auth`, which may only open accounts."""
        account = Account(f"wire-{uuid.uuid4().hex[:8]}")
        answer = await self.auth.ask(self.auth.command("open_account", account.name, b"{}"))
        self.take(answer, "account_opened", account=account)
