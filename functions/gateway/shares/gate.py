"""Decide whether a new job goes to its queue or waits in the room, and record the ends of jobs.

While the queue of a model is short, each job is sent at once. When the queue has as many jobs as
the window, the room opens, and the next jobs wait in it. While it is open, a job is still sent at
once if its tenant has less than its share: no other job of the tenant waits, it has fewer jobs in
flight than its share of the window, and it has not used the device longer than the others.

The decision uses what this process knows, so it needs no request. Several processes together may
send a few jobs too many.
"""

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, Final

from contract.catalogue import Catalogue, ModelEntry, Priority
from contract.messages import JobReply
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.keys import owner_of
from gateway.queues.estimates import JobQueue, WaitEstimates
from gateway.shares.limits import Limits
from gateway.shares.room import Entry
from gateway.shares.watch import RoomWatch, RoomWatches
from gateway.shares.window import window

JUST_HELD: Final = timedelta(seconds=1)
"""How long a tenant counts as waiting after a job was held, until the account shows this job."""

WINDOW_FOR: Final = timedelta(seconds=5)
"""How long the window of a closed room is used before it is computed again."""

LONG_WAIT_SECONDS: Final = 0.1
"""After a wait in the queue of this time, a process looks whether the room is open."""

MOST_WINDOWS: Final = 2
"""No job is sent at once while so many windows of jobs are in flight."""

_OWNERS_REMEMBERED: Final = 10_000

_log = logging.getLogger(__name__)


def device_seconds(reply: JobReply) -> float:
    """Return the job's part of the time that its batch used the device."""
    seconds = reply.timing.inference_ms / 1000 / max(1, reply.timing.batch_size)
    return seconds if 0 <= seconds < float("inf") else 0.0


