"""The Functions host: create its parts, and start and stop them in the right order.

The parts are the app process, the durable extension, the triggers and the listeners.
"""

import asyncio
import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from emulator.functions.admin import AdminApplication
from emulator.functions.app_process import AppCommand, AppSupervisor, Invoker
from emulator.functions.asgi import Application, Listener, format_url
from emulator.functions.catalogue import FunctionCatalogue, build_catalogue
from emulator.functions.clock import HostClock, SystemUtcClock
from emulator.functions.durable.azure_storage.engine import AzureStorageOptions
from emulator.functions.durable.extension import DurableExtension
from emulator.functions.errors import HostDirectoryInUse
from emulator.functions.settings import read_app_settings, read_host_file, resolve
from emulator.functions.triggers.binding import Triggers
from emulator.functions.web import WebApplication
from emulator.program import SettingError, bind

_log = logging.getLogger("functions.host")


@contextmanager
def lock_data_directory(directory: Path) -> Iterator[Path]:
    """Return a context manager that locks a data directory during its `with` block.

    The directory is created if it does not exist. If the process dies, the lock is released. Raises
    HostDirectoryInUse if another host uses the directory, and SettingError if the directory cannot
    be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SettingError(
            f"the data directory {directory} (--data) cannot be used: {error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HostDirectoryInUse(f"another host uses the data directory {directory}") from None
        yield directory
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """The command-line options of the host."""

    folder: Path
    data: Path
    host: str = "127.0.0.1"
    port: int = 7071
    rpc_port: int = 0
    log_level: str = "info"
    python: str = sys.executable
    storage: AzureStorageOptions | None = None
    """The options of the azure-storage engine. If None, the host uses the default engine."""


class Host:
    """One Functions host. `start` raises StartError if the host cannot serve the app."""

    def __init__(
        self, options: HostOptions, environment: Mapping[str, str], clock: HostClock | None = None
    ) -> None:
        self._options = options
        self._clock = clock or SystemUtcClock()
        self._host_file = read_host_file(options.folder)
        self._main_socket = bind(options.host, options.port)
        self._settings = {
            **read_app_settings(options.folder, environment),
            "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "WEBSITE_HOSTNAME": format_url(self._main_socket).removeprefix("http://"),
        }
        command = AppCommand(options.folder, self._settings, options.python, options.log_level)
        self._supervisor = AppSupervisor(command)
        self._durable: DurableExtension | None = None
        self._triggers: Triggers | None = None
        self._listeners: list[Listener] = []

    @property
    def url(self) -> str:
        """Return the URL of the main port, without a trailing slash."""
        return format_url(self._main_socket)

    async def start(self) -> None:
        """Load the app, then start the durable extension, the listeners and the triggers.

        Because of this order, a function can use the durable client as soon as its trigger fires.
        """
        await self._supervisor.load()
        catalogue = build_catalogue(self._supervisor.functions, self._host_file, self._settings)
        invoker = Invoker(
            self._supervisor,
            self._host_file.function_timeout_seconds,
            catalogue.orchestrators,
            catalogue.activities,
        )
        triggers = Triggers(
            catalogue,
            self._settings,
            invoker,
            self._options.data,
            self._clock,
        )
        if catalogue.is_durable:
            await self._start_durable(invoker)
        self._supervisor.begin()
        await self._listen(self._web(catalogue, invoker, triggers), self._main_socket)
        self._triggers = triggers
        triggers.start()
        self._announce(catalogue)

    async def stop(self) -> None:
        """Stop the triggers, then the listeners, the durable extension and the app process."""
        if self._triggers is not None:
            await self._triggers.stop()
        # Stop the main port first: running functions may still need the durable client's port.
        for listener in reversed(self._listeners):
            await listener.stop()
        if self._durable is not None:
            await self._durable.stop()
        await self._supervisor.stop()
        self._main_socket.close()

    async def _start_durable(self, invoker: Invoker) -> None:
        rpc_socket = bind(self._options.host, self._options.rpc_port)
        options = self._host_file.durable
        options = replace(options, hub_name=resolve(options.hub_name, self._settings))
        durable = DurableExtension(
            self._options.data / "durable.db",
            invoker,
            self._clock,
            options,
            self._options.storage,
        )
        self._durable = durable
        await durable.start()
        self._supervisor.client_binding = durable.client_binding(self.url, format_url(rpc_socket))
        await self._listen(durable.rpc_app, rpc_socket)

    def _web(
        self, catalogue: FunctionCatalogue, invoker: Invoker, triggers: Triggers
    ) -> WebApplication:
        management = None if self._durable is None else self._durable.management_app
        admin = AdminApplication(
            catalogue,
            self.url,
            is_ready=lambda: self._supervisor.is_ready,
            run=triggers.run,
        )
        limit = self._host_file.max_outstanding_requests
        return WebApplication(catalogue.routes, invoker, admin, management, limit)

    async def _listen(self, application: Application, bound: socket.socket) -> None:
        listener = Listener(application, bound)
        self._listeners.append(listener)
        await listener.start()

    def _announce(self, catalogue: FunctionCatalogue) -> None:
        for route in catalogue.routes.routes:
            methods = ",".join(sorted(route.methods)) or "any method"
            _log.info("%s: [%s] %s/%s", route.function, methods, self.url, route.template)
        _log.info("%d functions loaded; listening on %s", len(catalogue.functions), self.url)


async def run_host(host: Host, stopping: asyncio.Event) -> None:
    """Start a host, wait until `stopping` is set, and stop the host.

    If `stopping` is set during the start, the start is cancelled.
    """
    starting = asyncio.create_task(host.start())
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stop
        _log.info("shutting down")
    finally:
        starting.cancel()
        stop.cancel()
        await asyncio.gather(starting, stop, return_exceptions=True)
        await host.stop()
