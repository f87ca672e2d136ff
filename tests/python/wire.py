"""An independent witness of the wire: everything that a publishing service in another language
relies on, checked from outside against a running stack.

Nothing of the ledger's own code is used: Python's standard library and the NATS client, no more.
The signatures come from envelope.py, which was written from the specification. Prints `ok NAME`
for each check and `N passed, 0 failed` at the end; the exit code is 0 only if all held.

    PYTHONPATH=DIRECTORY python3 wire.py

DIRECTORY holds what requirements.txt names. The environment gives the rest:

    HOLDFAST_STACK          the line of JSON that a started stack prints: its addresses
    INTERNAL_SERVICE_TOKEN  the root token of that stack
    HOLDFAST_VECTORS        the path of envelope-v1.json

Nobody else may use the stack meanwhile, since what leaves no row is recognised by the next
command's position.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from dataclasses import replace
from decimal import Decimal

import vectors
from bus import Outcome, Publication, Stored
from envelope import Command, Root, account_token, render
from forgeries import FORGERIES, HONEST_BODY, Case
from report import Failure, Report, Silence, expect
from session import Account, Session, expect_members

EVENTS = "LEDGER_EVENTS"
COMMANDS = "LEDGER_COMMANDS"


async def check_life_of_a_hold(report: Report, session: Session) -> None:
    """Signed commands are answered with signed outcomes, and the balances are as computed."""
    give, command = session.give, session.command
    with report.check("open_account is answered by a signed outcome"):
        await give(command("open_account", {}), "account_opened")
    with report.check("top_up raises the balance"):
        await give(command("top_up", {"amount": "10"}), "topped_up", posted=Decimal(10))
    with report.check("deduct lowers it"):
        deduct = command("deduct", {"amount": "2.5", "reason": "wire"})
        await give(deduct, "deducted", posted=Decimal("-2.5"))
    hold = command("reserve", {"amount": "3.25", "ttl_ms": 60_000})
    with report.check("reserve holds money, under the command's id"):
        outcome = await give(hold, "reserved", held=Decimal("3.25"))
        expect_members(outcome, hold=hold.id, amount="3.25")
    with report.check("capture charges to the nano-dollar and frees the rest"):
        capture = command("capture", {"hold": hold.id, "amount": "1.000000001"})
        posted, held = Decimal("-1.000000001"), Decimal("-3.25")
        outcome = await give(capture, "captured", posted=posted, held=held)
        expect_members(outcome, hold=hold.id, amount="1.000000001", released="2.249999999")


async def check_other_accepted_forms(report: Report, session: Session) -> None:
    """What is legal though unusual."""
    with report.check("an account id that is no subject token is carried encoded"):
        odd = Account(f"wire {uuid.uuid4().hex[:8]}.*.>: né")
        opening = session.backend.command("open_account", odd.name, b"{}")
        session.take(await session.backend.ask(opening), "account_opened", account=odd)
    with report.check("one true signature of two is enough"):
        command = session.command("top_up", {"amount": "1"})
        signatures = {"0" * 16: "A" * 43, **command.sign(session.backend.key)}
        both = Publication(command.subject, render(command.members(signatures)))
        session.take(await session.backend.ask(command, both), "topped_up", posted=Decimal(1))


async def expect_replay(session: Session, first: Outcome, again: Command, sent: Publication) -> None:
    """`sent` is answered with the first outcome, and nothing is written."""
    answer = await session.backend.ask(again, sent)
    expect("the outcome told again", {**first, "replayed": True}, answer.genuine())
    await session.nothing_happened()


async def check_repeats(report: Report, session: Session) -> None:
    """A command's id is its idempotency key, whatever its spelling."""
    command = session.command("deduct", {"amount": "0.5", "reason": "again"})
    first: Outcome = {}
    with report.check("a deduct to be repeated"):
        first = await session.give(command, "deducted", posted=Decimal("-0.5"))
    with report.check("the same bytes again: the same outcome, replayed"):
        await expect_replay(session, first, command, session.backend.signed(command))
    with report.check("another order, white space and a new signature: replayed"):
        respelt = replace(
            command,
            iat=command.iat + 1,
            exp=command.exp + 1,
            body=b'{ "reason" : "again" ,\n\t"amount" : "0.5" }',
        )
        members = respelt.members(respelt.sign(session.backend.key))
        spaced = render(members[::-1]).replace(b',"aud":', b' ,\r\n "aud" : ') + b"\n"
        await expect_replay(session, first, respelt, Publication(respelt.subject, spaced))
    with report.check("another body under the same id: idempotency_conflict, naming what differs"):
        other = replace(command, body=b'{"amount":"0.6","reason":"again"}')
        await expect_refusal(session, other, "idempotency_conflict", "amount")
    with report.check("the first command is still known after the conflict"):
        await expect_replay(session, first, command, session.backend.signed(command))


