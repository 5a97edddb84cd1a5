"""Create the queue and timer triggers of an app from their bindings. Start and stop them."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.clock import UtcClock
from emulator.functions.catalogue import FunctionCatalogue, TriggeredFunction
from emulator.functions.errors import AppLoadError
from emulator.functions.invoker import Invoker
from emulator.functions.triggers.servicebus import (
    InvokeFunction,
    QueueSource,
    ServiceBusTrigger,
    TriggerMessage,
    split_queue_name,
)
from emulator.functions.triggers.timer import (
    Schedule,
    ScheduleError,
    TimerOptions,
    TimerRun,
    TimerTrigger,
)

_DEFAULT_CONNECTION = "ServiceBus"


class Triggers:
    """Starts and stops all timer and queue triggers of an app.

    The constructor raises AppLoadError if this host does not support one of the triggers.
    """

    def __init__(
        self,
        catalogue: FunctionCatalogue,
        settings: Mapping[str, str],
        invoker: Invoker,
        data: Path,
        clock: UtcClock,
    ) -> None:
        self._clock = clock
        self._timers = {
            triggered.name: _timer(triggered, invoker, data / "timers", clock)
            for triggered in catalogue.timers
        }
        self._queues = [
            ServiceBusTrigger(
                read_queue_source(triggered, settings),
                catalogue.service_bus_options,
                _invoke(triggered, invoker),
            )
            for triggered in catalogue.service_bus
        ]
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Start all triggers."""
        for timer in self._timers.values():
            self._spawn(timer.run())
        for queue in self._queues:
            queue.start()

    async def stop(self) -> None:
        """Stop all triggers, and wait up to 8 s for running functions."""
        for task in self._tasks:
            task.cancel()
        timers = asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(timers, *(queue.stop() for queue in self._queues))

    async def run(self, name: str, _text: str) -> None:
        """Start a run of a timer function now. Raises LookupError for other functions."""
        self._spawn(self._timers[name].run_once(TimerRun(self._clock.now())))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def read_queue_source(triggered: TriggeredFunction, settings: Mapping[str, str]) -> QueueSource:
    """Return a Service Bus trigger's queue. Raises AppLoadError if it is unsupported."""
    binding, name = triggered.binding, triggered.name
    if not binding.get("queueName"):
        raise _refused(name, "this host supports Service Bus queues, but not topics")
    if binding.get("isSessionsEnabled"):
        raise _refused(name, "this host does not support Service Bus sessions")
    if str(binding.get("cardinality") or "ONE").upper() != "ONE":
        raise _refused(
            name, "this host does not support batches of Service Bus messages: use cardinality ONE"
        )
    setting = binding.get("connection") or _DEFAULT_CONNECTION
    connection = settings.get(setting) or settings.get(f"AzureWebJobs{setting}")
    if not connection:
        raise _refused(
            name,
            f"the app setting '{setting}' is missing or empty: "
            "it must contain a Service Bus connection string",
        )
    if "endpoint=" not in connection.lower():
        raise _refused(name, f"the app setting '{setting}' is not a Service Bus connection string")
    queue, is_dead_letter = split_queue_name(binding["queueName"])
    return QueueSource(name, queue, is_dead_letter, connection)


def _timer(
    triggered: TriggeredFunction, invoker: Invoker, folder: Path, clock: UtcClock
) -> TimerTrigger:
    binding, name = triggered.binding, triggered.name
    try:
        schedule = Schedule(binding["schedule"])
    except ScheduleError as error:
        raise _refused(name, str(error)) from error
    use_monitor = binding.get("useMonitor")
    options = TimerOptions(
        name=name,
        schedule=schedule,
        run_on_startup=bool(binding.get("runOnStartup")),
        use_monitor=True if use_monitor is None else bool(use_monitor),
    )

    async def invoke(payload: str) -> None:
        await invoker.invoke_timer(name, payload, clock.now())

    return TimerTrigger(options, folder, invoke, clock)


def _invoke(triggered: TriggeredFunction, invoker: Invoker) -> InvokeFunction:
    async def invoke(delivery: TriggerMessage) -> None:
        await invoker.invoke(
            triggered.name, "bytes", delivery.body, delivery.metadata, delivery.trace
        )

    return invoke


def _refused(name: str, reason: str) -> AppLoadError:
    return AppLoadError(f"cannot load the {name} function: {reason}")
