"""Run the system that a storm tests, and restart each component that dies.

A storm is a test that kills processes. The components are those of `loosely up`. The storm does not
use the supervisor of `loosely up`, because it must distinguish the death of a component from a kill
by the test.
"""

import asyncio
import os
import re
import signal
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import psutil

from contract.catalogue import Catalogue
from contract.queues import names
from contract.settings import BrokerEndpoint, BrokerKind
from gateway.brokers.factory import make_queues
from gateway.errors import Unavailable
from lab.benchmarks.proxy import DelayProxy, NewObservers, ignore_both
from lab.storm.balancer import Balancer
from loosely.local.data_directory import broker_password, reply_token_key
from loosely.local.environment import read_environment, shared_environment
from loosely.local.errors import USAGE_EXIT_CODE
from loosely.local.launcher import Launcher
from loosely.local.logs import PartLog
from loosely.local.parts import BROKERS, Part, SystemSettings, loosely_parts
from loosely.local.ports import Ports
from loosely.local.probe import wait_until_ready
from loosely.local.reaper import Reaper, kill_group
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
LOCAL = "local"
AZURE_STORAGE = "azure-storage"
ENGINES = (LOCAL, AZURE_STORAGE)
TASK_HUB = "task-hub.sqlite"

_READY_SECONDS = 120.0
_MAX_EARLY_DEATHS = 10
_OWN_PORT_COUNT = 5
# The components, and the proxies to four of them.
_PORT_COUNT = _OWN_PORT_COUNT + 4
_LONGEST_RESTART_PAUSE_SECONDS = 1.0

COUNTING_CATALOGUE = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
max_input_bytes = 100_000
deadline_seconds = 1800
max_deadline_seconds = 1800
max_batch_size = 4
lock_seconds = 5
"""


class RigError(Exception):
    """A component cannot be started. The message ends with the last lines of the log."""


@dataclass(frozen=True)
class StormEngine:
    """The engine that runs the gateway's Durable Functions, and how often it injects faults."""

    name: str = LOCAL
    visibility_timeout_seconds: float = 10.0
    crash_rate: float = 0.0
    split_brain_rate: float = 0.0
    seed: int = 0
    gateways: int = 2
    """The number of gateway hosts with the engine `azure-storage`; the other engine has one."""

    @property
    def host_count(self) -> int:
        """The number of gateway hosts, of which several must share a task hub."""
        return self.gateways if self.name == AZURE_STORAGE else 1

    def options(self, data: Path, number: int) -> tuple[str, ...]:
        """Return the command-line options of the gateway host with this number.

        `data` is the directory of the task hub, which all gateway hosts share.
        """
        if self.name == LOCAL:
            return ()
        return (
            *("--engine", self.name),
            *("--task-hub", str(data / TASK_HUB)),
            *("--visibility-timeout", f"{self.visibility_timeout_seconds:g}"),
            *("--crash-rate", str(self.crash_rate)),
            *("--split-brain-rate", str(self.split_brain_rate)),
            # With the same seed all hosts would crash at the same moments.
            *("--seed", str(self.seed * 10 + number)),
        )


@dataclass(frozen=True)
class RigOptions:
    """Options of the system under test. The defaults are those of a storm that kills processes.

    Args:
        catalogue: The content of the model catalogue.
        environment: Environment variables of all components.
        has_links: Whether the components connect through proxies, which a fault can slow down.
        observers: Observers of the proxied connections, by the name of the service.
        store: The directory in which the components store their data, or None for the directory
            of the rig. The logs are always in the directory of the rig.
        broker: The broker of the system, as in `loosely up --broker`.
        is_isolated: Whether the app of each gateway has a process beside its host.
    """

    catalogue: str = COUNTING_CATALOGUE
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    has_links: bool = False
    observers: Mapping[str, NewObservers] = field(default_factory=dict, repr=False)
    store: Path | None = None
    is_isolated: bool = False
    broker: str = BROKERS[0]


