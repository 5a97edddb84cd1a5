"""Test that held jobs are let in, each once, whoever leads the room and whoever dies."""

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest

from contract.catalogue import Catalogue, Priority, queue_of
from contract.messages import InlineJson, JobReply
from contract.settings import AzureEndpoint, BrokerEndpoint, BrokerKind
from gateway.brokers.port import MessageCounts
from gateway.jobs.model import JobOutcome
from gateway.queues.model_states import ModelStates
from gateway.queues.workers import WorkerHeartbeats
from gateway.reply_tokens import ReplyTokens
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.shares.room import Entry
from gateway.shares.room_queue import RoomQueue
from gateway.shares.tenants import TenantStore
from gateway.shares.watch import JobEnds, RoomWatches
from tests.unit.gateway.conftest import KEY
from tests.unit.gateway.memory import (
    ManualClock,
    MemoryBlobs,
    MemoryDurable,
    MemoryLinks,
    MemoryPayloads,
    MemoryQueues,
    MemoryReceiver,
    set_event,
)
from tests.unit.gateway.skipping import run

T = TypeVar("T")

CATALOGUE = Catalogue.load()
MODEL = CATALOGUE.model("noop")
BATCH_SIZE = 8
BATCH_SECONDS = 0.08


class LoopClock(ManualClock):
    """A clock that advances with the event loop's."""

    def __call__(self) -> datetime:
        return self.now + timedelta(seconds=asyncio.get_running_loop().time())


@dataclass
class Life:
    """How many more operations a process lives; the last one may still have its effect."""

    left: float = float("inf")
    has_effect: bool = False
    may_run: asyncio.Event = field(default_factory=set_event)
    """While this event is not set, the process is suspended in its next operation."""

    @property
    def is_over(self) -> bool:
        return self.left <= 0

    async def do(self, operation: Callable[[], Awaitable[T]]) -> T:
        self.left -= 1
        if self.left < 0 or (self.is_over and not self.has_effect):
            await asyncio.Event().wait()
        result = await operation()
        await self.may_run.wait()
        if self.is_over:
            await asyncio.Event().wait()
        return result


@dataclass
class MortalBlobs(MemoryBlobs):
    """The blobs of a process that dies in one of its operations. All processes share them."""

    life: Life = field(default_factory=Life)
    shared: MemoryBlobs | None = None
    before_replace: Callable[[bytes], Awaitable[None]] | None = None

    def put(self, blob: str, data: bytes, media_type: str = "application/json") -> str:
        assert self.shared is not None
        return self.shared.put(blob, data, media_type)

    async def create(self, blob: str, data: bytes) -> str | None:
        return await self.life.do(lambda: super(MortalBlobs, self).create(blob, data))

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        if self.before_replace is not None:
            await self.before_replace(data)
        return await self.life.do(lambda: super(MortalBlobs, self).replace(blob, data, etag))

    async def append(self, blob: str, data: bytes) -> int:
        return await self.life.do(lambda: super(MortalBlobs, self).append(blob, data))

    async def read(self, blob: str) -> Any:
        return await self.life.do(lambda: super(MortalBlobs, self).read(blob))

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        read = super().read_from
        return await self.life.do(lambda: read(blob, offset, max_bytes))

    async def list_names(self, prefix: str) -> list[str]:
        return await self.life.do(lambda: super(MortalBlobs, self).list_names(prefix))

    async def delete(self, blob: str, etag: str | None = None) -> None:
        await self.life.do(lambda: super(MortalBlobs, self).delete(blob, etag))


@dataclass
class MortalQueues(MemoryQueues):
    """The same for queues. A message with the id of an earlier one is dropped."""

    life: Life = field(default_factory=Life)
    ids: set[str] = field(default_factory=set)
    waiting: dict[str, deque[str]] = field(default_factory=dict)
    slow_seconds: float = 0.0

    async def send(self, queue: str, message: Any) -> None:
        async def send() -> None:
            await asyncio.sleep(self.slow_seconds)
            if self.life.is_over:
                await asyncio.Event().wait()
            await super(MortalQueues, self).send(queue, message)
            if message.message_id not in self.ids:
                self.ids.add(message.message_id)
                self.waiting.setdefault(queue, deque()).append(message.message_id)
            await asyncio.sleep(0.003)

        await self.life.do(send)

    async def count(self, queue: str) -> MessageCounts:
        return MessageCounts(len(self.waiting.get(queue, ())))


