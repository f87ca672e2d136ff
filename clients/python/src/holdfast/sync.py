"""The same ledger without asyncio: it runs in a thread of its own, and its callers wait for it.

```python
with sync.Ledger.connect(url, token=token, audience="ledger.prod", journal="journal.sqlite") as ledger:
    with ledger.hold("user-1", model="gemini-2.5-flash", input_tokens=1200, max_output_tokens=4000) as hold:
        answer = hold.call(lambda: client.post(…))
```

It may be used from several threads at once; one hold belongs to one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from decimal import Decimal
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack
from uuid import UUID

from . import ledger as asynchronous
from .bus import Json
from .hold import Hold as AsyncHold
from .options import HoldKeywords
from .outcomes import (
    AccountOpened,
    AccountSet,
    Balance,
    Captured,
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
from .usage import Seen, Usage, read_chunk
from .watch import enter, leave

P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.start(work).result()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Ledger:
    """`holdfast.Ledger` for callers without asyncio; the methods and their keywords are the same."""

    def __init__(self, ledger: asynchronous.Ledger, loop: _Loop) -> None:
        self._ledger = ledger
        self._loop = loop

    @classmethod
    def connect(cls, nats_url: str, **options: Any) -> Self:
        """As `holdfast.Ledger.connect`."""
        loop = _Loop()
        try:
            return cls(loop.run(asynchronous.Ledger.connect(nats_url, **options)), loop)
        except BaseException:
            loop.stop()
            raise

    def close(self) -> None:
        """As `holdfast.Ledger.close`; the thread ends too."""
        self._loop.run(self._ledger.close())
        self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open_account(self, account: str, **options: Any) -> AccountOpened:
        """Opens an account."""
        return self._loop.run(self._ledger.open_account(account, **options))

    def set_account(self, account: str, **options: Any) -> AccountSet:
        """Changes an account's terms."""
        return self._loop.run(self._ledger.set_account(account, **options))

    def top_up(self, account: str, amount: Decimal | str, **options: Any) -> ToppedUp:
        """Adds money that came in."""
        return self._loop.run(self._ledger.top_up(account, amount, **options))

    def reverse_top_up(self, account: str, of: int | UUID, **options: Any) -> TopUpReversed:
        """Takes a top-up back."""
        return self._loop.run(self._ledger.reverse_top_up(account, of, **options))

    def deduct(self, account: str, amount: Decimal | str, **options: Any) -> Deducted:
        """Charges at once."""
        return self._loop.run(self._ledger.deduct(account, amount, **options))

    def refund(self, account: str, of: int | UUID, **options: Any) -> Refunded:
        """Gives a charge back."""
        return self._loop.run(self._ledger.refund(account, of, **options))

    def reserve(self, account: str, amount: Decimal | str, **options: Any) -> Reserved:
        """Promises money to a call."""
        return self._loop.run(self._ledger.reserve(account, amount, **options))

    def capture(self, account: str, **options: Any) -> Captured:
        """Charges through a hold."""
        return self._loop.run(self._ledger.capture(account, **options))

    def release(self, account: str, **options: Any) -> Released:
        """Frees a hold."""
        return self._loop.run(self._ledger.release(account, **options))

    def extend(self, account: str, hold: UUID, ttl_ms: int, **options: Any) -> Extended:
        """Gives a hold `ttl_ms` from now."""
        return self._loop.run(self._ledger.extend(account, hold, ttl_ms, **options))

    def increase(self, account: str, hold: UUID, amount: Decimal | str, **options: Any) -> Increased:
        """Promises `amount` more to a hold."""
        return self._loop.run(self._ledger.increase(account, hold, amount, **options))

    def balance(self, account: str) -> Balance:
        """An account, as the projections have it."""
        return self._loop.run(self._ledger.balance(account))

    def hold_state(self, account: str, hold: UUID) -> HoldState:
        """A hold, as the projections have it."""
        return self._loop.run(self._ledger.hold_state(account, hold))

    def command(self, id: UUID) -> Json:
        """The stored outcome of a command of this service."""
        return self._loop.run(self._ledger.command(id))

    def quote(self, model: str, *, provider: str | None = None, variant: str | None = None) -> Quote:
        """The rates of `model`."""
        return self._loop.run(self._ledger.quote(model, provider=provider, variant=variant))

    def hold(self, account: str, **options: Unpack[HoldKeywords]) -> Hold:
        """A hold around one call, for `with`; the keywords of `holdfast.Ledger.hold`."""
        return Hold(self._ledger.hold(account, **options), self._loop)

    def settled(self) -> None:
        """Waits until everything that was left is settled."""
        self._loop.run(self._ledger.settled())

    def metrics(self) -> dict[str, Any]:
        """Figures since the start."""
        return self._ledger.metrics()


