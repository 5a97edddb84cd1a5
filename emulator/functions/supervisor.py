"""Keep the app loaded: start its process again each time it ends, with increasing delays."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from emulator.functions.app_process import AppProcess, describe_status, start_app
from emulator.functions.errors import AppLoadError, AppUnavailable
from emulator.functions.loaded_app import AppSource, LoadedApp

if TYPE_CHECKING:
    from emulator.functions.durable.direct import DurableBinding

_log = logging.getLogger("functions.host")
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 10.0
_SETTLED_SECONDS = 10.0


class AppSupervisor:
    """Loads an app, and keeps its process running if it has one of its own.

    If the process ends, the supervisor starts a new process. If the functions of the new process
    differ from those of the first process, the supervisor stops the new process and starts another
    process after a delay.
    """

    def __init__(self, source: AppSource) -> None:
        self.durable: DurableBinding | None = None
        self.functions: list[dict[str, Any]] = []
        self.has_web_extension = False
        self._source = source
        self._app: LoadedApp | None = None
        self._ready = asyncio.Event()
        self._restarter: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Return whether the app accepts invocations now."""
        return self._ready.is_set()

    async def load(self) -> None:
        """Load the app, and set `functions` to the functions of the app."""
        if self._source.is_isolated:
            self._app = await start_app(self._source)
        else:
            # Only this form needs azure.functions in the process of the host.
            from emulator.functions.in_process import load_in_process  # noqa: PLC0415

            self._app = await load_in_process(self._source)
        self.functions = self._app.functions
        self.has_web_extension = self._app.has_web_extension

    def begin(self) -> None:
        """Start to accept invocations. From now on, the app process is restarted if it ends."""
        assert self._app is not None
        self._open(self._app)
        if isinstance(self._app, AppProcess):
            self._restarter = asyncio.create_task(self._restart_when_ended(self._app))

    async def stop(self) -> None:
        """End the app, and do not restart it."""
        self._ready.clear()
        if self._restarter is not None:
            self._restarter.cancel()
            await asyncio.gather(self._restarter, return_exceptions=True)
        if self._app is not None:
            await self._app.stop()
            self._app = None

    def give_up(self, function: str) -> None:
        """End a function that has run too long; this ends a process of the app's own."""
        if self._source.is_isolated:
            self._ready.clear()
        if self._app is not None:
            self._app.give_up(function)

    async def wait_until_ready(self, timeout_seconds: float) -> LoadedApp:
        """Return the loaded app, after the restart of its process if there is one.

        Raises AppUnavailable after `timeout_seconds`, or if it is not restarted.
        """
        app = self._app
        if app is not None and app.has_ended:
            self._ready.clear()  # the process has ended, but the restarting task has not run yet
        if not self._ready.is_set():
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._ready.wait()
            except TimeoutError:
                raise AppUnavailable("the app process is restarting", not_started=True) from None
        app = self._app
        if app is None:
            raise AppUnavailable("the app process has ended", not_started=True)
        return app

    def _open(self, app: LoadedApp) -> None:
        self._app = app
        try:
            app.begin(self.durable)
        except ConnectionError:
            return  # the process has ended again, so the restarting task starts a new one
        self._ready.set()

    async def _restart_when_ended(self, process: AppProcess) -> None:
        loop = asyncio.get_running_loop()
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            opened = loop.time()
            status = await process.wait()
            self._ready.clear()
            self._app = None
            if loop.time() - opened > _SETTLED_SECONDS:
                delay_seconds = _FIRST_DELAY_SECONDS
            _log.error("the app process %s; the host starts it again", describe_status(status))
            process, delay_seconds = await self._restart(delay_seconds)
            self._open(process)
            _log.info("the app process is running again (pid %d)", process.pid)

    async def _restart(self, delay_seconds: float) -> tuple[AppProcess, float]:
        """Restart with doubling delays until an app process has the functions of the first one.

        Return the process, and the delay in seconds for the next restart.
        """
        while True:
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, _LONGEST_DELAY_SECONDS)
            try:
                process = await start_app(self._source)
            except AppLoadError as error:
                _log.error("the app cannot be loaded; the host tries again: %s", error)
                continue
            has_same_server = process.has_web_extension == self.has_web_extension
            if process.functions == self.functions and has_same_server:
                return process, delay_seconds
            _log.error("the functions of the app have changed: restart the host to load them")
            await process.stop()
