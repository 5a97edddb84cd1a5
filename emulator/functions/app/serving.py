"""Load the app, report its functions to the host and run invocations until the host ends."""

import asyncio
import gc
import logging
import socket
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.functions.meta import Datum

from .frames import FrameConnection
from .indexing import load_functions
from .invocation import (
    PreparedFunction,
    ThreadPool,
    TriggerInput,
    invoke,
    make_metadata,
    make_request_datum,
    prepare,
    read_response,
)

_log = logging.getLogger("functions.app")
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The command-line options of the app process.

    `folder` is the Function App folder, and `script` is the file name of its main module.
    `thread_count` is the size of the thread pool, or None for Python's default size.
    """

    folder: Path
    script: str
    thread_count: int | None


async def serve(connected: socket.socket, options: ServeOptions) -> None:
    """Load the app, or report why not. Run invocations until the host closes the socket."""
    app = _App(options.thread_count)
    await app.connect(connected)
    try:
        functions = load_functions(options.folder, options.script)
    except BaseException as error:  # noqa: BLE001 - user code: it may even exit at import
        app.send(["refused", f"{type(error).__name__}: {error}", traceback.format_exc()])
        await app.wait_closed()
        return
    app.functions = {name: prepare(function) for name, function in functions.items()}
    # The garbage collector does not have to look at the objects of the loaded app again.
    gc.freeze()
    gc.enable()
    app.send(["index", [function.describe() for function in functions.values()]])
    await app.gone.wait()


class _App:
    def __init__(self, thread_count: int | None) -> None:
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(thread_count, thread_name_prefix="function")
        self.functions: dict[str, PreparedFunction] = {}
        self.gone = asyncio.Event()
        self._connection = FrameConnection(self._on_frame, self._on_lost)
        self._create_task = loop.create_task
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPool(executor, loop.run_in_executor)
        self._client_binding: str | None = None

    async def connect(self, connected: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._connection, sock=connected)

    def send(self, head: list[Any], body: bytes = b"") -> None:
        self._connection.send(head, body)

    async def wait_closed(self) -> None:
        """Wait until the host has read all frames and closed the connection."""
        await self.gone.wait()

    def _on_lost(self, _error: Exception | None) -> None:
        self.gone.set()

    def _on_frame(self, head: list[Any], body: bytes) -> None:
        if head[0] == "begin":
            self._client_binding = head[1]
            return
        task = self._create_task(self._answer(head, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, head: list[Any], body: bytes) -> None:
        number, name, kind = head[0], head[1], head[2]
        try:
            answer, payload = await self._run(name, kind, head, body)
        except BaseException as error:  # noqa: BLE001 - user code: sys.exit() is a failed invocation, too
            _log.exception("Exception while executing function: Functions.%s", name)
            answer = ["error", type(error).__name__, _text_of(error), _stack_of(error)]
            payload = b""
        try:
            await self._connection.drain()
            self.send([number, *answer], payload)
        except ConnectionError:
            _log.debug(
                "the host closed the connection before the response of the function %s was sent",
                name,
            )

    async def _run(
        self, name: str, kind: str, head: list[Any], body: bytes
    ) -> tuple[list[Any], bytes]:
        prepared = self.functions[name]
        submit = self._threads.submit
        if kind == "http":
            parent, state = head[8]
            datum = make_request_datum(head[3:8], body)
            event = TriggerInput(datum, {}, parent, state, head[9])
            result = await invoke(prepared, event, self._client_binding, submit)
            status, headers, payload = read_response(result)
            return ["http", status, headers], payload
        if kind == "bytes" and prepared.wants_text:
            kind = "string"
        data = Datum(body if kind == "bytes" else body.decode("utf-8", "replace"), kind)
        parent, state = head[4]
        event = TriggerInput(data, make_metadata(head[3]), parent, state, head[5])
        result = await invoke(prepared, event, self._client_binding, submit)
        if result is None or result.value is None:
            return ["data", False], b""
        value = result.value
        return ["data", True], value if isinstance(value, bytes) else str(value).encode()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "Unhandled exception in function. Could not serialize original exception message."


def _stack_of(error: BaseException) -> str:
    """Return the traceback of an error as text, without the frames before the user's code."""
    entry = error.__traceback__
    while entry is not None and Path(entry.tb_frame.f_code.co_filename).parent == _HERE:
        entry = entry.tb_next
    return "".join(traceback.format_tb(entry))
