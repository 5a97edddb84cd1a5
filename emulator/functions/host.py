"""Puts the host together: app process, durable engine, triggers and listeners, in their order."""

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from emulator.functions.admin import AdminApplication
from emulator.functions.appsettings import read_app_settings, resolve
from emulator.functions.asgi import Application
from emulator.functions.catalogue import Catalogue, build_catalogue
from emulator.functions.clock import Clock, SystemClock
from emulator.functions.durability import Durability
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.functions.hostfile import read_host_file
from emulator.functions.invoker import Invoker
from emulator.functions.listeners import Listener, url_of
from emulator.functions.process import AppCommand
from emulator.functions.supervisor import Supervisor
from emulator.functions.triggers.starting import Triggers
from emulator.functions.web import WebApplication
from emulator.program import bind

_log = logging.getLogger("functions.host")


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What the host is started with."""

    folder: Path
    data: Path
    host: str = "127.0.0.1"
    port: int = 7071
    rpc_port: int = 0
    log_level: str = "info"
    python: str = sys.executable
    storage: AzureStorageOptions | None = None
    """The azure-storage engine's options; None takes the default engine."""


class Host:
    """One Functions host. `start` raises a StartError when the app cannot be served."""

    def __init__(
        self, options: HostOptions, environment: Mapping[str, str], clock: Clock | None = None
    ) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._host_file = read_host_file(options.folder)
        self._main_socket = bind(options.host, options.port)
        self._settings = {
            **read_app_settings(options.folder, environment),
            "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "WEBSITE_HOSTNAME": url_of(self._main_socket).removeprefix("http://"),
        }
        command = AppCommand(options.folder, self._settings, options.python, options.log_level)
        self._supervisor = Supervisor(command)
        self._durability: Durability | None = None
        self._triggers: Triggers | None = None
        self._listeners: list[Listener] = []

    @property
    def url(self) -> str:
        """Return where the host listens."""
        return url_of(self._main_socket)

    async def start(self) -> None:
        """Load the app, then open: what triggers may call must be there before them."""
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
            await self._start_durability(invoker)
        self._supervisor.begin()
        await self._listen(self._web(catalogue, invoker, triggers), self._main_socket)
        self._triggers = triggers
        triggers.start()
        self._announce(catalogue)

    async def stop(self) -> None:
        """Close in the order that keeps promises: no new work, then the work, then the app."""
        if self._triggers is not None:
            await self._triggers.stop()
        # The main port first: functions that finish may still need the durable client's port.
        for listener in reversed(self._listeners):
            await listener.stop()
        if self._durability is not None:
            await self._durability.stop()
        await self._supervisor.stop()
        self._main_socket.close()

    async def _start_durability(self, invoker: Invoker) -> None:
        rpc_socket = bind(self._options.host, self._options.rpc_port)
        options = self._host_file.durable
        options = replace(options, hub_name=resolve(options.hub_name, self._settings))
        durability = Durability(
            self._options.data, invoker, self._clock, options, self._options.storage
        )
        self._durability = durability
        await durability.start()
        self._supervisor.client_binding = durability.client_binding(self.url, url_of(rpc_socket))
        await self._listen(durability.rpc_app, rpc_socket)

    def _web(self, catalogue: Catalogue, invoker: Invoker, triggers: Triggers) -> WebApplication:
        management = None if self._durability is None else self._durability.management_app
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

    def _announce(self, catalogue: Catalogue) -> None:
        for route in catalogue.routes.routes:
            methods = ",".join(sorted(route.methods)) or "any method"
            _log.info("%s: [%s] %s/%s", route.function, methods, self.url, route.template)
        _log.info("%d functions loaded; listening on %s", len(catalogue.functions), self.url)


async def run_host(host: Host, stopping: asyncio.Event) -> None:
    """Start a host, wait until it shall stop, even while it starts, and stop it."""
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
