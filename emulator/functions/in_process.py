"""Load the app into the process of the host, where an invocation is a call.

What the app's own process has for itself in the other form, the app shares with the host here:
environment variables, import path, working folder, logging and event loop. `load_in_process` sets
them as the app process has them. Therefore a process can contain only one host.
"""

import asyncio
import functools
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from emulator.functions.app.import_path import app_path
from emulator.functions.durable.direct import DurableBinding, install
from emulator.functions.errors import AppLoadError, AppUnavailable
from emulator.functions.loaded_app import AppSource, InvocationResponse, require_functions
from emulator.functions.watchdog import LoopWatchdog

if TYPE_CHECKING:
    from emulator.functions.app.serving import AppFunctions
    from emulator.functions.app.web_extension import WebExtension
    from emulator.functions.exchange import Exchange
    from emulator.functions.web_call import WebCaller

_log = logging.getLogger("functions.host")
_CANCEL_SECONDS = 2.0
_HOST_ROOT = Path(__file__).resolve().parents[2]
_INVOCATION = str(Path(__file__).parent / "app" / "invocation.py")
_SITE_FOLDERS = {"site-packages", "dist-packages"}
_EXTENSIONS = "azurefunctions"
_owner: ContextVar["InProcessApp | None"] = ContextVar("app", default=None)


