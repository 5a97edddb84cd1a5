"""Run processes with a small file system of their own, so that a test can simulate a full disk.

The file system is a tmpfs in a mount namespace of the processes. When the tmpfs is full, each write
fails with ENOSPC. The processes are also in a user namespace, so that no root rights are needed to
mount the tmpfs.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

_BALLAST = "ballast"
_PIECE_BYTES = 4096
_SCRIPT = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'


def small_disk(folder: Path, size: str) -> tuple[str, ...]:
    """Return a command prefix. A command with this prefix runs with a small disk at `folder`.

    `size` is the size of the disk, for example `24m`. The test is skipped if this machine does not
    permit mount namespaces.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        pytest.skip("only Linux has mount namespaces")
    prefix = (unshare, "--user", "--map-root-user", "--mount", "sh", "-c", _SCRIPT, size)
    tried = subprocess.run([*prefix, str(folder), "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"mount namespaces are not permitted here: {tried.stderr.decode().strip()}")
    return (*prefix, str(folder))


def fill(folder: Path) -> None:
    """Fill the disk that contains `folder`, by writing a file there."""
    with (folder / _BALLAST).open("ab", buffering=0) as file:
        for piece_bytes in (1024 * 1024, _PIECE_BYTES, 1):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                _write_for_ever(file, bytes(piece_bytes))


def _write_for_ever(file: BinaryIO, piece: bytes) -> NoReturn:
    while True:
        file.write(piece)


def make_space(folder: Path) -> None:
    """Remove the file that `fill` has written, so that the disk has space again."""
    (folder / _BALLAST).unlink()


@contextmanager
def no_space(limit_bytes: int) -> Iterator[None]:
    """Let this process write no file beyond `limit_bytes` ("File too large") in a `with` block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