class Hold:
    """One hold; see `holdfast.Hold`."""

    def __init__(self, hold: AsyncHold, loop: _Loop) -> None:
        self._hold = hold
        self._loop = loop
        self._opening: asyncio.Task[None] | None = None
        self._readers: list[_Reader[Any]] = []

    @property
    def id(self) -> UUID:
        """The hold's id."""
        return self._hold.id

    @property
    def max_output_tokens(self) -> int:
        """The most that the call may produce, which `fit` may have lowered."""
        return self._hold.max_output_tokens

    @property
    def outcome(self) -> Outcome | None:
        """How it was settled."""
        return self._hold.outcome

    def __enter__(self) -> Self:
        opening = self._loop.start(self._open())
        try:
            opening.result()
        except BaseException as error:
            # It may be something that came to this thread alone, such as a signal.
            told = opening.done() and not opening.cancelled() and opening.exception() is error
            if not told:
                self._loop.start(self._forsake())
            raise
        return self

    async def _open(self) -> None:
        self._opening = asyncio.create_task(self._hold.open())
        await asyncio.shield(self._opening)

    async def _forsake(self) -> None:
        """Nobody waits for the hold any more: what it may have reserved is freed."""
        while self._opening is None:  # noqa: ASYNC110 (its first step is on its way)
            await asyncio.sleep(0)
        self._opening.cancel()
        await asyncio.wait([self._opening])
        if not self._opening.cancelled() and self._opening.exception() is None:
            await self._hold.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        options = self._hold.options
        for reader in self._readers:
            if reader is self._readers[-1] and reader.alive and options.on_abort == "drain":
                reader.read_on(options.drain_s)
            reader.shut()
        self._loop.run(self._hold.close(error))

    def dispatched(self) -> None:
        """Say so before the request goes to the provider."""
        self._loop.run(self._hold.dispatched())

    def call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `fn(…)`, the provider's call, in this thread, and reads the usage out of its answer.

        As `holdfast.Hold.call`.
        """
        watch = self._hold._watch
        attempt = self._loop.run(watch.begin_call())
        token = enter(attempt)
        try:
            answer = fn(*args, **kwargs)
        except BaseException as error:
            failed = error
            self._loop.run(_soon(lambda: watch.call_failed(attempt, failed)))
            raise
        finally:
            leave(token)
        self._loop.run(watch.call_answered(attempt, answer))
        return answer

    def stream(self, source: Iterable[T], read: Callable[[T], Seen] = read_chunk) -> Iterator[T]:
        """Iterates over the provider's chunks, in this thread, and keeps count of what came.

        With `on_abort="drain"` a stream that was left is read on in a thread of its own.
        """
        reader = _Reader(source)
        begin, note = self._hold._watch.follow(lambda: reader, read)
        reader.note = lambda chunk: self._loop.run(_soon(lambda: note(chunk)))
        self._readers.append(reader)
        return reader.chunks(lambda: self._loop.run(_awaited(begin)))

    def observe(self, usage: Usage | Mapping[str, int] | None) -> None:
        """The provider reported `usage`."""
        self._loop.run(_soon(lambda: self._hold.observe(usage)))

    def observe_text(self, text: str) -> None:
        """Output that came."""
        self._loop.run(_soon(lambda: self._hold.observe_text(text)))

    def capture(self, usage: Usage | Mapping[str, int] | None = None, **options: Any) -> Captured:
        """Charges `usage`, else what was observed, else what was reserved for."""
        return self._loop.run(self._hold.capture(usage, **options))

    def release(self, reason: str = "not_dispatched") -> Released:
        """Frees the hold."""
        return self._loop.run(self._hold.release(reason))


class _Reader(Generic[T]):
    """A stream that blocks, as the watch needs to know it."""

    note: Callable[[T], None]

    def __init__(self, source: Iterable[T]) -> None:
        self.finished = False
        self.error: BaseException | None = None
        self.abandoned = False
        self._begun = False
        self._source = iter(source)

    @property
    def alive(self) -> bool:
        """Whether it was begun and may have more to come."""
        return self._begun and not self.finished and self.error is None

    def chunks(self, begin: Callable[[], None]) -> Iterator[T]:
        """The chunks; `begin` is called before the first is asked for."""
        self._begun = True
        try:
            begin()
        except BaseException as error:
            self.error = error
            raise
        yield from self._rest()

    def _rest(self) -> Iterator[T]:
        while True:
            try:
                chunk = next(self._source)
            except StopIteration:
                self.finished = True
                return
            except BaseException as error:
                self.error = error
                raise
            self.note(chunk)
            yield chunk

    def read_on(self, timeout_s: float) -> None:
        """Reads to the end without a reader, for at most `timeout_s`."""
        self.abandoned = True
        context = copy_context()

        def read() -> None:
            # What it ends with is known from `error`; the hold may have been settled meanwhile.
            with contextlib.suppress(Exception):
                for _ in self._rest():
                    pass

        thread = threading.Thread(target=context.run, args=(read,), name="holdfast-drain", daemon=True)
        thread.start()
        thread.join(timeout_s)

    def shut(self) -> None:
        """Lets go of the source, unless a chunk of it is being awaited."""
        close = getattr(self._source, "close", None)
        if close is not None:
            # What the source says while it is closed changes nothing about what was delivered.
            with contextlib.suppress(Exception):
                close()

    async def drain(self, timeout_s: float) -> None:
        """It was read on before, in threads."""

    async def close(self) -> None:
        """It is closed by its own thread."""


async def _awaited(step: Callable[[], Awaitable[None]]) -> None:
    await step()


async def _soon(step: Callable[[], None]) -> None:
    step()
