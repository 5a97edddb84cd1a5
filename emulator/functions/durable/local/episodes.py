"""Where a turn's activities, timers and sub-orchestrations go: one outbox for each engine.

The ways in which a turn ends: the instance goes on, begins anew, or has finished.

A turn's history, its messages and the removal of the messages it took are one transaction.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from emulator.functions.durable import history, records
from emulator.functions.durable.episodes import Turn, close_events, renew
from emulator.functions.durable.instances import Instance, Status, id_taken
from emulator.functions.durable.local.hub import Hub
from emulator.functions.durable.protocol import ContinueAsNew, ScheduleActivity
from emulator.functions.durable.records import TimerRow, Work
from emulator.functions.durable.shim import Shim


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


class LocalEndings:
    """Writes turns, each in one transaction; memory follows the store."""

    def __init__(self, hub: Hub, cancel_timer: Callable[[str, int], None]) -> None:
        self._hub = hub
        self._cancel_timer = cancel_timer

    async def go_on(self, turn: Turn, custom_status: str | None) -> None:
        """Let the instance wait for what it has asked for."""
        instance = turn.instance
        status = Status.SUSPENDED if instance.suspended else Status.RUNNING
        fragment = self._close_events(turn)
        turn.statements.append(
            records.update_instance(
                instance.id, status, turn.now, instance.turn + 1, turn.shim, custom_status, None
            )
        )
        await self._commit(turn)
        if instance.status is Status.PENDING:
            instance.status = Status.RUNNING
        self._hub.history(instance).append(fragment)
        instance.custom_status = custom_status
        instance.turn += 1
        self._committed(turn)

    async def finish(
        self, turn: Turn, status: Status, output: str | None, reason: str, custom_status: str | None
    ) -> None:
        """Give the instance its final status. `output` is JSON, `reason` what its parent hears."""
        instance = turn.instance
        turn.events.append(
            history.execution_completed(turn.now, turn.shim.next_task, status, output)
        )
        self._close_events(turn)
        turn.statements.append(
            # A rewind needs the shim as it was before this turn.
            records.update_instance(
                instance.id,
                status,
                turn.now,
                instance.turn + 1,
                instance.shim,
                custom_status,
                output,
            )
        )
        if instance.shim.has_timers:
            turn.statements.append(records.delete_timers(instance.id))
        if instance.parent is not None:
            statements, follow = self._hub.tell_parent(instance.parent, status, output, reason)
            turn.statements += statements
            turn.effects.append(follow)
        await self._commit(turn)
        self._stop_timers(instance)
        instance.status = status
        instance.output = output
        instance.custom_status = custom_status
        instance.history = None
        instance.turn += 1
        self._committed(turn, shim=instance.shim)
        for message in instance.mailbox:
            self._hub.store.write(list(records.consume(instance.id, message)))
        instance.mailbox.clear()
        for watcher in instance.watchers:
            if not watcher.done():
                watcher.set_result(None)
        instance.watchers.clear()

    async def continue_as_new(
        self, turn: Turn, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        """Begin again with a new input, an empty history and no timers."""
        instance = turn.instance
        fresh = renew(turn, command, custom_status)
        turn.statements += [
            records.delete_history(instance.id),
            records.delete_timers(instance.id),
            records.insert_instance(fresh),
        ]
        await self._commit(turn)
        self._stop_timers(instance)
        if instance.status is Status.PENDING:
            instance.status = Status.RUNNING
        instance.execution = fresh.execution
        instance.input = fresh.input
        instance.custom_status = custom_status
        instance.history = []
        instance.turn = 0
        late = [m for m in instance.mailbox if m.execution not in {None, instance.execution}]
        for message in late:
            instance.mailbox.remove(message)
            self._hub.store.write(list(records.consume(instance.id, message)))
        self._committed(turn, shim=Shim())

    def _close_events(self, turn: Turn) -> str:
        """End the turn's events and have them written; return their text."""
        fragment = close_events(turn)
        turn.statements.append(
            records.append_history(turn.instance.id, turn.instance.turn, fragment)
        )
        return fragment

    def _stop_timers(self, instance: Instance) -> None:
        for task in (*instance.shim.timers, *instance.shim.retries):
            self._cancel_timer(instance.id, task)

    async def _commit(self, turn: Turn) -> None:
        consumed = [s for m in turn.batch for s in records.consume(turn.instance.id, m)]
        written = self._hub.store.write([*consumed, *turn.statements])
        try:
            # What was handed to the store takes effect, whoever gives up waiting for it.
            await asyncio.shield(written)
        except BaseException:
            for child in turn.children:
                self._hub.drop(child)
            raise

    def _committed(self, turn: Turn, shim: Shim | None = None) -> None:
        turn.instance.shim = turn.shim if shim is None else shim
        turn.instance.updated = turn.now
        turn.batch.clear()
        self._hub.weigh(turn.instance)
        for effect in turn.effects:
            effect()
