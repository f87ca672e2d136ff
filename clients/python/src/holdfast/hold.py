"""A hold around one call of a model: reserved before, settled after, whatever happens in between.

**Shape.** `async with ledger.hold(…) as hold` reserves; inside, `hold.call`, `hold.stream`, or
`hold.dispatched` with `hold.observe` tell what became of the call; leaving the block settles by the
table in `settlement.py`.

**Correctness.** Each step is in the journal before it is taken, so a process that dies at any point
leaves enough to settle exactly once. What settles runs in a task of its own, which the cancelling
of the caller does not reach.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, cast
from uuid import UUID

from ._bytes import to_json
from .amounts import units_text
from .bus import body_bytes
from .core import Core
from .errors import (
    CostsNothing,
    HoldExists,
    InsufficientFunds,
    LedgerCircuitOpen,
    LedgerError,
    Unavailable,
)
from .ids import hold_id, new_id
from .options import HoldOptions
from .outcomes import Captured, Outcome, Released, Reserved, outcome_of
from .outcomes import read as read_outcome
from .pricing import Quote, price_units, priced
from .retry import Retry
from .settlement import Capture, Ending, Keep, Release, decide
from .sizing import Percentile, sized
from .stream import Stream
from .trace import trace_member
from .usage import Seen, Usage, read_chunk
from .watch import Watch

log = logging.getLogger("holdfast")

LIFE_MAX_S = 24 * 3_600.0 - 30.0
"""The longest life of a hold, less a margin: the ledger counts it by its own clock."""
EXTEND_S = 5.0
"""How long an extension waits for its outcome at most."""
P = ParamSpec("P")
T = TypeVar("T")


class Hold:
    """One hold. `id`, `quote`, `max_output_tokens` (which `fit` may have lowered) and `outcome`.

    `outcome` is how it was settled: None while it is open, when it was kept, and when the ledger did
    not answer in time, in which case the journal sees to it.
    """

    def __init__(self, core: Core, account: str, options: HoldOptions) -> None:
        self.account = account
        self.options = options
        self.max_output_tokens = options.max_output_tokens
        self.outcome: Outcome | None = None
        self.id: UUID
        self.quote: Quote
        self.reserved: Reserved
        self._core = core
        self._trace = trace_member(options.traceparent)
        self._scale: int
        self._watch: Watch
        self._unsure: Capture | None = None
        self._heart: asyncio.Task[None] | None = None
        self._sent = 0.0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(error)

    # Reserving

    async def open(self) -> None:
        """Reserves. Raises what the ledger rejects it with; then there is nothing to settle.

        `CostsNothing`, before anything is sent, for a call whose price is zero.
        """
        options = self.options
        journal = self._core.journal
        self.quote = await self._core.quotes.get(options.model, options.provider, options.variant)
        self._scale = await self._core.assets.scale(self.account, self.quote.asset)
        samples = await journal.samples(self.quote.model) if isinstance(options.sizing, Percentile) else []
        tokens = sized(options.sizing, self._estimate(), self.quote.rates, self._scale, samples)
        try:
            await self._reserve(tokens)
        except InsufficientFunds as error:
            affordable = error.affordable_output_tokens
            if not options.fit or affordable is None or affordable < max(options.min_output_tokens, 1):
                raise
            self.max_output_tokens = min(affordable, self.max_output_tokens)
            await self._reserve({**tokens, "output": self.max_output_tokens})
        self._heart = self._core.beat(self._beat(self._sent))

    def _estimate(self) -> dict[str, int]:
        """The worst case, in the dimensions that have a rate."""
        given = self.options.input_tokens
        inputs = {"input": given} if isinstance(given, int) else dict(given)
        output = {"output": self.options.max_output_tokens} if self.options.max_output_tokens else {}
        calls = {"request": 1} if "request" in self.quote.rates else {}
        return priced({**calls, **inputs, **output}, self.quote.rates)

    async def _reserve(self, tokens: Mapping[str, int]) -> None:
        options = self.options
        if price_units(tokens, self.quote.rates, self._scale) == 0:
            raise CostsNothing(f"a call of {options.model} costs nothing; it needs no hold")
        command = new_id()
        self.id = hold_id(self._core.bus.issuer, options.job_id) if options.job_id else command
        body = body_bytes(
            amount=self._price(tokens),
            hold=None if options.job_id else str(self.id),
            job_id=options.job_id,
            ttl_ms=int(options.ttl_s * 1000),
            overage=options.overage,
            on_expiry=options.on_expiry,
            late=options.late,
            usage=self.quote.usage(tokens, "estimated"),
            trace=self._trace,
        )
        journal = self._core.journal
        writing = self._core.spawn(journal.reserving(self.id, self.account, command, body))
        try:
            is_new = await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._core.spawn(self._not_sent(writing))
            raise
        if not is_new:
            raise HoldExists("a hold of this job is open in this process", {"hold": str(self.id)})
        self._sent = time.monotonic()
        try:
            raw = await self._core.bus.ask("reserve", self.account, body, command)
            await journal.reserved(self.id)
        except LedgerCircuitOpen as error:
            await journal.ended(self.id, to_json({"code": error.code, "detail": error.detail}).decode())
            raise
        except Unavailable:
            self._core.settler.pursue(self.id)
            raise
        except LedgerError as error:
            await journal.ended(self.id, to_json(error.outcome or {"code": error.code}).decode())
            raise
        except BaseException:
            self._core.settler.pursue(self.id)
            raise
        self.reserved = read_outcome(Reserved, raw)
        self._watch = Watch(self._core, self.id, self.quote, options, tokens)

    async def _not_sent(self, writing: asyncio.Task[bool]) -> None:
        """Whoever opened the hold was cancelled before the reserve was sent."""
        try:
            if await writing:
                detail = {"code": "cancelled", "detail": "the reserve was not sent"}
                await self._core.journal.ended(self.id, to_json(detail).decode())
        except sqlite3.Error as error:
            log.error("hold %s: the journal did not take its end: %r", self.id, error)

    def _price(self, tokens: Mapping[str, int]) -> str:
        return units_text(price_units(tokens, self.quote.rates, self._scale), self._scale)

    # What becomes of the call

    async def dispatched(self) -> None:
        """Say so before the request goes to the provider: from here on the hold is not released on doubt.

        On return it is on the disk. `call` and `stream` do it by themselves.
        """
        await self._watch.dispatch()

    async def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Awaits `fn(…)`, the provider's call, and reads the usage out of its answer where it can.

        `ProviderCircuitOpen` when this provider failed several times in a row. An answer with an
        HTTP status of an error counts as `ProviderError`.
        """
        return await self._watch.call(fn, *args, **kwargs)

    def stream(self, source: AsyncIterable[T], read: Callable[[T], Seen] = read_chunk) -> Stream[T]:
        """Iterates over the provider's chunks and keeps count of what came.

        `read` tells usage and text of a chunk; the default knows OpenAI, Anthropic and Gemini.
        """
        return self._watch.stream(source, read)

    def observe(self, usage: Usage | Mapping[str, int] | None) -> None:
        """The provider reported `usage`: of each dimension the latest report counts. None is no report.

        `ValueError` for a dimension that has no rate.
        """
        self._watch.observe(usage)

    def observe_text(self, text: str) -> None:
        """Output that came: counted by its bytes where the provider reports nothing."""
        self._watch.observe_text(text)

    # Settling

    async def capture(
        self,
        usage: Usage | Mapping[str, int] | None = None,
        *,
        final: bool = True,
        reason: str | None = None,
    ) -> Captured:
        """Charges `usage`, else what was observed, else (only in a final one) what was reserved for.

        With `final=False` the hold goes on with less, and what was charged is not charged again;
        `ValueError` when the part would cost nothing.
        Raises what the ledger rejects it with; `Unavailable` when no outcome came in time (the
        journal then sees to a final one); `AlreadySettled` for a second final one.
        """
        self._watch.must_be_open()
        return cast(Captured, await self._core.shielded(self._capture(usage, final, reason)))

    async def _capture(
        self, usage: Usage | Mapping[str, int] | None, final: bool, reason: str | None
    ) -> Outcome:
        def planned() -> Capture:
            if usage is None:
                return self._observed_capture(final, reason)
            tokens = (usage if isinstance(usage, Usage) else Usage(usage)).tokens
            rated = priced(tokens, self.quote.rates)
            why = reason or ("completed" if final else "part")
            return Capture(why, "reported", self._watch.meter.one_call(rated))

        await self._ask_again(planned if final else None)
        return await (self._settle(planned()) if final else self._charge(planned()))

    def _observed_capture(self, final: bool, reason: str | None) -> Capture:
        meter = self._watch.meter
        if final:
            # A call that was not reported after one that was adds nothing to that.
            reported = any(run.complete for run in meter.runs)
            tokens, source = meter.ended(finished=meter.complete or not reported).whole()
            return Capture(
                reason or ("usage_missing" if source == "estimated" else "completed"), source, tokens
            )
        found = meter.delivered()
        if found is None:
            raise ValueError("nothing was observed that a partial capture could charge")
        return Capture(reason or "part", found[1], found[0])

    async def release(self, reason: str = "not_dispatched") -> Released:
        """Frees the hold. Only when the provider certainly charges nothing."""
        self._watch.must_be_open()
        return cast(Released, await self._core.shielded(self._release(reason)))

    async def _release(self, reason: str) -> Outcome:
        await self._ask_again(lambda: Release(reason))
        return await self._settle(Release(reason))

    async def close(self, error: BaseException | None = None) -> None:
        """Settles by the table, unless that was done; `error` is what ended the block, if anything.

        A rejection of the capture is raised when there is no `error`; a ledger that does not answer
        is not, as the journal sees to it.
        """
        if self._watch.sealed:
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit) and self._watch.drains():
            # Whoever was cancelled does not wait for the rest of the stream; the ledger's close does.
            self._core.spawn(self._end_unheard(error))
            return
        try:
            await self._core.shielded(self._end(error))
        except Unavailable as late:
            log.warning("hold %s will be settled later: %s", self.id, late)
        except LedgerError as rejected:
            if error is None:
                raise
            error.add_note(f"hold {self.id} was not settled as meant: {rejected}")

    async def _end_unheard(self, error: BaseException) -> None:
        try:
            await self._end(error)
        except LedgerError as trouble:
            log.warning("hold %s was not settled as meant, or will be later: %s", self.id, trouble)

    async def _end(self, error: BaseException | None) -> None:
        call = await self._watch.over(error)
        # Before anything is decided: what is left to charge depends on it.
        await self._ask_again(lambda: decide(call, self._watch.meter))
        await self._carry_out(decide(call, self._watch.meter))

    async def _carry_out(self, ending: Ending) -> None:
        if not isinstance(ending, Keep):
            await self._settle(ending)
            return
        self._seal()
        self._core.holds["kept"] += 1
        try:
            await self._core.journal.ended(self.id, "kept")
        except sqlite3.Error as error:
            log.error("hold %s: the journal did not take that it is kept: %r", self.id, error)
            self._core.settler.pursue(self.id)

    async def _settle(self, ending: Capture | Release) -> Outcome:
        """The one final command."""
        self._seal()
        verb, body = self._command(ending, final=True)
        try:
            self.outcome = outcome_of(await self._core.settler.settle(self.id, self.account, verb, body))
        except LedgerError:
            self._core.holds["unsettled"] += 1
            raise
        self._core.holds[f"{verb}d"] += 1
        await self._sample(ending)
        return self.outcome

    async def _charge(self, part: Capture) -> Outcome:
        """A partial capture; the hold goes on."""
        if price_units(part.tokens, self.quote.rates, self._scale) == 0:
            raise ValueError("a partial capture must cost something")
        _, body = self._command(part, final=False)
        meter = self._watch.meter
        meter.charge(part.tokens)
        tokens, source = meter.delivered() or (None, None)
        observed = None if tokens is None else to_json(tokens).decode()
        command = new_id()
        try:
            await self._core.journal.parting(self.id, command, body, observed, source)
        except Exception:
            self._not_charged(part)
            raise
        try:
            raw = await self._core.settler.outcome(self.id, "capture", self.account, body, command)
        except Unavailable:
            self._unsure = part
            raise
        except LedgerError:
            self._not_charged(part)
            raise
        return outcome_of(raw)

    async def _ask_again(self, end: Callable[[], Ending] | None) -> None:
        """Learns what became of a partial capture that no outcome came for.

        When that cannot be learned, what was to be the `end` follows the part as after a crash: what
        it would have charged is observed, and the journal sees to it.
        """
        if self._unsure is None:
            return
        try:
            accepted = await self._core.settler.again(self.id)
        except Unavailable:
            if end is not None:
                self._watch.write()
                planned = end()
                if isinstance(planned, Capture) and planned.source != "estimated":
                    tokens = to_json(planned.tokens).decode()
                    self._core.journal.observed(self.id, tokens, planned.source)
                self._seal()
                self._core.settler.pursue(self.id)
            raise
        part, self._unsure = self._unsure, None
        if not accepted:
            self._not_charged(part)

    def _not_charged(self, part: Capture) -> None:
        self._watch.meter.uncharge(part.tokens)
        self._watch.write()

    def _command(self, ending: Capture | Release, *, final: bool) -> tuple[str, bytes]:
        if isinstance(ending, Release):
            return "release", body_bytes(hold=str(self.id), reason=ending.reason, trace=self._trace)
        return "capture", body_bytes(
            hold=str(self.id),
            amount=self._price(ending.tokens),
            final=None if final else False,
            reason=ending.reason,
            usage=self.quote.usage(ending.tokens, ending.source),
            trace=self._trace,
        )

    async def _sample(self, ending: Capture | Release) -> None:
        if isinstance(ending, Capture) and ending.reason == "completed":
            for output in self._watch.meter.outputs():
                try:
                    await self._core.journal.sample(self.quote.model, output)
                except sqlite3.Error as error:
                    log.error("the journal did not take a sample: %r", error)

    def _seal(self) -> None:
        """From here on nothing is observed and nothing else settles this hold."""
        self._watch.seal()
        if self._heart is not None:
            self._heart.cancel()

    # Staying alive

    async def _beat(self, sent: float) -> None:
        """Extends the hold whenever half of its time is over, until it is settled or has ended.

        Its time counts from before the reserve was `sent`. What fails is tried again soon.
        """
        ttl_s = self.options.ttl_s
        life_end, due = sent + LIFE_MAX_S, sent + ttl_s / 2
        retry = Retry(attempts=1, attempt_s=min(EXTEND_S, max(ttl_s / 16, 0.1)))
        while True:
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            asked = time.monotonic()
            extend_s = min(ttl_s, life_end - asked)
            if extend_s <= 0:
                log.warning("hold %s has reached its longest life and is not extended any more", self.id)
                return
            body = body_bytes(hold=str(self.id), ttl_ms=int(extend_s * 1000))
            try:
                await self._core.bus.ask("extend", self.account, body, new_id(), retry=retry)
            except Unavailable as error:
                log.warning("hold %s was not extended: %s", self.id, error)
                due = time.monotonic() + ttl_s / 16
            except LedgerError as error:
                log.warning("hold %s is not extended any more: %s", self.id, error)
                return
            else:
                if extend_s < ttl_s:
                    return
                due = asked + ttl_s / 2