class Process:
    """One process of the gateway: its part in the room of MODEL."""

    def __init__(self, system: "System", life: Life) -> None:
        self.life = life
        shared = system.blobs
        self.blobs = blobs = MortalBlobs(
            shared.payloads,
            shared.clock,
            etags=shared.etags,
            modified_at=shared.modified_at,
            life=life,
            shared=shared,
        )
        self.queues = queues = MortalQueues(life=life, ids=system.ids, waiting=system.waiting)
        self.services = Services(
            settings=GatewaySettings(
                broker=BrokerEndpoint(BrokerKind.SERVICE_BUS),
                payload_storage=AzureEndpoint(address="unused"),
                gateway_base_url="http://gateway.test",
                reply_token_keys=(KEY,),
            ),
            catalogue=CATALOGUE,
            queues=queues,
            payloads=shared.payloads,
            blobs=blobs,
            links=MemoryLinks(),
            tokens=ReplyTokens((KEY,), "http://gateway.test"),
            webhooks=MemoryReceiver(),
            clock=system.clock,
        )
        states = ModelStates(WorkerHeartbeats(blobs, system.clock, is_enabled=False), system.clock)
        estimates, tracing = self.services.estimates, self.services.tracing
        self.tenants = TenantStore(blobs, system.clock)
        self.rooms = RoomWatches(
            CATALOGUE,
            blobs,
            lambda model: RoomQueue(model, queues, estimates, states, tracing, system.clock),
            self.tenants,
            JobEnds(self.services.jobs, self.services.outcomes),
            system.clock,
        )
        self.watch = self.rooms.of(MODEL)
        self.durable = system.durable


@dataclass
class System:
    """Processes that share blobs and queues, and one worker."""

    clock: LoopClock = field(default_factory=LoopClock)
    ids: set[str] = field(default_factory=set)
    waiting: dict[str, deque[str]] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    accepted: dict[str, Entry] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    costs: dict[str, float] = field(default_factory=dict)
    most_waiting: int = 0
    is_claiming: bool = False
    """Whether the worker says that each job takes a millisecond."""

    def __post_init__(self) -> None:
        self.blobs = MemoryBlobs(MemoryPayloads(), self.clock)
        self.durable = MemoryDurable(self.clock, _never, _never)
        self.working = asyncio.create_task(self.work())

    def start(self, life: Life | None = None) -> Process:
        process = Process(self, life or Life())
        self.processes.append(process)
        return process

    async def hold(self, process: Process, job_id: str, **options: Any) -> None:
        """Hold a job, whose owner is the first letter of its id."""
        now = self.clock()
        priority = options.pop("priority", Priority.NORMAL)
        deadline = now + timedelta(seconds=options.pop("seconds", 600))
        entry = Entry(job_id, job_id[0], priority, deadline, now, **options)
        await process.watch.hold(self.durable, entry, b'{"job": "%s"}' % job_id.encode())
        self.accepted[job_id] = entry

    async def work(self) -> None:
        """Run what is in the queues, in batches, as one worker; reply to processes in turn."""
        while True:
            batch: list[str] = []
            for queue in (queue_of(MODEL, priority) for priority in Priority):
                waiting = self.waiting.get(queue, deque())
                self.most_waiting = max(self.most_waiting, len(waiting))
                while waiting and len(batch) < BATCH_SIZE:
                    batch.append(waiting.popleft())
            await asyncio.sleep(BATCH_SECONDS if batch else 0.01)
            for job_id in batch:
                self.ran.append(job_id)
                await self.reply(job_id)

    async def reply(self, job_id: str) -> None:
        while True:
            for process in list(self.processes):
                self.processes.append(self.processes.pop(0))
                if process.life.is_over or not process.life.may_run.is_set():
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        outcomes = process.services.outcomes
                        await outcomes.record(job_id, JobOutcome.cancelled(self.clock()), None)
                        cost = self.costs.get(job_id[0], BATCH_SECONDS / BATCH_SIZE)
                        if self.is_claiming:
                            now = self.clock()
                            begun_at = now - timedelta(milliseconds=1)
                            reply = JobReply(job_id, InlineJson(None), begun_at, now)
                            process.services.estimates.record_reply(
                                MODEL.name, Priority.NORMAL, reply
                            )
                        process.watch.record_end(self.durable, job_id, job_id[0], cost)
                        self.ended.add(job_id)
                        return
            await asyncio.sleep(0.1)

    async def drain(self, seconds: float = 60) -> None:
        """Wait until all accepted jobs have ended and the room is closed."""
        async with asyncio.timeout(seconds):
            while not self.accepted.keys() <= self.ended or any(  # noqa: ASYNC110 - many conditions
                each.watch.is_open for each in self.processes if not each.life.is_over
            ):
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        self.working.cancel()
        for process in self.processes:
            await process.rooms.close()


