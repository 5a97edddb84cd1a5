"""What each process does for a waiting room: hold jobs, and see that a leader lets them in.

The room's state is a blob that its leader writes at least twice a second. While the room is open,
each other process reads it as often. If the ETag has not changed for TAKEOVER_SECONDS, by the
reader's own clock, the reader writes itself as the leader, with `If-Match`. The next write of the
old leader then fails, and it stops. Until then both may let jobs in: the queue drops the messages
of the second.

While the room is closed nobody reads its state. A process that holds a job opens the room, and so
does one that starts or whose timer fires if the logs have entries.
"""

import asyncio
import logging
import math
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from contract.catalogue import Catalogue, ModelEntry, Priority
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.jobs.lifecycle import Jobs, OutcomeStore
from gateway.jobs.model import is_final
from gateway.shares.account import Account
from gateway.shares.leader import EndFinder, Leader
from gateway.shares.room import ROOMS, Entry, Room, RoomEnd, RoomState, RoomView, entries_prefix
from gateway.shares.room_queue import RoomQueue
from gateway.shares.tenants import TenantStore
from gateway.storage.blobs import Blobs

WATCH_SECONDS: Final = 0.5
"""The pause between two reads of the state while the room is open."""

TAKEOVER_SECONDS: Final = 2.0
"""After this time without a change of the state, another process becomes the leader."""

LOOK_SECONDS: Final = 2.0
"""The shortest time between two reads of the state of a closed room."""

VIEW_SECONDS: Final = 1.0
"""The shortest time between two reads of the logs by a process that does not lead the room."""

MISSED_SECONDS: Final = 10.0
"""How long before it closes the room a leader may have read the logs, on a slow storage."""

RECENT_SECONDS: Final = 5.0
RECENT_ENDS: Final = 10_000
"""How old, and how many, are the ends that a process still appends when it finds the room open."""

SENT_REMEMBERED: Final = 10_000

_log = logging.getLogger(__name__)


