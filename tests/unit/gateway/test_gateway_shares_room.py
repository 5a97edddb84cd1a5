"""Test that each kill while a job is held, or a log is deleted, loses and doubles no job."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from contract.catalogue import Priority
from gateway import housekeeping
from gateway.errors import Unavailable
from gateway.housekeeping import LONGEST_BATCH
from gateway.shares import room as module
from gateway.shares.room import (
    GRACE,
    KEPT,
    LATE,
    Entry,
    Room,
    RoomState,
    RoomView,
    encode_entry,
    encode_state,
    minute_of,
    parse_entry,
    parse_state,
)
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads

MODEL = "classifier"
ENTRIES = f"shares/{MODEL}/room/"
BODIES = f"shares/{MODEL}/bodies/"


@dataclass
class SlowBlobs(MemoryBlobs):
    """Blobs whose operations take time, or fail, when a test wants it."""

    delays: dict[str, list[timedelta]] = field(default_factory=dict)
    """By prefix, how long the next appends take."""
    failing_reads: int = 0
    """Which of the next reads fails, from 1."""

    async def append(self, blob: str, data: bytes) -> int:
        for prefix, delays in self.delays.items():
            if blob.startswith(prefix) and delays:
                self.clock.now += delays.pop(0)
        return await super().append(blob, data)

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        self.failing_reads -= 1
        if self.failing_reads == 0:
            raise Unavailable("blobs", "switched off")
        return await super().read_from(blob, offset, max_bytes)


@dataclass
class House:
    """One room, and what a process of it reads."""

    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.blobs = SlowBlobs(MemoryPayloads(), self.clock)
        self.room = Room(MODEL, self.blobs, self.clock)

    def entry(self, job_id: str) -> Entry:
        """Return the entry of a job, whose owner is the first letter of its id."""
        now = self.clock()
        return Entry(job_id, job_id[0], Priority.NORMAL, now + timedelta(hours=1), now)

    async def hold(self, job_id: str) -> Entry:
        return await self.room.hold(self.entry(job_id), body(job_id))

    def view(self, state: RoomState | None = None) -> RoomView:
        return RoomView(self.room, state or RoomState())

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.blobs.payloads.blobs if name.startswith(prefix)]


def body(job_id: str) -> bytes:
    return b'{"job": "%s"}' % job_id.encode()


def ids(entries: list[Entry]) -> list[str]:
    return [entry.job_id for entry in entries]


def let_in(view: RoomView, *owners: str) -> list[str]:
    """Let in the first job of each owner; return the ids."""
    taken = [view.take(owner, Priority.NORMAL) for owner in owners]
    for entry in taken:
        view.mark(entry)
    return ids(taken)


@pytest.fixture
def house() -> House:
    return House()


class TestHold:
    async def test_entry_leads_to_the_body(self, house: House) -> None:
        await asyncio.gather(*(house.hold(f"a{number}") for number in range(50)))
        found = await house.view().read()
        assert await house.room.read_bodies(found) == [body(each.job_id) for each in found]
        assert len(found) == 50

    async def test_body_without_entry_is_no_job(self, house: House) -> None:
        house.blobs.put(f"{BODIES}{minute_of(house.clock())}", body("a1") + b"\n")
        await house.hold("a2")
        found = await house.view().read()
        assert ids(found) == ["a2"]
        assert await house.room.read_bodies(found) == [body("a2")]

    async def test_entry_twice_is_one_job(self, house: House) -> None:
        entry = await house.hold("a1")
        log = f"{ENTRIES}{minute_of(house.clock())}"
        await house.blobs.append(log, encode_entry(entry) + b"\n")
        house.clock.now += timedelta(minutes=1)
        await house.blobs.append(
            f"{ENTRIES}{minute_of(house.clock())}", encode_entry(entry) + b"\n"
        )
        view = house.view()
        assert ids(await view.read()) == ["a1"]
        let_in(view, "a")
        again = house.view(RoomState(logs=view.logs()))
        assert await again.read() == []

    async def test_late_writer_appends_again(self, house: House) -> None:
        view = house.view()
        late = timedelta(minutes=1) + LATE + timedelta(seconds=1)
        house.blobs.delays = {ENTRIES: [late]}
        await house.hold("a1")
        assert len(house.names(ENTRIES)) == 2
        assert ids(await view.read()) == ["a1"]

    async def test_reader_that_is_done_sees_late_entry(self, house: House) -> None:
        await house.hold("a0")
        view = house.view()
        await view.read()

        async def read_before(blob: str, data: bytes) -> int:
            # The log is over for the reader just before the entry is stored in it.
            if blob.startswith(ENTRIES) and house.blobs.append == read_before:
                house.blobs.append = append  # type: ignore[method-assign]
                house.clock.now += timedelta(minutes=1) + GRACE + timedelta(seconds=1)
                await view.read()
            return await append(blob, data)

        append = house.blobs.append
        house.blobs.append = read_before  # type: ignore[method-assign]
        await house.hold("a1")
        assert ids(await view.read()) == ["a1"]

    async def test_line_of_another_program_is_skipped(self, house: House) -> None:
        await house.blobs.append(f"{ENTRIES}{minute_of(house.clock())}", b'{"job": 1}\nx\n')
        await house.hold("a1")
        view = house.view()
        assert ids(await view.read()) == ["a1"]
        assert let_in(view, "a") == ["a1"]
        house.clock.now += timedelta(minutes=2)
        await view.read()
        assert minute_of(house.clock() - timedelta(minutes=2)) in view.done()

    async def test_torn_line_is_read_when_whole(self, house: House) -> None:
        line = encode_entry(house.entry("a1"))
        log, view = f"{ENTRIES}{minute_of(house.clock())}", house.view()
        await house.blobs.append(log, line[:40])
        assert await view.read() == []
        await house.blobs.append(log, line[40:] + b"\n")
        assert ids(await view.read()) == ["a1"]


class TestRead:
    @pytest.fixture(autouse=True)
    def small_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PIECE_BYTES", 2_000)

    async def test_failed_read_loses_no_entry(self, house: House) -> None:
        for number in range(100):
            await house.hold(f"a{number:02}")
        view = house.view()
        house.blobs.failing_reads = 3
        with pytest.raises(Unavailable):
            await view.read()
        assert ids(await view.read()) == [f"a{number:02}" for number in range(100)]

    async def test_cancelled_read_loses_no_entry(self, house: House) -> None:
        for number in range(100):
            await house.hold(f"a{number:02}")
        view = house.view()
        reading = asyncio.create_task(view.read())
        for _ in range(6):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        assert len(await view.read()) == 100

    async def test_reads_at_once_read_each_line_once(self, house: House) -> None:
        for number in range(100):
            await house.hold(f"a{number:02}")
        view = house.view()
        found = await asyncio.gather(view.read(), view.read())
        assert sorted(map(len, found)) == [0, 100]
        assert view.place("a99") == 100
        let_in(view, "a")
        # Line numbers that shift would mark the line of another job.
        assert "a00" not in ids(await house.view(RoomState(logs=view.logs())).read())


class TestPlace:
    async def test_own_entry_has_a_place_unread(self, house: House) -> None:
        view = house.view()
        for job_id in ("a1", "b1", "a2"):
            view.announce(job_id, job_id[0], Priority.NORMAL)
        assert [view.place(job_id) for job_id in ("a1", "b1", "a2")] == [1, 1, 2]

    async def test_place_moves_up(self, house: House) -> None:
        for job_id in ("a1", "a2", "b1", "a3"):
            await house.hold(job_id)
        view = house.view()
        await view.read()
        assert view.place("a3") == 3
        let_in(view, "a")
        assert [view.place(job_id) for job_id in ("a1", "a2", "a3")] == [None, 1, 2]

    async def test_follower_sees_what_was_let_in(self, house: House) -> None:
        for job_id in ("a1", "a2", "b1", "a3"):
            await house.hold(job_id)
        leader, follower = house.view(), house.view()
        await leader.read()
        await follower.read()
        let_in(leader, "a", "b")
        follower.apply(RoomState(logs=leader.logs()))
        assert [follower.place(job_id) for job_id in ("a2", "b1", "a3")] == [1, None, 2]


class TestClean:
    async def fill(self, house: House) -> RoomView:
        """Return a view of a log that is over, and whose jobs are let in."""
        await house.hold("a1")
        await house.hold("b1")
        view = house.view()
        await view.read()
        let_in(view, "a", "b")
        house.clock.now += timedelta(minutes=1) + GRACE + timedelta(seconds=1)
        await view.read()
        return view

    async def test_done_log_is_deleted(self, house: House) -> None:
        view = await self.fill(house)
        await house.room.clean(view)
        assert house.names(ENTRIES) == []
        assert view.logs() == {}

    async def test_log_with_a_held_job_stays(self, house: House) -> None:
        await house.hold("a1")
        view = house.view()
        house.clock.now += timedelta(minutes=1) + KEPT
        await view.read()
        house.clock.now += timedelta(minutes=1)
        await view.read()
        await house.room.clean(view)
        assert (len(house.names(ENTRIES)), len(house.names(BODIES))) == (1, 1)

    async def test_old_body_without_a_job_is_deleted(self, house: House) -> None:
        view = await self.fill(house)
        house.clock.now += KEPT + timedelta(minutes=1)
        await view.read()
        await house.room.clean(view)
        assert house.names(BODIES) == []

    async def test_old_view_deletes_no_new_body(self, house: House) -> None:
        view = await self.fill(house)
        entry = await house.hold("c1")
        # The process of the view is suspended meanwhile.
        house.clock.now += KEPT + timedelta(minutes=2)
        await house.room.clean(view)
        assert await house.room.read_bodies([entry]) == [body("c1")]

    async def test_failed_deletion_holds_no_job_again(self, house: House) -> None:
        view = await self.fill(house)
        house.blobs.undeletable.update(house.names(ENTRIES))
        with pytest.raises(Unavailable):
            await house.room.clean(view)
        house.clock.now += timedelta(minutes=2)
        assert await view.read() == []
        # Neither does the next leader.
        assert await house.view(RoomState(logs=view.logs())).read() == []

    async def test_kill_before_deletion_holds_no_job_again(self, house: House) -> None:
        view = await self.fill(house)
        house.blobs.undeletable.update(house.names(ENTRIES))
        saved = dict[str, str]()

        async def save_and_die(blob: str, etag: str | None = None) -> None:
            saved.update(view.logs())
            raise asyncio.CancelledError

        house.blobs.delete = save_and_die  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await house.room.clean(view)
        assert await house.view(RoomState(logs=saved)).read() == []

    async def test_log_that_is_created_again_is_read(self, house: House) -> None:
        view = await self.fill(house)
        log = house.names(ENTRIES)[0]
        await house.room.clean(view)
        # A late writer dies after its first append.
        await house.blobs.append(log, encode_entry(house.entry("c1")) + b"\n")
        house.clock.now += timedelta(minutes=2)
        assert ids(await view.read()) == ["c1"]


class TestHousekeeping:
    async def test_log_lives_until_its_deadlines(self, gateway: RunningGateway) -> None:
        blobs, kept = gateway.services.blobs, max(LONGEST_BATCH, gateway.services.longest_deadline)
        log = f"{ENTRIES}{minute_of(gateway.clock())}"
        await blobs.append(log, b"x\n")
        for age, names in ((kept, [log]), (kept + timedelta(minutes=1), [])):
            begun = gateway.clock.now
            gateway.clock.now += age
            await housekeeping.run(gateway.durable, gateway.services)
            assert await blobs.list_names("shares/") == names
            gateway.clock.now = begun


class TestState:
    async def test_new_leader_keeps_unread_bitmaps(self, house: House) -> None:
        for job_id in ("a1", "a2"):
            await house.hold(job_id)
        view = house.view()
        await view.read()
        let_in(view, "a")
        # The next leader saves the state before its first read, and dies.
        second = house.view(RoomState(logs=view.logs()))
        third = house.view(RoomState(logs=second.logs()))
        assert ids(await third.read()) == ["a2"]

    async def test_one_of_two_writers_succeeds(self, house: House) -> None:
        etag = await house.room.write_state(RoomState(leader="x"), None)
        assert etag is not None
        assert await house.room.write_state(RoomState(leader="y"), None) is None
        assert await house.room.write_state(RoomState(leader="y"), etag) is not None
        assert await house.room.write_state(RoomState(leader="x", beat=2), etag) is None

    def test_state_survives_its_codec(self) -> None:
        at = datetime.fromisoformat("2026-03-01T12:00:00+00:00")
        state = RoomState(
            "x",
            3,
            True,
            {Priority.NORMAL: 16},
            {"a": 1},
            {"j": module.JobInFlight("a", Priority.LOW, 0.5, 9.0, is_direct=True)},
            {"20260301T1200": "AQ=="},
            {"20260301T1200": 77},
            at,
        )
        assert parse_state(encode_state(state)) == state

    def test_entry_survives_its_codec(self, house: House) -> None:
        at = house.clock()
        entry = Entry("j", "a", Priority.LOW, at, at, "00-1", "b", ("bodies/x", 1, 2))
        assert parse_entry(encode_entry(entry)) == entry
