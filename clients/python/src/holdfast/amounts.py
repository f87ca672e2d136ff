"""Amounts: decimals in whole units of an account's asset, never floats."""

from __future__ import annotations

import re
from decimal import Decimal

Amount = Decimal | str
"""An amount as callers give it: `Decimal("0.0015")` or `"0.0015"`, in whole units such as dollars."""

USD_SCALE = 9
"""Decimals of `USD`, whose smallest unit is the nano-dollar."""
PLAIN = re.compile(r"\d+(\.\d+)?", re.ASCII)


def amount_text(amount: Amount) -> str:
    """`amount` as it is sent: digits and at most one point.

    `TypeError` for anything but `Decimal` and `str`, floats above all; `ValueError` for a sign, an
    exponent, or no number.
    """
    if not isinstance(amount, Decimal | str):
        raise TypeError(f"an amount is a Decimal or a str, not {type(amount).__name__}")
    text = amount if isinstance(amount, str) else format(amount, "f")
    if not PLAIN.fullmatch(text):
        raise ValueError(f"not an amount: {text!r}; expected digits and at most one point, no sign")
    return text


def units_text(units: int, scale: int) -> str:
    """`units` of the smallest unit of an asset with `scale` decimals, as the shortest amount."""
    if units < 0:
        raise ValueError(f"an amount has no sign: {units}")
    if scale == 0:
        return str(units)
    whole, fraction = divmod(units, 10**scale)
    return f"{whole}.{fraction:0{scale}d}".rstrip("0").rstrip(".")


def units_of(amount: Amount, scale: int) -> int:
    """How many of the smallest unit `amount` is; `ValueError` when it has more decimals than that."""
    whole, _, fraction = amount_text(amount).partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > scale:
        raise ValueError(f"{amount} has more than {scale} decimals")
    return int(whole + fraction.ljust(scale, "0"))
