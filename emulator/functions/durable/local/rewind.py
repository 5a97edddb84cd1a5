"""Rewind a failed instance: undo its last episode, and run the failed tasks again.

If tasks were still running when the function failed, further episodes followed. These episodes are
undone, too.

The store contains the task numbers from before the failed episode, so the repeated episode gives
the same numbers to its tasks. The messages of the failed episode are delivered again, with three
exceptions:

- If a message reports that an activity failed, the activity runs again.
- If a message reports that a sub-orchestration failed, the sub-orchestration is rewound.
- If a message is from the timer after the last attempt of a task with retries, this attempt is
  repeated.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from emulator.functions.durable import records
from emulator.functions.durable.errors import OperationInvalid
from emulator.functions.durable.history import EventType, mark_played
from emulator.functions.durable.instances import OrchestrationInstance, Status, TaskMessage
from emulator.functions.durable.local.cache import InstanceCache
from emulator.functions.durable.protocol import parse_fire_at
from emulator.functions.durable.records import TimerRow, WorkItem
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement

_FAILURES = {EventType.TASK_FAILED, EventType.CHILD_FAILED}
_TIMER_LOST = (
    "The instance cannot be rewound: a timer that was running when the instance failed has been "
    "deleted."
)
_MESSAGES = {
    EventType.TASK_COMPLETED,
    EventType.CHILD_COMPLETED,
    EventType.EVENT_RAISED,
    EventType.TIMER_FIRED,
}
Event = dict[str, Any]


class Rewinder:
    """Rewinds instances and their failed sub-orchestrations."""

    def __init__(
        self,
        cache: InstanceCache,
        run: Callable[[WorkItem], None],
        set_timer: Callable[[TimerRow], None],
    ) -> None:
        self._cache = cache
        self._run = run
        self._set_timer = set_timer

    async def rewind(self, instance: OrchestrationInstance) -> None:
        """Rewind a failed instance. Raises OperationInvalid if the failure cannot be undone."""
        statements: list[Statement] = []
        effects: list[Callable[[], None]] = []
        self._collect(instance, statements, effects)
        await self._cache.store.write(statements)
        for effect in effects:
            effect()

    def _collect(
        self,
        instance: OrchestrationInstance,
        statements: list[Statement],
        effects: list[Callable[[], None]],
    ) -> None:
        fragments = list(self._cache.load_history(instance))
        past = [_events(fragment) for fragment in fragments]
        shim = instance.shim.copy()
        end = len(past) - 1 if shim.ended_episode is None else shim.ended_episode
        shim.ended_episode = None
        last_turn = [event for events in past[end:] for event in events]
        del past[end:]
        retried = [event for event in last_turn if event["EventType"] in _FAILURES]
        kept = [event for event in last_turn if event["EventType"] in _MESSAGES]
        for event in list(kept):
            failure = _undo_last_attempt(event, shim, past)
            if failure is not None:
                kept.remove(event)
                retried.append(failure)
        fragments = [json.dumps(events, separators=(",", ":"))[1:-1] for events in past]
        episode = len(fragments)
        statements += [
            records.delete_history(instance.id),
            *(
                records.append_history(instance.id, number, mark_played(fragment))
                for number, fragment in enumerate(fragments)
            ),
            records.update_instance(
                instance.id, Status.RUNNING, self._cache.now(), episode, shim, None, None
            ),
        ]
        messages = self._messages(instance, kept, statements)
        self._restore_timers(instance, shim, past, kept, statements, effects)
        for event in retried:
            self._retry(instance, event, [*past, last_turn], statements, effects)
        effects.insert(0, lambda: _restore(instance, shim, fragments, messages))
        effects.append(lambda: self._cache.wake(instance))

    def _messages(
        self, instance: OrchestrationInstance, kept: Iterable[Event], statements: list[Statement]
    ) -> list[TaskMessage]:
        messages = []
        for event in kept:
            task = event.get("TaskScheduledId", event.get("TimerId"))
            event["IsPlayed"] = False
            text = json.dumps(event, separators=(",", ":"))
            kind = EventType(event["EventType"])
            message = TaskMessage(kind, text, task, instance.execution, self._cache.next_number())
            statements.append(records.insert_message(instance.id, message))
            messages.append(message)
        return messages

    def _restore_timers(  # noqa: PLR0913, PLR0917 - the last two collect the changes
        self,
        instance: OrchestrationInstance,
        shim: Shim,
        past: list[list[Event]],
        kept: Iterable[Event],
        statements: list[Statement],
        effects: list[Callable[[], None]],
    ) -> None:
        fired = {event.get("TimerId") for event in kept}
        due = {
            event["EventId"]: event["FireAt"]
            for events in past
            for event in events
            if event["EventType"] == EventType.TIMER_CREATED
        }
        running = [*shim.timers, *(t for t, retry in shim.retries.items() if retry.is_waiting)]
        for task in running:
            if task in fired:
                continue
            if task not in due:
                raise OperationInvalid(_TIMER_LOST)
            timer = TimerRow(instance.id, task, instance.execution, parse_fire_at(due[task]))
            statements.append(records.insert_timer(timer))
            effects.append(partial(self._set_timer, timer))

    def _retry(
        self,
        instance: OrchestrationInstance,
        failure: Event,
        episodes: list[list[Event]],
        statements: list[Statement],
        effects: list[Callable[[], None]],
    ) -> None:
        task = failure["TaskScheduledId"]
        cause = next(
            event
            for events in episodes
            for event in events
            if event["EventType"] in {EventType.TASK_SCHEDULED, EventType.CHILD_CREATED}
            and event["EventId"] == task
        )
        if cause["EventType"] == EventType.TASK_SCHEDULED:
            work = WorkItem(
                self._cache.next_number(),
                instance.id,
                instance.execution,
                task,
                cause["Name"],
                json.loads(cause["Input"])[0],
            )
            statements.append(records.insert_work(work))
            effects.append(lambda: self._run(work))
            return
        child = self._cache.find(cause["InstanceId"])
        if child is None or child.status is not Status.FAILED:
            raise OperationInvalid(
                f"The instance cannot be rewound: its sub-orchestration {cause['InstanceId']} is "
                'not in the "Failed" state.'
            )
        self._collect(child, statements, effects)


def _undo_last_attempt(event: Event, shim: Shim, past: list[list[Event]]) -> Event | None:
    """Undo the last attempt of a task with retries, if `event` is from the timer after it.

    The SDK starts such a timer even after the last attempt has failed. The failure is removed from
    `past`, and the task numbers are reset. Return the event of the failure, or None. Raises
    OperationInvalid if the orchestrator scheduled other tasks after the failure.
    """
    timer = event.get("TimerId")
    retry = shim.retries.get(timer) if timer is not None else None
    if retry is None or not retry.is_waiting or not retry.is_exhausted:
        return None
    if timer != shim.next_task - 1:
        raise OperationInvalid(
            "The instance cannot be rewound: a task failed after all its retries, and then the "
            "orchestrator scheduled other tasks."
        )
    for events in reversed(past):
        for failure in reversed(events):
            if failure["EventType"] in _FAILURES:
                events.remove(failure)
                shim.retries.pop(timer)
                shim.retries[failure["TaskScheduledId"]] = retry
                retry.is_waiting = False
                shim.next_task = timer
                shim.retry_numbers.remove(timer)
                return failure
    raise OperationInvalid(
        "The instance cannot be rewound: the last attempt of a task with retries was deleted from "
        "the history."
    )


def _restore(
    instance: OrchestrationInstance, shim: Shim, fragments: list[str], messages: list[TaskMessage]
) -> None:
    instance.status = Status.RUNNING
    instance.output = None
    instance.shim = shim
    instance.episode_count = len(fragments)
    instance.history = [mark_played(fragment) for fragment in fragments]
    instance.mailbox.extend(messages)


def _events(fragment: str) -> list[Event]:
    events: list[Event] = json.loads(f"[{fragment}]")
    return events
