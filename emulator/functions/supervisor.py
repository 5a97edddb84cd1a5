"""Keeps an app process running: restarted with backoff when it dies, the same functions or none."""

import asyncio
import logging
from typing import Any

from emulator.functions.errors import AppLoadError
from emulator.functions.process import Answer, AppCommand, AppProcess, describe_status, start_app
from emulator.functions.runner import AppUnavailable

_log = logging.getLogger("functions.host")
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 10.0
_SETTLED_SECONDS = 10.0


class Supervisor:
    """The app process, whichever run of it lives at the moment."""

    def __init__(self, command: AppCommand) -> None:
        self.client_binding: str | None = None
        self.functions: list[dict[str, Any]] = []
        self._command = command
        self._process: AppProcess | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Tell whether invocations are served at this moment."""
        return self._ready.is_set()

    async def load(self) -> None:
        """Start the first run and keep its index. Raises AppLoadError."""
        self._process = await start_app(self._command)
        self.functions = self._process.functions

    def begin(self) -> None:
        """Serve invocations, from now on and over restarts."""
        assert self._process is not None
        self._open(self._process)
        self._keeper = asyncio.create_task(self._keep(self._process))

    async def stop(self) -> None:
        """End the process; nothing is restarted."""
        self._ready.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End the present run at once, for a function that hangs; a new one follows."""
        self._ready.clear()
        if self._process is not None:
            self._process.kill()

    async def invoke(self, call: list[Any], body: bytes, patience_seconds: float) -> Answer:
        """Run an invocation; wait so long for a restart that is under way.

        Raises AppUnavailable.
        """
        process = self._process
        if process is not None and process.ended.is_set():
            self._ready.clear()  # it has just ended, and the keeper was not told yet
        if not self._ready.is_set():
            try:
                async with asyncio.timeout(patience_seconds):
                    await self._ready.wait()
            except TimeoutError:
                raise AppUnavailable("the app process is restarting", not_started=True) from None
        process = self._process
        if process is None:
            raise AppUnavailable("the app process is gone", not_started=True)
        return await process.invoke(call, body)

    def _open(self, process: AppProcess) -> None:
        self._process = process
        try:
            process.begin(self.client_binding)
        except ConnectionError:
            return  # it died again: the keeper sees to it
        self._ready.set()

    async def _keep(self, process: AppProcess) -> None:
        loop = asyncio.get_running_loop()
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            opened = loop.time()
            status = await process.wait()
            self._ready.clear()
            self._process = None
            if loop.time() - opened > _SETTLED_SECONDS:
                delay_seconds = _FIRST_DELAY_SECONDS
            _log.error("the app process %s; it is started again", describe_status(status))
            process, delay_seconds = await self._restart(delay_seconds)
            self._open(process)
            _log.info("the app process runs again (pid %d)", process.pid)

    async def _restart(self, delay_seconds: float) -> tuple[AppProcess, float]:
        """Return a new run that indexed the same functions, and the next delay."""
        while True:
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, _LONGEST_DELAY_SECONDS)
            try:
                process = await start_app(self._command)
            except AppLoadError as error:
                _log.error("the app does not load any more: %s", error)
                continue
            if process.functions == self.functions:
                return process, delay_seconds
            _log.error("the app's functions have changed: stop the host and start it again")
            process.kill()
            await process.stop()
