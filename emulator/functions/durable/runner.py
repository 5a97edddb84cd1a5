"""Run the functions of the app for a durable engine, and wait while the app process is down."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from emulator.functions.durable.history import EventType, completed, dump_json, failed
from emulator.functions.durable.instances import (
    TaskMessage,
)
from emulator.functions.durable.records import WorkItem
from emulator.functions.durable.timers import TimerQueue
from emulator.functions.errors import AppUnavailable, FunctionFailure

_SHORTEST_MICROS = 50_000
_LONGEST_MICROS = 1_000_000
_log = logging.getLogger(__name__)


class FunctionRunner(Protocol):
    """Runs the orchestrators and activities of one Function App.

    `orchestrators` and `activities` are the names that orchestrations can use. An app setting
    disables the orchestrators in `disabled_orchestrators`.
    """

    orchestrators: frozenset[str]
    disabled_orchestrators: frozenset[str]
    activities: frozenset[str]

    async def run_orchestrator(self, name: str, context_json: str) -> str:
        """Run one episode, and return the state from the SDK's executor as JSON."""
        ...

    async def run_activity(self, name: str, input_json: str, instance_id: str) -> str | None:
        """Run an activity, and return its result as JSON text, or None."""
        ...


def find_name(known: frozenset[str], name: str) -> str | None:
    """Return a function's registered name, or None. As in Azure, case does not matter."""
    if name in known:
        return name
    return next((other for other in known if other.lower() == name.lower()), None)


def describe_unknown_orchestrator(runner: FunctionRunner, name: str) -> str:
    """Return the Durable extension's error message for an orchestrator that does not exist."""
    return _unknown(name, "an orchestrator", "orchestrator", runner.orchestrators)


def describe_unknown_activity(runner: FunctionRunner, name: str) -> str:
    """Return the Durable extension's error message for an activity that does not exist."""
    return _unknown(name, "an activity", "activity", runner.activities)


def describe_unknown_entity(name: str) -> str:
    """Return the Durable extension's error message for an entity that does not exist."""
    return _unknown(name, "an entity", "entity", frozenset())


def _unknown(name: str, article_and_kind: str, kind: str, known: frozenset[str]) -> str:
    names = "', '".join(sorted(known))
    more = (
        f"The following are the known {kind} functions: '{names}'."
        if known
        else f"No {kind} functions are currently registered!"
    )
    return (
        f"The function '{name}' doesn't exist, is disabled, or is not {article_and_kind} function."
        f" Additional info: {more}"
    )


class AppOutage:
    """Makes episodes and activities wait before they retry, while the app process is down.

    All waiting episodes and activities retry at the same time. The delay before a retry doubles
    after each failed retry, from 50 ms up to 1 s.
    """

    def __init__(self, timers: TimerQueue, now: Callable[[], int]) -> None:
        self._timers = timers
        self._now = now
        self._delay = _SHORTEST_MICROS
        self._next_retry: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Return whether any episode or activity waits for the next retry."""
        return self._next_retry is not None

    async def wait(self) -> None:
        """Wait until the time of the next retry. All callers that wait continue at that time."""
        if self._next_retry is None:
            self._next_retry = asyncio.get_running_loop().create_future()
            self._timers.set(self, self._now() + self._delay, self._open)
            self._delay = min(self._delay * 2, _LONGEST_MICROS)
        await asyncio.shield(self._next_retry)

    def end(self) -> None:
        """Reset the delay before the next retry to 50 ms, because the app has responded."""
        self._delay = _SHORTEST_MICROS

    def _open(self) -> None:
        if self._next_retry is not None:
            self._next_retry.set_result(None)
            self._next_retry = None


class Deliver(Protocol):
    """A function that delivers a message to an instance."""

    def __call__(self, instance_id: str, message: TaskMessage) -> None:
        """Deliver a message to the instance with this id."""


class ActivityPool:
    """Runs activities for the default engine, at most `concurrency` at the same time.

    A work item is the engine's record of one activity to run.
    """

    def __init__(
        self,
        runner: FunctionRunner,
        app_outage: AppOutage,
        now: Callable[[], int],
        deliver: Deliver,
        concurrency: int,
    ) -> None:
        self._runner = runner
        self._app_outage = app_outage
        self._now = now
        self._deliver = deliver
        self._free = concurrency
        self._waiting: deque[WorkItem] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False

    @property
    def is_busy(self) -> bool:
        """Return whether any activity runs or waits for its start."""
        return bool(self._tasks)

    def add(self, work: WorkItem) -> None:
        """Run a committed work item as soon as fewer than `concurrency` activities run."""
        self._waiting.append(work)
        if self._free and not self._is_draining:
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._serve())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout_seconds: float) -> None:
        """Start no more activities, and wait up to `timeout_seconds` for the running activities."""
        self._is_draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)

    async def close(self) -> None:
        """Stop all activities."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while self._waiting and not self._is_draining:
                work = self._waiting.popleft()
                self._deliver(work.instance_id, await self._run(work))
        finally:
            self._free += 1

    async def _run(self, work: WorkItem) -> TaskMessage:
        while True:
            try:
                message = await self._try(work)
            except AppUnavailable:
                _log.debug("the activity %s waits until the app process runs again", work.name)
            except Exception:  # noqa: BLE001 - one activity must not stop the others
                _log.exception(
                    "the activity %s could not be run; the engine tries again", work.name
                )
            else:
                self._app_outage.end()
                return message
            await self._app_outage.wait()

    async def _try(self, work: WorkItem) -> TaskMessage:
        message = await run_work_item(self._runner, self._now, work)
        message.work = work.sequence
        return message


async def run_work_item(
    runner: FunctionRunner, now: Callable[[], int], work: WorkItem
) -> TaskMessage:
    """Run an activity, and return the message with its result. Raises AppUnavailable."""
    name = find_name(runner.activities, work.name) or work.name
    try:
        result = await runner.run_activity(name, work.input, work.instance_id)
    except FunctionFailure as failure:
        cause = str(failure)
        kind = EventType.TASK_FAILED
        reason = f"Activity function '{work.name}' failed: {cause}"
        text = failed(kind, now(), work.task, reason, _describe_exception(cause, failure.stack))
    else:
        kind = EventType.TASK_COMPLETED
        text = completed(kind, now(), work.task, result)
    return TaskMessage(kind, text, work.task, work.execution)


def _describe_exception(cause: str, stack: str) -> str:
    """Return an exception of an activity as the JSON text that the Durable extension stores."""
    inner = {
        "$type": "Microsoft.Azure.WebJobs.Script.Workers.Rpc.RpcException, "
        "Microsoft.Azure.WebJobs.Script",
        "RemoteStackTrace": stack,
        "RemoteMessage": cause,
        "Message": f"Result: Failure\nException: {cause}\nStack: {stack}",
    }
    return dump_json(
        {
            "$type": "System.Exception, System.Private.CoreLib",
            "ClassName": "System.Exception",
            "Message": cause,
            "Data": None,
            "InnerException": inner,
            "HelpURL": None,
            "StackTraceString": None,
            "RemoteStackTraceString": None,
            "RemoteStackIndex": 0,
            "ExceptionMethod": None,
            "HResult": -2146233088,
            "Source": None,
            "WatsonBuckets": None,
        }
    )
