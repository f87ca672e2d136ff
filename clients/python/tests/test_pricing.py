"""Money and prices: exact, and the same as the definition in fractions."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Capped, Percentile, Quote, WorstCase
from holdfast.amounts import amount_text, units_of, units_text
from holdfast.pricing import affordable_output, price_units, priced, rate_at, scaled, tier_basis
from holdfast.sizing import Sizing, percentile, sized

FLASH = {"input": ((0, 300_000),), "output": ((0, 2_500_000),)}
TIERED = {"input": ((0, 1_250_000), (200_001, 2_500_000)), "output": ((0, 10_000_000), (200_001, 15_000_000))}

counts = st.integers(0, 2**53 - 1)
names = st.sampled_from(["input", "cache_read", "cache_write", "input_audio", "output", "request"])
tiers = st.dictionaries(st.integers(1, 10**6), counts, max_size=3)
scales = st.integers(0, 18)


@st.composite
def rated_tokens(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, tuple[tuple[int, int], ...]]]:
    tokens = draw(st.dictionaries(names, counts, min_size=1))
    rates = {name: ((0, draw(counts)), *sorted(draw(tiers).items())) for name in tokens}
    return tokens, rates


@given(rated_tokens(), scales)
def test_a_price_is_the_sum_rounded_once_half_to_even(
    drawn: tuple[dict[str, int], dict[str, tuple[tuple[int, int], ...]]], scale: int
) -> None:
    tokens, rates = drawn
    basis = sum(n for name, n in tokens.items() if name.startswith("input") or name.startswith("cache"))
    exact = Fraction(0)
    for name, count in tokens.items():
        rate = max((step for step in rates[name] if step[0] <= basis), key=lambda step: step[0])[1]
        exact += Fraction(count * rate, 10**12)
    # `round` of a Fraction is exact and rounds half to even.
    assert price_units(tokens, rates, scale) == round(exact * 10**scale)


@given(st.dictionaries(st.sampled_from(["input", "output"]), st.integers(0, 10**6)), st.integers(0, 10**10))
def test_as_much_output_as_can_be_paid_and_not_one_token_more(tokens: dict[str, int], units: int) -> None:
    found = affordable_output(tokens, TIERED, units)
    cost = {n: price_units({**tokens, "output": n}, TIERED) for n in {0, found or 0, (found or 0) + 1}}
    if found is None:
        assert cost[0] > units
    else:
        assert cost[found] <= units
        assert found == tokens.get("output", 0) or cost[found + 1] > units


@given(st.integers(0, 2**63 - 1), scales)
def test_an_amount_survives_being_written_and_read(units: int, scale: int) -> None:
    text = units_text(units, scale)
    assert units_of(text, scale) == units
    assert units_of(Decimal(text), scale) == units
    assert text == "0" or not text.endswith(".")


@pytest.mark.parametrize(
    ("picos", "units"), [(500, 0), (501, 1), (1500, 2), (2500, 2), (2501, 3), (499, 0), (3500, 4)]
)
def test_halves_go_to_the_even_neighbour(picos: int, units: int) -> None:
    assert scaled(picos, 9) == units


@pytest.mark.parametrize(("basis", "rate"), [(0, 1_250_000), (200_000, 1_250_000), (200_001, 2_500_000)])
def test_where_a_tier_begins_the_whole_call_has_its_rate(basis: int, rate: int) -> None:
    assert rate_at(TIERED["input"], basis) == rate


def test_the_example_of_the_documentation() -> None:
    raw = json.loads(
        '{"provider":"google","model":"gemini-2.5-flash","variant":null,"book":"b","effective_from":"2025-06-17",'
        '"rates":{"input":[[0,300000]],"output":[[0,2500000]]}}'
    )
    quote = Quote.read(raw)
    assert quote.price({"input": 1200, "output": 4000}) == Decimal("0.01036")
    assert quote.usage({"input": 1}, "estimated") == {
        "provider": "google",
        "model": "gemini-2.5-flash",
        "book": "b",
        "source": "estimated",
        "tokens": {"input": 1},
        "rates": raw["rates"],
    }
    assert tier_basis({"input": 1, "cache_read_audio": 2, "output": 4, "request": 8}) == 3


@pytest.mark.parametrize(
    ("tokens", "rates", "expected"),
    [
        (
            {"input": 1, "cache_read": 2, "cache_write": 4, "output": 8},
            ["input", "output"],
            {"input": 7, "output": 8},
        ),
        ({"cache_read_audio": 1}, ["input", "cache_read"], {"cache_read": 1}),
        ({"cache_read_audio": 1}, ["input", "cache_read", "input_audio"], {"input_audio": 1}),
        ({"cache_write_1h": 1}, ["input", "cache_write"], {"cache_write": 1}),
        ({"input_audio": 1, "output_audio": 2}, ["input", "output"], {"input": 1, "output": 2}),
        ({"request": 1, "web_search": 0}, ["input"], {}),
        ({"request": 1}, ["request"], {"request": 1}),
    ],
)
def test_what_has_no_rate_is_counted_in_what_stands_in_for_it(
    tokens: dict[str, int], rates: list[str], expected: dict[str, int]
) -> None:
    assert priced(tokens, dict.fromkeys(rates, ((0, 1),))) == expected


FOLDS = [
    # The table of `counts_without_a_rate_are_part_of_others` in crates/core/src/usage.rs.
    ({"cache_read": 5, "input": 1, "output_reasoning": 2}, ["input", "output"], {"input": 6, "output": 2}),
    ({"cache_read_audio": 5}, ["cache_read", "input"], {"cache_read": 5}),
    ({"cache_read_audio": 5}, ["cache_read", "input", "input_audio"], {"input_audio": 5}),
    ({"cache_write_1h": 5}, ["cache_write", "input"], {"cache_write": 5}),
    ({"input": 5, "output": 0, "web_search": 0}, ["input"], {"input": 5}),
    # And of `what_has_no_rate_is_counted_where_it_belongs` in crates/calls/src/price.rs.
    ({"input": 1, "cache_read": 4, "cache_write": 2}, ["input", "output"], {"input": 7}),
    ({"output": 1, "output_audio": 4, "request": 1}, ["input", "output"], {"output": 5}),
    (
        {"cache_read_audio": 4, "request": 1},
        ["input", "input_audio", "output", "request"],
        {"input_audio": 4, "request": 1},
    ),
    # Each step of each chain.
    ({"cache_read_audio": 5}, ["input"], {"input": 5}),
    ({"cache_write_1h": 5}, ["cache_write_1h", "cache_write", "input"], {"cache_write_1h": 5}),
    ({"cache_write_1h": 5}, ["input"], {"input": 5}),
    ({"cache_write": 5, "input_image": 2, "cached": 1}, ["input"], {"input": 8}),
]


@pytest.mark.parametrize(("tokens", "rates", "expected"), FOLDS)
def test_counts_are_folded_as_the_ledger_folds_them(
    tokens: dict[str, int], rates: list[str], expected: dict[str, int]
) -> None:
    assert priced(tokens, dict.fromkeys(rates, ((0, 1),))) == expected


@pytest.mark.parametrize(
    "tokens", [{"web_search": 1}, {"input": -1}, {"input": 2**53}, {"input": 1.5}, {"input": True}]
)
def test_what_cannot_be_priced_is_a_value_error(tokens: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"no rate|a count is"):
        priced(tokens, FLASH)


@pytest.mark.parametrize(
    "amount", ["-1", "+1", "1e3", ".5", "1.", "", "NaN", "١", Decimal("-1"), Decimal("NaN")]
)
def test_what_is_no_amount_is_a_value_error(amount: str | Decimal) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        amount_text(amount)


@pytest.mark.parametrize("amount", [0.1, 1, None, True])
def test_a_float_is_a_type_error(amount: object) -> None:
    with pytest.raises(TypeError):
        amount_text(amount)  # type: ignore[arg-type]


def test_too_many_decimals_are_a_value_error() -> None:
    assert units_of("1.1000000000", 9) == 1_100_000_000
    with pytest.raises(ValueError, match="more than 9 decimals"):
        units_of("0.0000000001", 9)


def test_sizing() -> None:
    tokens = {"input": 1200, "output": 4000}
    samples = list(range(1, 101))
    cases: list[tuple[Sizing, list[int], int]] = [
        (WorstCase(), samples, 4000),
        (Capped("0.00536"), [], 2000),
        (Capped("1"), [], 4000),
        (Percentile(95), samples, 95),
        (Percentile(95), samples[:19], 4000),
        (Percentile(95), [9000] * 20, 4000),
    ]
    for sizing, known, output in cases:
        assert sized(sizing, tokens, FLASH, 9, known) == {"input": 1200, "output": output}, sizing
    assert percentile([5], 1) == percentile([5], 100) == 5
    with pytest.raises(ValueError, match="from 1 to 100"):
        percentile([5], 0)
