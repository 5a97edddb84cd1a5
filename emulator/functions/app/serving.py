"""Load an app and run its functions: for a host in the same process, or over a socket."""

import asyncio
import gc
import logging
import socket
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.functions.meta import Datum

from .frames import FrameConnection
from .indexing import load_app
from .invocation import (
    PreparedFunction,
    ThreadPool,
    TriggerInput,
    WebInput,
    invoke,
    invoke_web,
    make_metadata,
    make_request_datum,
    prepare,
    read_response,
)
from .web_extension import WebExtension

_log = logging.getLogger("functions.app")
# As in the host: most garbage has no cycles.
_GC_THRESHOLD = 10_000
_HERE = Path(__file__).parent
Response = tuple[list[Any], bytes]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Which app to load.

    `folder` is the Function App folder, `script` is the file name of its main module, and
    `settings` are the app settings. `thread_count` is the size of the thread pool, or None for
    Python's default size.
    """

    folder: Path
    script: str
    thread_count: int | None
    settings: Mapping[str, str]


class AppFunctions:
    """The functions of an app, which this process has imported.

    The constructor imports the app, and raises what `load_app` raises. `extension` is the app's web
    extension, if it has one.
    """

    def __init__(self, options: ServeOptions) -> None:
        functions, self.extension = load_app(options.folder, options.script, options.settings)
        self.descriptions = [function.describe() for function in functions.values()]
        self.client_binding: str | None = None
        self._functions: dict[str, PreparedFunction] = {
            name: prepare(function) for name, function in functions.items()
        }
        self._thread_count = options.thread_count
        self._threads = self._make_threads()

    def is_async(self, name: str) -> bool:
        """Return whether a function is a coroutine function."""
        return self._functions[name].function.is_async

    def replace_threads(self) -> None:
        """Let later synchronous functions run in new threads, because one of the old ones hangs."""
        self._threads.close()
        self._threads = self._make_threads()

    def close(self) -> None:
        """Start no more synchronous functions."""
        self._threads.close()

    def _make_threads(self) -> ThreadPool:
        executor = ThreadPoolExecutor(self._thread_count, thread_name_prefix="function")
        return ThreadPool(executor, asyncio.get_running_loop().run_in_executor)

    async def respond(self, call: list[Any], body: bytes) -> Response:
        """Run a function, and return the head and the body of the response, without a number.

        `call` is the head of a frame, without its number (see frames.py). A function that raises
        an exception is a response, too. Raises CancelledError if the caller is cancelled.
        """
        name = call[0]
        try:
            return await self._run(name, call, body)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            # User code: sys.exit() is a failed invocation, too.
            _log.exception("Exception while executing function: Functions.%s", name)
            return ["error", type(error).__name__, _text_of(error), _stack_of(error)], b""

    async def _run(self, name: str, call: list[Any], body: bytes) -> Response:
        prepared, kind = self._functions[name], call[1]
        submit = self._threads.submit
        if kind == "http":
            parent, state = call[7]
            datum = make_request_datum(call[2:7], body)
            event = TriggerInput(datum, {}, parent, state, call[8])
            result = await invoke(prepared, event, self.client_binding, submit)
            status, headers, payload = read_response(result)
            return ["http", status, headers], payload
        if kind == "web":
            assert self.extension is not None
            parent, state = call[3]
            arriving = WebInput(self.extension, call[2], parent, state, call[4])
            await invoke_web(prepared, arriving, self.client_binding, submit)
            return ["web"], b""
        if kind == "bytes" and prepared.wants_text:
            kind = "string"
        data = Datum(body if kind == "bytes" else body.decode("utf-8", "replace"), kind)
        parent, state = call[3]
        event = TriggerInput(data, make_metadata(call[2]), parent, state, call[4])
        result = await invoke(prepared, event, self.client_binding, submit)
        if result is None or result.value is None:
            return ["data", False], b""
        value = result.value
        return ["data", True], value if isinstance(value, bytes) else str(value).encode()


async def serve(connected: socket.socket, options: ServeOptions) -> None:
    """Load the app, or report why not. Run invocations until the host closes the socket."""
    server = _FrameServer()
    await server.connect(connected)
    try:
        app = AppFunctions(options)
        address = start_web_server(app.extension)
    except BaseException as error:  # noqa: BLE001 - user code: it may even exit at import
        server.send(["refused", f"{type(error).__name__}: {error}", traceback.format_exc()])
        await server.gone.wait()
        return
    server.app = app
    # The garbage collector does not have to look at the objects of the loaded app again.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    gc.enable()
    server.send(["index", app.descriptions, address])
    await server.gone.wait()


def start_web_server(extension: WebExtension | None) -> str | None:
    """Start the server of a web extension, and return its address, or None without an extension.

    If the extension is not served, the address is empty. Raises HttpServerInitError.
    """
    if extension is None:
        return None
    return extension.start_server() if extension.is_served else ""


class _FrameServer:
    """Receives invocations as frames, and sends the responses.

    `gone` is set when the host has closed the connection.
    """

    def __init__(self) -> None:
        self.app: AppFunctions | None = None
        self.gone = asyncio.Event()
        self._connection = FrameConnection(self._on_frame, self._on_lost)
        self._create_task = asyncio.get_running_loop().create_task
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, connected: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._connection, sock=connected)

    def send(self, head: list[Any], body: bytes = b"") -> None:
        self._connection.send(head, body)

    def _on_lost(self, _error: Exception | None) -> None:
        self.gone.set()

    def _on_frame(self, head: list[Any], body: bytes) -> None:
        app = self.app
        if app is None:
            return  # the host sends nothing before it has the index
        if head[0] == "begin":
            app.client_binding = head[1]
            return
        task = self._create_task(self._answer(app, head, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, app: AppFunctions, head: list[Any], body: bytes) -> None:
        number, *call = head
        answer, payload = await app.respond(call, body)
        try:
            await self._connection.drain()
            self.send([number, *answer], payload)
        except ConnectionError:
            _log.debug(
                "the host closed the connection before the response of the function %s was sent",
                call[0],
            )


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
