"""Logs: single lines on stderr."""

import logging
import sys

# Their lines at these levels repeat per try what `reach` says once per change, or hold reply URLs
# and with them a job's token.
_QUIET = {"azure": logging.CRITICAL, "httpx": logging.WARNING, "httpcore": logging.WARNING}


def configure(level: str) -> None:
    """Send this process's logs to stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)-7s %(name)s %(message)s",
    )
    for name, quiet_level in _QUIET.items():
        logging.getLogger(name).setLevel(quiet_level)