async def expect_refusal(session: Session, command: Command, code: str, word: str) -> None:
    """The caller is told what is wrong, and nothing is written."""
    outcome = (await session.backend.ask(command)).genuine()
    expect_members(outcome, kind="refused", code=code, position=None, posted=None, replayed=False)
    if word not in (outcome.get("detail") or ""):
        raise Failure(f"expected a detail that names `{word}`, got {outcome}")
    await session.nothing_happened()


async def check_refusals(report: Report, session: Session) -> None:
    """What is signed is answered even when it is wrong; rejections are remembered."""
    with report.check("a signed body with an unknown member: invalid_command, naming it"):
        odd = session.command("deduct", {"amount": "1", "colour": "red"})
        await expect_refusal(session, odd, "invalid_command", "colour")
    with report.check("a rejection stays one, even when there is money meanwhile"):
        poor = session.command("deduct", {"amount": "100"})
        answer = await session.backend.ask(poor)
        rejected = session.take(answer, "rejected", code="insufficient_funds")
        rich = session.command("top_up", {"amount": "200"})
        await session.give(rich, "topped_up", posted=Decimal(200))
        await expect_replay(session, rejected, poor, session.backend.signed(poor))


async def check_forgeries(report: Report, session: Session) -> None:
    """No answer and no row: the next command is told next, and has the next position."""
    for name, forge in FORGERIES.items():
        with report.check(f"forgery passed over: {name}"):
            command = session.backend.command("deduct", session.account.name, HONEST_BODY)
            case = Case(command, session.backend.key, session.auth.name, session.auth.key)
            await session.backend.store(forge(case))
            await session.nothing_happened()
    with report.check("the command that every forgery began with is fine"):
        honest = session.backend.command("deduct", session.account.name, HONEST_BODY)
        await session.give(honest, "deducted", posted=Decimal(-2))
    with report.check("forgery passed over: a verb that the issuer may not use"):
        deduct = session.auth.command("deduct", session.account.name, HONEST_BODY)
        await session.auth.store(session.auth.signed(deduct))
        await session.nothing_happened_to_auth()
        await session.nothing_happened()


async def check_foreign_commands(report: Report, session: Session) -> None:
    with report.check("backend cannot publish another service's commands"):
        theirs = session.auth.command("open_account", f"stolen-{uuid.uuid4().hex[:8]}", b"{}")
        envelope = theirs.envelope(session.auth.key)
        await session.backend.connection.publish(theirs.subject, envelope)
        await session.nothing_happened()
        await session.nothing_happened_to_auth()
        stored = await session.operator.last_of(COMMANDS, theirs.subject)
        expect(f"what {COMMANDS} has on {theirs.subject}", None, stored)


async def check_foreign_outcomes(report: Report, session: Session) -> None:
    connection = session.backend.connection
    with report.check("backend cannot read another service's outcomes"):
        spies = [await connection.subscribe(f"ledger.rsp.{which}") for which in ("auth.>", ">")]
        await session.nothing_happened_to_auth()
        await session.nothing_happened()
        heard = [await spy.next_msg() for spy in spies for _ in range(spy.pending_msgs)]
        foreign = [m.subject for m in heard if not m.subject.startswith("ledger.rsp.backend.")]
        expect("outcomes of other services that backend heard", [], foreign)
    with report.check("backend cannot tell outcomes, neither to itself nor to others"):
        for service in (session.backend, session.auth):
            subject = f"ledger.rsp.{service.name}.{service.instance}.{uuid.uuid4()}"
            await connection.publish(subject, b'{"kind":"topped_up"}')
        await session.nothing_happened()
        await session.nothing_happened_to_auth()


