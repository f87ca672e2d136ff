"""The decorator form of a hold: one call of the function is one call of the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from .core import Core
from .hold import Hold
from .options import HoldOptions

P = ParamSpec("P")
T = TypeVar("T")
Billable = Callable[Concatenate[Hold, P], Awaitable[T]]


def billed(
    core: Core,
    options: HoldOptions,
    account: Callable[..., str],
    input_tokens: Callable[..., int | Mapping[str, int]] | None,
    job_id: Callable[..., str | None] | None,
) -> Callable[[Billable[P, T]], Callable[P, Awaitable[T]]]:
    """The decorator; `account`, `input_tokens` and `job_id` are asked with the call's own arguments."""

    def decorate(fn: Billable[P, T]) -> Callable[P, Awaitable[T]]:
        @wraps(fn)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            changes: dict[str, Any] = {}
            if input_tokens is not None:
                changes["input_tokens"] = input_tokens(*args, **kwargs)
            if job_id is not None:
                changes["job_id"] = job_id(*args, **kwargs)
            async with Hold(core, account(*args, **kwargs), replace(options, **changes)) as hold:
                return await hold.call(fn, hold, *args, **kwargs)

        return call

    return decorate
