"""Start, reload and stop the Functions host: app process, durable extension, port and triggers.

This module imports only what the host needs to start the app process, because the app process takes
the longest to start.
"""

import asyncio
import fcntl
import gc
import logging
import os
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emulator.clock import WallClock
from emulator.functions.errors import AppLoadError, HostDirectoryInUse, RouteInvalid
from emulator.functions.loaded_app import AppSource
from emulator.functions.options import HostOptions
from emulator.functions.settings import AppConfiguration, read_app_settings, read_host_file
from emulator.functions.supervisor import AppSupervisor
from emulator.functions.watch import AppFileWatch, forget_bytecode, forget_old_bytecode
from emulator.program import (
    LOOPBACK_HOSTS,
    SettingError,
    StartError,
    bind,
    bind_all,
    format_url,
    is_remote,
    make_private_directory,
)

if TYPE_CHECKING:
    from emulator.functions.main_port import MainPort
    from emulator.functions.services import AppServices

_log = logging.getLogger("functions.host")
# As long as Azure's host waits before it ends the Python worker.
_DRAIN_SECONDS = 10.0
T = TypeVar("T")


@contextmanager
def lock_data_directory(directory: Path) -> Iterator[Path]:
    """Create and lock a data directory during the `with` block, and yield the directory.

    Raises HostDirectoryInUse if another host uses it, and SettingError if it cannot be written.
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
                f"another host uses the data directory {directory}; "
                "choose another directory with --data"
            ) from None
        yield directory
    finally:
        os.close(descriptor)


class Host:
    """Runs the functions of one app, as Azure's Functions host does.

    The constructor and `start` raise StartError if the host cannot serve the app.
    """

    def __init__(self, options: HostOptions, environment: Mapping[str, str]) -> None:
        self._options = options
        self._environment = environment
        self._clock = WallClock()
        host_file = read_host_file(options.folder)
        if is_remote(options.host):
            raise SettingError(
                f"--host {options.host} is not a loopback address: other machines could run all "
                "functions, because this host checks no keys; use 127.0.0.1 or ::1, and a reverse "
                "proxy that authenticates its callers"
            )
        self._main_sockets = bind_all(options.host, options.port)
        self._configuration = AppConfiguration(host_file, self._read_settings())
        self._supervisor = self._make_supervisor(self._configuration)
        self._retiring: dict[AppSupervisor, asyncio.Task[None]] = {}
        self._main_port: MainPort | None = None
        self._rpc_port: MainPort | None = None
        self._services: AppServices | None = None

    async def start(self) -> None:
        """Load the app, then start the durable extension, the main port and the triggers.

        If a route template is invalid, only the main port is started, and responds with status 503.
        """
        importing = asyncio.to_thread(_import_services)
        if self._options.is_isolated:
            # The app process loads the app while this process imports the modules that serve it.
            await asyncio.gather(importing, self._supervisor.load())
        else:
            # To load an app changes `sys.path`, from which no other thread may import meanwhile.
            await importing
            await self._supervisor.load()
        from emulator.functions.main_port import MainPort  # noqa: PLC0415 - imported just now

        options = self._options
        rpc_socket = bind(options.host or LOOPBACK_HOSTS[0], 0)
        self._rpc_port = MainPort([rpc_socket], options.limits)
        self._main_port = MainPort(self._main_sockets, options.limits)
        try:
            await self._serve(self._main_port)
        except RouteInvalid as error:
            await self._serve_error(self._main_port, error)
        gc.freeze()

    async def stop(self) -> None:
        """Stop the triggers, the main port and the durable extension, then the app process."""
        if self._services is not None:
            await self._services.stop()
        elif self._main_port is not None:
            await self._main_port.stop()
        await self._supervisor.stop()
        for supervisor, task in list(self._retiring.items()):
            task.cancel()
            await supervisor.stop()
        if self._rpc_port is not None:
            await self._rpc_port.stop()
        for bound in (*self._main_sockets, *(self._rpc_port.sockets if self._rpc_port else ())):
            bound.close()

    async def unload(self) -> None:
        """Stop everything except the main port, on which new requests now wait.

        Wait up to 10 s for running functions. The caller must then call `load_again`.
        """
        # If the app process has died, nothing runs for which to wait.
        seconds = _DRAIN_SECONDS if self._supervisor.is_ready else 0.0
        services, self._services = self._services, None
        if services is not None:
            await services.unload(seconds)
        elif self._main_port is not None:
            self._main_port.hold()
        await self._supervisor.stop()

    async def load_again(self) -> None:
        """Load the app and its settings again after `unload`. If this fails, log the reason.

        As in Azure's host, the functions' routes are 404 if the code cannot be loaded; if the
        settings or a trigger are invalid, all but `/admin/host/status` and `/admin/host/ping` are
        503.
        """
        from emulator.functions.services import UnloadedApp  # noqa: PLC0415 - imported by `start`

        main_port = self._main_port
        assert main_port is not None
        try:
            host_file = read_host_file(self._options.folder)
            self._configuration = AppConfiguration(host_file, self._read_settings())
            self._supervisor = self._make_supervisor(self._configuration)
            try:
                await self._supervisor.load()
            except AppLoadError as error:
                main_port.serve(UnloadedApp(self._options, main_port, ()))
                _log.error(
                    "the app could not be loaded (save one of its files to try again): %s", error
                )
                return
            await self._serve(main_port)
        except StartError as error:
            await self._serve_error(main_port, error)

    async def _serve_error(self, main_port: "MainPort", error: StartError) -> None:
        """Log why the app could not be started, and serve nothing but the status of the host."""
        from emulator.functions.services import UnloadedApp  # noqa: PLC0415 - imported by `start`

        await self.unload()
        main_port.serve(UnloadedApp(self._options, main_port, (str(error),)))
        await main_port.start()
        _log.error("the app could not be started (save one of its files to try again): %s", error)
        _log.info("no functions loaded; listening on %s", format_url(main_port.sockets[0]))

    async def replace_app(self) -> None:
        """Load the app and its settings again while the current app serves, and then replace it.

        Requests in flight end in the process of the current app, and no request fails. If the new
        app cannot be loaded, log the reason and keep the current app.
        """
        main_port, current = self._main_port, self._services
        if main_port is None or current is None:
            await self.load_again()
            return
        forget_old_bytecode(self._options.folder)
        supervisor: AppSupervisor | None = None
        try:
            configuration = AppConfiguration(
                read_host_file(self._options.folder), self._read_settings()
            )
            supervisor = self._make_supervisor(configuration)
            await supervisor.load()
            services = self._make_services(main_port, configuration, supervisor)
        except StartError as error:
            _log.error("the app could not be loaded again, the current one stays: %s", error)
            if supervisor is not None:
                await supervisor.stop()
            return
        try:
            is_idle = await current.hand_over(_DRAIN_SECONDS)
        except BaseException:
            await supervisor.stop()
            raise
        retiring, self._supervisor = self._supervisor, supervisor
        self._configuration, self._services = configuration, services
        self._retiring[retiring] = asyncio.create_task(self._retire(retiring, is_idle))
        try:
            await services.start()
        except StartError as error:
            await self._serve_error(main_port, error)

    async def _retire(self, supervisor: AppSupervisor, is_idle: asyncio.Event) -> None:
        """Wait until a replaced app has no HTTP request in flight, and stop its process."""
        await is_idle.wait()
        await supervisor.stop()
        del self._retiring[supervisor]
        _log.info("the replaced app has ended")

    async def _serve(self, main_port: "MainPort") -> None:
        self._services = self._make_services(main_port, self._configuration, self._supervisor)
        await self._services.start()

    def _make_services(
        self, main_port: "MainPort", configuration: AppConfiguration, supervisor: AppSupervisor
    ) -> "AppServices":
        from emulator.functions.main_port import HostPorts  # noqa: PLC0415 - imported by `start`
        from emulator.functions.services import AppServices  # noqa: PLC0415 - imported by `start`

        assert self._rpc_port is not None
        ports = HostPorts(main_port, self._rpc_port)
        return AppServices(self._options, configuration, self._clock, supervisor, ports)

    def _read_settings(self) -> dict[str, str]:
        options = self._options
        return {
            **read_app_settings(options.folder, self._environment, options.settings_file),
            "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "WEBSITE_HOSTNAME": format_url(self._main_sockets[0]).removeprefix("http://"),
        }

    def _make_supervisor(self, configuration: AppConfiguration) -> AppSupervisor:
        options, settings = self._options, configuration.settings
        return AppSupervisor(
            AppSource(
                options.folder, settings, options.python, options.log_level, options.is_isolated
            )
        )


def _import_services() -> None:
    import emulator.functions.services  # noqa: PLC0415, F401 - slow


async def run_host(
    host: Host,
    stopping: asyncio.Event,
    watch: AppFileWatch | None = None,
    replacing: asyncio.Event | None = None,
) -> None:
    """Start a host, wait until `stopping` is set, even during the load, and stop the host.

    Load the app again when `watch` finds changes, or replace it when `replacing` is set. Raises
    StartError if the host cannot start.
    """
    stop = asyncio.create_task(stopping.wait())
    try:
        await _run_until(stop, host.start())
        while not stop.done():
            if watch is not None:
                if changes := await _run_until(stop, watch.wait_for_changes()):
                    await _reload(host, stop, changes)
            elif replacing is not None and await _run_until(stop, replacing.wait()):
                replacing.clear()
                _log.info("loading the app again because of a signal")
                await _run_until(stop, host.replace_app())
            else:
                await stop
        _log.info("the host is shutting down")
    finally:
        stop.cancel()
        await asyncio.gather(stop, return_exceptions=True)
        await host.stop()


async def _reload(host: Host, stop: "asyncio.Task[Any]", changes: list[Path]) -> None:
    names = ", ".join(path.name for path in changes)
    _log.info("loading the app again, because these files have changed: %s", names)
    for path in changes:
        forget_bytecode(path)
    await host.unload()
    await _run_until(stop, host.load_again())


async def _run_until(stop: "asyncio.Task[Any]", work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work` and return its result. If `stop` ends first, cancel `work` and return None."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
