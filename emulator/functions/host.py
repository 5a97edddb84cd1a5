"""Start and stop the Functions host: app process, durable extension, listeners and triggers.

This module imports only what the host needs to start the app process, because the app process takes
the longest to start.
"""

import asyncio
import fcntl
import gc
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.functions.app_process import AppCommand, AppSupervisor
from emulator.functions.clock import HostClock, SystemUtcClock
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.functions.errors import HostDirectoryInUse
from emulator.functions.settings import read_app_settings, read_host_file
from emulator.program import (
    HttpLimits,
    SettingError,
    bind_all,
    format_url,
    is_remote,
    make_private_directory,
)

if TYPE_CHECKING:
    from emulator.functions.services import AppServices

_log = logging.getLogger("functions.host")


@contextmanager
def lock_data_directory(directory: Path) -> Iterator[Path]:
    """Lock a data directory during the `with` block, and yield the directory.

    The directory is created if it does not exist. If the process dies, the lock is released. Raises
    HostDirectoryInUse if another host uses the directory, and SettingError if the directory cannot
    be written.
    """
    try:
        make_private_directory(directory)
        descriptor = os.open(directory / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingError(
            f"the data directory {directory} (--data) cannot be used: {error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HostDirectoryInUse(
                f"another host uses the data directory {directory}; choose another with --data"
            ) from None
        yield directory
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """The command-line options of the host."""

    folder: Path
    data: Path
    host: str | None = None
    """The address to listen on. None means the loopback addresses."""
    port: int = 7071
    rpc_port: int = 0
    log_level: str = "info"
    python: str = sys.executable
    limits: HttpLimits = field(default_factory=HttpLimits)
    storage: AzureStorageOptions | None = None
    """The options of the azure-storage engine. If None, the host uses the default engine."""


class Host:
    """One Functions host.

    The constructor and `start` raise StartError if the host cannot serve the app.
    """

    def __init__(
        self, options: HostOptions, environment: Mapping[str, str], clock: HostClock | None = None
    ) -> None:
        self._options = options
        self._clock = clock or SystemUtcClock()
        self._host_file = read_host_file(options.folder)
        if is_remote(options.host):
            raise SettingError(
                f"--host {options.host} is not a loopback address: other machines could run all "
                "functions, because this host checks no keys; use 127.0.0.1 or ::1, and a reverse "
                "proxy that authenticates its callers"
            )
        self._main_sockets = bind_all(options.host, options.port)
        self._settings = {
            **read_app_settings(options.folder, environment),
            "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "WEBSITE_HOSTNAME": format_url(self._main_sockets[0]).removeprefix("http://"),
        }
        command = AppCommand(options.folder, self._settings, options.python, options.log_level)
        self._supervisor = AppSupervisor(command)
        self._services: AppServices | None = None

    async def start(self) -> None:
        """Load the app, then start the durable extension, the listeners and the triggers."""
        # The app process loads the app while this process imports the modules that serve the app.
        app_services, _ = await asyncio.gather(
            asyncio.to_thread(_import_services), self._supervisor.load()
        )
        self._services = app_services(
            self._options, self._host_file, self._settings, self._clock, self._supervisor
        )
        await self._services.start(self._main_sockets)
        gc.freeze()

    async def stop(self) -> None:
        """Stop the triggers, the listeners and the durable extension, then the app process."""
        if self._services is not None:
            await self._services.stop()
        await self._supervisor.stop()
        for bound in self._main_sockets:
            bound.close()


def _import_services() -> "type[AppServices]":
    from emulator.functions.services import AppServices  # noqa: PLC0415 - slow

    return AppServices


async def run_host(host: Host, stopping: asyncio.Event) -> None:
    """Start a host, wait until `stopping` is set, and stop the host.

    If `stopping` is set during the start, the start is cancelled. Raises StartError if the host
    cannot start.
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
