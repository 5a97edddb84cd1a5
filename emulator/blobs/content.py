"""Store blob content in files, and stream the content between the files and the network.

The index is the database that lists all blobs and refers to their content files. A content file has
a random key as its name. The file is written completely before the index refers to the file, and is
never changed. The file is removed only when the index no longer refers to the file. Therefore the
index never refers to a missing file. A crash may leave files to which the index does not refer.
`sweep` removes these files when the program starts again.

File operations run on a small pool of threads. Content is read and written in buffers of limited
size, so memory use does not depend on the size of a blob.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from emulator.blobs.errors import BlobsError
from emulator.blobs.headers import ByteRange
from emulator.blobs.index.schema import Segment
from emulator.blobs.request import Body

_KEY_BYTES = 16
_SUBDIRECTORIES = [f"{number:02x}" for number in range(256)]


def create_key() -> str:
    """Return a new random key for a content file."""
    return token_hex(_KEY_BYTES)


def sync_directory(path: Path) -> None:
    """Flush a directory to disk, so that its new files survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ContentFile:
    """A content file that is being written. All methods block the calling thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)

    def write(self, data: bytes) -> None:
        """Append bytes to the file."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def seal(self) -> None:
        """Flush the file and its entry in the directory to disk, and close the file."""
        try:
            os.fsync(self._descriptor)
        finally:
            self.close()
        sync_directory(self._path.parent)

    def close(self) -> None:
        """Close the file if it is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ContentFiles:
    """The directory that contains the content files.

    While a response streams a file, the file is pinned: it is not removed, even if its blob is
    replaced or deleted.

    `pin`, `unpin` and `release` must be called on the event loop's thread. All other methods may be
    called on any thread.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pins: dict[str, int] = {}
        self._waiting_for_unpin: set[str] = set()

    def prepare(self) -> None:
        """Create the directory and its subdirectories if they do not exist."""
        self._root.mkdir(parents=True, exist_ok=True)
        for subdirectory in _SUBDIRECTORIES:
            (self._root / subdirectory).mkdir(exist_ok=True)
        sync_directory(self._root)

    def create(self, key: str) -> ContentFile:
        """Create an empty content file with this key, and return it for writing."""
        return ContentFile(self._path(key))

    def open(self, key: str) -> int:
        """Open the file with this key, and return a descriptor that the caller must close."""
        return os.open(self._path(key), os.O_RDONLY)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove the files with these keys. The index must no longer refer to the files."""
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def sweep(self, live: set[str]) -> int:
        """Remove all content files whose key is not in `live`. Return how many were removed."""
        removed = 0
        for subdirectory in _SUBDIRECTORIES:
            for entry in os.scandir(self._root / subdirectory):
                if entry.name not in live:
                    Path(entry.path).unlink()
                    removed += 1
        return removed

    def pin(self, keys: Iterable[str]) -> None:
        """Keep the files with these keys until `unpin` has been called as often for each one."""
        for key in keys:
            self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, keys: Iterable[str]) -> list[str]:
        """Undo a `pin` of each key; return the keys of files that the caller must now remove."""
        removable = []
        for key in keys:
            count = self._pins.pop(key) - 1
            if count:
                self._pins[key] = count
            elif key in self._waiting_for_unpin:
                self._waiting_for_unpin.remove(key)
                removable.append(key)
        return removable

    def release(self, keys: Iterable[str]) -> list[str]:
        """Release files from the index; return the keys of those to remove, without pins."""
        removable = []
        for key in keys:
            if key in self._pins:
                self._waiting_for_unpin.add(key)
            else:
                removable.append(key)
        return removable

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key


T = TypeVar("T")

INLINE_BYTES_MAX = 32 * 1024
_WRITE_BYTES = 1024 * 1024
_READ_BYTES = 512 * 1024
_THREADS = 6


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A request body that was received completely.

    If the body is in memory, `data` contains it. If the body is in a content file, `content` is the
    file's key.
    """

    size: int
    md5: bytes
    data: bytes | None = None
    content: str = ""


