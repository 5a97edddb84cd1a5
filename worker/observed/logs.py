"""Logs: single lines on stderr, for people or, as JSON objects, for what collects them."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

# Their lines at these levels repeat per try what `reach` says once per change, or hold reply URLs
# and with them a job's token.
_QUIET = {"azure": logging.CRITICAL, "httpx": logging.WARNING, "httpcore": logging.WARNING}

_NOTHING: Mapping[str, str] = MappingProxyType({})
_subject: ContextVar[Mapping[str, str]] = ContextVar("subject", default=_NOTHING)


def configure(level: str, format_name: str = "text") -> None:
    """Send this process's logs to stderr, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format_name == "json" else _text())
    logging.basicConfig(handlers=[handler], level=level)
    for name, quiet_level in _QUIET.items():
        logging.getLogger(name).setLevel(quiet_level)


@contextlib.contextmanager
def about(**fields: str) -> Iterator[None]:
    """Whatever this thread logs meanwhile is about this job; shown in JSON."""
    token = _subject.set(fields)
    try:
        yield
    finally:
        _subject.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_subject.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s")
