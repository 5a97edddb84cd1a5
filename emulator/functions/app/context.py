"""What a function gets as its `context` parameter."""

import threading
from dataclasses import dataclass, field

_invocation_id_of_thread = threading.local()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The W3C trace context that the trigger carried; empty strings where it had none."""

    trace_parent: str = ""
    trace_state: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def Traceparent(self) -> str:  # noqa: N802 - the deprecated name which azure.functions.Context still has
        """Return the trace parent."""
        return self.trace_parent

    @property
    def Tracestate(self) -> str:  # noqa: N802 - as above
        """Return the trace state."""
        return self.trace_state

    @property
    def Attributes(self) -> dict[str, str]:  # noqa: N802 - as above
        """Return the trace attributes."""
        return self.attributes


@dataclass(frozen=True, slots=True)
class RetryContext:
    """Where the invocation stands in its retry policy; the host has none, so always at 0."""

    retry_count: int = 0
    max_retry_count: int = 0
    exception: None = None


@dataclass(frozen=True, slots=True)
class Context:
    """The invocation as azure.functions.Context describes it."""

    function_name: str
    function_directory: str
    invocation_id: str
    trace_context: TraceContext
    retry_context: RetryContext = field(default_factory=RetryContext)

    @property
    def thread_local_storage(self) -> threading.local:
        """Return the storage whose `invocation_id` logging in threads of the user reads."""
        return _invocation_id_of_thread