@dataclass(slots=True)
class SupervisedPart:
    """A component whose process is restarted whenever it dies."""

    part: Part
    log: PartLog
    launcher: Launcher
    own_deaths: int = 0
    #: Whether the component may be unable to start now, for example because the disk is full.
    may_fail_to_start: bool = False
    _process: Process | None = None
    _killed: bool = False
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _started: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Start the component, and start it again whenever it dies, until `stop` is called.

        Raises:
            RigError: if the component refuses its options, or dies ten times before it is ready.
        """
        early_deaths = 0
        if self.part.preparation is not None:
            await self.launcher.prepare(self.part, self.part.preparation)
        while not self._stop.is_set():
            process = self._process = await self.launcher.launch(self.part, self.log)
            self._killed = False
            self._started.set()
            if self._stop.is_set():
                kill_group(process.pid)
            has_been_ready = asyncio.create_task(wait_until_ready(self.part.probe))
            try:
                await process.wait()
            finally:
                self._started.clear()
                is_late = has_been_ready.done() or self._killed or self.may_fail_to_start
                early_deaths = 0 if is_late else early_deaths + 1
                has_been_ready.cancel()
                self.launcher.clean_up(process)
            if not self._killed and not self._stop.is_set():
                self.own_deaths += 1
            is_refusal = process.returncode == USAGE_EXIT_CODE
            if is_refusal or early_deaths >= _MAX_EARLY_DEATHS:
                raise RigError(f"{self.part.name} cannot be started:\n{self.last_lines()}")
            if self.may_fail_to_start:
                await asyncio.sleep(_LONGEST_RESTART_PAUSE_SECONDS)

    async def kill(self) -> None:
        """Kill all processes of the component, and wait until they have ended."""
        await self._started.wait()
        process = self._process
        assert process is not None
        self._killed = True
        kill_group(process.pid)
        await process.wait()

    async def kill_child(self) -> None:
        """Kill only the child process of a Functions host or worker, and wait for its end."""
        # A host ends if its app dies while the app loads, so wait until the app is loaded.
        await self.wait_until_ready()
        child = await self._first_child()
        with suppress(psutil.NoSuchProcess):
            os.kill(child.pid, signal.SIGKILL)
            await asyncio.to_thread(psutil.wait_procs, [child], 10.0)

    def process(self) -> psutil.Process | None:
        """Return the main process of the component, or None if the process does not run."""
        if self._process is None or self._process.returncode is not None:
            return None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid)
        return None

    def suspend(self, *, is_child: bool) -> list[psutil.Process]:
        """Send SIGSTOP to the component's processes, and return the processes that were stopped.

        If `is_child` is true, send SIGSTOP to the child processes but not to the main process.
        """
        process = self.process()
        if process is None:
            return []
        suspended = []
        with suppress(psutil.NoSuchProcess):
            chosen = process.children() if is_child else [process, *process.children()]
            for each in chosen:
                with suppress(psutil.NoSuchProcess):
                    each.suspend()
                    suspended.append(each)
        return suspended

    async def _first_child(self) -> psutil.Process:
        # The host may just have crashed, so try again until it has a child.
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                await self._started.wait()
                assert self._process is not None
                with suppress(psutil.NoSuchProcess):
                    if children := psutil.Process(self._process.pid).children():
                        return children[0]
                await asyncio.sleep(0.02)

    async def wait_until_ready(self) -> None:
        """Wait until the component's probe succeeds.

        Raises:
            RigError: if the component is not ready within two minutes.
        """
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await wait_until_ready(self.part.probe)
        except TimeoutError:
            raise RigError(
                f"{self.part.name} was not ready within {_READY_SECONDS:.0f} s:\n"
                + self.last_lines()
            ) from None

    def stop(self) -> None:
        """Kill the component and do not restart it."""
        self._stop.set()
        if self._process is not None:
            kill_group(self._process.pid)

    def last_lines(self) -> str:
        """Return the last 12 lines of the component's log, or `nothing` if the log is empty."""
        return "\n".join(f"  {line}" for line in self.log.tail(12)) or "  nothing"


