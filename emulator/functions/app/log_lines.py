"""Format the log lines of the app, which name the function that wrote them."""

import logging
from contextvars import ContextVar
from typing import Any

running_function: ContextVar[str] = ContextVar("running_function", default="")


class AppLogFormatter(logging.Formatter):
    """Formats log lines that name the Azure function that wrote them, or else the logger.

    Control characters are escaped and tracebacks indented, because untrusted text must not look
    like another log line.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(source)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and the lines of its traceback."""
        name = running_function.get()
        record.source = f"Functions.{name}" if name else record.name
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base's name
        """Return the line of a record."""
        return _escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  the base's name
        """Return the indented lines of a traceback."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {_escape(line)}" for line in lines)


def _escape(text: str) -> str:
    """Return the text with an escape such as `\\n` for each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
