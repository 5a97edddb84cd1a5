"""Decode large images in processes that can be killed.

A hostile image may keep a decoder busy for minutes, make it use all memory, or crash it. So large
images are decoded in child processes: each image has a time limit, and a child that exceeds the
limit is killed and replaced. Small images need no child process, because their size bounds the time
and the memory.

The parent and a child exchange one JSON line at a time over a socket. File descriptors carry the
data in both directions:

    parent   media type, largest number of pixels; with the descriptor of the file
    child    the size of the image and the memory that it needs, or an error
    parent   "decode", after it has reserved the memory
    child    the EXIF orientation, with the descriptor of the pixels, or an error
"""

import contextlib
import json
import math
import mmap
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from PIL import Image

from worker.errors import InvalidInput, WorkerFault
from worker.inputs import images
from worker.process import available_processors

LIMIT_SECONDS: Final = 10.0
"""How many seconds a child process may work on one image."""

_START_SECONDS: Final = 30.0
_LINE_BYTES: Final = 4096
_NICE: Final = 5
_CHANNELS: Final = 3

_Message = dict[str, Any]


class DecoderProcesses:
    """Child processes that decode large images. Any thread may call the methods.

    A child is started when it is first needed. It ends when this process ends.
    """

    def __init__(
        self, limit_seconds: float = LIMIT_SECONDS, process_count: int | None = None
    ) -> None:
        """Store the limits.

        Args:
            limit_seconds: How long a child may work on one image before it is killed.
            process_count: The largest number of children. By default one for each processor, but at
                least two.
        """
        process_count = process_count or max(2, available_processors())
        self._limit_seconds = limit_seconds
        self._slots = threading.Semaphore(process_count)
        self._children: list[_Child] = []
        self._idle: list[_Child] = []
        self._lock = threading.Lock()

    @property
    def child_pids(self) -> list[int]:
        """Return the process ids of all children."""
        with self._lock:
            return [child.pid for child in self._children]

    def decode(
        self,
        data: bytes | mmap.mmap,
        media_type: str,
        max_pixels: int,
        reserve: Callable[[int], object],
    ) -> Image.Image:
        """Decode an image to RGB, and rotate it according to its EXIF orientation.

        Args:
            data: The bytes of the file.
            media_type: The expected media type.
            max_pixels: Images with more pixels than this are refused; 0 for no limit.
            reserve: Called once with the number of bytes of memory that the image needs. The
                function may wait. If it raises an error, the decoding ends with this error.

        Raises:
            InvalidInput: The image is damaged or too large, or the decoder exceeded the time limit
                or crashed.
            WorkerFault: No child process can be started.
        """
        with self._slots, self._child() as child:
            asked = {"media_type": media_type, "max_pixels": max_pixels}
            with _shared_file(data) as file:
                header, _ = child.ask(asked, file)
            width, height = header["size"]
            reserve(header["memory_bytes"])
            answer, pixels = child.ask({"decode": True})
            if pixels is None:
                raise _Gone
            picture = _read_pixels(pixels, (width, height))
        return images.rotated(picture, answer["orientation"])

    def measure(self, data: bytes | mmap.mmap, media_type: str, max_pixels: int) -> int:
        """Return how many bytes of memory `decode` would reserve for an image.

        Args:
            data: The bytes of the file.
            media_type: The expected media type.
            max_pixels: Images with more pixels than this are refused; 0 for no limit.

        Raises:
            InvalidInput: The image is damaged or too large, or the decoder exceeded the time limit
                or crashed.
            WorkerFault: No child process can be started.
        """
        with self._slots, self._child() as child:
            asked = {"media_type": media_type, "max_pixels": max_pixels}
            with _shared_file(data) as file:
                header, _ = child.ask(asked, file)
            child.ask({"decode": False})
        return int(header["memory_bytes"])

    @contextlib.contextmanager
    def _child(self) -> Iterator["_Child"]:
        child = self._take()
        try:
            yield child
        except _Refused as error:
            # The child has answered, and waits for its next image.
            self._keep(child)
            raise InvalidInput(str(error)) from None
        except TimeoutError:
            self._end(child)
            raise InvalidInput(
                f"the image could not be decoded within {self._limit_seconds:g} s"
            ) from None
        except (_Gone, OSError):
            self._end(child)
            raise InvalidInput(images.DAMAGED) from None
        except BaseException:
            self._end(child)
            raise
        self._keep(child)

    def _take(self) -> "_Child":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            child = _Child(self._limit_seconds)
        except (TimeoutError, _Gone, OSError) as error:
            raise WorkerFault("a process to decode the image cannot be started") from error
        with self._lock:
            self._children.append(child)
        return child

    def _keep(self, child: "_Child") -> None:
        with self._lock:
            self._idle.append(child)

    def _end(self, child: "_Child") -> None:
        with self._lock:
            self._children.remove(child)
        child.kill()

    def close(self) -> None:
        """Kill all children. Calls of `decode` that are still running raise InvalidInput."""
        with self._lock:
            self._idle.clear()
            children = list(self._children)
        for child in children:
            child.kill()


class _Gone(Exception):
    """The child has ended, for example because the decoder crashed."""


class _Refused(Exception):
    """The child has answered that the image cannot be decoded."""