class ContentStreams:
    """Transfers content between requests, responses and content files."""

    def __init__(self, files: ContentFiles) -> None:
        self._files = files
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="content")

    def close(self) -> None:
        """Wait until all file operations have finished, and stop the threads."""
        self._threads.shutdown()

    def run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call a function on a thread of the pool, and return a future for its result."""
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def receive(self, body: Body, maximum: int, *, inline: bool) -> Uploaded:
        """Receive a request body of at most `maximum` bytes in a content file.

        If `inline` is True, at most 32 KiB stay in memory. Raises StorageError if the body is
        longer or its length unknown, and ClientGoneError, after removing the file, if the client
        leaves.
        """
        length = body.required_length(maximum)
        if length <= _WRITE_BYTES:
            data = await body.read(maximum)
            if inline and length <= INLINE_BYTES_MAX:
                return Uploaded(length, _md5(data), data)
            return await self.run(self._store, create_key(), data)
        return await self._receive_large(body, length)

    async def _receive_large(self, body: Body, length: int) -> Uploaded:
        key = create_key()
        file = await self.run(self._files.create, key)
        digest = hashlib.md5(usedforsecurity=False)
        try:
            async for buffer in body.buffers(_WRITE_BYTES):
                await self.run(_write, file, digest.update, buffer)
            await self.run(file.seal)
        except (BlobsError, OSError):
            # Do not close the file if the task is cancelled: a thread may still be writing to the
            # descriptor, and closing would free the descriptor for reuse. Tasks are cancelled only
            # when the process ends; `sweep` removes the file at the next start.
            await self.run(self._give_up, file, key)
            raise
        return Uploaded(length, digest.digest(), content=key)

    def _give_up(self, file: ContentFile, key: str) -> None:
        file.close()
        self._files.remove([key])

    def _store(self, key: str, data: bytes) -> Uploaded:
        file = self._files.create(key)
        try:
            file.write(data)
            file.seal()
        except OSError:
            self._give_up(file, key)
            raise
        return Uploaded(len(data), _md5(data), content=key)

    def discard(self, uploaded: Uploaded) -> None:
        """Remove the content file of a refused upload. Do nothing if the body is in memory."""
        if uploaded.content:
            self._remove([uploaded.content])

    def release(self, unreferenced: Sequence[str]) -> None:
        """Remove the content files with these keys, to which the index no longer refers."""
        if removable := self._files.release(unreferenced):
            self._remove(removable)

    def open(self, segments: Sequence[Segment], byte_range: ByteRange) -> ContentStream:
        """Return a stream of a blob's bytes. Its files stay pinned until the stream is closed."""
        self._files.pin(segment.content for segment in segments)
        return ContentStream(self, self._files, segments, byte_range)

    def _remove(self, keys: Sequence[str]) -> None:
        self._threads.submit(self._files.remove, keys)

    def unpin(self, segments: Sequence[Segment]) -> None:
        """Unpin the content files of these parts, and remove those that nothing needs now."""
        if removable := self._files.unpin(segment.content for segment in segments):
            self._remove(removable)


class ContentStream:
    """An asynchronous iterator over the bytes of a blob in a byte range.

    The caller of `ContentStreams.open` must call `close`, even if no bytes were read. Otherwise the
    content files stay pinned: they are not removed, even if the blob is deleted.
    """

    def __init__(
        self,
        streams: ContentStreams,
        files: ContentFiles,
        segments: Sequence[Segment],
        byte_range: ByteRange,
    ) -> None:
        self._streams = streams
        self._files = files
        self._segments = segments
        self._byte_range = byte_range

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        inline: list[bytes] = []
        for segment in self._segments:
            offset = max(self._byte_range.start - segment.start, 0)
            stop = min(self._byte_range.stop - segment.start, segment.size)
            if segment.data is not None:
                inline.append(segment.data[offset:stop])
                continue
            if inline:
                yield b"".join(inline)
                inline.clear()
            descriptor, data = await self._streams.run(self._begin, segment, offset, stop)
            try:
                while True:
                    if not data:
                        raise OSError(
                            f"content file {segment.content} has fewer bytes than the index states"
                        )
                    yield data
                    offset += len(data)
                    if offset >= stop:
                        break
                    data = await self._streams.run(_read, descriptor, offset, stop)
            finally:
                os.close(descriptor)
        if inline:
            yield b"".join(inline)

    async def read(self) -> bytes:
        """Return all bytes of the range, and close the stream."""
        try:
            return b"".join([piece async for piece in self])
        finally:
            self.close()

    def close(self) -> None:
        """Unpin the content files that the stream reads, so that they can be removed."""
        self._streams.unpin(self._segments)
        self._segments = ()

    def _begin(self, segment: Segment, offset: int, stop: int) -> tuple[int, bytes]:
        descriptor = self._files.open(segment.content)
        try:
            return descriptor, _read(descriptor, offset, stop)
        except OSError:
            os.close(descriptor)
            raise


def _read(descriptor: int, offset: int, stop: int) -> bytes:
    return os.pread(descriptor, min(stop - offset, _READ_BYTES), offset)


def _write(file: ContentFile, update: Callable[[bytes], None], buffer: bytes) -> None:
    file.write(buffer)
    update(buffer)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
