"""`python -m worker`: read the settings, serve until there is a reason to leave, drain, exit."""

import argparse
import errno
import logging
import os
import signal
import sys
from itertools import count
from types import FrameType

from worker.allocator import keep_large_blocks
from worker.errors import SettingsError
from worker.inference.threads import prefer_the_device
from worker.leaving import Leaving
from worker.observed import logs
from worker.service import Worker
from worker.settings import Settings

_log = logging.getLogger("worker")

_EXIT_USAGE = 2
_EXIT_PORT_BUSY = 98


def main() -> int:
    """Run the worker; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m worker",
        description="Takes jobs from the models' queues. All settings come from the environment.",
    ).parse_args()
    leaving = _leaving_on_signals()
    settings = Settings.from_env(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    keep_large_blocks()
    prefer_the_device(os.environ)
    try:
        worker = Worker(settings, leaving)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.stderr.write(f"HEALTH_PORT: port {settings.health_port} is in use\n")
        return _EXIT_PORT_BUSY
    worker.start()
    _log.info("started; health on port %d", worker.health_port)
    leaving.wait()
    _log.info(
        "%s: draining for %g s at most; a second signal exits at once",
        *(leaving.reason, settings.drain_seconds),
    )
    worker.drain()
    _log.info("stopped")
    return leaving.exit_code


def _leaving_on_signals() -> Leaving:
    leaving, signals = Leaving(), count(1)

    def on_signal(number: int, frame: FrameType | None) -> None:
        if next(signals) > 1:
            os._exit(128 + number)
        leaving.ask(f"told to leave by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return leaving


if __name__ == "__main__":
    try:
        code = main()
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        code = _EXIT_USAGE
    logging.shutdown()
    # Not sys.exit: it would wait for pool threads that a model or a dead host still holds up.
    os._exit(code)
