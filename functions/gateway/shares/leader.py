"""Let the held jobs of one model into its queue, while this process leads the model's room.

A cycle takes new entries and ends, and lets jobs in while fewer than the window are in flight. The
state is saved beside it, each SAVE_SECONDS. The process may die after each of these steps:

    read the entries ──▶ send their messages ──▶ save the state

The next leader begins with the last saved state and reads the logs again. What the state does not
have, it sends once more; the queue drops these messages, because a message has the id of its job.
Of ends that its predecessor did not save it does not learn: it looks these jobs up.
"""

import asyncio
import contextlib
import heapq
import logging
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from contract.catalogue import Priority
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.shares.account import Account
from gateway.shares.room import Entry, JobInFlight, RoomEnd, RoomState, RoomView
from gateway.shares.room_queue import RoomQueue
from gateway.shares.tenants import TenantStore

SAVE_SECONDS: Final = 0.5
"""How often the leader saves the state, which also shows the others that it is alive."""

STALE_SECONDS: Final = 1.5
"""No job is let in so long after a save. Another process waits longer before it leads."""

CYCLE_SECONDS: Final = 0.02
"""The shortest time between two cycles, so that the queue gets batches of messages."""

READ_SECONDS: Final = 0.5
SHARED_READ_SECONDS: Final = 0.05
"""The time between two reads of the logs, and the same while other processes append to them."""

SHARED_SECONDS: Final = 5.0
"""How long after a line of another process the logs are read more often."""

IDLE_SECONDS: Final = 1.0
"""How long the room stays open without a job."""

CLEAN_SECONDS: Final = 60.0
"""How often the logs that no job needs are deleted. This is also done before the room is closed."""

LET_IN_AT_ONCE: Final = 200
"""How many jobs one cycle lets in at most."""

RATE_SECONDS: Final = 3.0
"""For how long the leader counts ends to know how many there are in a second."""

ENDS_REMEMBERED: Final = 20_000
"""How many ended jobs are remembered, whose entries or other ends may be read later."""

_log = logging.getLogger(__name__)


class EndFinder(Protocol):
    """Finds out whether jobs have ended."""

    async def has_ended(self, durable: Durable | None, job_id: str) -> bool:
        """Return whether a job has ended or is unknown. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class _LookUps:
    """When and how often jobs in flight are looked up, whose ends may be lost."""

    pause_seconds: float
    at_once: int
    least_age_seconds: float
    least_age_estimates: float
    """A job is looked up after the time, or after this many estimates if longer."""
    again_seconds: float
    """The shortest time between two look-ups of one job."""


_LOOK_UPS: Final = _LookUps(1.0, 10, 5.0, 10.0, 10.0)
_LOOK_UPS_AT_FIRST: Final = _LookUps(0.2, 40, 0.3, 1.0, 1.0)
"""For the first RECOVERY_SECONDS after another leader, of whose last half second nothing is saved.

