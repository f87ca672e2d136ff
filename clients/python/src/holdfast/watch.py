"""What becomes of a call: whether it was sent, what came of it, and how it ended.

**Correctness.** What came is written to the journal as it comes: a report at once, text within
`TEXT_S`. Writes are made in the order of what they tell, and none after the hold was sealed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from ._bytes import to_json
from .core import Core
from .errors import AlreadySettled, ProviderCircuitOpen, ProviderError
from .options import HoldOptions
from .pricing import Quote, Tokens
from .settlement import HTTP_ERROR, Call, Failure, Meter, answered_with, http_status
from .stream import Stream
from .usage import Seen, Usage, read_chunk

log = logging.getLogger("holdfast")

TEXT_S = 0.2
"""Text that came is in the journal after this long at the latest."""
SERVER_ERROR = 500
TOO_MANY_REQUESTS = 429
P = ParamSpec("P")
T = TypeVar("T")


class Watch:
    """Watches the call of one hold that was reserved for `estimate`."""

    def __init__(self, core: Core, hold: UUID, quote: Quote, options: HoldOptions, estimate: Tokens) -> None:
        self.meter = Meter(estimate, quote.rates)
        self.sealed = False
        self._core = core
        self._hold = hold
        self._options = options
        self._breaker = core.breaker(quote.provider)
        self._provider = quote.provider
        self._dispatched = False
        self._answered: bool | None = None
        self._stream: Stream[Any] | None = None
        self._error: BaseException | None = None
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
        if not self._dispatched:
            await self._core.journal.dispatched(self._hold)
            self._dispatched = True

    async def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Awaits `fn(…)`, the provider's call, and reads the usage out of its answer where it can.

        `ProviderCircuitOpen` when this provider failed several times in a row. An answer with an
        HTTP status of an error counts as `ProviderError`.
        """
        self._answered, self._error, self._stream = False, None, None
        await self._begin()
        try:
            answer = await fn(*args, **kwargs)
        except BaseException as error:
            self._failed(error)
            raise
        await self._take(answer)
        return answer

    async def _begin(self) -> None:
        """The provider's breaker and the journal, before anything is sent."""
        if not self._breaker.admits():
            raise ProviderCircuitOpen(f"{self._provider} fails; the call was not sent")
        try:
            await self.dispatch()
        except BaseException:
            self._breaker.abandoned()
            raise

    async def _take(self, answer: Any) -> None:
        status = http_status(answer)
        if status is not None and status >= HTTP_ERROR:
            unsure = answered_with(status) is Failure.UNKNOWN
            error = TimeoutError(f"status {status}") if unsure else ProviderError(status=status)
            self._failed(error)
            return
        self._breaker.succeeded()
        # What can still be iterated over is not the whole answer.
        self._answered = None if hasattr(answer, "__aiter__") else True
        if self._answered:
            self._observe_reported(read_chunk(answer).usage)
            await asyncio.wrap_future(self.write())

    def stream(self, source: AsyncIterable[T], read: Callable[[T], Seen] = read_chunk) -> Stream[T]:
        """Iterates over the provider's chunks and keeps count of what came.

        `read` tells usage and text of a chunk; the default knows OpenAI, Anthropic and Gemini.
        """

        def note(chunk: T) -> None:
            seen = read(chunk)
            if seen.text:
                self.observe_text(seen.text)
            self._observe_reported(seen.usage)

        self._answered, self._error = False, None
        self._stream = Stream(source, self._begin, note, apart=self._options.on_abort == "drain")
        return self._stream

    def observe(self, usage: Usage | Mapping[str, int] | None) -> None:
        """The provider reported `usage`: of each dimension the latest report counts. None is no report.

        `ValueError` for a dimension that has no rate.
        """
        self.must_be_open()
        if usage is not None:
            self.meter.observe(usage if isinstance(usage, Usage) else Usage(usage))
            self.write()

    def _observe_reported(self, usage: Usage | None) -> None:
        """A report that was read out of an answer. One that has no price must not cost us the call."""
        try:
            self.observe(usage)
        except ValueError as error:
            log.error("hold %s: usage %s counts as missing: %s", self._hold, usage, error)

    def observe_text(self, text: str) -> None:
        """Output that came: counted by its bytes where the provider reports nothing."""
        self.must_be_open()
        self.meter.text_bytes += len(text.encode())
        if self._text_timer is None:
            self._text_timer = asyncio.get_running_loop().call_later(TEXT_S, self.write)

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

    def _failed(self, error: BaseException) -> None:
        """The call ended with `error`."""
        self._answered, self._error = False, error
        breaker = self._breaker
        status = getattr(error, "status", None) or http_status(error)
        told = self._options.classify(error) is not Failure.UNKNOWN
        if not isinstance(error, Exception) or self._options.classify(error) is Failure.NOT_DISPATCHED:
            breaker.abandoned()
        elif told and status is not None and status < SERVER_ERROR and status != TOO_MANY_REQUESTS:
            breaker.succeeded()
        else:
            breaker.failed()

    def drains(self) -> bool:
        """Whether there is a stream to be read on."""
        stream = self._stream
        alive = stream is not None and not stream.finished and stream.error is None
        return alive and self._options.on_abort == "drain"

    async def over(self, error: BaseException | None) -> Call:
        """What became of the call when `error`, if anything, ended the block; drains where it should."""
        stream = self._stream
        drains = self.drains()
        left = error is not None and not isinstance(error, Exception)
        abandoned = left or (stream is not None and not stream.finished and stream.error is None)
        if stream is not None and drains:
            await stream.drain(self._options.drain_s)
        elif stream is not None:
            await stream.close()
        self._note_stream(stream)
        return Call(self._dispatched, self._finished(error), abandoned, self._failure(error))

    def _note_stream(self, stream: Stream[Any] | None) -> None:
        """Tells the provider's breaker how its stream ended."""
        if stream is None:
            return
        if stream.error is not None:
            self._failed(stream.error)
        elif stream.finished:
            self._breaker.succeeded()
        else:
            self._breaker.abandoned()

    def _finished(self, error: BaseException | None) -> bool:
        if self._stream is not None:
            return self._stream.finished
        return self._answered if self._answered is not None else error is None

    def _failure(self, error: BaseException | None) -> Failure | None:
        """What is known from the exception that left the block, or from one that was caught inside it."""
        for found in (error, self._error):
            if found is not None and self._options.classify(found) is not Failure.UNKNOWN:
                return self._options.classify(found)
        return Failure.UNKNOWN if isinstance(error or self._error, Exception) else None

    def _stop_timer(self) -> None:
        if self._text_timer is not None:
            self._text_timer.cancel()
            self._text_timer = None


def _tell_failure(written: Future[int]) -> None:
    if not written.cancelled() and written.exception() is not None:
        log.error("the journal did not take an observation: %r", written.exception())
