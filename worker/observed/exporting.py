"""Where traces go: the OpenTelemetry SDK, set up by the standard OTEL_* variables.

OTEL_TRACES_EXPORTER names exporters as in OpenTelemetry's specification: `otlp`, `console`, or any
that an installed package registers, such as Azure Monitor's. Resource, sampler, batching and
endpoint are read by the SDK and the exporters themselves.
"""

import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from worker.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_GROUP = "opentelemetry_traces_exporter"
# The specification's name, and its default protocol.
_ALIASES = {"otlp": "otlp_proto_http"}
_SERVICE_NAME = "loosely-worker"
_FLUSH_SECONDS = 2.0


def tracer_provider(exporters: Sequence[str]) -> "TracerProvider | None":
    """What makes spans for these exporters; None for none of them. SettingsError."""
    if not exporters:
        return None
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "OTEL_TRACES_EXPORTER: needs the OpenTelemetry SDK; install loosely[telemetry]"
        ) from None
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": _SERVICE_NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in exporters:
        entry_name = _ALIASES.get(name, name)
        found = list(entry_points(group=_GROUP, name=entry_name))
        if not found:
            raise SettingsError(f"OTEL_TRACES_EXPORTER: no package here provides {name!r}")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return provider


def flush(provider: "TracerProvider | None") -> None:
    """Send what is left, but let a collector that does not answer keep nobody from leaving."""
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(_FLUSH_SECONDS)
