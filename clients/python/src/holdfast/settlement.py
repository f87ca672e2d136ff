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

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .errors import NotDispatched, ProviderError
from .pricing import Rates, Tokens, priced
from .usage import Usage, estimate_tokens

HTTP_ERROR = 400
UNSURE_STATUSES = frozenset([408, 504])
"""Answers that say only that somebody waited too long: the provider may have worked."""


class Failure(Enum):
    """What an exception says about the provider."""

    NOT_DISPATCHED = "not_dispatched"
    PROVIDER_ERROR = "provider_error"
    UNKNOWN = "unknown"


def http_status(answer: object) -> int | None:
    """The HTTP status of a response or of an exception of the usual clients; None when it has none."""
    for holder in (answer, getattr(answer, "response", None)):
        for name in ("status_code", "status", "code"):
            found = getattr(holder, name, None)
            if isinstance(found, int) and not isinstance(found, bool):
                return found
    return None


def classify(error: BaseException) -> Failure:
    """What `error` says: `ProviderError`, `NotDispatched`, or the HTTP status of a client's exception.

    Time-outs, lost connections and everything else say nothing.
    """
    if isinstance(error, NotDispatched):
        return Failure.NOT_DISPATCHED
    if isinstance(error, ProviderError):
        return Failure.PROVIDER_ERROR
    return answered_with(http_status(error))


def answered_with(status: int | None) -> Failure:
    """What an HTTP status says."""
    answered = status is not None and status >= HTTP_ERROR and status not in UNSURE_STATUSES
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
class Meter:
    """What is known to have been used by one call that was reserved for `estimate` at `rates`."""

    estimate: Tokens
    rates: Rates
    reported: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    text_bytes: int = 0
    charged: dict[str, int] = field(default_factory=dict)

    def observe(self, usage: Usage) -> None:
        """The provider reported usage; the latest report of a dimension counts.

        One that does not count the output is not of the whole call, unless none was reserved for.
        """
        self.reported |= priced(usage.tokens, self.rates)
        counts_output = any(is_output(name) for name in usage.tokens) or not has_output(self.estimate)
        self.complete = self.complete or (usage.complete and counts_output)

    @property
    def output_came(self) -> bool:
        """Whether any output is known that no part has charged."""
        if self.charged:
            return has_output(self._came()[0])
        return self.text_bytes > 0 or has_output(self.reported)

    @property
    def began(self) -> bool:
        """Whether anything is known to have been used."""
        return self.output_came or bool(self.reported)

    def report(self) -> dict[str, int]:
        """What was reported; the input as estimated where nothing was said of input."""
        said = any(is_input(name) for name in self.reported)
        estimated = {} if said else {name: n for name, n in self.estimate.items() if is_input(name)}
        return estimated | self.reported

    def delivered(self) -> tuple[Tokens, str] | None:
        """What came and was not charged yet, with its source; None when nothing shows that anything was used.

        Output that was counted by its text is at most what was reserved for; what the provider
        reports is not bounded.
        """
        if not self.output_came and not self.complete:
            return None
        tokens, source = self._came()
        # What parts have charged to the last token says nothing of what the provider does since.
        if self.charged and not any(tokens.values()):
            return None
        return tokens, source

    def _came(self) -> tuple[Tokens, str]:
        # A report of no output in a stream that has brought text was made before the text was counted.
        if self.text_bytes and not has_output(self.reported):
            counted = min(estimate_tokens(self.text_bytes), self.estimate.get("output", 0))
            return self.uncharged({**self.report(), "output": counted}), "delivered"
        return self.uncharged(self.report()), "reported"

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


@dataclass(frozen=True)
class Call:
    """What became of the call itself.

    `finished` is true when the answer is whole; `abandoned` when its reader went away, even if it
    was read to its end afterwards.
    """

    dispatched: bool
    finished: bool
    abandoned: bool = False
    failure: Failure | None = None


def decide(call: Call, meter: Meter) -> Ending:
    """The row of the table that applies."""
    if not call.dispatched and not meter.began:
        return Release("not_dispatched")
    if call.failure is Failure.NOT_DISPATCHED and not meter.began:
        return Release("not_dispatched")
    if call.failure is Failure.PROVIDER_ERROR and not meter.output_came:
        return Release("provider_error")
    if call.finished and call.failure is not Failure.PROVIDER_ERROR:
        return _whole(meter, "aborted" if call.abandoned else "completed")
    return _broken(meter)


def _whole(meter: Meter, reason: str) -> Ending:
    """The answer came to its end."""
    if meter.complete:
        return Capture(reason, "reported", meter.uncharged(meter.report()))
    if reason == "aborted":
        return _broken(meter)
    return Capture("usage_missing", "estimated", meter.uncharged(meter.estimate))


def _broken(meter: Meter) -> Ending:
    """What came, where it shows that the provider worked: output, or a report of the whole call."""
    found = meter.delivered()
    return Keep() if found is None else Capture("aborted", found[1], found[0])


def capture_members(usage: Mapping[str, Any], tokens: Tokens, source: str) -> dict[str, Any]:
    """The `usage` of a capture under a hold that was reserved with `usage`: the same rates."""
    return {**usage, "source": source, "tokens": dict(tokens)}
