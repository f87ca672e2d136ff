"""The table as a function, and what an exception says about the provider."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Failure, NotDispatched, ProviderCircuitOpen, ProviderError, Usage, classify
from holdfast.settlement import Call, Capture, Keep, Meter, Release, decide

RATES = {"input": ((0, 1),), "output": ((0, 1),)}
SOME, ZERO = Usage({"input": 5, "output": 2}), Usage({"input": 0, "output": 0})
START = Usage({"input": 5}, complete=False)
SENT, DONE, LEFT = Call(True, False), Call(True, True), Call(True, False, abandoned=True)
BROKEN = Call(True, False, failure=Failure.UNKNOWN)
FAILED = Call(True, False, failure=Failure.PROVIDER_ERROR)
DRAINED = Call(True, True, abandoned=True)


def meter(usage: Usage | None = None, text: int = 0, **more: Any) -> Meter:
    found = Meter({"input": 1000, "output": 500}, RATES, **more)
    found.run.text_bytes = text
    if usage is not None:
        found.observe(usage)
    return found


def captured(reason: str, source: str, input_: int, output: int) -> Capture:
    return Capture(reason, source, {"input": input_, "output": output})


CASES = [
    (Call(False, False), meter(), Release("not_dispatched")),
    (Call(False, True), meter(), Release("not_dispatched")),
    (Call(False, False, failure=Failure.UNKNOWN), meter(), Release("not_dispatched")),
    (Call(True, False, failure=Failure.NOT_DISPATCHED), meter(), Release("not_dispatched")),
    (FAILED, meter(), Release("provider_error")),
    (FAILED, meter(START), Release("provider_error")),
    (FAILED, meter(SOME), captured("aborted", "reported", 5, 2)),
    (FAILED, meter(text=8), captured("aborted", "delivered", 1000, 2)),
    (Call(True, True, failure=Failure.PROVIDER_ERROR), meter(), Release("provider_error")),
    (DONE, meter(SOME), captured("completed", "reported", 5, 2)),
    (DONE, meter(ZERO), captured("completed", "reported", 0, 0)),
    (DONE, meter(Usage({"output": 2})), captured("completed", "reported", 1000, 2)),
    (DONE, meter(), captured("usage_missing", "estimated", 1000, 500)),
    (DONE, meter(START, text=8), captured("usage_missing", "estimated", 1000, 500)),
    (BROKEN, meter(), Keep()),
    (BROKEN, meter(START), Keep()),
    (BROKEN, meter(text=9), captured("aborted", "delivered", 1000, 3)),
    (BROKEN, meter(START, text=9), captured("aborted", "delivered", 5, 3)),
    (BROKEN, meter(text=40_000), captured("aborted", "delivered", 1000, 500)),
    (BROKEN, meter(SOME, text=9), captured("aborted", "reported", 5, 2)),
    (BROKEN, meter(ZERO, text=9), captured("aborted", "delivered", 0, 3)),
    (BROKEN, meter(Usage({"input": 5, "output": 9000})), captured("aborted", "reported", 5, 9000)),
    # A report of the whole call shows that the provider worked, even without output.
    (BROKEN, meter(ZERO), captured("aborted", "reported", 0, 0)),
    (BROKEN, meter(Usage({"input": 5})), Keep()),
    (DONE, meter(Usage({"input": 5})), captured("usage_missing", "estimated", 1000, 500)),
    (FAILED, meter(ZERO), Release("provider_error")),
    (
        Call(True, False, failure=Failure.NOT_DISPATCHED),
        meter(text=8),
        captured("aborted", "delivered", 1000, 2),
    ),
    (LEFT, meter(), Keep()),
    (LEFT, meter(START), Keep()),
    (LEFT, meter(text=9), captured("aborted", "delivered", 1000, 3)),
    (DRAINED, meter(Usage({"input": 5, "output": 9000})), captured("aborted", "reported", 5, 9000)),
    (DRAINED, meter(text=9), captured("aborted", "delivered", 1000, 3)),
    (SENT, meter(), Keep()),
    (DONE, meter(SOME, charged={"input": 5, "output": 1}), captured("completed", "reported", 0, 1)),
    # After a part only what came since shows anything.
    (BROKEN, meter(SOME, charged={"input": 5, "output": 1}), captured("aborted", "reported", 0, 1)),
    (BROKEN, meter(SOME, charged={"input": 5, "output": 2}), Keep()),
    (FAILED, meter(SOME, charged={"input": 5, "output": 2}), Release("provider_error")),
    (
        BROKEN,
        meter(text=4000, charged={"input": 1000, "output": 400}),
        captured("aborted", "delivered", 0, 100),
    ),
]


@pytest.mark.parametrize(("call", "known", "expected"), CASES)
def test_the_table(call: Call, known: Meter, expected: object) -> None:
    assert decide(call, known) == expected


def test_a_call_with_a_price_of_its_own_is_counted_once() -> None:
    known = Meter({"input": 1, "request": 1}, {**RATES, "request": ((0, 9),)})
    known.observe(Usage({"input": 3}))
    assert decide(DONE, known) == Capture("completed", "reported", {"request": 1, "input": 3})
    known.charged = {"request": 1}
    assert known.one_call({"input": 2}) == {"request": 0, "input": 2}


def test_a_part_that_was_not_charged_is_to_be_charged() -> None:
    known = meter(SOME)
    known.charge({"input": 5, "output": 2})
    assert known.delivered() is None
    known.uncharge({"input": 5, "output": 2})
    assert known.charged == {}
    assert known.delivered() == ({"input": 5, "output": 2}, "reported")


def test_without_output_a_report_of_the_input_is_complete() -> None:
    embedding = Meter({"input": 9}, RATES)
    embedding.observe(Usage({"input": 5}))
    assert decide(BROKEN, embedding) == Capture("aborted", "reported", {"input": 5})


class Answered(Exception):
    def __init__(self, **members: object) -> None:
        self.__dict__ |= members


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (NotDispatched(), Failure.NOT_DISPATCHED),
        (ProviderCircuitOpen(), Failure.NOT_DISPATCHED),
        (ProviderError(), Failure.PROVIDER_ERROR),
        (Answered(status_code=429), Failure.PROVIDER_ERROR),
        (Answered(status=500), Failure.PROVIDER_ERROR),
        (Answered(code=503), Failure.PROVIDER_ERROR),
        (Answered(response=Answered(status_code=400)), Failure.PROVIDER_ERROR),
        (Answered(status_code=504), Failure.UNKNOWN),
        (Answered(status_code=408), Failure.UNKNOWN),
        (Answered(status_code=499), Failure.UNKNOWN),
        (Answered(status_code=522), Failure.UNKNOWN),
        (Answered(status_code=524), Failure.UNKNOWN),
        (Answered(status_code=600), Failure.UNKNOWN),
        (Answered(code=1013), Failure.UNKNOWN),
        (Answered(status_code=True), Failure.UNKNOWN),
        (Answered(code=14, response=Answered(status_code=429)), Failure.PROVIDER_ERROR),
        (ProviderError("gateway", 504), Failure.UNKNOWN),
        (Answered(status_code=200), Failure.UNKNOWN),
        (Answered(code="rate_limit"), Failure.UNKNOWN),
        (TimeoutError(), Failure.UNKNOWN),
        (ConnectionResetError(), Failure.UNKNOWN),
        (asyncio.CancelledError(), Failure.UNKNOWN),
        (GeneratorExit(), Failure.UNKNOWN),
        (ValueError(), Failure.UNKNOWN),
    ],
)
def test_what_an_exception_says(error: BaseException, failure: Failure) -> None:
    assert classify(error) is failure
