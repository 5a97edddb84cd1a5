"""Log the lines of the host and of an app in the same process, as two processes would."""

import logging

from emulator.functions.app.log_lines import AppLogFormatter

RECEIVER_THREAD = "-queue"
"""The end of the names of the threads in which the host itself uses the SDK of Service Bus."""

_HOST_LOGGERS = (
    *("emulator", "functions.host", "functions.servicebus", "functions.timer", "uvicorn"),
)


def share_log(host_level: str, app_level: str) -> None:
    """Give the app's log lines their format and level, and keep those of the host."""
    for name in _HOST_LOGGERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            # The app may change the level of the root logger.
            logger.setLevel(host_level.upper())
    for handler in logging.root.handlers:
        handler.setFormatter(_SharedFormatter(handler.formatter or logging.Formatter()))
        handler.addFilter(_is_shown)
    logging.root.setLevel(app_level.upper())
    # Azure's SDK logs each request at level info, which would bury the user's own log lines.
    logging.getLogger("azure").setLevel(max(logging.WARNING, logging.root.level))


class _SharedFormatter(logging.Formatter):
    """Formats a line as the host's formatter does, or as an app process does."""

    def __init__(self, host: logging.Formatter) -> None:
        super().__init__()
        self._host = host
        self._app = AppLogFormatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        is_hosts = any(
            record.name == name or record.name.startswith(f"{name}.") for name in _HOST_LOGGERS
        )
        return (self._host if is_hosts else self._app).format(record)


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a record is shown; the Service Bus trigger logs for the SDK that it uses."""
    is_sdk = record.name.startswith("azure.")
    return not (is_sdk and (record.threadName or "").endswith(RECEIVER_THREAD))
