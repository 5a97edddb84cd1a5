"""Where traces go: the OpenTelemetry SDK, set up by the standard OTEL_* variables.

OTEL_TRACES_EXPORTER names exporters as in OpenTelemetry's specification: `otlp`, `console`, or any
that an installed package registers, such as Azure Monitor's. Resource, sampler, batching and
endpoint are read by the SDK and the exporters themselves.
"""

from collections.abc import Sequence
from importlib.metadata import entry_points

from opentelemetry import trace
from opentelemetry.trace import TracerProvider

from gateway.errors import SettingError

_SETTING = "OTEL_TRACES_EXPORTER"
_GROUP = "opentelemetry_traces_exporter"
# The specification's name, and its default protocol.
_ALIASES = {"otlp": "otlp_proto_http"}
_SERVICE_NAME = "loosely-gateway"


def tracer_provider(exporters: Sequence[str]) -> TracerProvider | None:
    """What makes spans for these exporters, else what the Functions host has set up; or None."""
    if exporters:
        return _provider(exporters)
    # What the API stands in with until somebody sets up a real one.
    current = trace.get_tracer_provider()
    return None if isinstance(current, trace.ProxyTracerProvider) else current


def _provider(exporters: Sequence[str]) -> TracerProvider:
    # Only here: the SDK takes a while to import.
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": _SERVICE_NAME}))
    provider = SdkTracerProvider(resource=resource)
    for name in exporters:
        found = list(entry_points(group=_GROUP, name=_ALIASES.get(name, name)))
        if not found:
            raise SettingError(_SETTING, f"no package here provides {name!r}")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return provider
