"""The data directory: one host at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.functions.errors import DataInUse
from emulator.program import SettingError


@contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """Make the directory if need be and hold it; the lock goes with the process, however it ends.

    Raises DataInUse, and SettingError for a directory that cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SettingError(f"--data {directory} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataInUse(f"another host is running on {directory}") from None
        yield directory
    finally:
        os.close(descriptor)
