"""How many output tokens a hold is reserved for, when the model may produce up to a maximum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .amounts import Amount, units_of
from .pricing import Rates, Tokens, affordable_output

CALLS_KNOWN_MIN = 20
"""Below so many samples a percentile says nothing, and the worst case is taken."""


@dataclass(frozen=True)
class WorstCase:
    """The maximum."""


@dataclass(frozen=True)
class Capped:
    """The maximum, or as many tokens as keep the whole hold at `amount` (whole units) or less."""

    amount: Amount


@dataclass(frozen=True)
class Percentile:
    """What `percent` of the model's earlier calls did not exceed, at most the maximum."""

    percent: int = 95


Sizing = WorstCase | Capped | Percentile


def sized(sizing: Sizing, tokens: Tokens, rates: Rates, scale: int, samples: Sequence[int]) -> dict[str, int]:
    """`tokens`, whose `output` is the maximum, with the output that is reserved for.

    `ValueError` when the input alone costs more than a cap.
    """
    if isinstance(sizing, Capped):
        output = affordable_output(tokens, rates, units_of(sizing.amount, scale), scale)
        if output is None:
            raise ValueError(f"the call costs more than {sizing.amount} even without any output")
        return {**tokens, "output": output} if "output" in tokens else dict(tokens)
    if isinstance(sizing, Percentile) and len(samples) >= CALLS_KNOWN_MIN and "output" in tokens:
        return {**tokens, "output": min(tokens["output"], percentile(samples, sizing.percent))}
    return dict(tokens)


def percentile(samples: Sequence[int], percent: int) -> int:
    """The smallest sample that at least `percent` of them do not exceed (nearest rank)."""
    if not 1 <= percent <= 100:  # noqa: PLR2004
        raise ValueError(f"a percentile is from 1 to 100, not {percent}")
    rank = -(-len(samples) * percent // 100)
    return sorted(samples)[rank - 1]
