"""The price of tokens, exactly as the ledger computes it: whole numbers from end to end.

A rate is 10⁻¹² of the account's asset for one token, so a price is a sum of products, divided
once to the asset's smallest unit and rounded half to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .amounts import USD_SCALE, units_text

Tokens = Mapping[str, int]
"""Counts by dimension; the dimensions do not overlap."""
Rates = Mapping[str, tuple[tuple[int, int], ...]]
"""By dimension `(from, rate)` in ascending order, the first from 0."""

RATE_SCALE = 12
COUNT_BITS = 53


def tier_basis(tokens: Tokens) -> int:
    """What chooses the tier: all counts whose dimension begins with `input` or `cache`."""
    return sum(count for name, count in tokens.items() if name.startswith(("input", "cache")))


def rate_at(steps: tuple[tuple[int, int], ...], basis: int) -> int:
    """The last rate whose `from` is at most `basis`."""
    return [rate for start, rate in steps if start <= basis][-1]


def price_units(tokens: Tokens, rates: Rates, scale: int = USD_SCALE) -> int:
    """The price in the smallest unit of an asset with `scale` decimals.

    `ValueError` when a dimension has no rate or a count is no whole number below 2^53.
    """
    basis = tier_basis(tokens)
    total = 0
    for name, count in tokens.items():
        check_count(name, count)
        if name not in rates:
            raise ValueError(f"no rate for {name!r}")
        total += count * rate_at(rates[name], basis)
    return scaled(total, scale)


def scaled(picos: int, scale: int) -> int:
    """`picos` of 10⁻¹² in units of 10⁻ˢᶜᵃˡᵉ, rounded half to even."""
    if scale >= RATE_SCALE:
        return int(picos * 10 ** (scale - RATE_SCALE))
    divisor = 10 ** (RATE_SCALE - scale)
    quotient, rest = divmod(picos, divisor)
    return int(quotient + (2 * rest > divisor or (2 * rest == divisor and quotient % 2 == 1)))


def check_count(name: str, count: int) -> None:
    """`ValueError` unless `count` may stand in `usage`."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 1 << COUNT_BITS:
        raise ValueError(f"{name!r}: a count is a whole number from 0 to 2^53 - 1, not {count!r}")


def priced(tokens: Tokens, rates: Rates) -> dict[str, int]:
    """`tokens` with each dimension that has no rate counted in the one that stands in for it.

    A `request` without a rate costs nothing and is left out. `ValueError` for any other dimension
    that nothing stands in for.
    """
    result: dict[str, int] = {}
    for name, count in tokens.items():
        check_count(name, count)
        found = next((whole for whole in (name, *wholes(name)) if whole in rates), None)
        if found is not None:
            result[found] = result.get(found, 0) + count
        elif count and name != "request":
            raise ValueError(f"no rate for {name!r}")
    return result


def wholes(dimension: str) -> list[str]:
    """The dimensions that stand in for one without a rate, the first choice first.

    Cached sound has the rate of sound before that of the cache: the dearer one, as the ledger does.
    """
    if dimension.startswith("cache_read_"):
        return ["input_" + dimension.removeprefix("cache_read_"), "cache_read", "input"]
    if dimension.startswith("cache_write_"):
        return ["cache_write", "input"]
    if dimension.startswith(("input", "cache")):
        return ["input"]
    return ["output"] if dimension.startswith("output_") else []


def affordable_output(tokens: Tokens, rates: Rates, units: int, scale: int = USD_SCALE) -> int | None:
    """The most `output` tokens whose price, with all else in `tokens`, is at most `units`.

    At most as many as `tokens` has; None when even none at all cost more than that.
    """
    low, high = 0, tokens.get("output", 0)
    if price_units({**tokens, "output": 0}, rates, scale) > units:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        fits = price_units({**tokens, "output": middle}, rates, scale) <= units
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Quote:
    """A model's rates as they hold now, with the digest of the price book they are from."""

    provider: str
    model: str
    book: str
    rates: Rates
    variant: str | None = None
    effective_from: str | None = None
    asset: str = "USD"

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Quote:
        """A quote from the ledger's answer."""
        return cls(
            provider=raw["provider"],
            model=raw["model"],
            book=raw["book"],
            rates={
                name: tuple((int(start), int(rate)) for start, rate in steps)
                for name, steps in raw["rates"].items()
            },
            variant=raw.get("variant"),
            effective_from=raw.get("effective_from"),
            asset=raw.get("asset", "USD"),
        )

    def usage(self, tokens: Tokens, source: str) -> dict[str, Any]:
        """The member `usage` of a command's body. `source` is `estimated`, `reported` or `delivered`."""
        variant = {} if self.variant is None else {"variant": self.variant}
        return {
            "provider": self.provider,
            "model": self.model,
            "book": self.book,
            **variant,
            "source": source,
            "tokens": dict(tokens),
            "rates": {name: [list(step) for step in steps] for name, steps in self.rates.items()},
        }

    def price(self, tokens: Tokens, scale: int = USD_SCALE) -> Decimal:
        """The price of `tokens` in whole units, exact to the smallest one."""
        return Decimal(units_text(price_units(tokens, self.rates, scale), scale))
