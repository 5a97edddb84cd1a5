"""Run a durable engine in tests, with a manual clock, and with orchestrators of Microsoft's SDK."""

import asyncio
import inspect
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from azure.durable_functions import Orchestrator

from emulator.functions.durable.azure_storage.engine import AzureStorageEngine
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.functions.durable.instances import OrchestrationInstance
from emulator.functions.durable.local.engine import LocalEngine
from emulator.functions.durable.store import Store
from emulator.functions.errors import AppUnavailable, FunctionFailure
from emulator.functions.settings import DurableOptions
from manual_clock import ManualClock

Body = Callable[[Any], Any]


class SdkRunner:
    """Runs orchestrators with Microsoft's SDK, and activities as plain functions."""

    def __init__(self) -> None:
        self.bodies: dict[str, Callable[[Any], str]] = {}
        self.activity_bodies: dict[str, Body] = {}
        self.orchestrators: frozenset[str] = frozenset()
        self.disabled_orchestrators: frozenset[str] = frozenset()
        self.activities: frozenset[str] = frozenset()
        self.calls: list[tuple[str, Any]] = []
        self.contexts: list[dict[str, Any]] = []
        self.down = False

    def orchestrator(self, body: Body) -> Body:
        self.bodies[body.__name__] = Orchestrator.create(body)
        self.orchestrators = frozenset(self.bodies)
        return body

    def activity(self, body: Body) -> Body:
        self.activity_bodies[body.__name__] = body
        self.activities = frozenset(self.activity_bodies)
        return body

    async def run_orchestrator(self, name: str, context_json: str) -> str:
        if self.down:
            raise AppUnavailable("down")
        self.contexts.append(json.loads(context_json))
        with warnings.catch_warnings():
            # The SDK warns about each event that arrives before the orchestrator waits for it.
            warnings.simplefilter("ignore")
            try:
                return self.bodies[name](context_json)
            except Exception as error:
                raise FunctionFailure(type(error).__name__, str(error)) from error

    async def run_activity(self, name: str, input_json: str, instance_id: str) -> str | None:
        if self.down:
            raise AppUnavailable("down")
        argument = json.loads(input_json)
        self.calls.append((name, argument))
        try:
            result = self.activity_bodies[name](argument)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            raise FunctionFailure(type(error).__name__, str(error)) from error
        return json.dumps(result)


