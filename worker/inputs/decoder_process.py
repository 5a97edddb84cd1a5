"""Decode large images and large JSON in processes that can be killed.

A hostile image may keep a decoder busy for minutes, make it use all memory, or crash it. The JSON
parser holds the interpreter's lock until it has read the whole text. So both are decoded in child
processes, whose processor time the kernel limits. Small inputs need no child, because their size
bounds the time and the memory.

If a child is killed from outside, crashes or hangs, another child decodes the input. If this child
fails too, the message is given back, because the input is probably not the reason.

A caller measures, reserves the memory, and then decodes. It never waits for memory while it holds a
child, so callers cannot wait for each other forever.

The parent sends one JSON line with the descriptor of the input. The child answers with one, and
with the descriptor of the decoded content.
"""

import contextlib
import gc
import json
import logging
import math
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from PIL import Image

from contract import media
from contract.messages import Json
from worker.errors import HandedBack, InvalidInput, WorkerFault
from worker.inputs import images, tensors, text
from worker.processes.setup import available_processors

_log = logging.getLogger(__name__)

LIMIT_SECONDS: Final = 10.0
"""How many seconds of processor time a child process may use for one image."""

# The time for JSON depends on its size alone: 10 MB take a second on an idle machine.
_JSON_LIMIT_SECONDS: Final = 30.0

# A child has this many times its limit, because it shares the processors with other processes.
_WAIT_FACTOR: Final = 2
_START_SECONDS: Final = 30.0
_LINE_BYTES: Final = 4096
_NICE: Final = 5
_CHECK_SECONDS: Final = 0.2

Data = bytes | mmap.mmap
"""The bytes of an input. Large inputs are in a file, and are mapped into memory."""

Check = Callable[[], object]
"""The type of a function that raises an error if the job must stop waiting."""

_Message = dict[str, Any]


class DecoderProcesses:
    """Child processes that decode large inputs. Any thread may call the methods.

    A child is started when it is first needed. It ends when this process ends. While a method waits
    for a child, it calls `check` several times per second, and ends with the error that this
    raises.

    The methods raise InvalidInput if the input is damaged or too large, or needs too much processor
    time. They raise WorkerFault if two children were killed, crashed or hung, or cannot be started.
    """

    def __init__(
        self, limit_seconds: float = LIMIT_SECONDS, process_count: int | None = None
    ) -> None:
        """Start no child yet. By default one is allowed for each processor, but at least two."""
        process_count = process_count or max(2, available_processors())
        self._limit_seconds = limit_seconds
        self._slots = threading.Semaphore(process_count)
        self._children: list[_Child] = []
        self._idle: list[_Child] = []
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def child_pids(self) -> list[int]:
        """The process ids of all children."""
        with self._lock:
            return [child.pid for child in self._children]

    def measure_image(self, data: Data, media_type: str, max_pixels: int, check: Check) -> int:
        """Return how many bytes of memory are needed to decode an image."""
        asked = {"do": "measure", "media_type": media_type, "max_pixels": max_pixels}
        answer, content = self._ask(asked, data, check)
        os.close(content)
        # The file is a copy of the data in memory.
        return int(answer["memory_bytes"]) + len(data)

    def decode_image(
        self, data: Data, media_type: str, max_pixels: int, check: Check
    ) -> Image.Image:
        """Decode an image to RGB, and rotate it according to its EXIF orientation."""
        asked = {"do": "image", "media_type": media_type, "max_pixels": max_pixels}
        answer, content = self._ask(asked, data, check)
        width, height = answer["size"]
        with _mapped(content) as pixels:
            picture = Image.frombytes("RGB", (width, height), pixels)  # type: ignore[arg-type]  # any buffer
        return images.rotated(picture, answer["orientation"])

    def parse_json(self, data: Data, check: Check) -> Json:
        """Parse JSON as `text.parse_json` does, without holding the interpreter's lock for long."""
        _, content = self._ask({"do": "json"}, data, check)
        with _mapped(content) as lines:
            return text.join_pieces(iter(lines.readline, b""))

    def decode_tensors(self, data: Data, check: Check) -> tensors.Tensors:
        """Decode arrays in JSON as `tensors.decode` does."""
        _, content = self._ask({"do": "tensor"}, data, check)
        with _mapped(content) as file:
            return tensors.load(file)

    def _ask(self, message: _Message, data: Data, check: Check) -> tuple[_Message, int]:
        """Let a child process `data`, or else a second one. Return its answer and descriptor."""
        while not self._slots.acquire(timeout=_CHECK_SECONDS):
            check()
        is_image = message["do"] in {"measure", "image"}
        seconds = self._limit_seconds if is_image else _JSON_LIMIT_SECONDS
        message = {**message, "limit_seconds": seconds}
        try:
            try:
                return self._ask_child(message, data, check)
            except _ChildFailed as error:
                _log.warning("%s; another process decodes the input", error)
            return self._ask_child(message, data, check)
        except _ChildFailed as error:
            raise WorkerFault(f"{error}, for the second time") from None
        finally:
            self._slots.release()

    def _ask_child(self, message: _Message, data: Data, check: Check) -> tuple[_Message, int]:
        """Let one child process `data`. Raises _ChildFailed or InvalidInput."""
        child = self._take()
        try:
            with _shared_file() as file:
                _write(file, data)
                answer, content = child.ask(message, file, check)
        except TimeoutError:
            self._end(child)
            raise _ChildFailed("a process that decodes inputs hung") from None
        except OSError:
            if self._end(child) == -signal.SIGXCPU:
                raise InvalidInput(
                    f"the input could not be decoded within {message['limit_seconds']:g} s of "
                    "processor time"
                ) from None
            raise _ChildFailed("a process that decodes inputs was killed or crashed") from None
        except BaseException:
            self._end(child)
            raise
        # The child waits for its next input.
        with self._lock:
            self._idle.append(child)
        if content is None:
            raise InvalidInput(answer["error"])
        return answer, content

    def _take(self) -> "_Child":
        with self._lock:
            if self._is_closed:
                raise HandedBack("this worker is shutting down")
            if self._idle:
                return self._idle.pop()
        try:
            child = _Child()
        except OSError:
            raise _ChildFailed("a process that decodes inputs cannot be started") from None
        with self._lock:
            self._children.append(child)
        return child

    def _end(self, child: "_Child") -> int:
        """Kill a child unless it has ended. Return its exit code, or -N if signal N ended it."""
        with self._lock:
            self._children.remove(child)
        return child.kill()

    def close(self) -> None:
        """Kill all children. Calls that still wait for a child raise HandedBack."""
        with self._lock:
            self._is_closed = True
            self._idle.clear()
            children = list(self._children)
        for child in children:
            child.kill()


