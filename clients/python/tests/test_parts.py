"""The small parts: errors, outcomes, breaker, retries, trace."""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import islice

import pytest
from opentelemetry.sdk.trace import TracerProvider
from stack import REPOSITORY

from holdfast import Breaker, Retry, errors
from holdfast.outcomes import Captured, Outcome, outcome_of
from holdfast.trace import trace_member

BALANCES = {
    "account": "a",
    "asset": "USD",
    "posted": "1",
    "held": "-0.5",
    "available": "1.5",
    "replayed": False,
}
ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def test_every_code_of_the_documentation_has_a_class() -> None:
    text = (REPOSITORY / "docs/errors.md").read_text(encoding="utf-8")
    codes = set(re.findall(r"^## `(\w+)`$", text, re.MULTILINE))
    assert len(codes) > 30
    assert codes - errors.BY_CODE.keys() == set()
    assert errors.BY_CODE["unavailable"] is errors.Unavailable


def test_an_outcome_with_a_code_is_an_exception_with_its_data() -> None:
    ended = {
        "id": ID,
        "kind": "rejected",
        "code": "hold_settled",
        "winner": {"kind": "captured", "position": 8},
    }
    error = errors.error_of({**BALANCES, **ended, "detail": "so it is"})
    assert isinstance(error, errors.HoldSettled)
    assert (error.winner, error.remembered, str(error.command_id)) == (errors.Winner("captured", 8), True, ID)
    assert str(error) == "hold_settled: so it is"
    later = errors.error_of({"id": ID, "kind": "refused", "code": "made_up_later"})
    assert type(later) is errors.Refused
    assert (later.detail, later.remembered) == ("made_up_later", False)


def test_an_outcome_is_read_whatever_else_is_in_it() -> None:
    raw = {
        **BALANCES,
        "id": ID,
        "position": 3,
        "kind": "captured",
        "hold": ID,
        "amount": "2",
        "absorbed": "0",
    }
    found = outcome_of({**raw, "released": "0.25", "later": 1})
    assert isinstance(found, Captured)
    assert (found.amount, found.released, found.held) == (2, Decimal("0.25"), Decimal("-0.5"))
    assert type(outcome_of({**raw, "kind": "made_up_later"})) is Outcome


def test_a_breaker_opens_probes_and_closes() -> None:
    now = [0.0]
    breaker = Breaker(failures_max=2, open_s=5.0, clock=lambda: now[0])
    states = []
    for step in ("failed", "succeeded", "failed", "failed"):
        assert breaker.admits()
        getattr(breaker, step)()
        states.append(breaker.state)
    assert states == ["closed", "closed", "closed", "open"]
    assert not breaker.admits()
    now[0] = 5.0
    assert breaker.state == "half_open"
    assert breaker.admits()
    assert not breaker.admits(), "one probe at a time"
    breaker.failed()
    assert (breaker.state, breaker.opened_at) == ("open", 5.0)
    now[0] = 10.0
    assert breaker.admits()
    breaker.abandoned()
    assert breaker.admits(), "a probe that told nothing is followed by another"
    breaker.succeeded()
    assert breaker.metrics() == {
        "state": "closed",
        "failures_in_a_row": 0,
        "successes": 2,
        "failures": 4,
        "short_circuits": 2,
        "opened": 2,
    }


def test_pauses_grow_up_to_a_bound() -> None:
    retry = Retry(attempts=3, attempt_s=2.0, pause_s=1.0, pause_max_s=4.0)
    for pause, most in zip(islice(retry.pauses(), 5), [1.0, 2.0, 4.0, 4.0, 4.0], strict=True):
        assert most / 2 <= pause <= most
    assert retry.patience_s == 9.0


def test_the_trace_is_the_argument_or_the_current_span() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert trace_member(parent) == parent
    assert trace_member(None) is None
    with TracerProvider().get_tracer("test").start_as_current_span("call") as span:
        context = span.get_span_context()
        assert (
            trace_member(None)
            == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        )
        assert trace_member(parent) == parent
    for wrong in ("", parent.upper(), parent + "-00", "01" + parent[2:]):
        with pytest.raises(ValueError, match="traceparent"):
            trace_member(wrong)