@dataclass
class EngineHost:
    """Runs a durable engine, which a test can kill and start again on the same database."""

    database: Path
    runner: SdkRunner = field(default_factory=SdkRunner)
    clock: ManualClock = field(default_factory=ManualClock)
    make_store: Callable[[Path], Store] = Store
    options: DurableOptions = field(default_factory=DurableOptions)
    storage: AzureStorageOptions | None = None
    """The options of the azure-storage engine. If None, the default engine is used."""
    _engine: LocalEngine | AzureStorageEngine | None = None
    _deaths: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def engine(self) -> LocalEngine | AzureStorageEngine:
        assert self._engine is not None
        return self._engine

    @property
    def local_engine(self) -> LocalEngine:
        assert isinstance(self._engine, LocalEngine)
        return self._engine

    @property
    def azure_storage_engine(self) -> AzureStorageEngine:
        assert isinstance(self._engine, AzureStorageEngine)
        return self._engine

    @property
    def is_dead(self) -> bool:
        """Whether the engine has been killed or stopped."""
        return self._engine is None

    async def start(self) -> LocalEngine | AzureStorageEngine:
        if self.storage is not None:
            self._engine = AzureStorageEngine(
                self.storage, self.runner, self.clock, self.options, self.die
            )
        else:
            store = self.make_store(self.database)
            self._engine = LocalEngine(store, self.runner, self.clock, self.options)
        await self._engine.start()
        return self._engine

    def die(self) -> None:
        """Kill the engine. The engine itself calls this method to simulate a crash."""
        engine, self._engine = self._engine, None
        if isinstance(engine, AzureStorageEngine):
            engine.database.abandon()
            death = asyncio.get_running_loop().create_task(engine.kill())
            self._deaths.add(death)

    async def stop(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.stop()
        await asyncio.gather(*self._deaths)

    async def kill(self) -> None:
        """End the engine as `kill -9` does. Everything that is not committed is lost.

        With the azure-storage engine, also advance the clock by the visibility timeout.
        """
        if self._engine is None:
            return
        engine, self._engine = self._engine, None
        if isinstance(engine, AzureStorageEngine):
            await engine.kill()
            self.outlast_timeouts()
        else:
            engine.store.abandon()
            await engine.stop()

    def outlast_timeouts(self) -> None:
        """Advance the clock by the visibility timeout, so that a killed host's leases expire."""
        assert self.storage is not None
        self.clock.moment += timedelta(seconds=self.storage.visibility_timeout_seconds)

    async def settle(self) -> None:
        """Wait until the engine is idle: it waits for a message or for an advance of the clock."""
        quiet = steps = 0
        while quiet < 3:
            await asyncio.sleep(0)
            steps += 1
            idle = self._engine is None or self._engine.is_quiet
            quiet = quiet + 1 if idle else 0
            # During an outage of the app, the engine is never quiet, but waits for the clock.
            if steps > 50 and self._engine is not None and self._engine.app_outage.is_waiting:
                return

    async def pump(self) -> None:
        """Let the event loop run until the engine has had time to start all activities."""
        for _ in range(30 if self.storage is None else 300):
            await asyncio.sleep(0)

    async def advance(self, **duration: float) -> None:
        self.clock.moment += timedelta(**duration)
        self.engine.clock_moved()
        await self.settle()

    def leftovers(self) -> int:
        """Return the number of messages, work items and timers that are in the database."""
        if isinstance(self._engine, AzureStorageEngine):
            tables, read = ["control_messages", "work_items"], self._engine.database.read
        else:
            tables, read = ["inbox", "work", "timers"], self.local_engine.store.read
        return sum(int(read(f"SELECT count(*) FROM {table}")[0][0]) for table in tables)

    async def begin(
        self, name: str, value: Any = None, instance_id: str = "i"
    ) -> OrchestrationInstance:
        """Start an orchestration with the input `value`, and return its instance.

        Before returning, wait until the engine is idle.
        """
        text = None if value is None else json.dumps(json.dumps(value))
        await self.engine.start_new(name, instance_id, text)
        await self.settle()
        return self.engine.find(instance_id)

    async def raise_event(self, name: str, value: Any = None, instance_id: str = "i") -> None:
        await self.engine.raise_event(instance_id, name, json.dumps(value))
        await self.settle()

    def output(self, instance_id: str = "i") -> Any:
        text = self.engine.find(instance_id).output
        return None if text is None else json.loads(text)

    def status(self, instance_id: str = "i") -> str:
        return str(self.engine.find(instance_id).status)

    def scheduled(self, instance_id: str = "i") -> list[tuple[int, str]]:
        """Return a pair for each scheduled task in the history: the task's id and its label.

        The label of an activity is its name. The label of a sub-orchestration is "child " and its
        name. The label of a timer is "timer".
        """
        names = {4: "", 7: "child ", 10: "timer"}
        events = json.loads(f"[{','.join(self.fragments(instance_id))}]")
        return [
            (event["EventId"], names[event["EventType"]] + event.get("Name", ""))
            for event in events
            if event["EventType"] in names
        ]

    def fragments(self, instance_id: str = "i") -> list[str]:
        return self.engine.read_history_of(self.engine.find(instance_id))


def make_host(folder: Path, engine: str) -> EngineHost:
    """Return a host that is not started yet, with the engine "local" or "azure-storage"."""
    if engine == "local":
        return EngineHost(folder / "durable.db")
    return EngineHost(
        folder / "task-hub.db",
        storage=AzureStorageOptions(folder / "task-hub.db", visibility_timeout_seconds=0.3),
    )


def child(host: EngineHost) -> None:
    """Register the orchestration `child`, which waits for the external event `go`.

    The output of `child` contains the parent's instance id, the input of `child` and the content of
    the event. If the content of the event is "fail", `child` fails.
    """

    @host.runner.orchestrator
    def child(context: Any) -> Any:
        event = yield context.wait_for_external_event("go")
        if event == "fail":
            raise ValueError("told to")
        return [context.parent_instance_id, context.get_input(), event]
