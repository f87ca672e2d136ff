"""W3C trace context: the `traceparent` that goes into a command's `trace`."""

from __future__ import annotations

import re

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_member(traceparent: str | None) -> str | None:
    """`traceparent`, or that of OpenTelemetry's current span where there is one.

    `ValueError` when it is not `00-<32 hex>-<16 hex>-<2 hex>`.
    """
    if traceparent is None:
        return _current_span()
    if not TRACEPARENT.fullmatch(traceparent):
        raise ValueError(f"not a traceparent of version 00: {traceparent!r}")
    return traceparent


def _current_span() -> str | None:
    try:
        from opentelemetry.trace import get_current_span
    except ImportError:
        return None
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
