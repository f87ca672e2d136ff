"""The bus as its two sides see it: a publishing service, and the operator who looks at streams.

Order is what makes absence provable without waiting. The server handles what one connection sends
in order, and delivers to one connection in order; the ledger decides in order and answers in
order. So when the outcome of a later command is here, everything that an earlier message could
have caused on this connection is here too. (The client's `flush` gives no such promise.)
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from envelope import Command, MacKey, Root, outcome_signature
from report import Failure, Silence, Unreachable, expect

DEADLINE_S = 20.0
"""For any one answer: far more than a ledger needs, so that a slow machine is no failure."""
POLL_S = 0.02
COMMAND_LIFE_MS = 60_000
NO_MESSAGE_FOUND = 10037
"""JetStream's error code when a stream has no such message."""

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Publication:
    """What goes onto the bus."""

    subject: str
    payload: bytes


@dataclass(frozen=True)
class Answer:
    """The outcome of a command, and what is wrong with the way it came."""

    outcome: Outcome
    faults: list[str]

    def genuine(self) -> Outcome:
        """The outcome, which must be signed and the only thing that was told."""
        if self.faults:
            raise Failure("; ".join(self.faults))
        return self.outcome


async def connect(url: str, complaints: list[str]) -> Client:
    """Connects with the user and password in `url`; `complaints` gets what the server refuses."""

    async def complain(error: Exception) -> None:
        complaints.append(str(error))

    parts = urlsplit(url)
    try:
        return await nats.connect(
            f"nats://{parts.hostname}:{parts.port}",
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            error_cb=complain,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # The client reads 0 as "for ever".
        )
    except (OSError, nats.errors.Error, asyncio.TimeoutError) as error:
        said = f"{error!r}; the server said {complaints[-1:]}"
        raise Unreachable(f"{parts.username} cannot log in: {said}") from error


def told(message: Msg) -> str:
    return f"{message.data.decode(errors='replace')} on {message.subject}"


class Service:
    """One publishing service on a connection of its own."""

    def __init__(self, name: str, root: Root, audience: str) -> None:
        self.name = name
        self.audience = audience
        self.instance = f"wire-{uuid.uuid4().hex[:8]}"
        self.key: MacKey = root.key("command-mac", name)
        self.outcome_key: MacKey = root.key("outcome-mac", name)
        self.complaints: list[str] = []
        self.connection: Client
        self.inbox: Subscription

    async def open(self, url: str) -> None:
        self.connection = await connect(url, self.complaints)
        self.inbox = await self.connection.subscribe(f"ledger.rsp.{self.name}.{self.instance}.*")

    def command(self, verb: str, account: str, body: bytes) -> Command:
        """A new command, not signed yet."""
        now = time.time_ns() // 1_000_000
        return Command(
            id=str(uuid.uuid4()),
            iss=self.name,
            aud=self.audience,
            verb=verb,
            account=account,
            reply=self.instance,
            iat=now,
            exp=now + COMMAND_LIFE_MS,
            body=body,
        )

    def signed(self, command: Command) -> Publication:
        return Publication(command.subject, command.envelope(self.key))

    async def store(self, publication: Publication) -> None:
        """Publishes and waits until the stream has it."""
        try:
            ack = await self.connection.request(publication.subject, publication.payload, timeout=DEADLINE_S)
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError) as error:
            raise Silence(f"{publication.subject} is not stored: {error}; {self._said()}") from error
        stream = json.loads(ack.data).get("stream")
        expect(f"the stream that took the command, by {ack.data!r}", "LEDGER_COMMANDS", stream)

    async def ask(self, command: Command, publication: Publication | None = None) -> Answer:
        """Publishes `command` (in other bytes where `publication` is given) and awaits its outcome."""
        await self.store(publication or self.signed(command))
        return await self.answer(command)

    async def answer(self, command: Command) -> Answer:
        """Waits for the outcome of `command`; whatever else is told before it is a fault."""
        faults: list[str] = []
        while (message := await self._next(command)).subject != command.outcome_subject:
            faults.append(f"expected only the outcome of {command.id}, got {told(message)}")
        expected = outcome_signature(self.outcome_key, message.subject, message.data)
        header = (message.headers or {}).get("Holdfast-Signature")
        if header != expected:
            faults.append(f"Holdfast-Signature of {told(message)}: expected {expected}, got {header}")
        return Answer(json.loads(message.data), faults)

    async def _next(self, command: Command) -> Msg:
        try:
            return await self.inbox.next_msg(timeout=DEADLINE_S)
        except nats.errors.TimeoutError as error:
            silence = f"no outcome of {command.verb} {command.id} within {DEADLINE_S} s"
            raise Silence(f"{silence}; {self._said()}") from error

    def _said(self) -> str:
        return f"the server said {self.complaints}"


@dataclass(frozen=True)
class Stored:
    """A message in a stream."""

    subject: str
    sequence: int
    headers: dict[str, str]
    data: bytes


@dataclass(frozen=True)
class State:
    """How far a stream is."""

    messages: int
    first: int
    last: int


class Operator:
    """Looks at streams through JetStream's API; changes nothing."""

    def __init__(self) -> None:
        self.connection: Client

    async def open(self, url: str) -> None:
        self.connection = await connect(url, [])

    async def state(self, stream: str) -> State:
        reply = await self._call(f"STREAM.INFO.{stream}", {})
        if "state" not in reply:
            raise Failure(f"{stream}: expected its state, got {reply.get('error')}")
        state = reply["state"]
        return State(state["messages"], state["first_seq"], state["last_seq"])

    async def at(self, stream: str, sequence: int) -> Stored | None:
        return await self._stored(stream, {"seq": sequence})

    async def last_of(self, stream: str, subject: str) -> Stored | None:
        """The last message with this very subject."""
        return await self._stored(stream, {"last_by_subj": subject})

    async def reached(self, stream: str, sequence: int) -> State:
        """Waits until the stream is that far, at least."""
        deadline = time.monotonic() + DEADLINE_S
        while (state := await self.state(stream)).last < sequence:
            if time.monotonic() > deadline:
                raise Failure(f"{stream}: expected sequence {sequence} within {DEADLINE_S} s, got {state}")
            await asyncio.sleep(POLL_S)
        return state

    async def _stored(self, stream: str, which: dict[str, Any]) -> Stored | None:
        reply = await self._call(f"STREAM.MSG.GET.{stream}", which)
        error = reply.get("error")
        if error and error.get("err_code") == NO_MESSAGE_FOUND:
            return None
        if error:
            raise Failure(f"{stream}: expected a message or none for {which}, got {error}")
        message = reply["message"]
        headers = parse_headers(base64.b64decode(message.get("hdrs", "")))
        data = base64.b64decode(message.get("data", ""))
        return Stored(message["subject"], message["seq"], headers, data)

    async def _call(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        payload = json.dumps(request).encode()
        reply = await self.connection.request(f"$JS.API.{method}", payload, timeout=DEADLINE_S)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer


def parse_headers(block: bytes) -> dict[str, str]:
    """The headers after the version line; a name that stands twice is a failure."""
    lines = [line for line in block.decode().split("\r\n")[1:] if line]
    pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    headers = dict(pairs)
    expect("headers, each once", len(pairs), len(headers))
    return headers
