"""Make the disk full during a soak test: with a small tmpfs, or else with a limit on file sizes.

The tmpfs is in a mount namespace of its own. To make this disk full, the size of the tmpfs is
reduced to the space in use, so that each write fails with ENOSPC. Without permission to mount a
tmpfs, the processes get a limit on the size of their files, so that each write fails with EFBIG.
"""

import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

_KIB = 1024
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
_IN_NAMESPACE = "LOOSELY_SOAK_NAMESPACE"


class SmallDisk(Protocol):
    """A disk that can become full."""

    @property
    def name(self) -> str:
        """A short text that says how the disk becomes full. The report of a soak contains it."""

    def fill(self, pids: Iterable[int]) -> None:
        """Make all writes fail. `pids` are the ids of the processes that write to the disk."""

    def free(self, pids: Iterable[int]) -> None:
        """Make writes succeed again. `pids` are the ids of the processes that write to the disk."""


class Tmpfs:
    """A file system in memory (tmpfs), which `mount` mounts on a folder and `fill` makes full."""

    name = "a tmpfs without free space"

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder = folder
        self._size_bytes = size_bytes

    def mount(self) -> None:
        """Mount the file system, which the kernel removes when this process has ended."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = f"size={self._size_bytes},mode=700"
        _mount("-t", "tmpfs", "-o", options, "tmpfs", str(self._folder))

    def unmount(self) -> None:
        """Remove the file system and its files."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=False, capture_output=True)

    def fill(self, pids: Iterable[int]) -> None:
        """Fill the disk: shrink the file system to the size of its files. `pids` is ignored."""
        del pids
        # Linux refuses a size below the used space, and the files may grow in the meantime.
        for spare_kib in (0, 16, 256, 4096):
            # A size of 0 would mean that the size is not limited.
            used_kib = max(4, math.ceil(shutil.disk_usage(self._folder).used / _KIB))
            try:
                _mount("-o", f"remount,size={used_kib + spare_kib}k", str(self._folder))
            except OSError:
                continue
            return
        raise OSError(f"the size of {self._folder} cannot be reduced")

    def free(self, pids: Iterable[int]) -> None:
        """Restore the full size of the file system. `pids` is ignored."""
        del pids
        _mount("-o", f"remount,size={self._size_bytes}", str(self._folder))


class FileSizeLimit:
    """A limit that makes all file writes of the given processes fail, as on a full disk.

    `fill` limits the size of these processes' files to zero bytes. Only Linux supports this. On
    other systems, `fill` and `free` do nothing.
    """

    name = "a limit on the size of files"

    def fill(self, pids: Iterable[int]) -> None:
        """Make each write to a file fail in the processes with these ids."""
        _limit_file_sizes(pids, 0)

    def free(self, pids: Iterable[int]) -> None:
        """Remove the limit, so that the processes with these ids can write again."""
        _limit_file_sizes(pids, resource.RLIM_INFINITY)


def _limit_file_sizes(pids: Iterable[int], size_bytes: int) -> None:
    if sys.platform != "linux":
        return
    for pid in pids:
        try:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            soft = hard if size_bytes == resource.RLIM_INFINITY else size_bytes
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        except (ProcessLookupError, PermissionError):
            continue


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


def enter_mount_namespace(command: Sequence[str], environment: dict[str, str]) -> bool:
    """Start this program again in a new mount namespace, with the same process id.

    The kernel removes what it mounts there even if it is killed. Return True in the new program,
    and False if the system does not permit a namespace.
    """
    if environment.get(_IN_NAMESPACE):
        return True
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    if subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode != 0:
        return False
    # Does not return.
    return os.execvpe(_UNSHARE[0], [*_UNSHARE, *command], {**environment, _IN_NAMESPACE: "1"})