class Gate:
    """What one process of the gateway decides about the waiting rooms of all models."""

    def __init__(  # noqa: PLR0913 - what the decisions depend on
        self,
        watches: RoomWatches,
        limits: Limits,
        catalogue: Catalogue,
        estimates: WaitEstimates,
        clock: Clock,
        *,
        is_enabled: bool,
    ) -> None:
        self._watches = watches
        self._limits = limits
        self._catalogue = catalogue
        self._estimates = estimates
        self._clock = clock
        self._windows: dict[tuple[str, Priority], tuple[int, datetime]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.durable: Durable | None = None
        """Of the last request of this process."""
        self._has_started = False
        self._sending: Counter[tuple[str, Priority]] = Counter()
        """How many jobs of a model are being sent, which no length of its queue has yet."""
        self._is_enabled = is_enabled
        self._held_at: OrderedDict[tuple[str, str, Priority], tuple[datetime, str]] = OrderedDict()
        """When this process last held a job of a model, an owner and a priority, and its id."""

    def start(self, durable: Durable) -> None:
        """Open, at the first call, the rooms that have jobs."""
        self.durable = durable
        if not self._has_started:
            self._has_started = True
            self._run_soon(self.open_used())

    async def open_used(self) -> None:
        """Open the rooms that may have jobs, so that a leader lets them in."""
        try:
            await self._watches.open_used()
        except Unavailable as error:
            self._has_started = False
            _log.warning("the waiting rooms cannot be listed: %s", error)

    async def send(self, model: ModelEntry, entry: Entry, body: bytes, *, may_hold: bool) -> None:
        """Send the message of a job or hold it in the waiting room.

        Raises Unavailable if the message was possibly not sent.
        """
        watch = self._watches.of(model)
        if may_hold and self._must_hold(watch, model, entry):
            self._remember_held(model, entry)
            try:
                await watch.hold(self.durable, entry, body)
            except Unavailable as error:
                _log.warning(
                    "job %s: it could not be held in the waiting room (%s), so it is sent",
                    *(entry.job_id, error),
                )
            else:
                return
        watch.record_sent(entry.job_id, entry.owner, entry.priority)
        self._sending[model.name, entry.priority] += 1
        try:
            await watch.queue.send(entry, body)
        finally:
            self._sending[model.name, entry.priority] -= 1

    def _must_hold(self, watch: RoomWatch, model: ModelEntry, entry: Entry) -> bool:
        owner, priority = entry.owner, entry.priority
        if self._limits.tenants.running_limit(owner) is not None:
            return True
        if not self._is_enabled:
            return False
        if not watch.is_open:
            length = watch.queue.length(priority) + self._sending[model.name, priority]
            return self._is_full(watch, priority, length)
        return self._was_just_held(model, entry) or self._has_share(watch, entry)

    def _has_share(self, watch: RoomWatch, entry: Entry) -> bool:
        """Return whether the tenant of a new job has its share of an open room's queue already."""
        owner, priority, model = entry.owner, entry.priority, watch.queue.model
        account, window = watch.account, watch.window(priority) or 0
        ahead = model.max_batch_size * account.estimate(owner)
        return (
            account.held(owner, priority) > 0
            or watch.in_flight(owner) >= max(1.0, account.share(owner) * window)
            # Each of many tenants may send one job, but not all of them at once.
            or sum(map(watch.in_flight, account.owners())) >= MOST_WINDOWS * window
            or account.lead(owner) > ahead / self._limits.tenants.weight(owner)
        )

    def _is_full(self, watch: RoomWatch, priority: Priority, length: int) -> bool:
        """Return whether a queue of this length opens the room, by its last known window."""
        model = watch.queue.model
        if length < model.max_batch_size:
            return False
        seconds = self._estimates.seconds_per_job(model.name)
        if length < window(model.max_batch_size, priority, 1, seconds):
            return False  # no window is shorter
        cold = window(model.max_batch_size, priority, None, seconds)
        known, read_at = self._windows.get((model.name, priority), (cold, None))
        now = self._clock()
        if read_at is None or abs(now - read_at) >= WINDOW_FOR:
            self._windows[model.name, priority] = known, now
            self._run_soon(self._read_window(watch, priority))
        return length >= known

    async def _read_window(self, watch: RoomWatch, priority: Priority) -> None:
        found = await watch.queue.window(priority)
        self._windows[watch.queue.model.name, priority] = found, self._clock()

    def _run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        # The event loop has only a weak reference to a task.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _remember_held(self, model: ModelEntry, entry: Entry) -> None:
        key = model.name, entry.owner, entry.priority
        self._held_at[key] = self._clock(), entry.job_id
        self._held_at.move_to_end(key)
        if len(self._held_at) > _OWNERS_REMEMBERED:
            self._held_at.popitem(last=False)

    def _was_just_held(self, model: ModelEntry, entry: Entry) -> bool:
        found = self._held_at.get((model.name, entry.owner, entry.priority))
        return found is not None and self._clock() - found[0] < JUST_HELD

    def _is_just_held(self, model: ModelEntry, owner: str, job_id: str) -> bool:
        keys = ((model.name, owner, priority) for priority in Priority)
        found = (self._held_at.get(key) for key in keys)
        return any(
            each is not None and each[1] == job_id and self._clock() - each[0] < JUST_HELD
            for each in found
        )

    def record_reply(self, model: ModelEntry, job_id: str, owner: str, reply: JobReply) -> None:
        """Record a job's end by a reply, which says how long the job used the device.

        `owner` is empty if the reply's URL has none, because another program sent the message.
        """
        has_waited = reply.timing.queued_ms > LONG_WAIT_SECONDS * 1000
        self._record_end(model, job_id, owner, device_seconds(reply), has_waited=has_waited)

    def record_end(self, model: str, job_id: str, owner: str) -> None:
        """Record the end of a job that ended without a reply.

        If it was let in, it may have used the device, so its tenant is charged the estimate.
        """
        if (entry := self._catalogue.get(model)) is not None:
            self._record_end(entry, job_id, owner, None, has_waited=False)

    def _record_end(
        self,
        model: ModelEntry,
        job_id: str,
        owner: str,
        seconds: float | None,
        *,
        has_waited: bool,
    ) -> None:
        if owner:
            self._limits.record_end(job_id, owner, model.name, seconds or 0.0)
        watch = self._watches.of(model)
        watch.record_end(self.durable, job_id, owner, seconds, has_waited=has_waited)

    def count_ahead(self, model: ModelEntry, priority: Priority, tenant: str) -> float:
        """Return about how many held jobs are let in before a job that a tenant submits now."""
        watch = self._watches.of(model)
        return watch.account.ahead(owner_of(tenant), priority) if watch.is_open else 0.0

    async def find_queue(self, model: ModelEntry, job_id: str, tenant: str) -> JobQueue | None:
        """Return the place of a held job among its tenant's, and its wait.

        Returns None if the job is not held, or if the storage fails.
        """
        owner, watch = owner_of(tenant), self._watches.of(model)
        place = None
        with contextlib.suppress(Unavailable):
            place = await watch.find_place(job_id)
        if place is None and self._is_just_held(model, owner, job_id):
            place = watch.account.held(owner) + 1
        if place is None:
            return None
        each = self._estimates.seconds_per_job(model.name)
        account = watch.account
        eta = None
        if each is not None:
            known = sum(watch.in_flight(other) for other in account.owners())
            # The queue may also have jobs that were sent before the room was opened.
            ahead = max(known, watch.queue.length(Priority.NORMAL))
            eta = round(ahead * each + place * each * account.relative_cost(owner), 3)
        return {"position": place, "eta_seconds": eta, "phase": "share"}
