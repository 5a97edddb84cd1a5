"""Content on its way: from a request's body to disk, and from disk into an answer.

Whatever touches a disk runs on a small pool of threads, in pieces large enough to be worth the
hand-over and small enough that memory stays flat.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from emulator.blobs.content import ContentFile, ContentFiles, new_key
from emulator.blobs.errors import BlobsError
from emulator.blobs.index.records import Segment
from emulator.blobs.ranges import ByteRange
from emulator.blobs.request import Body

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


class Streams:
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

    async def receive(self, body: Body, maximum: int, *, inline: bool) -> Uploaded:
        """Take in a body of at most ``maximum`` bytes; with ``inline``, keep a small one in memory.

        A body that does not arrive whole leaves nothing behind.
        """
        length = body.required_length(maximum)
        if length <= _WRITE_BYTES:
            data = await body.read(maximum)
            if inline and length <= INLINE_BYTES_MAX:
                return Uploaded(length, _md5(data), data)
            return await self.run(self._store, new_key(), data)
        return await self._receive_large(body, length)

    async def _receive_large(self, body: Body, length: int) -> Uploaded:
        key = new_key()
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
        self, streams: Streams, files: ContentFiles, segments: Sequence[Segment], wanted: ByteRange
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