class _ChildFailed(Exception):
    """A child process has failed, for which the input may not be the reason."""


class _Child:
    """Starts a child process that decodes inputs, sends messages to it and receives its answers."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-m", "worker.inputs.decoder_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # It finds the packages where this process has found them, and gets no secrets.
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.pid = self._process.pid
        self._socket = ours
        self._receive(_START_SECONDS, lambda: None)  # the child has imported its modules

    def ask(self, message: _Message, file: int, check: Check) -> tuple[_Message, int | None]:
        """Send one message with a descriptor. Return the answer, and the descriptor of its content.

        Raises an OSError, for example TimeoutError. The kernel ends a child that uses its limit of
        processor time, so a child that does not answer was stopped or got no time.
        """
        socket.send_fds(self._socket, [json.dumps(message).encode()], [file])
        answer, descriptor = self._receive(_WAIT_FACTOR * message["limit_seconds"], check)
        if descriptor is None and "error" not in answer:
            raise OSError("the child sent no content")
        return answer, descriptor

    def _receive(self, seconds: float, check: Check) -> tuple[_Message, int | None]:
        ends_at = time.monotonic() + seconds
        while True:
            left_seconds = ends_at - time.monotonic()
            self._socket.settimeout(min(_CHECK_SECONDS, max(0.001, left_seconds)))
            try:
                return _receive(self._socket)
            except TimeoutError:
                if left_seconds <= _CHECK_SECONDS:
                    raise
                check()

    def kill(self) -> int:
        """Kill the child unless it has ended, and return its exit code as `Popen` does."""
        self._process.kill()
        self._socket.close()
        return self._process.wait()


def _receive(connection: socket.socket) -> tuple[_Message, int | None]:
    """Receive a message and a descriptor. Raises ConnectionResetError if the other side ended."""
    # Each side sends one message and waits, so one read returns one whole message.
    line, files, _, _ = socket.recv_fds(connection, _LINE_BYTES, 1)
    if not line:
        raise ConnectionResetError
    return json.loads(line), files[0] if files else None


@contextlib.contextmanager
def _shared_file() -> Iterator[int]:
    """Create an unnamed file, and yield its descriptor. Close it when the `with` block ends."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("loosely-input")
        try:
            yield file
        finally:
            os.close(file)
    else:
        with tempfile.TemporaryFile("w+b") as opened:
            yield opened.fileno()


def _mapped(descriptor: int) -> mmap.mmap:
    """Map the content that a child has sent into memory, and close its descriptor."""
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def _write(file: int, data: Data | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def main() -> None:
    """Run the child process: decode inputs until the parent closes the socket."""
    os.nice(_NICE)
    gc.disable()  # decoded values have no cycles, and it would look at each of them
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.sendall(b"{}")
    while True:
        try:
            message, file = _receive(connection)
        except ConnectionResetError:
            return
        if file is None:
            return
        _limit_processor_time(math.ceil(message["limit_seconds"]))
        try:
            with _shared_file() as content:
                answer = _decode(message, file, content)
                socket.send_fds(connection, [json.dumps(answer).encode()], [content])
        except InvalidInput as error:
            connection.sendall(json.dumps({"error": str(error)}).encode())
        finally:
            os.close(file)


def _limit_processor_time(seconds: int) -> None:
    """Make the kernel end this process by SIGXCPU after so many more seconds of processor time."""
    limit_seconds = math.ceil(time.process_time()) + seconds
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or limit_seconds < most:
        resource.setrlimit(resource.RLIMIT_CPU, (limit_seconds, most))


def _decode(asked: _Message, file: int, content: int) -> _Message:
    """Decode `file`, and write its content to `content`. Return what else the parent needs."""
    if not os.fstat(file).st_size:
        raise InvalidInput("the input is empty")
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as data:
        if asked["do"] == "json":
            for line in text.split_json(text.parse_json(data)):
                _write(content, line)
            return {}
        if asked["do"] == "tensor":
            for part in tensors.dump(tensors.decode(data, media.JSON)):
                _write(content, part)
            return {}
        opened = images.open_image(data, asked["media_type"], asked["max_pixels"])
        with opened.picture as picture:
            if asked["do"] == "measure":
                return {"memory_bytes": opened.memory_bytes}
            for strip in images.decoded_strips(picture):
                _write(content, strip.tobytes())
            return {"size": picture.size, "orientation": images.orientation_of(picture)}


if __name__ == "__main__":
    main()
