"""The bus: commands go out signed, outcomes come back, and queries are asked.

**Shape.** One subscription per instance takes all outcomes. Whoever asks leaves a future under the
command's id and fingerprint, publishes, and waits; the subscription checks each message and wakes
the one it is for.

**Correctness.** Only an outcome with our signature and the fingerprint of what we sent answers a
command. A PubAck answers nothing: it only says that the stream has the message. Every attempt of
one `ask` carries the same id and the same body bytes, so however many arrive, one is carried out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ._bytes import to_json
from .breaker import Breaker
from .envelope import MESSAGE_BYTES_MAX, Command, is_genuine
from .errors import InvalidRequest, LedgerCircuitOpen, LedgerError, NotFound, TooLarge, Unavailable, error_of
from .ids import new_id
from .keys import ServiceKeys
from .retry import Retry

log = logging.getLogger("holdfast")

CONNECT_S = 10.0
PING_S = 10
"""A dead connection is noticed after three of these at the latest."""
ACK_S = 2.0
CLAIM_MS = 24 * 3_600_000
"""How long a command that its caller can repeat by a key of its own is worth deciding for."""
RESERVE_MS = 60_000
"""A reserve is worth deciding for as long at least, as clocks differ; one that comes late is released."""
Json = dict[str, Any]


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Bus:
    """One connection of one service."""

    def __init__(self, keys: Sequence[ServiceKeys], audience: str, retry: Retry, breaker: Breaker) -> None:
        self.keys = keys
        self.issuer = keys[0].issuer
        self.audience = audience
        self.retry = retry
        self.breaker = breaker
        self.instance = new_id().hex
        self.counters = {"asked": 0, "retries": 0, "accepted": 0, "rejected": 0, "refused": 0}
        self.counters |= {"unavailable": 0, "forged": 0}
        self._outcome_keys = [key.outcome for key in keys]
        self._waiting: dict[tuple[str, str], asyncio.Future[Json]] = {}
        self._complaint = ""
        self._nats: Client

    async def connect(self, url: str) -> None:
        """Connects and subscribes to the outcomes; `Unavailable` when the server does not answer."""
        try:
            self._nats = await asyncio.wait_for(_connect(url, self._complain), CONNECT_S)
            subject = f"ledger.rsp.{self.issuer}.{self.instance}.*"
            await self._nats.subscribe(subject, cb=self._take)
        except BaseException as error:
            if hasattr(self, "_nats"):
                await self._nats.close()
            if not isinstance(error, OSError | nats.errors.Error | TimeoutError):
                raise
            raise Unavailable(f"cannot connect to NATS: {error!r} {self._complaint}".rstrip()) from error

    async def close(self) -> None:
        """Closes the connection; whoever still waits is told `Unavailable`."""
        await self._nats.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the connection was closed"))

    async def ask(
        self,
        verb: str,
        account: str,
        body: bytes,
        command: UUID,
        *,
        retry: Retry | None = None,
        claim: bool = False,
    ) -> Json:
        """The outcome of a command; one with a `code` is raised.

        A `reserve`, `increase` or `deduct` is worth deciding until this call gives up, or with
        `claim` for a day, since its caller can then come back for it under the same id.
        """
        if not self.breaker.admits():
            raise LedgerCircuitOpen(f"the ledger does not answer; {verb} was not sent", {"id": str(command)})
        retry = retry or self.retry
        now = now_ms()
        life_ms = CLAIM_MS if claim else int(retry.patience_s * 1000)
        if verb == "reserve":
            life_ms = max(life_ms, RESERVE_MS)
        signed = Command(
            command, self.issuer, self.audience, verb, account, self.instance, now, now + life_ms, body
        )
        try:
            outcome = await self._attempts(signed, retry)
        except Unavailable:
            self.breaker.failed()
            self.counters["unavailable"] += 1
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        self.breaker.succeeded()
        return self._judge(outcome)

    async def query(self, subject: str, payload: bytes = b"") -> Json:
        """The answer of `ledger.svc.<subject>`; `NotFound`, `InvalidRequest` or `Unavailable`."""
        pauses = self.retry.pauses()
        for attempt in range(self.retry.attempts):
            try:
                return await self._query(subject, payload)
            except (Unavailable, OSError, nats.errors.Error, TimeoutError) as error:
                if attempt + 1 == self.retry.attempts:
                    raise Unavailable(f"{subject}: {error!r} {self._complaint}".rstrip()) from error
            await asyncio.sleep(next(pauses))
        raise AssertionError("a query is tried at least once")

    async def _query(self, subject: str, payload: bytes) -> Json:
        answer = await self._nats.request(f"ledger.svc.{subject}", payload, timeout=self.retry.attempt_s)
        headers = answer.headers or {}
        code = headers.get("Nats-Service-Error-Code")
        if code is None:
            found: Json = json.loads(answer.data)
            return found
        families: dict[str, type[LedgerError]] = {"400": InvalidRequest, "404": NotFound}
        raise families.get(code, Unavailable)(headers.get("Nats-Service-Error", code))

    async def _attempts(self, command: Command, retry: Retry) -> Json:
        payload = command.envelope(key.command for key in self.keys)
        if len(payload) > MESSAGE_BYTES_MAX:
            raise TooLarge(f"{len(payload)} bytes; a command has at most {MESSAGE_BYTES_MAX}")
        self.counters["asked"] += 1
        key = (str(command.id), command.fingerprint.hex())
        future = self._waiting.get(key) or asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            return await self._until_told(command.subject, payload, future, retry)
        except Unavailable as error:
            raise Unavailable(f"{command.verb}: {error.detail}", {"id": str(command.id)}) from error
        finally:
            self._waiting.pop(key, None)

    async def _until_told(
        self, subject: str, payload: bytes, future: asyncio.Future[Json], retry: Retry
    ) -> Json:
        trouble = "no outcome came in time"
        pauses = retry.pauses()
        for attempt in range(retry.attempts):
            if attempt:
                self.counters["retries"] += 1
                await asyncio.wait([future], timeout=next(pauses))
            deadline = time.monotonic() + retry.attempt_s
            try:
                if not future.done():
                    await self._publish(subject, payload, min(ACK_S, retry.attempt_s))
            except (OSError, nats.errors.Error, TimeoutError) as error:
                trouble = f"{error!r} {self._complaint}".rstrip()
            await asyncio.wait([future], timeout=max(0.0, deadline - time.monotonic()))
            if future.done():
                return future.result()
        raise Unavailable(trouble)

    async def _publish(self, subject: str, payload: bytes, timeout: float) -> None:
        """Publishes and waits for the PubAck; without one the server may have dropped it unseen."""
        ack = json.loads((await self._nats.request(subject, payload, timeout=timeout)).data)
        if "error" in ack:
            raise nats.errors.Error(f"the stream refused it: {ack['error'].get('description')}")

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        signature = headers.get("Holdfast-Signature")
        if not is_genuine(self._outcome_keys, signature, message.subject, message.data):
            self.counters["forged"] += 1
            log.warning("dropped an outcome on %s whose signature does not hold", message.subject)
            return
        outcome = json.loads(message.data)
        if not isinstance(outcome, dict):
            return
        key = (str(outcome.get("id")), str(headers.get("Holdfast-Fingerprint")))
        future = self._waiting.get(key)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _judge(self, outcome: Json) -> Json:
        if "code" not in outcome:
            self.counters["accepted"] += 1
            return outcome
        family = "rejected" if outcome.get("kind") == "rejected" else "refused"
        self.counters[family] += 1
        raise error_of(outcome)

    async def _complain(self, error: Exception) -> None:
        self._complaint = f"(the server said: {error})"
        log.warning("NATS: %s", error)


def body_bytes(**members: Any) -> bytes:
    """A body of the members that are not None, written once: these bytes are signed and kept."""
    return to_json({name: value for name, value in members.items() if value is not None})


async def _connect(url: str, complain: Any) -> Client:
    parts = urlsplit(url)
    return await nats.connect(
        f"{parts.scheme or 'nats'}://{parts.hostname}:{parts.port or 4222}",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        error_cb=complain,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        ping_interval=PING_S,
    )
