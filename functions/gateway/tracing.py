"""W3C Trace Context: one trace from the HTTP request through the queue to the worker."""

import os
import re

from opentelemetry import trace

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_ZERO_TRACE = "0" * 32
_ZERO_SPAN = "0" * 16


def traceparent(header: str | None) -> str:
    """The current span's, else the caller's, else a new one, so that each job can be traced."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    match = _TRACEPARENT.fullmatch(header or "")
    if match and match[1] != _ZERO_TRACE and match[2] != _ZERO_SPAN:
        return match[0]
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"


def trace_id(parent: str | None) -> str | None:
    """The trace id in a traceparent."""
    return parent.split("-")[1] if parent else None