class RoomWatch:
    """One process's part in the waiting room of one model."""

    def __init__(
        self,
        name: str,
        room: Room,
        queue: RoomQueue,
        tenants: TenantStore,
        finder: EndFinder,
    ) -> None:
        """Create a watch, which does nothing yet. `name` is that of this process alone."""
        self.room = room
        self.queue = queue
        self.state: RoomState | None = None
        """The state that was read or written last; None if there is none or it was never read."""
        self.leader: Leader | None = None
        """The leader, if this process leads the room."""
        self._name = name
        self._tenants = tenants
        self._finder = finder
        self._durable: Durable | None = None
        self._account = Account()
        self._etag: str | None = None
        self._changed_at = -math.inf
        self._view = RoomView(room, RoomState())
        self._viewed_at = -math.inf
        self._applied: RoomState | None = None
        """The state that `_view` has: what another process has let in."""
        self._looked_at = -math.inf
        self._held_at = -math.inf
        """When this process has last stored an entry that no leader of its own has read."""
        self._must_open = False
        self._running: Counter[str] = Counter()
        self._sent: OrderedDict[str, str] = OrderedDict()
        """The owners of the jobs that this process has sent directly while another one leads."""
        self._recent: deque[tuple[float, RoomEnd]] = deque(maxlen=RECENT_ENDS)
        """The last ends while the room seemed to be closed, and when they were recorded."""
        self._task: asyncio.Task[None] | None = None
        self._appending: set[asyncio.Task[None]] = set()

    # What the room is like, as far as this process knows. At most WATCH_SECONDS old.

    @property
    def is_open(self) -> bool:
        """Return whether jobs may wait in the room."""
        return self.leader is not None or (self.state is not None and self.state.is_open)

    @property
    def account(self) -> Account:
        """Return the account of the tenants, which only the leader may change."""
        return self._account if self.leader is None else self.leader.account

    def in_flight(self, owner: str) -> int:
        """Return how many jobs of a tenant were let in or sent directly, and have not ended."""
        if self.leader is not None:
            return self.leader.running[owner]
        return self._running[owner]

    def window(self, priority: Priority) -> int | None:
        """Return how many jobs may be in flight; None if the room was never open."""
        if self.leader is not None:
            return self.leader.windows[priority]
        return None if self.state is None else self.state.windows.get(priority)

    @property
    def view(self) -> RoomView:
        """Return the held jobs, as this process has read them last."""
        return self._view if self.leader is None else self.leader.view

    async def find_place(self, job_id: str) -> int | None:
        """Return a held job's place, from 1, among those of its owner and priority.

        Returns None if the job is not held. A process that does not lead the room reads the logs at
        most once a second. Raises Unavailable if the storage fails.
        """
        now = asyncio.get_running_loop().time()
        if not self.is_open and now >= self._looked_at + LOOK_SECONDS:
            state, _ = await self._read_state(now)
            if state is not None and state.is_open:
                self._start()
        if self.leader is None and self.is_open and now >= self._viewed_at + VIEW_SECONDS:
            self._viewed_at = now
            await self._view.read()
        if self.leader is None and self.state is not None and self.state is not self._applied:
            self._applied = self.state
            self._view.apply(self.state)
        return self.view.place(job_id) if self.is_open else None

    # What happens in this process.

    async def hold(self, durable: Durable | None, entry: Entry, body: bytes) -> None:
        """Store a job in the room, and see that it is let in.

        Raises Unavailable if the job was possibly not stored. Then it must be sent directly.
        """
        self._durable = durable or self._durable
        view = self.view
        view.announce(entry.job_id, entry.owner, entry.priority)
        try:
            await self.room.hold(entry, body)
        except BaseException:
            view.retract(entry.job_id)
            raise
        finally:
            # The entry may be stored even if the caller is cancelled or the storage fails.
            self._held_at = asyncio.get_running_loop().time()
            if self.leader is not None:
                self.leader.durable = self._durable
                self.leader.record_held(entry.owner, entry.priority)
            self._start()

    def record_sent(self, job_id: str, owner: str, priority: Priority) -> None:
        """Record that this process sends a job directly while the room is open."""
        if self.leader is not None:
            self.leader.record_sent(job_id, owner, priority)
        elif self.is_open and job_id not in self._sent:
            self._sent[job_id] = owner
            self._running[owner] += 1
            if len(self._sent) > SENT_REMEMBERED:
                self._running[self._sent.popitem(last=False)[1]] -= 1

    def record_end(
        self,
        durable: Durable | None,
        job_id: str,
        owner: str,
        seconds: float | None,
        *,
        has_waited: bool = True,
    ) -> None:
        """Record the end of a job, with its device seconds: at once, or in a log for the leader.

        `has_waited` says whether the job has waited in the queue, so the room may have been opened.
        """
        self._durable = durable or self._durable
        if (sender := self._sent.pop(job_id, None)) is not None:
            self._running[sender] -= 1
        if self.leader is not None:
            self.leader.record_end(job_id, owner, seconds)
            return
        end, now = RoomEnd(job_id, owner, seconds), asyncio.get_running_loop().time()
        if self.is_open or self._is_running:
            self._append_soon(end)
            return
        self._recent.append((now, end))
        if has_waited:
            self.look_soon(durable)

    def look_soon(self, durable: Durable | None) -> None:
        """Read the state of the room if it was closed, because jobs wait in the queue."""
        now = asyncio.get_running_loop().time()
        self._durable = durable or self._durable
        if not self._is_running and now >= self._looked_at + LOOK_SECONDS:
            self._start()

    def open_soon(self) -> None:
        """Open the room, because its logs may have entries."""
        self._must_open = True
        self._start()

    async def close(self) -> None:
        """Stop watching and leading."""
        tasks = [*self._appending, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # Follow the state.

    @property
    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def _start(self) -> None:
        if not self._is_running:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                leader = await self.look(loop.time())
                if leader is not None:
                    await self._lead(leader)
                    continue
                if self._recent and self.is_open:
                    self._append_recent()
            except Unavailable as error:
                _log.warning("the waiting room %s cannot be read: %s", self.room.model, error)
            except Exception:  # noqa: BLE001 - a defect in one cycle
                # The held jobs must not wait for a request or the timer.
                _log.exception("the waiting room %s failed; it is tried again", self.room.model)
            if not self.is_open and not self._may_miss(loop.time()):
                return
            await asyncio.sleep(WATCH_SECONDS)

    async def look(self, now: float) -> Leader | None:
        """Read the state; return a leader if the room needs one and this process becomes it.

        `now` is by the clock of the event loop. Raises Unavailable if the storage fails.
        """
        state, etag = await self._read_state(now)
        if state is None or not state.is_open:
            must_lead = self._may_miss(now)
        else:
            must_lead = now >= self._changed_at + TAKEOVER_SECONDS or state.leader == self._name
        return await self._become_leader(state, etag) if must_lead else None

    async def _read_state(self, now: float) -> tuple[RoomState | None, str | None]:
        self._looked_at = now
        state, etag = await self.room.read_state() or (None, None)
        # A leader of this process has begun in the meantime.
        if self.leader is None and (etag != self._etag or state is None):
            self._set_state(state, etag)
            self._changed_at = now
        return state, etag

    def _may_miss(self, now: float) -> bool:
        """Return whether the closed room may have an entry that its last leader did not read."""
        return self._must_open or now < self._held_at + MISSED_SECONDS

    def _set_state(self, state: RoomState | None, etag: str | None) -> None:
        self.state, self._etag = state, etag
        if state is None or not state.is_open:
            self._view = RoomView(self.room, RoomState(), self._view)
        in_flight = state.in_flight.values() if state is not None else ()
        self._running = Counter(each.owner for each in in_flight)
        self._running.update(self._sent.values())
        self._account = Account.from_json(None if state is None else state.account)

    async def _become_leader(self, state: RoomState | None, etag: str | None) -> Leader | None:
        """Write this process as the leader, unless another process has written the state."""
        old = state or RoomState()
        windows = old.windows if old.is_open else {}
        new = replace(old, leader=self._name, beat=old.beat + 1, is_open=True, windows=windows)
        written = await self.room.write_state(new, etag)
        if written is None:
            return None
        self._sent.clear()
        self._must_open = False
        self._set_state(new, written)
        view = RoomView(self.room, new, self._view)
        leader = Leader(view, self.queue, self._tenants, self._finder, (new, written))
        leader.durable = self._durable
        return leader

    async def _lead(self, leader: Leader) -> None:
        """Lead the room until it is closed or another process leads it."""
        self.leader = leader
        try:
            await leader.run()
        finally:
            self.leader = None
            for end in leader.take_unsaved():
                self._append_soon(end)
            if self._held_at <= leader.read_at:
                self._held_at = -math.inf
            self._view, self._applied = leader.view, None
            self._set_state(leader.state, leader.etag)
            self._changed_at = asyncio.get_running_loop().time()

    def _append_recent(self) -> None:
        """Append the ends that this process recorded before it knew that the room is open."""
        since = asyncio.get_running_loop().time() - RECENT_SECONDS
        for at, end in self._recent:
            if at >= since:
                self._append_soon(end)
        self._recent.clear()

    def _append_soon(self, end: RoomEnd) -> None:
        appending = asyncio.create_task(self._append_end(end))
        # The event loop has only a weak reference to a task.
        self._appending.add(appending)
        appending.add_done_callback(self._appending.discard)

    async def _append_end(self, end: RoomEnd) -> None:
        try:
            await self.room.append_end(end)
        except Unavailable as error:
            _log.info("job %s: its end is not in the log of its room: %s", end.job_id, error)


@dataclass(frozen=True, slots=True)
class JobEnds:
    """Finds out whether jobs have ended, by their outcomes and their orchestrations."""

    jobs: Jobs
    outcomes: OutcomeStore

    async def has_ended(self, durable: Durable | None, job_id: str) -> bool:
        """Return whether a job has ended, or is unknown. Raises Unavailable if a service fails."""
        if await self.outcomes.find(job_id) is not None:
            return True
        if durable is None:
            return False
        record = await self.jobs.find(durable, job_id)
        return record is None or is_final(record)


@dataclass(eq=False)
class RoomWatches:
    """The waiting rooms of all models, for one process."""

    catalogue: Catalogue
    blobs: Blobs
    make_queue: Callable[[ModelEntry], RoomQueue]
    tenants: TenantStore
    finder: EndFinder
    clock: Clock

    def __post_init__(self) -> None:
        self._name = secrets.token_hex(8)
        self._watches: dict[str, RoomWatch] = {}

    def of(self, model: ModelEntry) -> RoomWatch:
        """Return the watch of a model's room."""
        found = self._watches.get(model.name)
        if found is None:
            room = Room(model.name, self.blobs, self.clock)
            queue = self.make_queue(model)
            found = RoomWatch(self._name, room, queue, self.tenants, self.finder)
            self._watches[model.name] = found
        return found

    async def open_used(self) -> None:
        """Open each room whose logs may have entries: at the start of a process, and each minute.

        Raises Unavailable if the storage fails.
        """
        names = await self.blobs.list_names(ROOMS)
        for model in self.catalogue.values():
            prefix = entries_prefix(model.name)
            if any(name.startswith(prefix) for name in names):
                self.of(model).open_soon()

    async def close(self) -> None:
        """Stop leading and watching rooms."""
        for watch in self._watches.values():
            await watch.close()