At 500 jobs a second, that are 250 jobs that have ended and are let in once more.
"""

RECOVERY_SECONDS: Final = 10.0


@dataclass(slots=True)
class _Times:
    """When something was done last, on the clock of the event loop."""

    shared: float = -math.inf
    looked_up: float = -math.inf
    busy: float = 0.0
    cleaned: float = 0.0


class Leader:
    """Lets in the jobs of one room. The state has been written with this process as the leader."""

    def __init__(
        self,
        view: RoomView,
        queue: RoomQueue,
        tenants: TenantStore,
        finder: EndFinder,
        saved: tuple[RoomState, str],
    ) -> None:
        state, etag = saved
        self.account = Account.from_json(state.account, has_jobs=False)
        self.in_flight: dict[str, JobInFlight] = {}
        self.running: Counter[str] = Counter()
        self.windows: dict[Priority, int] = dict.fromkeys(Priority, 1)
        self.view = view
        self.is_leading = True
        self.durable: Durable | None = None
        """Of the last request, for looking up jobs."""
        self.read_at = -math.inf
        """When the last whole read of the logs began, on the clock of the event loop."""
        self._must_read = True
        self._room = view.room
        self._queue = queue
        self._tenants = tenants
        self._finder = finder
        self._clock = view.room.clock
        self._name = state.leader
        self._is_new = not state.windows
        self.state = state
        self.etag = etag
        self._beat = state.beat
        self._saving = asyncio.Lock()
        self._saved_at = -math.inf
        """When the last save began, on the clock of the event loop."""
        self._counts: Counter[Priority] = Counter()
        self._elsewhere: Counter[Priority] = Counter()
        """How many jobs that are not in `in_flight` may still be in the queue, sent before."""
        self._sending: set[str] = set()
        self._own: set[str] = set()
        """The jobs whose entries this process has stored and not read."""
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._unsaved: list[RoomEnd] = []
        """The ends that the saved state does not have."""
        self._looked_up: dict[str, float] = {}
        self._news = asyncio.Event()
        self._times = _Times()
        self._begun_at = asyncio.get_running_loop().time()
        self._ends: deque[float] = deque()
        """When the last jobs ended, on the clock of the event loop."""
        for job_id, each in state.in_flight.items():
            self.account.resume(each.owner)
            self._add(job_id, each)

    # What happens in this process. These methods never wait.

    def record_held(self, owner: str, priority: Priority) -> None:
        """Record that this process has stored an entry, which was announced to the view."""
        if not self.account.held(owner, priority):
            self._must_read = True
            self._news.set()

    def record_sent(self, job_id: str, owner: str, priority: Priority) -> None:
        """Record that this process sends a job directly."""
        self._set_weight(owner)
        estimate = self.account.charge(owner)
        self._add(job_id, JobInFlight(owner, priority, estimate, self._now(), is_direct=True))

    def record_end(self, job_id: str, owner: str, seconds: float | None) -> None:
        """Record the end of any job of the model, with its device seconds if they are known."""
        if self._end(job_id, owner, seconds):
            self._unsaved.append(RoomEnd(job_id, owner, seconds))
            self._news.set()

    # The work of the leader.

    async def run(self) -> None:
        """Run cycles until the room is closed, or until another process leads it."""
        self._saved_at = self._times.busy = self._times.cleaned = asyncio.get_running_loop().time()
        if self._is_new:
            for priority in Priority:
                self._elsewhere[priority] = await self._queue.count(priority)
        saving = asyncio.create_task(self._keep_saving())
        try:
            while self.is_leading:
                await self._try_cycle()
        finally:
            saving.cancel()
            await asyncio.wait([saving])

    async def _try_cycle(self) -> None:
        loop = asyncio.get_running_loop()
        self._news.clear()
        try:
            await self.cycle(loop.time())
        except Unavailable as error:
            _log.warning("the waiting room %s: %s; it is tried again", self._room.model, error)
            await asyncio.sleep(SAVE_SECONDS)
        if not self.is_leading:
            return
        await asyncio.sleep(CYCLE_SECONDS)
        until = self.read_at + self._read_pause(loop.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()

    async def cycle(self, now: float) -> None:
        """Take what is new, let in what the window allows, and close the room if it is empty.

        `now` is by the clock of the event loop. Raises Unavailable if a service fails; then the
        next cycle goes on.
        """
        if self._must_read or now >= self.read_at + self._read_pause(now):
            await self._read(now)
        for priority in Priority:
            self.windows[priority] = await self._queue.window(priority, self._ends_a_second(now))
        # After a suspension another process may have let in what this one still holds.
        if asyncio.get_running_loop().time() >= self._saved_at + STALE_SECONDS:
            await self.save()
        if not self.is_leading:
            return
        await self._let_in(self._choose())
        await self._look_up(now)
        if now >= self._times.cleaned + CLEAN_SECONDS:
            self._times.cleaned = now
            await self._room.clean(self.view)
        if self.account.held_count or any(not each.is_direct for each in self.in_flight.values()):
            self._times.busy = now
        elif now - self._times.busy >= IDLE_SECONDS:
            await self._close(now)

    def _ends_a_second(self, now: float) -> float:
        """Return how many jobs have ended in a second of the last RATE_SECONDS."""
        while self._ends and self._ends[0] < now - RATE_SECONDS:
            self._ends.popleft()
        return len(self._ends) / max(SAVE_SECONDS, min(RATE_SECONDS, now - self._begun_at))

    async def save(self, *, is_open: bool = True) -> None:
        """Save the state. If another process leads the room, stop leading it."""
        async with self._saving:
            if not self.is_leading:
                return
            saved_count = len(self._unsaved)
            begun_at = asyncio.get_running_loop().time()
            etag = await self._write(is_open=is_open)
            if etag is None or not is_open:
                self.is_leading = False
                self._news.set()
            if etag is None:
                return
            self.etag, self._saved_at = etag, begun_at
            del self._unsaved[:saved_count]

    def take_unsaved(self) -> list[RoomEnd]:
        """Return the ends that the next leader does not know, when this process leads no more."""
        unsaved, self._unsaved = self._unsaved, []
        return unsaved

    async def _keep_saving(self) -> None:
        while self.is_leading:
            await asyncio.sleep(SAVE_SECONDS)
            try:
                await self.save()
            except Unavailable as error:
                _log.warning("the waiting room %s cannot be saved: %s", self._room.model, error)

    async def _write(self, *, is_open: bool) -> str | None:
        """Write the state; return its ETag, or None if another process has written it."""
        state = self._state(is_open=is_open)
        etag = await self._room.write_state(state, self.etag)
        if etag is not None:
            return etag
        # The response to the first of two requests may be lost: then the state is this one.
        found = await self._room.read_state()
        if found is not None and (found[0].leader, found[0].beat) == (state.leader, state.beat):
            return found[1]
        return None

    def _state(self, *, is_open: bool) -> RoomState:
        self._beat += 1
        self.state = RoomState(
            leader=self._name,
            beat=self._beat,
            is_open=is_open,
            windows=dict(self.windows),
            account=self.account.to_json(),
            # The entry of a job that is being sent is not marked, so the job counts as held.
            in_flight={
                job_id: each
                for job_id, each in self.in_flight.items()
                if job_id not in self._sending
            },
            logs=self.view.logs(),
            ends=self.view.ends(),
            oldest=self.view.oldest(),
        )
        return self.state

    def _read_pause(self, now: float) -> float:
        is_shared = now < self._times.shared + SHARED_SECONDS
        return SHARED_READ_SECONDS if is_shared else READ_SECONDS

    async def _read(self, now: float) -> None:
        """Read what was appended to the logs: first the ends, because ended jobs are not let in."""
        self._must_read, is_first = False, self.read_at == -math.inf
        ends = await self.view.read_ends()
        for end in ends:
            self._end(end.job_id, end.owner, end.seconds)
        foreign_count = self.view.foreign_count
        entries = await self.view.read()
        self.read_at = now
        for entry in entries:
            self._hold(entry)
        if not is_first and (ends or self.view.foreign_count > foreign_count):
            self._times.shared = now

    def _hold(self, entry: Entry) -> None:
        if entry.job_id in self._ended:
            self.view.remove(entry.job_id)
            return
        if (known := self._remove(entry.job_id)) is not None:
            # The job may have been sent, but the state does not say it: it is sent once more.
            self.account.end(known.owner, known.estimate, 0.0)
        self.account.hold(entry.owner, entry.priority)

    def _choose(self) -> list[Entry]:
        """Return the jobs to let in now, in their order, and count them as in flight."""
        chosen: list[Entry] = []
        for priority in Priority:
            while len(chosen) < LET_IN_AT_ONCE:
                owner = self.account.next(priority, self._may_run)
                if owner is None:
                    break
                if self._counts[priority] + self._elsewhere[priority] >= self.windows[priority]:
                    return chosen  # jobs with low priority wait for those with normal priority
                entry = self.view.take(owner, priority)
                if entry.deadline <= self._clock():
                    self.account.drop(owner, priority)
                    self.view.mark(entry)
                    continue
                self._set_weight(owner)
                estimate = self.account.let_in(owner, priority)
                self._add(entry.job_id, JobInFlight(owner, priority, estimate, self._now()))
                self._sending.add(entry.job_id)
                chosen.append(entry)
        return chosen

    async def _let_in(self, entries: Sequence[Entry]) -> None:
        """Send the messages of these jobs. Those that cannot be sent are held again."""
        unsent = {each.job_id: each for each in entries}
        error: BaseException | None = None
        try:
            if not entries:
                return
            bodies = await self._room.read_bodies(entries)
            sending = (self._send(*each) for each in zip(entries, bodies, strict=True))
            ended = await asyncio.gather(*sending, return_exceptions=True)
            for entry, result in zip(entries, ended, strict=True):
                if isinstance(result, BaseException):
                    error = result
                else:
                    self.view.mark(entry)
                    del unsent[entry.job_id]
        finally:
            self._sending.difference_update(each.job_id for each in entries)
            for entry in reversed(unsent.values()):
                self._hold_again(entry)
        if error is not None:
            raise error

    async def _send(self, entry: Entry, body: bytes) -> None:
        if body:
            await self._queue.send(entry, body)
            return
        # The writer was suspended for minutes before the entry. Its job's orchestration sends it.
        _log.warning("job %s: its message is no longer in the waiting room", entry.job_id)
        self._end(entry.job_id, entry.owner, 0.0)

    def _hold_again(self, entry: Entry) -> None:
        # A job that has ended in the meantime is not in flight.
        if (known := self._remove(entry.job_id)) is None:
            self.view.mark(entry)
            return
        self.account.end(known.owner, known.estimate, 0.0)
        self.account.hold(entry.owner, entry.priority)
        self.view.put_back(entry)

    async def _look_up(self, now: float) -> None:
        """Look up jobs in flight whose ends may have been lost, the oldest first."""
        is_recovering = not self._is_new and now < self._begun_at + RECOVERY_SECONDS
        rule = _LOOK_UPS_AT_FIRST if is_recovering else _LOOK_UPS
        if now < self._times.looked_up + rule.pause_seconds:
            return
        self._times.looked_up = now
        await self._count_elsewhere()
        overdue = heapq.nsmallest(
            rule.at_once,
            (job_id for job_id in self.in_flight if self._is_overdue(job_id, rule, now)),
            key=lambda job_id: self.in_flight[job_id].since,
        )
        finding = (self._finder.has_ended(self.durable, job_id) for job_id in overdue)
        found = await asyncio.gather(*finding, return_exceptions=True)
        for job_id, has_ended in zip(overdue, found, strict=True):
            self._looked_up[job_id] = now
            if has_ended is True and job_id in self.in_flight:
                self._end(job_id, self.in_flight[job_id].owner, None)

    async def _count_elsewhere(self) -> None:
        """Count again the jobs in the queue that this leader has not let in or sent."""
        for priority in [each for each in Priority if self._elsewhere[each]]:
            length = await self._queue.count(priority)
            others = max(0, length - self._counts[priority])
            self._elsewhere[priority] = min(self._elsewhere[priority], others)

    def _is_overdue(self, job_id: str, rule: _LookUps, now: float) -> bool:
        each = self.in_flight[job_id]
        least = max(rule.least_age_seconds, rule.least_age_estimates * each.estimate)
        if self._now() - each.since < least or job_id in self._sending:
            return False
        return now >= self._looked_up.get(job_id, -math.inf) + rule.again_seconds

    async def _close(self, now: float) -> None:
        """Close the room, unless an entry came in the meantime."""
        await self._read(now)
        await self._room.clean(self.view)
        if not self.account.held_count:
            await self.save(is_open=False)

    def _end(self, job_id: str, owner: str, seconds: float | None) -> bool:
        """Record the end of a job; return whether it is new."""
        if job_id in self._ended:
            return False
        self._ended[job_id] = None
        if self.read_at > -math.inf:  # those of the first read ended before
            self._ends.append(asyncio.get_running_loop().time())
        if len(self._ended) > ENDS_REMEMBERED:
            self._ended.popitem(last=False)
        if (known := self._remove(job_id)) is not None:
            actual = known.estimate if seconds is None else seconds
            self.account.end(known.owner, known.estimate, actual)
        elif (entry := self.view.remove(job_id)) is not None:
            self.account.drop(entry.owner, entry.priority)
        else:
            self._end_elsewhere(owner, seconds)
        return True

    def _end_elsewhere(self, owner: str, seconds: float | None) -> None:
        """Record the end of a job that this leader has not let in or sent."""
        for priority in Priority:
            if self._elsewhere[priority]:
                self._elsewhere[priority] -= 1
                break
        if seconds:
            self._set_weight(owner)
            self.account.end(owner, self.account.charge(owner), seconds)

    def _may_run(self, owner: str) -> bool:
        limit = self._tenants.settings_of(owner).max_running
        return limit is None or self.running[owner] < limit

    def _set_weight(self, owner: str) -> None:
        self.account.set_weight(owner, self._tenants.settings_of(owner).weight)

    def _add(self, job_id: str, each: JobInFlight) -> None:
        """Count a job in flight, which was charged; only once if it is sent again."""
        if (known := self._remove(job_id)) is not None:
            self.account.end(known.owner, known.estimate, 0.0)
        self.in_flight[job_id] = each
        self.running[each.owner] += 1
        self._counts[each.priority] += 1

    def _remove(self, job_id: str) -> JobInFlight | None:
        known = self.in_flight.pop(job_id, None)
        if known is not None:
            self._looked_up.pop(job_id, None)
            self._counts[known.priority] -= 1
            self.running[known.owner] -= 1
            if not self.running[known.owner]:
                del self.running[known.owner]
        return known

    def _now(self) -> float:
        return self._clock().timestamp()