async def _never(_: str) -> Any:
    raise AssertionError


@contextlib.asynccontextmanager
async def open_system() -> AsyncIterator[System]:
    system = System()
    try:
        yield system
    finally:
        await system.stop()


def names(owner: str, count: int) -> list[str]:
    return [f"{owner}{number:04}" for number in range(count)]


class TestOneProcess:
    def test_all_held_jobs_are_let_in_in_order(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                for job_id in names("a", 100):
                    await system.hold(process, job_id)
                await system.drain()
                assert system.ran == names("a", 100)
                assert system.most_waiting <= (process.watch.window(Priority.NORMAL) or 0)

        run(main())

    def test_two_tenants_take_turns(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                for job_id in [*names("a", 200), *names("b", 50)]:
                    await system.hold(process, job_id)
                await system.drain()
                last = max(system.ran.index(job_id) for job_id in names("b", 50))
                assert last <= 200

        run(main())

    def test_low_priority_waits_for_normal(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                for job_id in names("l", 300):
                    await system.hold(process, job_id, priority=Priority.LOW)
                for job_id in names("n", 100):
                    await system.hold(process, job_id)
                await system.drain()
                rest = system.ran[system.ran.index("n0000") :]
                assert rest[:100] == names("n", 100)

        run(main())

    def test_expired_job_is_not_sent(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                for job_id in names("a", 300):
                    await system.hold(process, job_id)
                await system.hold(process, "a9", seconds=1)
                del system.accepted["a9"]
                await system.drain()
                assert "a9" not in system.ids

        run(main())

    def test_ended_job_leaves_the_room(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                for job_id in names("a", 300):
                    await system.hold(process, job_id)
                process.watch.record_end(system.durable, "a0299", "a", None)
                del system.accepted["a0299"]
                await system.drain()
                assert "a0299" not in system.ids

        run(main())

    def test_queue_that_is_down_delays(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                process.queues.is_down = True
                for job_id in names("a", 20):
                    await system.hold(process, job_id)
                await asyncio.sleep(3)
                process.queues.is_down = False
                await system.drain()
                assert system.ran == names("a", 20)

        run(main())

    def test_job_that_is_sent_again_counts_once(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                for job_id in names("a", 100):
                    await system.hold(process, job_id)
                await asyncio.sleep(0.1)
                # An orchestration repeats a send while the queue cannot be reached.
                for job_id in names("b", 3) * 20:
                    process.watch.record_sent(job_id, "b", Priority.NORMAL)
                assert process.watch.in_flight("b") == process.watch.account.in_flight("b") == 3
                for job_id in names("b", 3):
                    process.watch.record_end(system.durable, job_id, "b", BATCH_SECONDS)
                assert process.watch.in_flight("b") == process.watch.account.in_flight("b") == 0
                await system.drain()
                assert system.ran == names("a", 100)

        run(main())

    def test_lone_process_makes_few_requests(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                for job_id in names("a", 1000):
                    await system.hold(process, job_id)
                process.life.left = 100_000
                begun_at = asyncio.get_running_loop().time()
                await system.drain()
                seconds = asyncio.get_running_loop().time() - begun_at
                # Each end is recorded as an outcome, and each job is sent.
                requests = 100_000 - process.life.left - 2 * len(system.ran)
                assert requests / seconds < 15

        run(main())

    def test_window_is_what_ends_in_a_second(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process, system.is_claiming = system.start(), True
                for job_id in names("a", 1000):
                    await system.hold(process, job_id)
                await asyncio.sleep(2)
                jobs_a_second = BATCH_SIZE / BATCH_SECONDS
                assert 0.8 < (process.watch.window(Priority.NORMAL) or 0) / jobs_a_second < 1.2
                await system.drain()
                assert system.most_waiting < 1.2 * jobs_a_second

        run(main())

    def test_place_is_among_the_own_jobs(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                both = system.start(), system.start()
                for job_id in [*names("a", 100), *names("b", 100)]:
                    await system.hold(both[0], job_id)
                await asyncio.sleep(0.6)
                for process in both:
                    first = await process.watch.find_place("b0080")
                    second = await process.watch.find_place("b0090")
                    assert first is not None
                    assert first < 81
                    assert second == first + 10
                    assert await process.watch.find_place("a0000") is None
                await system.hold(both[0], "b9999")
                place = await both[0].watch.find_place("b9999")
                last = await both[0].watch.find_place("b0099")
                assert last is not None
                assert place == last + 1
                await system.drain()
                assert await both[1].watch.find_place("b0090") is None

        run(main())

    def test_closed_room_costs_no_request(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process = system.start()
                await system.hold(process, "a0")
                await system.drain()
                before = process.life.left
                process.life.left = 1000
                await asyncio.sleep(60)
                assert before == float("inf")
                assert process.life.left == 1000

        run(main())


class TestKills:
    @pytest.mark.parametrize("has_effect", [False, True])
    @pytest.mark.parametrize("first", range(0, 120, 12))
    def test_no_job_is_lost_or_doubled(self, first: int, *, has_effect: bool) -> None:
        async def main(operations: int) -> None:
            async with open_system() as system:
                dying = system.start(Life(operations, has_effect))
                # The state is saved while messages are sent.
                dying.queues.slow_seconds = operations % 2 * 0.7
                other = system.start()
                holding = [asyncio.create_task(system.hold(dying, each)) for each in names("a", 60)]
                for job_id in names("b", 3):
                    await system.hold(other, job_id)
                    await asyncio.sleep(0.2)
                await asyncio.sleep(1)
                dying.life.left = 0
                await other.rooms.open_used()
                await system.drain()
                assert len(system.ran) == len(set(system.ran))
                assert not other.watch.is_open
                for task in holding:
                    task.cancel()

        for operations in range(first, first + 12):
            run(main(operations))

    @pytest.mark.parametrize("seed", range(30))
    def test_storm_leaves_no_job_in_the_room(self, seed: int) -> None:
        async def main() -> None:
            chance = random.Random(seed)
            async with open_system() as system:
                holding = []
                for number in range(200):
                    alive = [each for each in system.processes if not each.life.is_over]
                    if len(alive) < 3 and chance.random() < 0.2:
                        life = Life(chance.randrange(5, 300), chance.random() < 0.5)
                        alive.append(system.start(life))
                        await alive[-1].rooms.open_used()
                    # Each job of `a` is held twice, as by a repeated request.
                    for owner in "aabc" if alive else "":
                        hold = system.hold(chance.choice(alive), f"{owner}{number:04}")
                        holding.append(asyncio.create_task(hold))
                    await asyncio.sleep(chance.random() / 10)
                last = system.start()
                await last.rooms.open_used()
                await asyncio.sleep(5)
                await system.drain()
                assert len(system.ran) == len(set(system.ran))
                for task in holding:
                    task.cancel()

        run(main())


class TestTwoProcesses:
    def test_one_leads_at_a_time(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                both = system.start(), system.start()
                for number, job_id in enumerate(names("a", 400)):
                    await system.hold(both[number % 2], job_id)
                leaders = Counter[int]()
                while len(system.ended) < 400:
                    leaders[sum(each.watch.leader is not None for each in both)] += 1
                    await asyncio.sleep(0.05)
                await system.drain()
                assert leaders[1] > 10
                assert leaders[2] == 0

        run(main())

    def test_other_process_takes_over_in_time(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                first, second = system.start(), system.start()
                for job_id in names("a", 400):
                    await system.hold(first, job_id)
                await system.hold(second, "b0")
                await asyncio.sleep(1)
                assert [each.watch.leader is None for each in (first, second)] == [False, True]
                first.life.left = 0
                died_at = asyncio.get_running_loop().time()
                while second.watch.leader is None:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.05)
                took = asyncio.get_running_loop().time() - died_at
                assert 1.5 <= took <= 3.2
                await system.drain()

        run(main())

    def test_old_leader_steps_down(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                first, second = system.start(), system.start()
                for job_id in names("a", 200):
                    await system.hold(first, job_id)
                await asyncio.sleep(1)
                found = await second.watch.room.read_state()
                assert found is not None
                other = replace(found[0], leader="other", beat=found[0].beat + 1)
                assert await second.watch.room.write_state(other, found[1]) is not None
                await asyncio.sleep(1.1)
                assert first.watch.leader is None
                assert first.watch.is_open
                # It takes over after two seconds, and knows what has ended.
                begun_at = asyncio.get_running_loop().time()
                await system.drain()
                assert len(system.ran) == 200
                assert asyncio.get_running_loop().time() - begun_at < 6

        run(main())

    def test_suspended_leader_lets_no_job_in_again(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                first, second = system.start(), system.start()
                for job_id in names("a", 300):
                    await system.hold(first, job_id)
                await system.hold(second, "b0")
                first.life.may_run.clear()
                await asyncio.sleep(1)
                while len(system.ended) < 301:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.1)
                sent_count = len(first.queues.sent)
                first.life.may_run.set()
                await system.drain()
                assert len(first.queues.sent) == sent_count

        run(main())

    def test_entry_at_the_close_is_let_in(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                first, second = system.start(), system.start()

                async def hold_at_close(state: bytes) -> None:
                    if b'"open":false' in state and "b0" not in system.accepted:
                        await system.hold(second, "b0")

                first.blobs.before_replace = hold_at_close
                await system.hold(first, "a0")
                while "b0" not in system.ended:  # noqa: ASYNC110 - what is awaited is its time
                    await asyncio.sleep(0.1)
                assert asyncio.get_running_loop().time() < 5
                await system.drain()
                assert system.ran == ["a0", "b0"]

        run(main())

    def test_late_save_keeps_the_room_closed(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                process, written = system.start(), []

                async def close_slowly(state: bytes) -> None:
                    written.append(b'"open":true' in state)
                    if not written[-1]:
                        await asyncio.sleep(0.7)

                process.blobs.before_replace = close_slowly
                await system.hold(process, "a0")
                await system.drain()
                await asyncio.sleep(5)
                assert written[-1] is False
                assert written.count(False) == 1

        run(main())

    def test_ends_elsewhere_keep_the_window_full(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                both = system.start(), system.start()
                for job_id in names("a", 800):
                    await system.hold(both[0], job_id)
                begun_at = asyncio.get_running_loop().time()
                await system.drain()
                took = asyncio.get_running_loop().time() - begun_at
                assert took < 800 * BATCH_SECONDS / BATCH_SIZE * 1.02 + 2

        run(main())

    def test_follower_counts_a_job_that_is_sent_again_once(self) -> None:
        async def main() -> None:
            async with open_system() as system:
                leader, follower = system.start(), system.start()
                for job_id in names("a", 100):
                    await system.hold(leader, job_id)
                await follower.watch.find_place("a0099")
                assert follower.watch.is_open
                for job_id in names("b", 3) * 20:
                    follower.watch.record_sent(job_id, "b", Priority.NORMAL)
                assert follower.watch.in_flight("b") == 3
                for job_id in names("b", 3):
                    follower.watch.record_end(system.durable, job_id, "b", BATCH_SECONDS)
                assert follower.watch.in_flight("b") == 0
                await system.drain()

        run(main())
