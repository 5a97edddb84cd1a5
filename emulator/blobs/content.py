"""Content files: written once under a random key, never changed, removed when nobody needs them.

A file exists before the index refers to it and goes after the index has forgotten it. So the
commit of the index is the only moment that matters, and whatever a crash leaves over is a file
that nothing refers to: ``sweep`` removes those when the service starts.
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
from emulator.blobs.request import RequestBody

_KEY_BYTES = 16
_FANS = [f"{number:02x}" for number in range(256)]


def create_key() -> str:
    """A name for a content file that no other has."""
    return token_hex(_KEY_BYTES)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory safe on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ContentFile:
    """One content file that is being written; every method blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def seal(self) -> None:
        """Close the file; when this returns it is safe on disk."""
        try:
            os.fsync(self._descriptor)
        finally:
            self.close()
        sync_directory(self._path.parent)

    def close(self) -> None:
        """Let go of the descriptor; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ContentFiles:
    """The directory of content files.

    ``pin`` and ``unpin`` keep a file alive while somebody streams it, though the blob is
    replaced or deleted meanwhile. They, and ``release``, belong to the event loop's thread;
    everything else may be called from any.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pins: dict[str, int] = {}
        self._doomed: set[str] = set()

    def prepare(self) -> None:
        """Make the directories."""
        self._root.mkdir(parents=True, exist_ok=True)
        for fan in _FANS:
            (self._root / fan).mkdir(exist_ok=True)
        sync_directory(self._root)

    def create(self, key: str) -> ContentFile:
        """Begin the file ``key``."""
        return ContentFile(self._path(key))

    def open(self, key: str) -> int:
        """A read-only descriptor of the file ``key``; the caller closes it."""
        return os.open(self._path(key), os.O_RDONLY)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files that nothing refers to."""
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def sweep(self, live: set[str]) -> int:
        """Remove every file that is not in ``live``; returns how many there were."""
        removed = 0
        for fan in _FANS:
            for entry in os.scandir(self._root / fan):
                if entry.name not in live:
                    Path(entry.path).unlink()
                    removed += 1
        return removed

    def pin(self, keys: Iterable[str]) -> None:
        """Keep these files until as many calls of ``unpin``."""
        for key in keys:
            self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, keys: Iterable[str]) -> list[str]:
        """Undo one ``pin``; returns the files that may be removed now."""
        free = []
        for key in keys:
            count = self._pins.pop(key) - 1
            if count:
                self._pins[key] = count
            elif key in self._doomed:
                self._doomed.remove(key)
                free.append(key)
        return free

    def release(self, keys: Iterable[str]) -> list[str]:
        """The index has forgotten ``keys``; returns those that may be removed now."""
        free = []
        for key in keys:
            if key in self._pins:
                self._doomed.add(key)
            else:
                free.append(key)
        return free

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key


T = TypeVar("T")

INLINE_BYTES_MAX = 32 * 1024
_WRITE_BYTES = 1024 * 1024
_READ_BYTES = 512 * 1024
_THREADS = 6


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A body that arrived whole: in memory if ``data`` is given, else safe in a content file."""

    size: int
    md5: bytes
    data: bytes | None = None
    content: str = ""


class ContentStreams:
    """Moves content between sockets and content files."""

    def __init__(self, files: ContentFiles) -> None:
        self._files = files
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="content")

    def close(self) -> None:
        """Finish what runs; blocks."""
        self._threads.shutdown()

    def run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call ``function`` on one of the threads."""
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def receive(self, body: RequestBody, maximum: int, *, inline: bool) -> Uploaded:
        """Take in a body of at most ``maximum`` bytes; with ``inline``, keep a small one in memory.

        A body that does not arrive whole leaves nothing behind.
        """
        length = body.required_length(maximum)
        if length <= _WRITE_BYTES:
            data = await body.read(maximum)
            if inline and length <= INLINE_BYTES_MAX:
                return Uploaded(length, _md5(data), data)
            return await self.run(self._store, create_key(), data)
        return await self._receive_large(body, length)

    async def _receive_large(self, body: RequestBody, length: int) -> Uploaded:
        key = create_key()
        file = await self.run(self._files.create, key)
        digest = hashlib.md5(usedforsecurity=False)
        try:
            async for buffer in body.buffers(_WRITE_BYTES):
                await self.run(_write, file, digest.update, buffer)
            await self.run(file.seal)
        except (BlobsError, OSError):
            # Not when cancelled: a thread may still be writing, and closing would give its
            # descriptor to somebody else. That happens as the process ends; the next one sweeps.
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
        """Remove the content of an upload that was refused after it had arrived."""
        if uploaded.content:
            self._remove([uploaded.content])

    def release(self, orphans: Sequence[str]) -> None:
        """Remove content that the index has forgotten, as soon as nobody streams it."""
        if free := self._files.release(orphans):
            self._remove(free)

    def open(self, segments: Sequence[Segment], wanted: ByteRange) -> ContentStream:
        """Stream ``wanted`` from the segments that cover it, as they are at this moment."""
        self._files.pin(segment.content for segment in segments)
        return ContentStream(self, self._files, segments, wanted)

    def _remove(self, keys: Sequence[str]) -> None:
        self._threads.submit(self._files.remove, keys)

    def unpin(self, segments: Sequence[Segment]) -> None:
        """Undo the pin of ``open``."""
        if free := self._files.unpin(segment.content for segment in segments):
            self._remove(free)


class ContentStream:
    """Bytes of a blob, in order; ``close`` must be called, whether or not it was read."""

    def __init__(
        self,
        streams: ContentStreams,
        files: ContentFiles,
        segments: Sequence[Segment],
        wanted: ByteRange,
    ) -> None:
        self._streams = streams
        self._files = files
        self._segments = segments
        self._wanted = wanted

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        for segment in self._segments:
            offset = max(self._wanted.start - segment.start, 0)
            stop = min(self._wanted.stop - segment.start, segment.size)
            descriptor, data = await self._streams.run(self._begin, segment, offset, stop)
            try:
                while True:
                    if not data:
                        raise OSError(f"content file {segment.content} is cut short")
                    yield data
                    offset += len(data)
                    if offset >= stop:
                        break
                    data = await self._streams.run(_read, descriptor, offset, stop)
            finally:
                os.close(descriptor)

    async def read(self) -> bytes:
        """All of it, and close."""
        try:
            return b"".join([piece async for piece in self])
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the content."""
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
