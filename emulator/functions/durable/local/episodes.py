"""Save each episode of the default engine in one transaction.

The transaction inserts the new history events, and the work items, timers and messages that the
episode sends. The transaction also deletes the messages that the episode has used.
"""

from collections.abc import Callable
from functools import partial

from emulator.functions.durable import history, records
from emulator.functions.durable.episodes import Episode, close_events, make_next_execution
from emulator.functions.durable.instances import OrchestrationInstance, Status, describe_id_in_use
from emulator.functions.durable.local.cache import InstanceCache
from emulator.functions.durable.protocol import ContinueAsNew, ScheduleActivity
from emulator.functions.durable.records import TimerRow, WorkItem
from emulator.functions.durable.shim import Shim


class LocalOutbox:
    """Sends the activities, timers and sub-orchestrations that an episode schedules.

    The transaction of the episode inserts a row for each of them. The activities, timers and
    sub-orchestrations start after the commit.
    """

    def __init__(
        self,
        cache: InstanceCache,
        run: Callable[[WorkItem], None],
        set_timer: Callable[[TimerRow], None],
        cancel_timer: Callable[[str, int], None],
    ) -> None:
        self._cache = cache
        self._run = run
        self._set_timer = set_timer
        self._cancel_timer = cancel_timer

    def schedule_activity(self, episode: Episode, command: ScheduleActivity) -> None:
        """Insert a work item, which runs after the commit."""
        instance = episode.instance
        work = WorkItem(
            self._cache.next_number(),
            instance.id,
            instance.execution,
            command.task,
            command.name,
            command.input,
        )
        episode.statements.append(records.insert_work(work))
        episode.effects.append(lambda: self._run(work))

    def start_timer(self, episode: Episode, timer: TimerRow) -> None:
        """Insert a timer, which starts after the commit."""
        episode.statements.append(records.insert_timer(timer))
        episode.effects.append(lambda: self._set_timer(timer))

    def cancel_timer(self, episode: Episode, task: int) -> None:
        """Delete the row of a timer, and cancel the timer after the commit."""
        episode.statements.append(records.delete_timer(episode.instance.id, task))
        episode.effects.append(partial(self._cancel_timer, episode.instance.id, task))

    def start_child(self, episode: Episode, child: OrchestrationInstance) -> None:
        """Insert a child that runs after the commit, or its failure if its id is in use."""
        assert child.parent is not None
        existing = self._cache.find(child.id)
        if existing is not None and not existing.is_finished:
            statements, follow = self._cache.prepare_completion_for_parent(
                child.parent, Status.FAILED, None, describe_id_in_use(existing)
            )
            episode.statements += statements
            episode.effects.append(follow)
            return
        self._cache.put(child)
        episode.children.append(child)
        episode.statements += [records.delete_history(child.id), records.insert_instance(child)]
        episode.effects.append(lambda: self._cache.wake(child))


class LocalCheckpointer:
    """Saves each episode in one transaction, and then updates the instance in memory."""

    def __init__(self, cache: InstanceCache, cancel_timer: Callable[[str, int], None]) -> None:
        self._cache = cache
        self._cancel_timer = cancel_timer

    async def save_waiting(self, episode: Episode, custom_status: str | None) -> None:
        """Save an episode after which the instance waits for messages."""
        instance = episode.instance
        status = Status.SUSPENDED if instance.is_suspended else Status.RUNNING
        fragment = self._close_events(episode)
        episode.statements.append(
            records.update_instance(
                instance.id,
                status,
                episode.now,
                instance.episode_count + 1,
                episode.shim,
                custom_status,
                instance.output,
            )
        )
        await self._commit(episode)
        if instance.status is Status.PENDING:
            instance.status = Status.RUNNING
        self._cache.load_history(instance).append(fragment)
        instance.custom_status = custom_status
        instance.episode_count += 1
        self._committed(episode)

    async def save_finished(
        self,
        episode: Episode,
        status: Status,
        output: str | None,
        reason: str,
        custom_status: str | None,
    ) -> None:
        """Save an episode that ends the instance, and tell its parent."""
        instance = episode.instance
        episode.events.append(
            history.execution_completed(episode.now, episode.shim.next_task, status, output)
        )
        self._close_events(episode)
        # A rewind needs the shim in its state before the function ended.
        rewound = instance.shim.before_function_ended()
        episode.statements.append(
            records.update_instance(
                instance.id,
                status,
                episode.now,
                instance.episode_count + 1,
                rewound,
                custom_status,
                output,
            )
        )
        if instance.shim.has_timers:
            episode.statements.append(records.delete_timers(instance.id))
        if instance.parent is not None:
            statements, follow = self._cache.prepare_completion_for_parent(
                instance.parent, status, output, reason
            )
            episode.statements += statements
            episode.effects.append(follow)
        await self._commit(episode)
        self._stop_timers(instance)
        instance.status = status
        instance.output = output
        instance.custom_status = custom_status
        instance.history = None
        instance.episode_count += 1
        self._committed(episode, shim=rewound)
        for message in instance.mailbox:
            self._cache.store.write(list(records.consume(instance.id, message)))
        instance.mailbox.clear()
        for watcher in instance.watchers:
            if not watcher.done():
                watcher.set_result(None)
        instance.watchers.clear()

    async def save_continued_as_new(
        self, episode: Episode, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        """Save an episode that ends with continue-as-new."""
        instance = episode.instance
        fresh = make_next_execution(episode, command, custom_status)
        episode.statements += [
            records.delete_history(instance.id),
            records.delete_timers(instance.id),
            records.insert_instance(fresh),
        ]
        await self._commit(episode)
        self._stop_timers(instance)
        if instance.status is Status.PENDING:
            instance.status = Status.RUNNING
        instance.execution = fresh.execution
        instance.input = fresh.input
        instance.output = None
        instance.created = fresh.created
        instance.custom_status = custom_status
        instance.history = []
        instance.episode_count = 0
        late = [m for m in instance.mailbox if m.execution not in {None, instance.execution}]
        for message in late:
            instance.mailbox.remove(message)
            self._cache.store.write(list(records.consume(instance.id, message)))
        self._committed(episode, shim=fresh.shim)

    def _close_events(self, episode: Episode) -> str:
        """Close the episode and insert its events; return them as JSON."""
        fragment = close_events(episode)
        episode.statements.append(
            records.append_history(episode.instance.id, episode.instance.episode_count, fragment)
        )
        return fragment

    def _stop_timers(self, instance: OrchestrationInstance) -> None:
        for task in (*instance.shim.timers, *instance.shim.retries):
            self._cancel_timer(instance.id, task)

    async def _commit(self, episode: Episode) -> None:
        consumed = [s for m in episode.batch for s in records.consume(episode.instance.id, m)]
        try:
            await self._cache.store.write([*consumed, *episode.statements])
        except BaseException:
            for child in episode.children:
                self._cache.drop(child)
            raise

    def _committed(self, episode: Episode, shim: Shim | None = None) -> None:
        episode.instance.shim = episode.shim if shim is None else shim
        episode.instance.updated = episode.now
        episode.batch.clear()
        self._cache.update_size(episode.instance)
        for effect in episode.effects:
            effect()
