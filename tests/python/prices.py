"""An independent witness of prices: the calculator of the package that the price data comes from.

Holdfast imports the data of `genai-prices` and computes with integers; the package computes with
decimals, from the same data, in code that nobody here wrote. Where both agree, the importer read
the data as its authors meant it.

    PYTHONPATH=DIRECTORY python3 prices.py cases [AT] [--contexts] > cases.jsonl
    PYTHONPATH=DIRECTORY python3 prices.py check < charges.jsonl

DIRECTORY holds what prices-requirements.txt names; AT is RFC 3339, now unless given.

`cases` prints a line for each model and usage: `provider`, `model`, `at`, `tokens` (by dimension, as
in docs/llm.md) and `usd`, or `error`. With `--contexts` the same for each context in which a model
has another price (such as batch), which is then in `context`.

`check` reads such lines with `units`, the nano-dollars that Holdfast computed, or with `error` where
it refused, and compares. What Holdfast refused is counted by its error, not compared: a model that
has no price is refused, though the package has it for nothing. The exit code is 0 only if something
was compared and nothing differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices, Usage

Tokens = dict[str, int]
Context = dict[str, str]

INPUTS = ("input", "cache_read", "cache_write", "input_audio", "cache_read_audio")
OUTPUTS = ("output", "output_audio")

NANOS = 10**9
ROUNDING = Decimal("0.5")
RELATIVE = Decimal("1e-9")


def inclusive(tokens: Tokens) -> Usage:
    """The package's counts, where a whole includes its parts, from ours, which do not overlap.

    A call is not among them: where calls have a price, the package counts one, always.
    """
    unknown = tokens.keys() - {*INPUTS, *OUTPUTS, "request"}
    if unknown or tokens.get("request", 1) != 1:
        raise ValueError(f"the package cannot express {tokens}")
    count = Counter(tokens)
    return Usage(
        input_tokens=sum(count[name] for name in INPUTS),
        cache_read_tokens=count["cache_read"] + count["cache_read_audio"],
        cache_write_tokens=count["cache_write"],
        input_audio_tokens=count["input_audio"] + count["cache_read_audio"],
        cache_audio_read_tokens=count["cache_read_audio"],
        output_tokens=sum(count[name] for name in OUTPUTS),
        output_audio_tokens=count["output_audio"],
    )


def find(provider: str, model: str) -> tuple[Provider, ModelInfo]:
    """The model of that id; else the one that the package takes a reference of that name for.

    The id goes first because some models do not match their own id.
    """
    snapshot = get_snapshot()
    for candidate in snapshot.providers:
        if candidate.id == provider:
            for info in candidate.models:
                if info.id == model:
                    return candidate, info
    return snapshot.find_provider_model(model, None, provider, None)


def price(provider: Provider, model: ModelInfo, at: datetime, tokens: Tokens, context: Context) -> Decimal:
    """What the package says that the call costs, in dollars."""
    return model.calc_price(
        inclusive(tokens), provider, genai_request_timestamp=at, price_context=context or None
    ).total_price


def tier_starts(prices: ModelPrice) -> list[int]:
    tiered = [value for value in vars(prices).values() if isinstance(value, TieredPrices)]
    return sorted({tier.start for value in tiered for tier in value.tiers})


def usages(prices: ModelPrice) -> Iterator[Tokens]:
    """Calls that use each rate of a model, and both sides of each of its tiers."""
    rated: set[str] = set()
    if prices.input_mtok is not None:
        rated.update(INPUTS)
    if prices.output_mtok is not None:
        rated.update(OUTPUTS)
    if not rated:  # The package takes nothing for tokens here. One call, to see that Holdfast refuses it.
        yield {"input": 1234, "output": 567}
        return

    def usage(**tokens: int) -> Tokens:
        call = {"request": 1} if prices.requests_kcount is not None else {}
        return {name: count for name, count in tokens.items() if name in rated} | call

    yield usage(input=0, output=0)
    yield usage(input=1, output=1)
    yield usage(input=1234, output=567)
    yield usage(input=321, cache_read=9876, output=1111)
    yield usage(input=321, cache_read=89, cache_write=4567, output=222)
    if any("audio" in name for name, value in vars(prices).items() if value is not None):
        yield usage(
            input=111, cache_read=33, input_audio=2222, cache_read_audio=444, output=55, output_audio=666
        )
    for start in tier_starts(prices):
        for basis in (start - 1, start, start + 1):
            read, write = basis // 3, basis // 5
            yield usage(input=basis - read - write, cache_read=read, cache_write=write, output=4321)


def contexts(model: ModelInfo) -> list[Context]:
    """Each context that the model names a price for, once."""
    distinct = {json.dumps(variant.when, sort_keys=True) for variant in model.price_variants or []}
    return [json.loads(context) for context in sorted(distinct)]


def print_cases(at: datetime, with_contexts: bool) -> None:
    for provider in get_snapshot().providers:
        for model in provider.models:
            for context in [{}, *(contexts(model) if with_contexts else [])]:
                for tokens in usages(model.get_prices(at, context)):
                    case = {"provider": provider.id, "model": model.id, "at": rfc3339(at), "tokens": tokens}
                    if context:
                        case["context"] = context
                    try:
                        case["usd"] = format(price(provider, model, at, tokens, context), "f")
                    except (ValueError, LookupError) as error:
                        case["error"] = str(error)
                    print(json.dumps(case))


def difference(charge: dict[str, Any]) -> tuple[Decimal, bool]:
    """How far the charge is from the package's price, in nano-dollars, and whether that is too far."""
    provider, model = find(charge["provider"], charge["model"])
    at = instant(charge["at"])
    exact = price(provider, model, at, charge["tokens"], charge.get("context", {})) * NANOS
    distance = abs(charge["units"] - exact)
    return distance, distance > ROUNDING + RELATIVE * exact


def check_charges(lines: Iterator[str]) -> int:
    refused: Counter[str] = Counter()
    wrong: list[str] = []
    compared, furthest = 0, Decimal(0)
    for line in filter(str.strip, lines):
        charge = json.loads(line)
        if "error" in charge:
            refused[charge["error"]] += 1
            continue
        compared += 1
        try:
            distance, too_far = difference(charge)
        except (ValueError, LookupError) as error:  # Holdfast has a price where the package has none.
            wrong.append(f"{error}: {line.strip()}")
            continue
        furthest = max(furthest, distance)
        if too_far:
            wrong.append(f"{distance:f} nano-dollars: {line.strip()}")
    for what in wrong:
        print(f"DIFFERS: {what}")
    for error, count in refused.most_common():
        print(f"refused {count}: {error}")
    print(f"{compared} compared, {len(wrong)} differ, at most {furthest:f} nano-dollars apart")
    return 1 if wrong or not compared else 0


def instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("which time zone?")
    return at.astimezone(UTC)


def rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    cases = commands.add_parser("cases")
    now = datetime.now(UTC).replace(microsecond=0)
    cases.add_argument("at", nargs="?", type=instant, default=now, metavar="AT")
    cases.add_argument("--contexts", action="store_true")
    commands.add_parser("check")
    arguments = parser.parse_args()
    if arguments.command == "check":
        return check_charges(sys.stdin)
    print_cases(arguments.at, arguments.contexts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
