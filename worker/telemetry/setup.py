"""Set up logs and traces.

Logs are single lines on stderr, as text or as JSON objects for log collectors. OTEL_TRACES_EXPORTER
lists the names of the trace exporters: `otlp`, `console`, or a name that an installed package
registers, for example the package of Azure Monitor. The SDK and the exporters read the other OTEL_*
variables themselves.
"""

import json
import logging
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from contract.errors import InvalidSetting
from worker.telemetry.recording import TextLines, current_log_fields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# The azure loggers repeat at each try what `ServiceStatus` logs only once. The loggers of
# urllib3 log the paths of reply URLs, which contain a job's token.
_QUIET = {
    "azure": logging.CRITICAL,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "urllib3": logging.ERROR,
}

_GROUP = "opentelemetry_traces_exporter"
# The specification's name, with its default protocol.
_ALIASES = {"otlp": "otlp_proto_http"}
_SERVICE_NAME = "loosely-worker"
_FLUSH_SECONDS = 2.0


def configure_logs(level: str, format_name: str = "text") -> None:
    """Make this process write its logs to stderr, in the format `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format_name == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=level)
    for name, quiet_level in _QUIET.items():
        logging.getLogger(name).setLevel(quiet_level)


class JsonLines(logging.Formatter):
    """Formats each log record as a JSON object on one line, with the current log fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a log record as a JSON object on one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **current_log_fields(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def tracer_provider(exporters: Sequence[str]) -> "TracerProvider | None":
    """Create a tracer provider that uses these exporters; None if there are none."""
    if not exporters:
        return None
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        raise InvalidSetting(
            "OTEL_TRACES_EXPORTER: the OpenTelemetry SDK is not installed; install "
            "loosely[telemetry]"
        ) from None
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": _SERVICE_NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in exporters:
        entry_name = _ALIASES.get(name, name)
        found = list(entry_points(group=_GROUP, name=entry_name))
        if not found:
            raise InvalidSetting(
                f"OTEL_TRACES_EXPORTER: no installed package provides the exporter {name!r}"
            )
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return provider


def flush(provider: "TracerProvider | None") -> None:
    """Export the spans that have not been exported yet, in at most 2 seconds."""
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(_FLUSH_SECONDS)
