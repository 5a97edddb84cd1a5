"""The default engine: run orchestration instances on one host, and survive `kill -9`.

    start ─▶ Pending ─▶ Running ◀─▶ Suspended
                          │ ▲
                          │ └─ rewind ── Failed
                          └─▶ Completed | Failed | Terminated ─▶ purge

An operation returns when its effect is committed to the database. Messages, timers and work items
stay in the database until the transaction of an episode deletes them. After a crash, the next start
continues the work that is still in the database, so an activity may run more than once.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from emulator.clock import UtcClock
from emulator.functions.durable import history, records
from emulator.functions.durable.engine import DurableEngine, check_failed
from emulator.functions.durable.episodes import EpisodeRunner, Scheduler, is_ready
from emulator.functions.durable.errors import StoreUnavailable
from emulator.functions.durable.history import EventType
from emulator.functions.durable.instances import OrchestrationInstance, Status, TaskMessage
from emulator.functions.durable.local.cache import InstanceCache
from emulator.functions.durable.local.episodes import LocalCheckpointer, LocalOutbox
from emulator.functions.durable.local.rewind import Rewinder
from emulator.functions.durable.records import Reader, TimerRow
from emulator.functions.durable.runner import ActivityPool, AppOutage, FunctionRunner
from emulator.functions.durable.store import Statement, Store
from emulator.functions.durable.timers import TimerQueue
from emulator.functions.errors import AppUnavailable
from emulator.functions.settings import DurableOptions

_log = logging.getLogger(__name__)
_RETRY_MICROS = 1_000_000


class LocalEngine(DurableEngine):
    """The default engine, which serves one host and commits one transaction for each episode."""

    def __init__(
        self, store: Store, runner: FunctionRunner, clock: UtcClock, options: DurableOptions
    ) -> None:
        self.store = store
        self.cache = InstanceCache(store, clock)
        self.cache.wake = self._wake
        self.cache.retry_later = self._retry_later
        self.timers = TimerQueue(clock)
        self._runner = runner
        self._options = options
        self.app_outage = AppOutage(self.timers, self.cache.now)
        self._pool = ActivityPool(
            runner, self.app_outage, self.cache.now, self.cache.deliver, options.max_activities
        )
        outbox = LocalOutbox(self.cache, self._pool.add, self._set_timer, self._cancel_timer)
        self._episodes = EpisodeRunner(
            self.cache.now,
            self.cache.load_history,
            runner,
            Scheduler(runner, outbox),
            LocalCheckpointer(self.cache, self._cancel_timer),
        )
        self._episode_slots = asyncio.Semaphore(options.max_orchestrators)
        self._episode_tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Open the database, and continue the unfinished work that it contains."""
        self.store.open()
        messages = records.read_inbox(self.store)
        works = records.read_work(self.store)
        last_message = messages[-1][1].sequence if messages else 0
        last_work = works[-1].sequence if works else 0
        self.cache.set_last_number(max(last_message or 0, last_work))
        for instance in records.read_fresh(self.store):
            self.cache.put(instance)
            self._wake(instance)
        for instance_id, message in messages:
            self.cache.deliver(instance_id, message)
        for timer in records.read_timers(self.store):
            self._set_timer(timer)
        for work in works:
            self._pool.add(work)

    async def drain(self, timeout_seconds: float) -> None:
        """Start no more work, wait for the running one, and store the results."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        self._stopping = True
        await self._pool.drain(timeout_seconds)
        if self._episode_tasks:
            await asyncio.wait(self._episode_tasks, timeout=max(0.0, deadline - loop.time()))
        for instance in self.cache.list_cached():
            self.cache.persist_results(instance)

    async def stop(self) -> None:
        """Cancel the running episodes, and close the database."""
        self._stopping = True
        self.timers.close()
        await self._pool.close()
        for task in self._episode_tasks:
            task.cancel()
        await asyncio.gather(*self._episode_tasks, return_exceptions=True)
        await self.store.close()

    def clock_moved(self) -> None:
        """Fire the timers that are due. Tests call this method after they have moved the clock."""
        self.timers.fire_due()

    @property
    def is_quiet(self) -> bool:
        """Return whether the engine is idle: no episode, activity or transaction is in progress."""
        return not self._episode_tasks and not self._pool.is_busy and not self.store.is_busy

    # Operations of clients

    def now(self) -> int:
        """Return the current time in microseconds since 1970."""
        return self.cache.now()

    def check_writable(self) -> None:
        """Raise StoreUnavailable if the database cannot be written now. Writes nothing."""
        self.store.check_writable()

    async def get_setting(self, name: str, default: str) -> str:
        """Return a setting of the task hub; without one, store `default`."""
        return self.store.get_setting(name, default)

    @property
    def _reader(self) -> Reader:
        return self.store

    def _find(self, instance_id: str) -> OrchestrationInstance | None:
        return self.cache.find(instance_id)

    def read_history_of(self, instance: OrchestrationInstance) -> list[str]:
        """Return each episode's events, as JSON texts joined by commas."""
        return self.cache.load_history(instance)

    def read_page(
        self, condition: records.InstanceFilter, top: str | None, token: str
    ) -> tuple[list[OrchestrationInstance], str]:
        """Return a page of the instances, with the newer state of those in memory."""
        rows, next_token = super().read_page(condition, top, token)
        return [self.cache.get_cached(instance.id) or instance for instance in rows], next_token

    async def _commit_start(
        self, instance: OrchestrationInstance, existing: OrchestrationInstance | None
    ) -> None:
        statements: list[Statement] = [records.insert_instance(instance)]
        if existing is not None:
            statements.insert(0, records.delete_history(instance.id))
        self.cache.put(instance)
        await self.store.write(
            statements, lambda is_committed: self._end_start(instance, is_committed=is_committed)
        )

    async def rewind(self, instance_id: str) -> None:
        """Undo the failure of a failed instance, and run its failed tasks again."""
        instance = self.find(instance_id)
        check_failed(instance)
        await Rewinder(self.cache, self._pool.add, self._set_timer).rewind(instance)

    async def wait_finished(self, instance_id: str, timeout_seconds: float) -> bool:
        """Wait for an instance, and return whether it has finished in time."""
        instance = self.find(instance_id)
        if instance.is_finished:
            return True
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        instance.watchers.append(watcher)
        self.timers.set(
            watcher,
            min(self.cache.now() + int(timeout_seconds * 1e6), history.FOREVER),
            lambda: _resolve(watcher),
        )
        try:
            await watcher
        finally:
            self.timers.cancel(watcher)
            if watcher in instance.watchers:
                instance.watchers.remove(watcher)
        return instance.is_finished

    async def purge(self, instances: Sequence[OrchestrationInstance]) -> int:
        """Delete finished instances with their histories; return their number."""
        # In the meantime, a new instance with the same id may have replaced a finished instance.
        current = [self.cache.get_cached(instance.id) or instance for instance in instances]
        finished = [instance for instance in current if instance.is_finished]
        await self.store.write(
            [s for instance in finished for s in records.delete_instance(instance.id)]
        )
        for instance in finished:
            held = self.cache.get_cached(instance.id)
            if held is not None and held.is_finished:
                self.cache.drop(held)
        return len(finished)

    # Delivery

    async def _commit_switch(
        self,
        instance: OrchestrationInstance,
        status: Status,
        message: TaskMessage,
        reason: str | None,
    ) -> None:
        former = (instance.status, instance.output)
        instance.status = status
        if reason is not None or status is Status.SUSPENDED:
            instance.output = None if reason is None else history.json_or_string(reason)
        try:
            await self._write(
                instance, message, [records.set_status(instance.id, status, instance.output)]
            )
        except StoreUnavailable:
            instance.status, instance.output = former
            raise
        self.cache.persist_results(instance)

    def _end_start(self, instance: OrchestrationInstance, *, is_committed: bool) -> None:
        if is_committed:
            self._wake(instance)
        else:
            self.cache.drop(instance)

    async def _commit_message(self, instance: OrchestrationInstance, message: TaskMessage) -> None:
        await self._write(instance, message)

    async def _write(
        self, instance: OrchestrationInstance, message: TaskMessage, more: Sequence[Statement] = ()
    ) -> None:
        message.sequence = self.cache.next_number()
        instance.pending_writes += 1

        def end_write(is_committed: bool) -> None:
            instance.pending_writes -= 1
            if is_committed and not self._stopping:
                self.cache.deliver(instance.id, message)

        await self.store.write([records.insert_message(instance.id, message), *more], end_write)

    def _set_timer(self, timer: TimerRow) -> None:
        def fire() -> None:
            text = history.timer_fired(self.cache.now(), timer.task, timer.due)
            message = TaskMessage(EventType.TIMER_FIRED, text, timer.task, timer.execution)
            self.cache.deliver(timer.instance_id, message)

        self.timers.set((timer.instance_id, timer.task), timer.due, fire)

    def _retry_later(self, retry: Callable[[], None]) -> None:
        self.timers.set(retry, self.cache.now() + _RETRY_MICROS, retry)

    def _cancel_timer(self, instance_id: str, task: int) -> None:
        self.timers.cancel((instance_id, task))

    # Episodes

    def _wake(self, instance: OrchestrationInstance) -> None:
        if instance.is_busy or self._stopping or not is_ready(instance):
            return
        instance.is_busy = True
        task = asyncio.get_running_loop().create_task(self._run_episodes(instance))
        self._episode_tasks.add(task)
        task.add_done_callback(self._episode_tasks.discard)

    async def _run_episodes(self, instance: OrchestrationInstance) -> None:
        """Run episodes while the instance is ready, in only one task at a time."""
        try:
            while is_ready(instance) and not self._stopping:
                async with self._episode_slots:
                    made = await self._try_episode(instance)
                if made:
                    self.app_outage.end()
                else:
                    self.cache.persist_results(instance)
                    await self.app_outage.wait()
        finally:
            instance.is_busy = False

    async def _try_episode(self, instance: OrchestrationInstance) -> bool:
        try:
            await self._episodes.run(instance)
        except AppUnavailable:
            _log.debug(
                "the orchestrator of instance %s waits until the app process runs again",
                instance.id,
            )
            return False
        except StoreUnavailable as problem:
            _log.error(
                "the result of the orchestrator of instance %s could not be saved; the engine runs "
                "the orchestrator again: %s",
                instance.id,
                problem,
            )
            return False
        except Exception:  # noqa: BLE001 - one instance must not stop the others
            _log.exception(
                "running the orchestrator of instance %s failed; the engine runs it again",
                instance.id,
            )
            return False
        return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
