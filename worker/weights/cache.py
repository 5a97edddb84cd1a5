"""The cache of downloaded weights on disk. The name of each file is the file's SHA-256 digest.

A download is written to a file with a temporary name, which is renamed after the digest was
checked. So any number of processes may share the folder and may be killed at any time. Only one of
them downloads a file while the others wait. The digest is checked again before each use.

If the size of the folder is limited, the least recently used files are deleted before a download,
but none that was used within the last hour.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from worker.errors import WeightsMismatch, WeightsUnavailable

_log = logging.getLogger(__name__)

_PART: Final = ".part"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# A partial file that has not changed for this time was left behind by a killed process. A complete
# file that was not used for this time may be deleted.
_UNUSED_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Download:
    """Weights that are being read from another machine, until `close`.

    `pieces` may raise WeightsUnavailable at any time. `size_bytes` is None if it is unknown.
    """

    pieces: Iterator[bytes] = field(repr=False)
    size_bytes: int | None = None
    close: Callable[[], None] = lambda: None


class WeightsCache:
    """A folder with the weights of models. Any thread may call the methods.

    `weights` is the location of the weights, for messages, and `start` starts their download.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        """Store the folder, which the first download creates, and the limit of its size."""
        self._folder = folder
        self._limit_bytes = limit_bytes

    def get(self, weights: str, sha256: str, start: Callable[[], Download]) -> Path:
        """Return the path of the file with this digest. Download it if it is missing.

        Raises WeightsMismatch if the downloaded file has another digest, WeightsUnavailable if it
        cannot be downloaded or stored, or any other WorkerError that `start` raises.
        """
        with self._storing(weights):
            if (file := self._find(weights, sha256)) is not None:
                return file
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked(sha256):
                # Another process may have downloaded the file while this process waited.
                if (file := self._find(weights, sha256)) is not None:
                    return file
                return self._download(weights, sha256, start())

    def add(self, weights: str, start: Callable[[], Download]) -> str:
        """Download a file whose digest is not known, and return its SHA-256 digest."""
        with self._storing(weights):
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._receive(weights, start()) as (part, digest):
                part.replace(self._folder / digest)
                return digest

    @contextlib.contextmanager
    def _storing(self, weights: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # For example a full disk, or another user's folder.
            raise WeightsUnavailable(
                f"the weights {weights} cannot be stored in {self._folder}: {error.strerror}"
            ) from None

    def _find(self, weights: str, sha256: str) -> Path | None:
        file = self._folder / sha256
        if not file.exists():
            return None
        if file_digest(file) != sha256:
            _log.warning("%s: the cached weights are damaged; fetching them again", weights)
            return None
        # The time of the last use. The folder may be read-only.
        with contextlib.suppress(OSError):
            os.utime(file)
        return file

    def _download(self, weights: str, sha256: str, download: Download) -> Path:
        begun = time.monotonic()
        with self._receive(weights, download) as (part, digest):
            if digest != sha256:
                raise digest_mismatch(weights, digest, sha256)
            size_bytes = part.stat().st_size
            file = part.replace(self._folder / sha256)
        seconds = time.monotonic() - begun
        _log.info("%s: fetched %d bytes of weights in %.1f s", weights, size_bytes, seconds)
        return file

    @contextlib.contextmanager
    def _receive(self, weights: str, download: Download) -> Iterator[tuple[Path, str]]:
        """Yield a temporary file with the downloaded bytes, and their digest. It may be renamed."""
        digest, size_bytes = hashlib.sha256(), 0
        part: Path | None = None
        try:
            limit_bytes = self._make_room(weights, download.size_bytes)
            handle, name = tempfile.mkstemp(suffix=_PART, dir=self._folder)
            part = Path(name)
            with open(handle, "wb") as writer:  # noqa: PTH123  a handle, not a path
                for piece in download.pieces:
                    size_bytes += len(piece)
                    if size_bytes > limit_bytes:
                        raise self._no_room(weights, size_bytes, limit_bytes)
                    digest.update(piece)
                    writer.write(piece)
                writer.flush()
                os.fsync(writer.fileno())
            yield part, digest.hexdigest()
        finally:
            download.close()
            if part is not None:
                part.unlink(missing_ok=True)

    def _make_room(self, weights: str, size_bytes: int | None) -> int:
        """Delete unused files if necessary. Return how much fits, or raise WeightsUnavailable."""
        files = self._list_files()
        for file in [each for each in files if each.is_partial and each.is_unused]:
            file.delete()
            files.remove(file)
        needed_bytes = size_bytes or 0
        if self._limit_bytes is not None:
            for file in sorted(files, key=lambda each: each.used_at):
                if sum(each.size_bytes for each in files) + needed_bytes <= self._limit_bytes:
                    break
                if file.is_unused and needed_bytes <= self._limit_bytes:
                    _log.info("deleting the cached weights %s to make room", file.path.name)
                    file.delete()
                    files.remove(file)
        limit_bytes = shutil.disk_usage(self._folder).free
        if self._limit_bytes is not None:
            held_bytes = sum(each.size_bytes for each in files)
            limit_bytes = min(limit_bytes, self._limit_bytes - held_bytes)
        if needed_bytes > limit_bytes:
            raise self._no_room(weights, needed_bytes, limit_bytes)
        return limit_bytes

    def _no_room(self, weights: str, size_bytes: int, limit_bytes: int) -> WeightsUnavailable:
        limit = "" if self._limit_bytes is None else " or raise WORKER_WEIGHTS_CACHE_SIZE"
        return WeightsUnavailable(
            f"{weights}: has at least {size_bytes} bytes, but {self._folder} has space for only "
            f"{max(0, limit_bytes)} bytes: delete files there that are not needed{limit}"
        )

    def _list_files(self) -> list["_CachedFile"]:
        files = []
        for path in self._folder.iterdir():
            if path.suffix == _PART or _DIGEST.fullmatch(path.name):
                # Another process may delete the file at the same time.
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    files.append(_CachedFile(path, stat.st_size, stat.st_mtime))
        return files

    @contextlib.contextmanager
    def _locked(self, sha256: str) -> Iterator[None]:
        """Let only one thread of all processes download the file at a time, in the block."""
        path = self._folder / f"{sha256}.lock"
        while True:
            with path.open("ab") as file:
                # Some file systems of networks have no locks. There, several processes download.
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_same_file(file.fileno(), path):
                    # The process that held the lock has deleted the file.
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


@dataclass(frozen=True, slots=True)
class _CachedFile:
    path: Path
    size_bytes: int
    used_at: float

    @property
    def is_partial(self) -> bool:
        return self.path.suffix == _PART

    @property
    def is_unused(self) -> bool:
        return time.time() - self.used_at > _UNUSED_SECONDS

    def delete(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def file_digest(file: Path) -> str:
    """Return the SHA-256 digest of a file."""
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def digest_mismatch(weights: str, found: str, expected: str) -> WeightsMismatch:
    """Return the error for weights whose digest is not the one in the catalogue entry."""
    return WeightsMismatch(
        f"{weights}: the SHA-256 digest is {found}, not {expected} as in the catalogue entry; the "
        "weights were not loaded"
    )