class InProcessApp:
    """An app in the process of the host, which implements LoadedApp.

    `load_in_process` creates this object.
    """

    has_ended = False

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.has_web_extension = False
        self.tasks: set[asyncio.Task[Any]] = set()
        """All running tasks that the app has created, and its invocations."""
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(_owner.set, self)
        self._app: AppFunctions | None = None
        self._watchdog: LoopWatchdog | None = None
        self._web: WebCaller | None = None

    def load(self, source: AppSource) -> None:
        """Import the app. Raises AppLoadError for any error of its code, and _LoadStopped."""
        # With the app's own version of azure.functions, if it has one.
        from emulator.functions.app.serving import (  # noqa: PLC0415
            AppFunctions,
            ServeOptions,
        )

        options = ServeOptions(
            source.folder, source.script, source.read_thread_count(), source.settings
        )
        try:
            with _interruptible():
                self._app = self._context.run(AppFunctions, options)
        except _LoadStopped:
            raise
        except BaseException as error:  # user code: it may even exit at import
            _log.error("%s", traceback.format_exc().rstrip())
            raise AppLoadError(f"{type(error).__name__}: {error}") from error
        self.functions = self._app.descriptions
        require_functions(self.functions)
        self._watchdog = LoopWatchdog(partial(_describe_block, source.folder))
        if self._app.extension is not None:
            self._load_web_extension(self._app.extension)

    def _load_web_extension(self, extension: "WebExtension") -> None:
        self.has_web_extension = True
        if not extension.is_served:
            return
        from emulator.functions.app.web_extension import (  # noqa: PLC0415 - for few apps
            HttpServerInitError,
        )
        from emulator.functions.web_call import WebCaller  # noqa: PLC0415 - for few apps

        try:
            server, address = self._context.run(extension.create_server)
        except HttpServerInitError as error:
            raise AppLoadError(f"{type(error).__name__}: {error}") from error
        self._web = WebCaller(server.web_app, address, self._start_task)

    def _start_task(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._loop.create_task(work, context=self._context.copy())

    def begin(self, durable: DurableBinding | None) -> None:
        """Set the durable client of the functions, if there is one, before the first `invoke`."""
        if self._app is not None and durable is not None:
            self._app.client_binding = durable.text
            install(durable)

    async def invoke(self, call: list[Any], body: bytes) -> InvocationResponse:
        """Run a function in a task with a context of the app, and return its response."""
        app = self._app
        if app is None:
            raise AppUnavailable("the app has been unloaded", not_started=True)
        # A cancelled caller does not wait for a function that ignores its own cancellation.
        answer: asyncio.Future[InvocationResponse] = self._loop.create_future()
        task = self._start_task(_respond(app, call, body, answer))
        try:
            return await answer
        finally:
            if not task.done():
                task.cancel()

    async def invoke_web(self, call: list[Any], exchange: "Exchange") -> InvocationResponse:
        """Run a function whose request and response pass through the app's web extension.

        The function runs in the task of the extension's app, when its request arrives there.
        """
        app = self._app
        if self._web is None or app is None or app.extension is None:
            return await self.invoke(call, b"")  # as in Azure, the function waits for its request
        from emulator.functions.exchange import ForwardError  # noqa: PLC0415 - for few apps

        run = _WebRun(app, call, self._loop.create_future())
        app.extension.run_on_arrival(call[-1], run)
        try:
            await self._web.forward(exchange, call[-1], run.answer.done)
        except ForwardError:
            answer = await self._end_web(app.extension, run)
            if answer[0][0] == "error":
                return answer
            raise
        return await self._end_web(app.extension, run)

    async def _end_web(self, extension: "WebExtension", run: "_WebRun") -> InvocationResponse:
        """Wait for the function of a request that has been passed on, and return its response."""
        if not run.answer.done() and extension.withdraw_run(run.call[-1]):
            return await self.invoke(run.call, b"")  # the function waits for a request
        try:
            return await run.answer
        finally:
            if run.task is not None and not run.answer.done():
                run.task.cancel()

    def give_up(self, function: str) -> None:
        """Abandon the thread of a synchronous function; an asynchronous one has been cancelled."""
        if self._app is not None and not self._app.is_async(function):
            self._app.replace_threads()
            _log.error(
                "Functions.%s has exceeded functionTimeout, but its thread cannot be stopped, and "
                "runs on: with --isolated, the host ends the process of the app",
                function,
            )

    async def stop(self) -> None:
        """Cancel all tasks of the app, and start no more functions."""
        app, self._app = self._app, None
        if app is not None:
            app.close()
        if self._watchdog is not None:
            self._watchdog.stop()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            _, running = await asyncio.wait(list(self.tasks), timeout=_CANCEL_SECONDS)
            for task in running:
                _log.warning("a task of the app ignores its cancellation: %s", task.get_coro())


class _WebRun:
    """Runs the function of a web request in the task that calls this object."""

    def __init__(
        self, app: "AppFunctions", call: list[Any], answer: "asyncio.Future[InvocationResponse]"
    ) -> None:
        self.call = call
        self.answer = answer
        self.task: asyncio.Task[Any] | None = None
        self._app = app

    async def __call__(self) -> None:
        self.task = asyncio.current_task()
        await _respond(self._app, self.call, b"", self.answer)


async def _respond(
    app: "AppFunctions",
    call: list[Any],
    body: bytes,
    answer: "asyncio.Future[InvocationResponse]",
) -> None:
    try:
        response = await app.respond(call, body)
    except asyncio.CancelledError:
        if not answer.done():
            answer.set_exception(AppUnavailable("the app has been unloaded"))
        raise
    if not answer.done():
        answer.set_result(response)


def _describe_block(folder: Path, frame: FrameType) -> str | None:
    """Return which function of the app runs in `frame`, and where, or None if none does."""
    name = place = ""
    caller: FrameType | None = frame
    while caller is not None:
        code = caller.f_code
        if code is InProcessApp.load.__code__:
            return None
        if code.co_name == "invoke" and code.co_filename == _INVOCATION:
            name = caller.f_locals["prepared"].function.name
        if not place and _is_in(Path(code.co_filename), folder):
            place = f" at {Path(code.co_filename).relative_to(folder)}:{caller.f_lineno}"
        caller = caller.f_back
    if not name and not place:
        return None
    return (f"Functions.{name}" if name else "the app") + place


async def load_in_process(source: AppSource) -> InProcessApp:
    """Import an app, or import it again, and return it.

    Modules in the folder of the app are imported again; an app that was loaded before keeps its
    own. Raises AppLoadError if the app cannot be loaded; then its predecessor's modules and
    settings are in place again.
    """
    loop = asyncio.get_running_loop()
    loop.set_task_factory(_create_task)
    app = InProcessApp()
    former = _Surroundings()
    former.drop_modules(source.folder)
    # Almost all objects that the import creates stay in memory.
    gc.disable()
    try:
        _surround(source)
        app.load(source)
    except BaseException as error:
        await app.stop()
        former.restore(source.folder)
        if isinstance(error, _LoadStopped):
            # The signal has reached the event loop, too, which cancels this load.
            await loop.create_future()
        raise
    finally:
        gc.enable()
    return app


def _create_task(
    loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None, **options: Any
) -> "asyncio.Task[Any]":
    """Create a task, as the event loop does, and note it if the code of an app has asked for it."""
    owner = _owner.get() if context is None else context.get(_owner)
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context, **options)
    if owner is not None:
        owner.tasks.add(task)
        task.add_done_callback(owner.tasks.discard)
    return task


