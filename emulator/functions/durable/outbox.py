"""Where a turn's activities, timers and sub-orchestrations go: one outbox for each engine."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from emulator.functions.durable import records
from emulator.functions.durable.actions import ScheduleActivity
from emulator.functions.durable.hub import Hub
from emulator.functions.durable.model import Instance, Status
from emulator.functions.durable.records import TimerRow, Work
from emulator.functions.durable.turn import Turn


class Outbox(Protocol):
    """Adds to a turn what has to be written for each of its commands."""

    def run_activity(self, turn: Turn, command: ScheduleActivity) -> None:
        """Schedule an activity."""
        ...

    def start_timer(self, turn: Turn, timer: TimerRow) -> None:
        """Set a timer."""
        ...

    def cancel_timer(self, turn: Turn, task: int) -> None:
        """Cancel a timer."""
        ...

    def start_child(self, turn: Turn, child: Instance) -> None:
        """Start a sub-orchestration; tell its parent if its id is taken."""
        ...


class LocalOutbox:
    """Rows of the local engine's database, and what follows once these are safe."""

    def __init__(
        self,
        hub: Hub,
        run: Callable[[Work], None],
        set_timer: Callable[[TimerRow], None],
        cancel_timer: Callable[[str, int], None],
    ) -> None:
        self._hub = hub
        self._run = run
        self._set_timer = set_timer
        self._cancel_timer = cancel_timer

    def run_activity(self, turn: Turn, command: ScheduleActivity) -> None:
        """Keep the activity, then run it."""
        instance = turn.instance
        work = Work(
            self._hub.number(),
            instance.id,
            instance.execution,
            command.task,
            command.name,
            command.input,
        )
        turn.statements.append(records.insert_work(work))
        turn.effects.append(lambda: self._run(work))

    def start_timer(self, turn: Turn, timer: TimerRow) -> None:
        """Keep the timer, then set it."""
        turn.statements.append(records.insert_timer(timer))
        turn.effects.append(lambda: self._set_timer(timer))

    def cancel_timer(self, turn: Turn, task: int) -> None:
        """Delete the timer's row, then cancel it."""
        turn.statements.append(records.delete_timer(turn.instance.id, task))
        turn.effects.append(partial(self._cancel_timer, turn.instance.id, task))

    def start_child(self, turn: Turn, child: Instance) -> None:
        """Keep the instance, then wake it; an unfinished one with its id makes it fail."""
        assert child.parent is not None
        existing = self._hub.find(child.id)
        if existing is not None and not existing.finished:
            statements, follow = self._hub.tell_parent(
                child.parent, Status.FAILED, None, id_taken(existing)
            )
            turn.statements += statements
            turn.effects.append(follow)
            return
        self._hub.put(child)
        turn.children.append(child)
        turn.statements += [records.delete_history(child.id), records.insert_instance(child)]
        turn.effects.append(lambda: self._hub.wake(child))


def id_taken(existing: Instance) -> str:
    """Say that an unfinished instance has an id, as the Durable extension does."""
    return f"An Orchestration instance with the status {existing.status} already exists."