async def expect_no_event(session: Session, subject: str) -> None:
    """Nothing stands in the stream of events on `subject`, once the relay has caught up."""
    await session.operator.reached(EVENTS, session.log.end)
    stored = await session.operator.last_of(EVENTS, subject)
    expect(f"what {EVENTS} has on {subject}", None, stored)


async def check_foreign_events(report: Report, session: Session) -> None:
    connection = session.backend.connection
    with report.check("backend cannot publish events"):
        subject = f"ledger.evt.topped_up.{uuid.uuid4()}"
        await connection.publish(subject, b'{"kind":"topped_up"}')
        await session.nothing_happened()
        await expect_no_event(session, subject)
    with report.check("backend cannot make the server publish events by a reply subject"):
        subject = f"ledger.evt.topped_up.{uuid.uuid4()}"
        await give_with_reply(session, subject)
        await connection.publish("ledger.svc.health", b"", reply=subject)
        await session.nothing_happened()
        await expect_no_event(session, subject)
    with report.check("nor outcomes of others"):
        await give_with_reply(session, f"ledger.rsp.auth.{session.auth.instance}.{uuid.uuid4()}")
        await session.nothing_happened_to_auth()
    with report.check("nor commands of others"):
        subject = f"ledger.cmd.auth.open_account.{uuid.uuid4()}"
        await give_with_reply(session, subject)
        await session.nothing_happened()
        stored = await session.operator.last_of(COMMANDS, subject)
        expect(f"what {COMMANDS} has on {subject}", None, stored)


async def give_with_reply(session: Session, reply: str) -> None:
    """A command that is accepted, whose PubAck is directed at `reply`."""
    command = session.command("top_up", {"amount": "1"})
    sent = session.backend.signed(command)
    await session.backend.connection.publish(sent.subject, sent.payload, reply=reply)
    session.take(await session.backend.answer(command), "topped_up", posted=Decimal(1))


async def event_at(session: Session, position: int) -> Stored:
    """The message at the sequence `position`, which must be the event of that position."""
    stored = await session.operator.at(EVENTS, position)
    if stored is None:
        raise Failure(f"{EVENTS}: expected a message at sequence {position}, got none")
    header = stored.headers.get("Holdfast-Position")
    expect(f"Holdfast-Position of {stored}", str(position), header)
    return stored


async def check_events(report: Report, session: Session) -> None:
    """The events stream says what the outcomes said, at the same numbers, and nothing besides."""
    with report.check("every outcome's event is in the stream at its position"):
        await session.operator.reached(EVENTS, session.log.end)
        for position, outcome in session.log.seen.items():
            expect_event_of(outcome, await event_at(session, position))
    with report.check("the stream of events holds the ledger's events only"):
        state = await session.operator.state(EVENTS)
        expect(f"last sequence of {state}", session.log.end, state.last)
        expect(f"messages of {state}", state.last - state.first + 1, state.messages)
        for sequence in range(state.first, state.last + 1):
            await event_at(session, sequence)


def expect_event_of(outcome: Outcome, stored: Stored) -> None:
    kind, account = outcome["kind"], outcome["account"]
    expect(f"subject of {stored}", f"ledger.evt.{kind}.{account_token(account)}", stored.subject)
    event = json.loads(stored.data)
    for name in ("position", "kind", "account"):
        expect(f"`{name}` of the event {event}", outcome[name], event.get(name))


async def check_stack(report: Report, session: Session) -> None:
    with report.check("the services and the operator can log in"):
        await session.open()
    await check_life_of_a_hold(report, session)
    await check_other_accepted_forms(report, session)
    await check_repeats(report, session)
    await check_refusals(report, session)
    await check_forgeries(report, session)
    await check_foreign_commands(report, session)
    await check_foreign_outcomes(report, session)
    await check_foreign_events(report, session)
    await check_events(report, session)


def setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set; the head of this file says what it must be")
    return value


async def run(report: Report) -> None:
    stack = json.loads(setting("HOLDFAST_STACK"))
    session = Session(stack, Root(setting("INTERNAL_SERVICE_TOKEN")))
    vectors.check_all(report, setting("HOLDFAST_VECTORS"))
    try:
        await check_stack(report, session)
    except Silence:
        print("the remaining checks were not run: nobody answers", flush=True)
    finally:
        await session.close()


def main() -> int:
    report = Report()
    asyncio.run(run(report))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
