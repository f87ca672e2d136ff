"""What becomes of a call: whether it was sent, what came of it, and how it ended.

**Correctness.** What came is written to the journal as it comes: a report at once, text within
`TEXT_S`. Writes are made in the order of what they tell, and none after the hold was sealed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar
from uuid import UUID

from ._bytes import to_json
from .core import Core
from .errors import AlreadySettled, ProviderCircuitOpen, ProviderError
from .options import HoldOptions
from .pricing import Quote, Tokens
from .settlement import Call, Failure, Meter, Run, answered_with, http_status
from .stream import Stream
from .usage import Seen, Usage, read_chunk

log = logging.getLogger("holdfast")

TEXT_S = 0.2
"""Text that came is in the journal after this long at the latest."""
SERVER_ERROR = 500
TOO_MANY_REQUESTS = 429
P = ParamSpec("P")
T = TypeVar("T")


class Followed(Protocol):
    """A stream as the watch needs to know it; see `Stream`."""

    finished: bool
    error: BaseException | None
    abandoned: bool

    @property
    def alive(self) -> bool: ...  # noqa: D102

    async def drain(self, timeout_s: float) -> None: ...  # noqa: D102

    async def close(self) -> None: ...  # noqa: D102


@dataclass
class Attempt:
    """One call of the provider.

    `failure` and `finished` are what the call itself told. One that is `open` is by hand, or its
    answer is still to be read: how it ended is told by how the block ended. One that is `joinable`
    has an answer that a stream may be read from. One with others `inside` is told by those.
    """

    run: Run
    by_hand: bool = False
    running: bool = False
    open: bool = False
    told: bool = False
    joinable: bool = False
    inside: bool = False
    finished: bool = False
    abandoned: bool = False
    failure: Failure | None = None
    stream: Followed | None = None


_within: ContextVar[Attempt | None] = ContextVar("holdfast_within", default=None)
"""The call whose function runs here."""


class Watch:
    """Watches the calls under one hold that was reserved for `estimate`."""

    def __init__(self, core: Core, hold: UUID, quote: Quote, options: HoldOptions, estimate: Tokens) -> None:
        self.meter = Meter(estimate, quote.rates)
        self.sealed = False
        self._core = core
        self._hold = hold
        self._options = options
        self._breaker = core.breaker(quote.provider)
        self._provider = quote.provider
        self._dispatched = False
        self._attempt: Attempt | None = None
        self._attempts: list[Attempt] = []
        self._maybe_ran = False
        self._text_timer: asyncio.TimerHandle | None = None

    def seal(self) -> None:
        """From here on nothing is observed and nothing else settles the hold."""
        self.must_be_open()
        self.sealed = True
        self._stop_timer()

    def must_be_open(self) -> None:
        """`AlreadySettled` when it is sealed."""
        if self.sealed:
            raise AlreadySettled(f"hold {self._hold} was settled already")

    async def dispatch(self) -> None:
        """The request is about to leave; on return that is on the disk."""
        self.must_be_open()
        within = self._within()
        if within is None:
            self._start(Attempt(self._run(), by_hand=True, open=True))
        elif within.told:
            # The function tries once more.
            self._maybe_ran = True
            within.run = self.meter.start()
        else:
            within.told = True
        await self._journaled()

    async def _journaled(self) -> None:
        self.must_be_open()
        if not self._dispatched:
            await self._core.journal.dispatched(self._hold)
            self._dispatched = True

    async def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Awaits `fn(…)`, the provider's call, and reads the usage out of its answer where it can.

        `ProviderCircuitOpen` when this provider failed several times in a row. An answer with an
        HTTP status of an error counts as `ProviderError`.
        """
        attempt = await self.begin_call()
        token = enter(attempt)
        try:
            answer = await fn(*args, **kwargs)
        except BaseException as error:
            self.call_failed(attempt, error)
            raise
        finally:
            leave(token)
        await self.call_answered(attempt, answer)
        return answer

    async def begin_call(self) -> Attempt:
        """A call of the provider is about to be made; `call_failed` or `call_answered` tells its end."""
        self.must_be_open()
        attempt = self._start(Attempt(self._run(), running=True))
        try:
            await self._begin()
        except BaseException as error:
            self.call_failed(attempt, error)
            raise
        return attempt

    def _start(self, attempt: Attempt) -> Attempt:
        """Another call begins. Its reports are its own: they do not replace those of earlier calls."""
        within, latest = self._within(), self._attempt
        if within is not None:
            within.inside = True
        if latest is not None and latest.open:
            self._maybe_ran = True
        self._attempt = attempt
        self._attempts.append(attempt)
        return attempt

    def _run(self) -> Run:
        """What is counted for another call; the first has what was told before it, too."""
        latest = self._attempt
        if latest is not None and latest.stream is not None and latest.stream.finished:
            latest.run.finished = True
        return self.meter.run if latest is None or latest is self._within() else self.meter.start()

    def _within(self) -> Attempt | None:
        within = _within.get()
        return within if within is not None and within.running and within in self._attempts else None

    async def _begin(self) -> None:
        """The provider's breaker and the journal, before anything is sent."""
        if not self._breaker.admits():
            raise ProviderCircuitOpen(f"{self._provider} fails; the call was not sent")
        try:
            await self._journaled()
        except BaseException:
            self._breaker.abandoned()
            raise

    async def call_answered(self, attempt: Attempt, answer: Any) -> None:
        """The function has returned `answer`."""
        seen = read_chunk(answer)
        latest = self._attempt or attempt
        if attempt.inside:
            # What it did it did through the hold; only a report may have been left to its answer.
            attempt.running = False
            if not latest.run.complete:
                await self._report(seen.usage, latest.run)
            return
        status = http_status(answer)
        if status is not None:
            unsure = answered_with(status) is Failure.UNKNOWN
            error = TimeoutError(f"status {status}") if unsure else ProviderError(status=status)
            self.call_failed(attempt, error)
            return
        attempt.running = False
        self._breaker.succeeded()
        self._maybe_ran = True
        # What can still be iterated over is not the whole answer.
        attempt.open = hasattr(answer, "__aiter__") or hasattr(answer, "__next__")
        attempt.finished = attempt.run.finished = not attempt.open
        attempt.joinable = seen == Seen() and attempt.run == Run(finished=attempt.finished)
        if attempt.finished:
            await self._report(seen.usage, attempt.run)

    async def _report(self, usage: Usage | None, run: Run) -> None:
        if not self.sealed:
            self._observe_reported(usage, run)
            # Whoever has the provider's answer gets it, whatever the disk does; it is logged.
            with contextlib.suppress(sqlite3.Error):
                await asyncio.wrap_future(self.write())

    def stream(self, source: AsyncIterable[T], read: Callable[[T], Seen] = read_chunk) -> Stream[T]:
        """Iterates over the provider's chunks and keeps count of what came.

        `read` tells usage and text of a chunk; the default knows OpenAI, Anthropic and Gemini.
        """
        begin, note = self.follow(lambda: stream, read)
        stream = Stream(source, begin, note, apart=self._options.on_abort == "drain")
        return stream

    def follow(
        self, stream: Callable[[], Followed], read: Callable[[T], Seen]
    ) -> tuple[Callable[[], Awaitable[None]], Callable[[T], None]]:
        """What is to be done before the first chunk of `stream`, and with each."""
        run: Run | None = None

        async def begin() -> None:
            nonlocal run
            self.must_be_open()
            latest = self._attempt
            if latest is not None and latest.joinable:
                attempt = latest
                attempt.joinable = attempt.open = attempt.finished = attempt.run.finished = False
            else:
                attempt = self._start(Attempt(self._run()))
            attempt.stream, run = stream(), attempt.run
            await self._begin()

        def note(chunk: T) -> None:
            seen = read(chunk)
            if seen.text:
                self.observe_text(seen.text, run)
            self._observe_reported(seen.usage, run)

        return begin, note

    def observe(self, usage: Usage | Mapping[str, int] | None, run: Run | None = None) -> None:
        """The provider reported `usage`: of each dimension the latest report counts. None is no report.

        `ValueError` for a dimension that has no rate.
        """
        self.must_be_open()
        if usage is not None:
            found = usage if isinstance(usage, Usage) else Usage(usage)
            self.meter.observe(found, run or self._told_of())
            self.write()

    def _observe_reported(self, usage: Usage | None, run: Run | None) -> None:
        """A report that was read out of an answer. One that has no price must not cost us the call."""
        try:
            self.observe(usage, run)
        except ValueError as error:
            log.error("hold %s: usage %s counts as missing: %s", self._hold, usage, error)

    def observe_text(self, text: str, run: Run | None = None) -> None:
        """Output that came: counted by its bytes where the provider reports nothing."""
        self.must_be_open()
        (run or self._told_of()).text_bytes += len(text.encode())
        if self._text_timer is None:
            self._text_timer = asyncio.get_running_loop().call_later(TEXT_S, self.write)

    def _told_of(self) -> Run:
        """Of which call the caller tells something by hand: its own, where several run at once."""
        within = self._within()
        return self.meter.run if within is None or within.inside else within.run

    def write(self) -> Future[int]:
        """Hands what came to the journal; the future is done when it is on the disk."""
        self._stop_timer()
        found = self.meter.delivered()
        if found is None or self.sealed:
            nothing: Future[int] = Future()
            nothing.set_result(0)
            return nothing
        tokens, source = found
        self._dispatched = True
        written = self._core.journal.observed(self._hold, to_json(tokens).decode(), source)
        written.add_done_callback(_tell_failure)
        return written

    def call_failed(self, attempt: Attempt, error: BaseException) -> None:
        """The call ended with `error`."""
        attempt.running = attempt.open = attempt.finished = False
        if attempt.inside:
            return
        failure = self._options.classify(error)
        attempt.failure = failure
        attempt.abandoned = not isinstance(error, Exception)
        if failure is Failure.UNKNOWN:
            self._maybe_ran = True
        breaker = self._breaker
        status = getattr(error, "status", None) or http_status(error)
        told = failure is not Failure.UNKNOWN
        if attempt.abandoned or failure is Failure.NOT_DISPATCHED:
            breaker.abandoned()
        elif told and status is not None and status < SERVER_ERROR and status != TOO_MANY_REQUESTS:
            breaker.succeeded()
        else:
            breaker.failed()

    def drains(self) -> bool:
        """Whether there is a stream to be read on."""
        attempt = self._attempt
        alive = attempt is not None and attempt.stream is not None and attempt.stream.alive
        return alive and self._options.on_abort == "drain"

    async def over(self, error: BaseException | None) -> Call:
        """What became of the calls when `error`, if anything, ended the block; drains where it should."""
        latest = self._attempt
        for attempt in self._attempts:
            if attempt.stream is not None:
                await self._end_stream(attempt, drains=attempt is latest and self.drains())
        if any(attempt.running for attempt in self._attempts):
            # A task of the caller's has one of them still.
            self._maybe_ran = True
        if latest is None or latest.open:
            return self._by_hand(latest, error)
        return Call(self._dispatched, latest.finished, latest.abandoned, latest.failure, self._maybe_ran)

    def _by_hand(self, latest: Attempt | None, error: BaseException | None) -> Call:
        """The caller told, or reads, what became of the call; so the end of the block tells how it ended."""
        failure = self._options.classify(error) if isinstance(error, Exception) else None
        if latest is not None and not latest.by_hand and failure is not None:
            # Its answer had begun, so an error after that need not be the provider's.
            failure = Failure.UNKNOWN
        left = error is not None and not isinstance(error, Exception)
        return Call(self._dispatched, error is None, left, failure, self._maybe_ran)

    async def _end_stream(self, attempt: Attempt, *, drains: bool) -> None:
        """Lets go of the stream, and tells the provider's breaker how it ended."""
        stream = attempt.stream
        if stream is None:
            return
        abandoned = stream.alive or stream.abandoned
        if drains:
            await stream.drain(self._options.drain_s)
        else:
            await stream.close()
        attempt.abandoned = abandoned
        if stream.error is not None:
            self.call_failed(attempt, stream.error)
            attempt.abandoned = attempt.abandoned or abandoned
            return
        self._maybe_ran = True
        attempt.finished = stream.finished
        # What was read on for nobody counts as finished only when it was reported.
        attempt.run.finished = stream.finished and (attempt.run.complete or not abandoned)
        if stream.finished:
            self._breaker.succeeded()
        else:
            attempt.failure = Failure.UNKNOWN
            self._breaker.abandoned()

    def _stop_timer(self) -> None:
        if self._text_timer is not None:
            self._text_timer.cancel()
            self._text_timer = None


def enter(attempt: Attempt) -> Token[Attempt | None]:
    """From here to `leave` the function of `attempt` runs."""
    return _within.set(attempt)


def leave(token: Token[Attempt | None]) -> None:
    """It has ended."""
    _within.reset(token)


def _tell_failure(written: Future[int]) -> None:
    if not written.cancelled() and written.exception() is not None:
        log.error("the journal did not take an observation: %r", written.exception())
