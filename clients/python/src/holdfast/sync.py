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
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextvars import copy_context
from decimal import Decimal
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, cast
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
from .stream import Stream
from .usage import Seen, Usage, read_chunk

P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

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
        self._loop.run(self._hold.open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._hold.close(error))

    def dispatched(self) -> None:
        """Say so before the request goes to the provider."""
        self._loop.run(self._hold.dispatched())

    def call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `fn(…)`, the provider's call, in another thread with the context of this one."""
        context = copy_context()

        async def call() -> T:
            return await asyncio.to_thread(lambda: context.run(fn, *args, **kwargs))

        return self._loop.run(self._hold.call(call))

    def stream(self, source: Iterable[T], read: Callable[[T], Seen] = read_chunk) -> Iterator[T]:
        """Iterates over the provider's chunks and keeps count of what came; they are read as in `call`."""
        stream = self._hold.stream(_Chunks(source), read)
        while True:
            try:
                yield self._loop.run(_next(stream))
            except StopAsyncIteration:
                return

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


class _Chunks(Generic[T]):
    """A source that blocks, for the loop: each chunk is awaited in a thread."""

    def __init__(self, source: Iterable[T]) -> None:
        self._source = iter(source)
        self._context = copy_context()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        end = object()
        chunk = await asyncio.to_thread(lambda: self._context.run(lambda: next(self._source, end)))
        if chunk is end:
            raise StopAsyncIteration
        return cast(T, chunk)

    async def aclose(self) -> None:
        """Lets go of the source, unless a chunk of it is being awaited."""
        close = getattr(self._source, "close", None)
        if close is not None:
            await asyncio.to_thread(close)


async def _next(stream: Stream[T]) -> T:
    return await anext(stream)


async def _soon(step: Callable[[], None]) -> None:
    step()
