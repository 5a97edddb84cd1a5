"""Log the lines of the host and of an app in the same process, as two processes would."""

import logging
import sys

from emulator.functions.app.log_lines import AppLogFormatter

RECEIVER_THREAD = "-queue"
"""The end of the names of the threads in which the host itself uses the SDK of Service Bus."""

_HOST_LOGGERS = ("emulator", "functions.host", "functions.servicebus", "functions.timer", "uvicorn")


def share_log(host_level: str, app_level: str) -> None:
    """Give the root logger to the app, and the present handlers of the log to the host's loggers.

    So the app may change the root logger.
    """
    for name in _HOST_LOGGERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(host_level.upper())
        logger.handlers = logging.root.handlers[:]
        logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AppLogFormatter())
    handler.addFilter(_is_shown)
    logging.root.handlers = [handler]
    logging.root.setLevel(app_level.upper())
    # Azure's SDK logs each request at level info, which would bury the user's own log lines.
    logging.getLogger("azure").setLevel(max(logging.WARNING, logging.root.level))


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a record is shown; the Service Bus trigger logs for the SDK that it uses."""
    is_sdk = record.name.startswith("azure.")
    return not (is_sdk and (record.threadName or "").endswith(RECEIVER_THREAD))