# The state of this process before it has loaded an app for the first time.
_host_path: list[str] = []
_host_modules: set[str] = set()


class _Surroundings:
    """The settings and modules of the app that is loaded now, to restore them after a failure."""

    def __init__(self) -> None:
        if not _host_modules:
            _host_path.extend(sys.path)
            _host_modules.update(sys.modules)
        self._environment = dict(os.environ)
        self._path = list(sys.path)
        self._modules: dict[str, ModuleType] = {}

    def drop_modules(self, folder: Path) -> None:
        """Forget the modules that were imported from the app's folder, and its web extension."""
        self._modules = _find_modules(folder)
        for name in self._modules:
            del sys.modules[name]
        importlib.invalidate_caches()
        if self._modules:
            _free_memory(self._modules.keys())

    def restore(self, folder: Path) -> None:
        """Undo what a failed load has changed."""
        for name in _find_modules(folder):
            del sys.modules[name]
        sys.modules.update(self._modules)
        _set_environment(self._environment)
        sys.path[:] = self._path


def _find_modules(folder: Path) -> dict[str, ModuleType]:
    """Return the modules from an app's folder, but not installed packages and the host's own.

    A web extension is among them even if it is installed, because it registers itself when it is
    imported.
    """
    extensions = {_EXTENSIONS, _find_web_package()}
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name not in _host_modules
        and name.partition(".")[0] != "emulator"
        and (
            name.partition(".")[0] in extensions
            or any(_is_in(Path(place), folder) for place in _places(module))
        )
    }


def _find_web_package() -> str:
    """Return the name of the package or module that contains the web extension, or ""."""
    base = sys.modules.get(f"{_EXTENSIONS}.extensions.base")
    module: str | None = base.ModuleTrackerMeta.get_module() if base is not None else None
    return (module or "").partition(".")[0]


def _free_memory(modules: Collection[str]) -> None:
    """Free the objects of apps that have ended, whose last modules were `modules`."""
    # Caches of installed packages hold functions and classes of the app.
    for each in gc.get_objects():
        # `isinstance` would run the code of proxy objects.
        if type(each) is functools._lru_cache_wrapper and each.__module__ not in modules:
            each.cache_clear()
    gc.unfreeze()
    gc.collect()


def _places(module: ModuleType) -> list[str]:
    file = getattr(module, "__file__", None)
    return [file] if file else [str(place) for place in getattr(module, "__path__", ())]


def _is_in(place: Path, folder: Path) -> bool:
    if not place.is_relative_to(folder):
        return False
    # The app itself may be in an installed package.
    return not _SITE_FOLDERS & set(place.relative_to(folder).parts)


def _surround(source: AppSource) -> None:
    """Give this process what an app process has: settings, import path, folder and streams."""
    _set_environment(source.settings)
    sys.path[:] = app_path(source.folder, _host_path, _HOST_ROOT)
    os.chdir(source.folder)
    # Output of the app goes to the log at once, also that of its child processes.
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), 1)
    reconfigure: Callable[..., None] | None = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)


def _set_environment(values: Mapping[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


class _LoadStopped(BaseException):
    """SIGTERM or SIGINT has ended the import of the app."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the import of an app, during which the event loop stands."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise _LoadStopped

    former = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGINT)
        if callable(handler := signal.getsignal(number))
        and handler is not signal.default_int_handler
    }
    for number in former:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
