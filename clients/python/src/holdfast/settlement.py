"""How a call is settled, as a function of what is known when it is over. Nothing here does anything.

| what happened | what follows |
|---|---|
| the call was never sent | release, `not_dispatched` |
| the provider answered with an error, and no output had come | release, `provider_error` |
| success with a report of usage, all zeros too | capture it, `completed` |
| success without a report | capture what was reserved for, `usage_missing` |
| broken or abandoned after output, or a report of the whole call, had come | capture that, `aborted` |
| unknown whether the provider worked | keep the hold: it is never released on doubt |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from .errors import NotDispatched, ProviderError
from .pricing import Rates, Tokens, check_count, priced
from .usage import Usage, estimate_tokens

HTTP_ERRORS = range(400, 600)
UNSURE_STATUSES = frozenset([408, 499, 504, 522, 524])
"""Answers that say only that somebody waited too long: the provider may have worked."""


class Failure(Enum):
    """What an exception says about the provider."""

    NOT_DISPATCHED = "not_dispatched"
    PROVIDER_ERROR = "provider_error"
    UNKNOWN = "unknown"


def http_status(answer: object) -> int | None:
    """The HTTP status of an error, of a response or of an exception of the usual clients; else None.

    Other numbers that go by the same names, such as codes of gRPC, of a database or of a web socket,
    say nothing.
    """
    for holder in (answer, getattr(answer, "response", None)):
        for name in ("status_code", "status", "code"):
            found = getattr(holder, name, None)
            if isinstance(found, int) and found in HTTP_ERRORS:
                return found
    return None


def classify(error: BaseException) -> Failure:
    """What `error` says: `ProviderError`, `NotDispatched`, or the HTTP status of a client's exception.

    Time-outs, lost connections and everything else say nothing, and nor does a `ProviderError` with a
    status that only says that somebody waited too long.
    """
    if isinstance(error, NotDispatched):
        return Failure.NOT_DISPATCHED
    if isinstance(error, ProviderError) and error.status not in UNSURE_STATUSES:
        return Failure.PROVIDER_ERROR
    return answered_with(http_status(error))


def answered_with(status: int | None) -> Failure:
    """What an HTTP status says."""
    answered = status in HTTP_ERRORS and status not in UNSURE_STATUSES
    return Failure.PROVIDER_ERROR if answered else Failure.UNKNOWN


@dataclass(frozen=True)
class Release:
    """Free the hold."""

    reason: str


@dataclass(frozen=True)
class Capture:
    """Charge the price of `tokens`."""

    reason: str
    source: str
    tokens: Tokens


@dataclass(frozen=True)
class Keep:
    """Leave the hold to expire, or to whoever learns more."""


Ending = Release | Capture | Keep


@dataclass
class Run:
    """What is known of one call of the provider: its reports are cumulative, so the latest counts.

    The dimensions are those of the provider. `finished` is true when its answer is whole.
    """

    reported: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    text_bytes: int = 0
    finished: bool = False


@dataclass
class Meter:
    """What is known to have been used under one hold that was reserved for `estimate` at `rates`.

    Each call of the provider is a run; what several used is summed. What parts have charged is taken
    out of that.
    """

    estimate: Tokens
    rates: Rates
    runs: list[Run] = field(default_factory=lambda: [Run()])
    charged: dict[str, int] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        """The latest call."""
        return self.runs[-1]

    def start(self) -> Run:
        """Another call begins, with a report of its own.

        A part that charged more than was known of the earlier calls does not pay for this one.
        """
        if self.charged:
            known = self._came()[0]
            at_most = known if known and not self._missing() else plus(known, self.estimate)
            clipped = {name: min(count, at_most.get(name, 0)) for name, count in self.charged.items()}
            self.charged = {name: count for name, count in clipped.items() if count}
        self.runs.append(Run())
        return self.run

    def observe(self, usage: Usage, run: Run | None = None) -> None:
        """The provider reported usage of `run`, else of the latest call; of a dimension the latest counts.

        One that does not count the output is not of the whole call, unless none was reserved for.
        `ValueError`, and nothing is changed, for what has no price.
        """
        run = run or self.run
        before = run.reported, run.complete
        counts_output = any(is_output(name) for name in usage.tokens) or not has_output(self.estimate)
        run.reported = run.reported | dict(usage.tokens)
        run.complete = run.complete or (usage.complete and counts_output)
        try:
            priced(run.reported, self.rates)
            for name, count in self._came()[0].items():
                check_count(name, count)
        except ValueError:
            run.reported, run.complete = before
            raise

    @property
    def complete(self) -> bool:
        """Whether the latest call was reported whole."""
        return self.run.complete

    @property
    def worked(self) -> bool:
        """Whether a report of a whole call counts anything that no part has charged."""
        reports = (priced(run.reported, self.rates) for run in self.runs if run.complete)
        return any(minus(summed(reports), self.charged).values())

    @property
    def output_came(self) -> bool:
        """Whether any output is known that no part has charged."""
        if self.charged:
            return has_output(self.uncharged(self._came()[0]))
        return any(run.text_bytes > 0 or has_output(run.reported) for run in self.runs)

    @property
    def began(self) -> bool:
        """Whether anything is known to have been used."""
        return self.output_came or any(run.reported for run in self.runs)

    def delivered(self) -> tuple[Tokens, str] | None:
        """What came and was not charged yet, with its source; None when nothing shows that anything was used.

        Output that was counted by its text is at most what was reserved for; what the provider
        reports is not bounded.
        """
        came, source = self._came()
        if not came:
            return None
        tokens = self.uncharged(came)
        # What parts have charged to the last token says nothing of what the provider does since.
        if self.charged and not any(tokens.values()):
            return None
        return tokens, source

    @property
    def answered(self) -> bool:
        """Whether any call was finished."""
        return any(run.finished for run in self.runs)

    def whole(self) -> tuple[Tokens, str]:
        """What all calls have used, with its source.

        For those that were finished and reported nothing what was reserved for is taken, once.
        """
        came, source = self._came()
        if self._missing():
            return self.uncharged(plus(came, self.estimate)), "estimated"
        return self.uncharged(came), source

    def outputs(self) -> list[int]:
        """The output of each call that was reported whole."""
        return [priced(run.reported, self.rates).get("output", 0) for run in self.runs if run.complete]

    def ended(self, finished: bool) -> Meter:
        """The same, with the latest call finished or not."""
        return replace(self, runs=[*self.runs[:-1], replace(self.run, finished=finished)])

    def _missing(self) -> bool:
        return any(run.finished and not run.complete for run in self.runs)

    def _came(self) -> tuple[dict[str, int], str]:
        """What all calls are known to have used, whoever charged it; nothing when nothing shows that."""
        room = self.estimate.get("output", 0)
        found, source = [], "reported"
        for run in self.runs:
            if run.finished and not run.complete:
                continue
            # A report of no output in a stream that has brought text was made before the text was counted.
            if run.text_bytes and not has_output(run.reported) and not (run.finished and run.complete):
                counted = min(estimate_tokens(run.text_bytes), room)
                room -= counted
                source = "delivered"
                found.append({**self._report(run), "output": counted})
            elif run.complete or has_output(run.reported):
                found.append(self._report(run))
        return summed(found), source

    def _report(self, run: Run) -> dict[str, int]:
        """What was reported; the input as estimated where nothing was said of input, and the call itself."""
        # Only here, as a later report of the same call may name other dimensions.
        reported = priced(run.reported, self.rates)
        said = any(is_input(name) for name in reported)
        estimated = {} if said else {name: n for name, n in self.estimate.items() if is_input(name)}
        return self._request() | estimated | reported

    def charge(self, part: Tokens) -> None:
        """A part charges `part`, which is not charged again."""
        for name, count in part.items():
            self.charged[name] = self.charged.get(name, 0) + count

    def uncharge(self, part: Tokens) -> None:
        """It did not after all."""
        left = minus(self.charged, part)
        self.charged = {name: count for name, count in left.items() if count}

    def uncharged(self, tokens: Tokens) -> dict[str, int]:
        """`tokens`, and the call itself, less what partial captures have charged."""
        return minus({**self._request(), **tokens}, self.charged)

    def one_call(self, tokens: Tokens) -> dict[str, int]:
        """`tokens` as they are, and the call itself unless it was charged."""
        return {**minus(self._request(), self.charged), **tokens}

    def _request(self) -> dict[str, int]:
        """This one call, where calls have a price."""
        return {"request": 1} if "request" in self.rates else {}


def is_input(dimension: str) -> bool:
    """Whether `dimension` counts input, and so towards the tier basis."""
    return dimension.startswith(("input", "cache"))


def is_output(dimension: str) -> bool:
    """Whether `dimension` counts output."""
    return dimension.startswith("output")


def has_output(tokens: Tokens) -> bool:
    """Whether any output is counted."""
    return any(is_output(name) and count > 0 for name, count in tokens.items())


def minus(tokens: Tokens, charged: Tokens) -> dict[str, int]:
    """`tokens` less `charged`, none below 0."""
    return {name: max(count - charged.get(name, 0), 0) for name, count in tokens.items()}


def plus(tokens: Tokens, more: Tokens) -> dict[str, int]:
    """Both together."""
    return {name: tokens.get(name, 0) + more.get(name, 0) for name in (*tokens, *more)}


def summed(many: Iterable[Tokens]) -> dict[str, int]:
    """All together."""
    total: dict[str, int] = {}
    for tokens in many:
        total = plus(total, tokens)
    return total


@dataclass(frozen=True)
class Call:
    """What became of the latest call itself, and of those before it under the same hold.

    `finished` is true when the answer is whole; `abandoned` when its reader went away, even if it
    was read to its end afterwards. `maybe_ran` is true when any call succeeded, or ended so that
    nobody knows whether the provider worked.
    """

    dispatched: bool
    finished: bool
    abandoned: bool = False
    failure: Failure | None = None
    maybe_ran: bool = False


def decide(call: Call, meter: Meter) -> Ending:
    """The row of the table that applies."""
    if not call.dispatched and not meter.began:
        return Release("not_dispatched")
    if not call.maybe_ran:
        if call.failure is Failure.NOT_DISPATCHED and not meter.began:
            return Release("not_dispatched")
        if call.failure is Failure.PROVIDER_ERROR and not meter.output_came and not meter.worked:
            return Release("provider_error")
    answered = call.finished and call.failure is not Failure.PROVIDER_ERROR
    meter = meter.ended(answered and (meter.complete or not call.abandoned))
    if not meter.answered:
        return _broken(meter)
    whole = meter.whole()
    if whole[1] == "estimated":
        return Capture("usage_missing", "estimated", whole[0])
    # A call that came to nothing after one that was finished takes nothing away from that.
    nothing = not (meter.run.text_bytes or meter.run.reported)
    completed = meter.run.finished or nothing
    return Capture("completed" if completed and not call.abandoned else "aborted", whole[1], whole[0])


def _broken(meter: Meter) -> Ending:
    """What came, where it shows that the provider worked: output, or a report of the whole call."""
    found = meter.delivered()
    return Keep() if found is None else Capture("aborted", found[1], found[0])


def capture_members(usage: Mapping[str, Any], tokens: Tokens, source: str) -> dict[str, Any]:
    """The `usage` of a capture under a hold that was reserved with `usage`: the same rates."""
    return {**usage, "source": source, "tokens": dict(tokens)}