class Rig:
    """The system under test: blob storage, Service Bus, gateway hosts and a worker.

    Each of these components runs as a process of its own, on loopback.
    """

    def __init__(
        self, data: Path, engine: StormEngine, reaper: Reaper, options: RigOptions
    ) -> None:
        self.engine = engine
        #: The file with the orchestrations, with the engine `azure-storage`.
        self.task_hub = data / TASK_HUB
        self.ran_path = data / "ran"
        catalogue = data / "models.toml"
        catalogue.write_text(options.catalogue, encoding="utf-8")
        base = free_ports(_PORT_COUNT + engine.host_count)
        settings = SystemSettings(
            root=ROOT,
            data=options.store or data,
            ports=Ports.from_base(base),
            reply_token_key=reply_token_key(data),
            log_level="info",
            catalogue=catalogue,
            is_isolated=options.is_isolated,
            broker=options.broker,
            broker_password=broker_password(data),
        )
        self.broker = options.broker
        self._catalogue = catalogue
        self._broker_url = settings.broker_environment("").get("BROKER_URL", "")
        remote = settings
        self._proxies: dict[str, tuple[DelayProxy, int]] = {}
        if options.has_links:
            self._proxies, remote = _links(settings, base + _OWN_PORT_COUNT, options.observers)
        self.service_bus_connection = settings.service_bus_connection("")
        self.admin_port = settings.ports.servicebus_admin
        blobs, broker, gateway, worker = _linked_parts(settings, remote)
        gateways: tuple[Part, ...] = (gateway,)
        self.url = settings.gateway_url
        self._balancer: Balancer | None = None
        if engine.name == AZURE_STORAGE:
            host_ports = [base + _PORT_COUNT + number for number in range(engine.host_count)]
            gateways = tuple(
                _gateway_host(settings, remote, engine, number, port)
                for number, port in enumerate(host_ports, 1)
            )
            self._balancer = Balancer(settings.ports.functions, host_ports)
        self.gateways = tuple(part.name for part in gateways)
        #: The address of each gateway host, without the balancer.
        self.host_urls = tuple(part.address for part in gateways)
        self._queues_url = f"http://127.0.0.1:{settings.ports.servicebus_admin}/$Resources/queues"
        environment = shared_environment(ROOT, {**read_environment(), **options.environment})
        launcher = Launcher(ROOT, environment, reaper)
        self.members = {
            part.name: SupervisedPart(part, PartLog(data / "logs" / f"{part.name}.log"), launcher)
            for part in (blobs, broker, *gateways, worker)
        }
        self._supervision: asyncio.TaskGroup | None = None

    @property
    def links(self) -> dict[str, DelayProxy]:
        """The proxies to each service, by the service's name; empty without proxies."""
        return {name: proxy for name, (proxy, _) in self._proxies.items()}

    @property
    def own_deaths(self) -> Counter[str]:
        """How many times each component has died without being killed by the test."""
        return Counter(
            {name: member.own_deaths for name, member in self.members.items() if member.own_deaths}
        )

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the running processes, grouped by role.

        The component `worker`, for example, has three roles: `worker` for the main process, `child
        of worker` for the child processes of the main process, and `below worker` for all
        processes that the child processes have started.
        """
        found: dict[str, list[psutil.Process]] = {}
        for name, member in self.members.items():
            process = member.process()
            if process is None:
                continue
            found[name] = [process]
            with suppress(psutil.Error):
                children = process.children()
                deeper = [each for each in process.children(recursive=True) if each not in children]
                roles = {f"child of {name}": children, f"below {name}": deeper}
                found |= {role: members for role, members in roles.items() if members}
        return found

    async def run(self, supervision: asyncio.TaskGroup) -> None:
        """Start every component except the worker, and wait until they are ready.

        The tasks that restart dead components run in the task group `supervision`.
        """
        self._supervision = supervision
        for member in self.members.values():
            member.log.rotate()
        if self._balancer is not None:
            await self._balancer.start()
        for proxy, port in self._proxies.values():
            await proxy.start(port)
        await self.start(*(name for name in self.members if name != "worker"))

    async def start(self, *names: str) -> None:
        """Start the components with these names, and wait until they are ready."""
        assert self._supervision is not None
        for name in names:
            self._supervision.create_task(self.members[name].run())
        for name in names:
            await self.members[name].wait_until_ready()

    async def stop(self) -> None:
        """Kill all components and do not restart them."""
        if self._balancer is not None:
            self._balancer.stop()
        for member in self.members.values():
            member.stop()
        for proxy in self.links.values():
            await proxy.stop()

    def runs(self) -> Counter[str]:
        """Return how often the model has run each input, by its label such as `12.2`."""
        text = self.ran_path.read_text("utf-8") if self.ran_path.exists() else ""
        # A kill may have truncated the last line.
        return Counter(text.rpartition("\n")[0].split())

    async def message_count(self) -> int | None:
        """Return the number of messages in all queues, or None if the broker is unavailable."""
        if self._broker_url:
            return await self._broker_count()
        try:
            async with httpx.AsyncClient(timeout=10) as client:
                feed = (await client.get(self._queues_url)).text
        except httpx.TransportError:
            return None
        counts = [int(count) for count in re.findall(r":MessageCount>(\d+)<", feed)]
        return sum(counts) if counts else None

    async def _broker_count(self) -> int | None:
        """Return the number of messages on RabbitMQ or Redis, as the gateway counts them."""
        catalogue = Catalogue.load(self._catalogue)
        kind = BrokerKind(self.broker)
        queues = make_queues(BrokerEndpoint(kind, url=self._broker_url), catalogue, None)
        try:
            counts = [await queues.count(name) for name in names(catalogue)]
        except Unavailable:
            return None
        finally:
            await queues.close()
        return sum(count.active + count.dead for count in counts)


def _links(
    settings: SystemSettings, first_port: int, observers: Mapping[str, NewObservers]
) -> tuple[dict[str, tuple[DelayProxy, int]], SystemSettings]:
    """Create a proxy for each service. The proxies have consecutive ports, from `first_port` on.

    Returns:
        Each proxy with its port, by the name of the service; and a copy of `settings` in which the
        port of each service is the port of its proxy.
    """
    ports = settings.ports
    targets = {
        "gateway": ports.functions,
        "servicebus": ports.servicebus,
        "servicebus admin": ports.servicebus_admin,
        "blobs": ports.blobs,
    }
    proxies = {
        name: (DelayProxy(target, 0.0, observers.get(name, ignore_both)), first_port + number)
        for number, (name, target) in enumerate(targets.items())
    }
    functions, servicebus, servicebus_admin, blobs = (port for _, port in proxies.values())
    remote_ports = Ports(functions, servicebus, servicebus_admin, blobs, ports.worker_health)
    return proxies, replace(settings, ports=remote_ports)


def _linked_parts(local: SystemSettings, remote: SystemSettings) -> tuple[Part, ...]:
    """Return the components. They listen on ports of `local` and connect to ports of `remote`."""
    return tuple(
        replace(part, environment=linked.environment)
        for part, linked in zip(loosely_parts(local), loosely_parts(remote), strict=True)
    )


def _gateway_host(
    settings: SystemSettings, remote: SystemSettings, engine: StormEngine, number: int, port: int
) -> Part:
    """Return one of several gateway hosts as a component.

    The host listens on `port`, and has its own directory. It shares the task hub, the store of the
    orchestrations, with the other gateway hosts. `remote` has the ports to which the host connects.
    """
    name = f"gateway-{number}"
    own = replace(
        settings,
        data=settings.data / name,
        ports=replace(settings.ports, functions=port),
    )
    part = _linked_parts(own, remote)[2]
    return replace(
        part,
        name=name,
        # The callers and the worker use the address of the balancer, which `remote` has.
        command=(*part.command, *engine.options(settings.data, number)),
    )


@asynccontextmanager
async def running(data: Path, engine: StormEngine, options: RigOptions) -> AsyncIterator[Rig]:
    """Run a system without a worker during the `with` block, and kill all components afterwards.

    Raises:
        ExceptionGroup: A component cannot be started. The group contains a RigError.
    """
    reaper = Reaper()
    try:
        rig = Rig(data, engine, reaper, options)
        async with asyncio.TaskGroup() as supervision:
            try:
                await rig.run(supervision)
                yield rig
            finally:
                await rig.stop()
    finally:
        reaper.close()
