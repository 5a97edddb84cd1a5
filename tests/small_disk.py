"""Run the processes of a test on their own small file system, which the test can fill.

The processes run in a mount namespace with a tmpfs, so each write to the full disk fails
with ENOSPC. A user namespace makes that possible without root.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

_BALLAST = "ballast"
_PIECE_BYTES = 4096
_SCRIPT = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'


def small_disk(folder: Path, size: str) -> tuple[str, ...]:
    """Return the beginning of a command that runs a program with a small disk at `folder`.

    `size` is for example `24m`. Skip the test if this system does not permit namespaces.
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
    """Write a file until the disk of `folder` is full."""
    with (folder / _BALLAST).open("ab", buffering=0) as file:
        for piece_bytes in (1024 * 1024, _PIECE_BYTES, 1):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                _write_for_ever(file, bytes(piece_bytes))


def _write_for_ever(file: BinaryIO, piece: bytes) -> NoReturn:
    while True:
        file.write(piece)


def make_space(folder: Path) -> None:
    """Remove the file that `fill` has written."""
    (folder / _BALLAST).unlink()