class _Child:
    """Starts a child process that decodes images, sends messages to it and receives its answers."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._left_seconds = limit_seconds
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [
                    *(sys.executable, "-m", "worker.inputs.decoder_process"),
                    *(str(theirs.fileno()), str(math.ceil(limit_seconds))),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        self._socket = ours
        self._receive(_START_SECONDS)  # the child has imported its modules

    def ask(self, message: _Message, file: int | None = None) -> tuple[_Message, int | None]:
        """Send one message, with the file descriptor `file` if it is not None.

        Returns:
            The child's answer, and the file descriptor that the child has sent with the answer;
            None instead of the descriptor if the child has sent none.

        Raises:
            _Refused: The child cannot decode the image.
            _Gone: The child has ended.
            TimeoutError: The child has exceeded the time limit of the image.
        """
        if file is not None:
            self._left_seconds = self._limit_seconds
        _send(self._socket, message, file)
        started = time.monotonic()
        answer, descriptor = self._receive(self._left_seconds)
        self._left_seconds -= time.monotonic() - started
        if "error" in answer:
            raise _Refused(answer["error"])
        return answer, descriptor

    def _receive(self, seconds: float) -> tuple[_Message, int | None]:
        self._socket.settimeout(max(0.001, seconds))
        answer, descriptor = _receive(self._socket)
        if answer is None:
            raise _Gone
        return answer, descriptor

    @property
    def pid(self) -> int:
        """Return the child's process id."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the child."""
        self._process.kill()
        self._process.wait()
        self._socket.close()


def _environment() -> dict[str, str]:
    # The child finds the packages where this process has found them, and gets no secrets.
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _send(connection: socket.socket, message: _Message, file: int | None) -> None:
    line = json.dumps(message).encode()
    if file is None:
        connection.sendall(line)
    else:
        socket.send_fds(connection, [line], [file])


def _receive(connection: socket.socket) -> tuple[_Message | None, int | None]:
    # Each side sends one message and waits, so one read returns one whole message.
    try:
        line, files, _, _ = socket.recv_fds(connection, _LINE_BYTES, 1)
    except ConnectionResetError:
        return None, None
    return (json.loads(line) if line else None), (files[0] if files else None)


@contextlib.contextmanager
def _shared_file(data: bytes | mmap.mmap | None = None) -> Iterator[int]:
    """Create an unnamed file with the content `data`, and yield the file's descriptor.

    The file is empty if `data` is None. It is closed when the `with` block ends.
    """
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("loosely-image"), "w+b")
    else:
        file = tempfile.TemporaryFile("w+b")  # noqa: SIM115  closed below
    with file:
        if data is not None:
            file.write(data)
            file.flush()
        yield file.fileno()


def _read_pixels(descriptor: int, size: tuple[int, int]) -> Image.Image:
    expected_bytes = size[0] * size[1] * _CHANNELS
    try:
        if os.fstat(descriptor).st_size != expected_bytes:
            raise _Gone
        with mmap.mmap(descriptor, expected_bytes, access=mmap.ACCESS_READ) as pixels:
            return Image.frombytes("RGB", size, pixels)  # type: ignore[arg-type]  # any buffer
    finally:
        os.close(descriptor)


def main() -> None:
    """Run the child process: decode images until the parent closes the socket."""
    os.nice(_NICE)
    connection, limit_seconds = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _send(connection, {"ready": True}, None)
    while True:
        message, file = _receive(connection)
        if message is None:
            return
        if file is None:
            continue
        _limit_processor_time(2 * limit_seconds)
        try:
            _decode(connection, message, file)
        except InvalidInput as error:
            _send(connection, {"error": str(error)}, None)
        finally:
            os.close(file)


def _limit_processor_time(seconds: int) -> None:
    """Make the kernel kill this process after `seconds` more seconds of processor time."""
    limit_seconds = math.ceil(time.process_time()) + seconds
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or limit_seconds < most:
        resource.setrlimit(resource.RLIMIT_CPU, (limit_seconds, most))


def _decode(connection: socket.socket, asked: _Message, file: int) -> None:
    """Decode one image for the parent process.

    First send the image's width, height and memory need to the parent. Then wait until the parent
    has reserved the memory. Finally, decode the image and send the pixels. If the parent only asks
    for the memory need, the image is not decoded.
    """
    size_bytes = os.fstat(file).st_size
    if not size_bytes:
        raise InvalidInput("the input is empty; expected the bytes of an image")
    with mmap.mmap(file, size_bytes, access=mmap.ACCESS_READ) as data:
        opened = images.open_image(data, asked["media_type"], asked["max_pixels"])
        picture = opened.picture
        # The file is a copy of the parent's data in memory.
        memory_bytes = opened.memory_bytes + size_bytes
        with picture:
            _send(connection, {"size": picture.size, "memory_bytes": memory_bytes}, None)
            message, _ = _receive(connection)
            if message is None:
                sys.exit()
            if not message["decode"]:
                # The parent waits for an answer before it sends its next message.
                _send(connection, {}, None)
                return
            with _shared_file() as pixels:
                for strip in images.decoded_strips(picture):
                    _write(pixels, strip.tobytes())
                _send(connection, {"orientation": images.orientation_of(picture)}, pixels)


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


if __name__ == "__main__":
    main()
