"""Several calls under one hold, and exceptions that are not the provider's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from calls import ESTIMATE, RESERVED
from conftest import balance_at

from holdfast import Failure, Hold, Ledger, ProviderError, Usage
from holdfast.outcomes import Captured, Released
from holdfast.settlement import Call, Capture, Keep, Meter, Release, decide

RATES = {"input": ((0, 1),), "output": ((0, 1),)}
ONE = {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
TWO = {"usage": {"prompt_tokens": 10, "completion_tokens": 7}}
UNREPORTED = {"choices": [{"message": {"content": "a whole answer"}}]}


class Away(Exception):
    """Not the provider's: somebody's database answered so."""

    status_code = 503


async def answering(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def stream_of(*chunks: Any) -> AsyncIterator[Any]:
    for chunk in chunks:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


async def tries(hold: Hold, *answers: Any) -> None:
    for answer in answers:
        with suppress(TimeoutError, ProviderError, ConnectionError):
            if isinstance(answer, tuple):
                async for _ in hold.stream(stream_of(*answer)):
                    pass
            else:
                await hold.call(answering, answer)


async def embeds(hold: Hold) -> None:
    await hold.call(answering, {"usage": {"prompt_tokens": 900, "total_tokens": 900}})


async def at_once(hold: Hold) -> None:
    first = asyncio.Event()

    async def one() -> Any:
        await first.wait()
        return ONE

    async def two() -> Any:
        first.set()
        return TWO

    await asyncio.gather(hold.call(one), hold.call(two))


async def opens_a_stream(hold: Hold) -> None:
    opened = await hold.call(answering, stream_of(ONE))
    async for _ in hold.stream(opened):
        pass


async def opens_by_response(hold: Hold) -> None:
    await hold.call(answering, object())
    await tries(hold, (ONE,))


async def calls_inside(hold: Hold) -> None:
    async def function() -> Any:
        await hold.dispatched()
        return await hold.call(answering, ONE)

    await hold.call(function)


async def streams_inside(hold: Hold) -> None:
    async def function() -> None:
        await tries(hold, (ConnectionError(),), (ONE,))

    await hold.call(function)


async def by_hand_twice(hold: Hold) -> None:
    for usage in ({"input": 1000, "output": 100}, {"input": 10, "output": 7}):
        await hold.dispatched()
        hold.observe({"output": 1})
        hold.observe(usage)


def after(*answers: Any, then: BaseException | None = None) -> Callable[[Hold], Awaitable[None]]:
    async def steps(hold: Hold) -> None:
        await tries(hold, *answers)
        if then is not None:
            raise then

    return steps


SUM = {"input": 1010, "output": 107}
FIRST = {"input": 1000, "output": 100}
ESTIMATED = {"input": 1200, "output": 4000}
TIMES = TimeoutError("read timed out")
SAYS_NO = ProviderError("slow down", 429)
ENDS: list[tuple[str, Any, str, dict[str, int]]] = [
    ("reported, then somebody else's error", after(ONE, then=Away()), "completed", FIRST),
    ("not reported, then somebody else's error", after(UNREPORTED, then=Away()), "usage_missing", ESTIMATED),
    ("a whole stream, then somebody else's error", after((ONE,), then=Away()), "completed", FIRST),
    ("reported, then cancelled", after(ONE, then=asyncio.CancelledError()), "completed", FIRST),
    ("a time-out, then 429", after(TIMES, SAYS_NO), "kept", {}),
    ("a time-out, then 429 that leaves", after(TIMES, SAYS_NO, then=SAYS_NO), "kept", {}),
    ("429 only", after(SAYS_NO, SAYS_NO), "provider_error", {}),
    ("429, then an answer", after(SAYS_NO, ONE), "completed", FIRST),
    ("a time-out, then an answer", after(TIMES, ONE), "completed", FIRST),
    ("an answer, then 429", after(ONE, SAYS_NO), "completed", FIRST),
    ("an answer that was not reported, then 429", after(UNREPORTED, SAYS_NO), "usage_missing", ESTIMATED),
    ("two answers", after(ONE, TWO), "completed", SUM),
    ("two streams", after((ONE,), (TWO,)), "completed", SUM),
    ("a stream that broke, then an answer", after(("x" * 8, ConnectionError()), TWO), "completed",
     {"input": 1210, "output": 9}),
    ("an answer, then a stream that broke", after(ONE, ("x" * 8, ConnectionError())), "aborted",
     {"input": 2200, "output": 102}),
    ("two at once", at_once, "completed", SUM),
    ("a call that opens a stream", opens_a_stream, "completed", FIRST),
    ("a call whose response is streamed", opens_by_response, "completed", FIRST),
    ("a call inside a call", calls_inside, "completed", FIRST),
    ("streams inside a call", streams_inside, "completed", FIRST),
    ("by hand, twice", by_hand_twice, "completed", SUM),
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "reason", "tokens"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS]
)
async def test_several_calls(
    ledger: Ledger, account: str, steps: Any, reason: str, tokens: dict[str, int]
) -> None:
    hold = ledger.hold(account, **ESTIMATE)
    with suppress(Away, ProviderError, asyncio.CancelledError):
        async with hold:
            await steps(hold)
    row = await ledger._core.journal.row(hold.id)
    assert row is not None
    if reason == "kept":
        assert row.ending == "kept"
        assert (await balance_at(ledger, account, hold.reserved.position)).held == RESERVED
    elif not tokens:
        assert isinstance(hold.outcome, Released)
        assert f'"reason":"{reason}"' in str(row.settle_body)
    else:
        assert isinstance(hold.outcome, Captured)
        assert hold.outcome.amount == hold.quote.price(tokens)
        assert f'"reason":"{reason}"' in str(row.settle_body)


async def test_an_embedding_that_was_answered_is_charged(ledger: Ledger, account: str) -> None:
    hold = ledger.hold(account, model="text-embedding-3-small", provider="openai", input_tokens=1000)
    with pytest.raises(Away):
        async with hold:
            await embeds(hold)
            raise Away
    assert isinstance(hold.outcome, Captured)
    assert hold.outcome.amount == hold.quote.price({"input": 900})


async def test_by_hand_a_report_of_the_whole_call_is_not_released(ledger: Ledger, account: str) -> None:
    hold = ledger.hold(account, model="text-embedding-3-small", provider="openai", input_tokens=1000)
    with pytest.raises(Away):
        async with hold:
            await hold.dispatched()
            hold.observe({"input": 900})
            raise Away
    assert isinstance(hold.outcome, Captured)


async def test_a_part_of_one_call_does_not_pay_for_the_next(ledger: Ledger, account: str) -> None:
    async with ledger.hold(account, **ESTIMATE) as hold:
        await hold.dispatched()
        hold.observe({"input": 1000, "output": 100})
        await hold.capture(final=False)
        hold.observe({"input": 1000, "output": 150})
        await hold.call(answering, TWO)
    assert isinstance(hold.outcome, Captured)
    assert hold.outcome.amount == hold.quote.price({"input": 10, "output": 57})


def test_a_part_that_charged_too_much_does_not_pay_for_the_next_call() -> None:
    meter = Meter({"input": 1000, "output": 500}, RATES)
    meter.observe(Usage({"input": 5, "output": 10}))
    meter.charge({"input": 5, "output": 50})
    meter.start()
    meter.observe(Usage({"input": 5, "output": 10}))
    assert meter.delivered() == ({"input": 5, "output": 10}, "reported")


def test_dimensions_are_folded_when_the_report_is_used() -> None:
    meter = Meter({"input": 1000, "output": 500}, RATES)
    meter.observe(Usage({"input": 5, "cache_read": 100, "output": 0}))
    meter.observe(Usage({"input": 7, "output": 2}))
    assert meter.delivered() == ({"input": 107, "output": 2}, "reported")
    meter.observe(Usage({"output_image": 4}))
    assert meter.delivered() == ({"input": 107, "output": 6}, "reported")
    with pytest.raises(ValueError, match="2\\^53"):
        meter.observe(Usage({"output": 2**53 - 1}))
    assert meter.delivered() == ({"input": 107, "output": 6}, "reported")


def test_what_may_have_run_is_not_released() -> None:
    meter = Meter({"input": 1000, "output": 500}, RATES)
    for failure, sure in (
        (Failure.PROVIDER_ERROR, "provider_error"),
        (Failure.NOT_DISPATCHED, "not_dispatched"),
    ):
        assert decide(Call(True, False, failure=failure), meter) == Release(sure)
        assert decide(Call(True, False, failure=failure, maybe_ran=True), meter) == Keep()
    meter.observe(Usage({"input": 5, "output": 0}))
    failed = Call(True, False, failure=Failure.PROVIDER_ERROR)
    assert decide(failed, meter) == Capture("aborted", "reported", {"input": 5, "output": 0})
