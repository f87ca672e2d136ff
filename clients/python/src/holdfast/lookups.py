"""What is asked once and then known for a while: prices of models, and the assets of accounts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TypeVar

from ._bytes import to_json
from .amounts import USD_SCALE
from .bus import Bus
from .envelope import subject_token
from .errors import NotFound, UnpricedModel
from .pricing import Quote

QUOTE_S = 60.0
"""How long a quote is used: a new price list reaches the calls within a minute."""
ENTRIES_MAX = 10_000
"""Entries kept of each kind; the oldest goes first."""
KNOWN_SCALES = {"USD": USD_SCALE, "CREDIT": 6}
K = TypeVar("K")
V = TypeVar("V")


class Quotes:
    """The rates that hold now, by model."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[tuple[str, str | None, str | None], tuple[float, Quote]] = {}

    async def get(self, model: str, provider: str | None = None, variant: str | None = None) -> Quote:
        """The quote of `model`; `UnpricedModel` when the price book has none."""
        key = (model, provider, variant)
        known = self._known.get(key)
        if known and time.monotonic() - known[0] < QUOTE_S:
            return known[1]
        narrower = {"provider": provider, "variant": variant}
        asked = {name: value for name, value in narrower.items() if value is not None}
        payload = to_json(asked) if asked else b""
        try:
            quote = Quote.read(await self._bus.query(f"prices.{subject_token(model)}", payload))
        except NotFound as error:
            raise UnpricedModel(error.detail) from error
        _remember(self._known, key, (time.monotonic(), quote))
        return quote


class Assets:
    """How many decimals an account's amounts have."""

    def __init__(self, bus: Bus, scales: Mapping[str, int] | None) -> None:
        self._bus = bus
        self._scales = {**KNOWN_SCALES, **(scales or {})}
        self._known: dict[str, str] = {}

    async def scale(self, account: str, priced_in: str | None = None) -> int:
        """The decimals of the account's asset, which never changes.

        `ValueError` when it is another than the one that the price is in.

        An account that is not known yet counts as one in `USD`: should there be none, the ledger
        says so. `ValueError` for an asset whose decimals nobody told us.
        """
        asset = self._known.get(account) or await self._asset(account)
        if priced_in is not None and asset != priced_in:
            raise ValueError(f"the price is in {priced_in}, the account {account!r} is kept in {asset}")
        if asset not in self._scales:
            raise ValueError(
                f"connect with assets={{{asset!r}: <its decimals>}} to price calls of {account!r}"
            )
        return self._scales[asset]

    async def _asset(self, account: str) -> str:
        try:
            asset = str((await self._bus.query(f"balance.{subject_token(account)}"))["asset"])
        except NotFound:
            return "USD"
        _remember(self._known, account, asset)
        return asset


def _remember(known: dict[K, V], key: K, value: V) -> None:
    known.pop(key, None)
    if len(known) >= ENTRIES_MAX:
        del known[next(iter(known))]
    known[key] = value
