"""Test the step of a batch: as a whole, and killed or failing at each of its operations."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.brokers import BrokerMessage
from contract.guard import AddressGuard
from contract.messages import InlineJson, JobError, JobReply, Stage, format_time
from gateway.batches import intake, output, sending, step
from gateway.batches.ends import encode_end, parse_end
from gateway.batches.ids import line_id, line_of, new_batch_id
from gateway.batches.intake import LineIntake
from gateway.batches.model import BatchSpec, BatchState, segment_of
from gateway.batches.native_lines import NativeLines
from gateway.batches.sending import LineSender
from gateway.batches.store import (
    BatchStore,
    ends_blob,
    errors_blob,
    input_blob,
    results_blob,
)
from gateway.errors import Unavailable
from gateway.jobs.model import JobOutcome
from gateway.keys import owner_of
from gateway.shares.gate import Gate
from gateway.shares.places import GATHER_SECONDS
from gateway.storage.blobs import BlobProperties
from gateway.storage.uploads import new_upload, upload_blob_of
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryQueues
from tests.unit.gateway.skipping import run
from tests.unit.gateway.workers import beat

T = TypeVar("T")

FAILED: Final = JobError("model-failed", "no", Stage.RUN, retryable=False)


class Chance:
    """Decides, by a seed, whether an operation fails before or after its effect."""

    def __init__(self, seed: int = 0, probability: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.probability = probability

    async def call(self, service: str, operation: Callable[[], Awaitable[T]]) -> T:
        """Perform an operation, or fail before it, or fail after it as if no answer had come."""
        draw = self.random.random()
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        if draw < self.probability / 2:
            raise Unavailable(service, "refused")
        result = await operation()
        await asyncio.sleep(0)
        if draw < self.probability:
            raise Unavailable(service, "no answer")
        return result


@dataclass
class FaultyBlobs(MemoryBlobs):
    """`MemoryBlobs` whose calls may fail, and whose writes may be repeated without an answer."""

    chance: Chance = field(default_factory=Chance)
    is_repeating: bool = False
    """Whether the response to each first write is lost."""
    is_hanging: bool = False
    """Whether no file can be read."""
    has_looked: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        self.has_looked.set()
        if self.is_hanging:
            await asyncio.Event().wait()
        return await super().look(blob, head_bytes)

    async def create(self, blob: str, data: bytes) -> str | None:
        return await self._write(lambda: super(FaultyBlobs, self).create(blob, data))

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        return await self._write(lambda: super(FaultyBlobs, self).replace(blob, data, etag))

    async def append(self, blob: str, data: bytes) -> int:
        return await self._write(lambda: super(FaultyBlobs, self).append(blob, data))

    async def append_at(self, blob: str, position: int, data: bytes) -> bool:
        return await self._write(lambda: super(FaultyBlobs, self).append_at(blob, position, data))

    async def read(self, blob: str) -> Any:
        return await self.chance.call("blobs", lambda: super(FaultyBlobs, self).read(blob))

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        # A short read, as from a blob that is being appended to.
        most = max_bytes if self.chance.random.random() > self.chance.probability else 300
        read = super().read_from
        return await self.chance.call("blobs", lambda: read(blob, offset, most))

    async def _write(self, operation: Callable[[], Awaitable[T]]) -> T:
        if self.is_repeating or self.chance.random.random() < self.chance.probability:
            await operation()  # the response is lost, and the request is repeated
        return await self.chance.call("blobs", operation)


@dataclass
class FaultyQueues(MemoryQueues):
    """`MemoryQueues` whose calls may fail. It drops a second message with the same id."""

    chance: Chance = field(default_factory=Chance)
    ids: set[str] = field(default_factory=set)

    async def send(self, queue: str, message: BrokerMessage) -> None:
        await self.chance.call("queue", lambda: self._send(queue, message))

    async def _send(self, queue: str, message: BrokerMessage) -> None:
        if str(message.message_id) not in self.ids:
            self.ids.add(str(message.message_id))
            await super().send(queue, message)


class World:
    """One batch of noop lines, two hosts that may run its step, and workers."""

    def __init__(self, gateway: RunningGateway, count: int, seed: int, probability: float) -> None:
        self.gateway = gateway
        self.chance = Chance(seed, probability)
        self.random = self.chance.random
        self.blobs = FaultyBlobs(gateway.payloads, gateway.clock, chance=self.chance)
        self.queues = FaultyQueues(chance=self.chance)
        self.hosts = [self._host(), self._host()]
        now = gateway.clock()
        batch_id = new_batch_id(now)
        self.spec = BatchSpec(
            batch_id,
            "",
            "noop",
            format_time(now),
            format_time(now + timedelta(hours=1)),
            input_blob(batch_id),
        )
        self.names = [f"line {number}" for number in range(1, count + 1)]
        self.inputs: dict[int, dict[str, Any]] = {}
        """Other inputs of lines, by their numbers."""
        self.done = 0
        """How many of the sent messages a worker has received."""

    def _host(self) -> step.BatchSteps:
        services = self.gateway.services
        watches = replace(
            services.watches,
            make_queue=lambda model: replace(
                services.watches.make_queue(model), queues=self.queues
            ),
        )
        gate = Gate(
            watches,
            services.limits,
            services.catalogue,
            services.estimates,
            services.clock,
            is_enabled=True,
        )
        creator = replace(services.creator, gate=gate)
        native = NativeLines(services.catalogue, services.payloads)
        intake = LineIntake(
            self.blobs, self.gateway.payloads, services.bodies, creator, native, native
        )
        return step.BatchSteps(
            self.blobs,
            BatchStore(self.blobs),
            intake,
            LineSender(intake, creator, services.counters, services.limits),
            services.catalogue,
            creator.states,
            services.outcomes,
            services.limits,
            gate,
            self.gateway.clock,
        )

    @property
    def store(self) -> BatchStore:
        return BatchStore(MemoryBlobs(self.gateway.payloads, self.gateway.clock, self.blobs.etags))

    async def create(self) -> None:
        rows = [
            json.dumps({"custom_id": name, **self.inputs.get(number, {"input": {"json": name}})})
            for number, name in enumerate(self.names, 1)
        ]
        self.blobs.put(self.spec.blob, "\n".join(rows).encode())
        await self.store.create(self.spec)

    async def state(self) -> BatchState:
        return (await self.store.state(self.spec.id))[0]

    async def step(self, host: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.hosts[host].run(self.spec.id))
        return found

    async def run(self) -> dict[str, Any]:
        """Run steps and workers until the batch has ended, without faults."""
        self.chance.probability = 0
        for _ in range(1000):
            found = await self.step()
            if "final" in found:
                return found
            await self.work(len(self.names))
            self.gateway.clock.now += timedelta(seconds=0.5)
        raise AssertionError("the batch does not end")

    async def work(self, most: int) -> None:
        """Let workers run up to `most` of the messages that were sent, some of them twice."""
        messages = self.queues.sent[self.done :][:most]
        self.done += len(messages)
        state = await self.state()
        for _, message in messages:
            key = line_of(str(message.message_id))
            assert key is not None
            for attempt in range(1 + (self.random.random() < self.chance.probability)):
                self.reply(state, key.number, attempt)

    def reply(self, state: BatchState, number: int, attempt: int = 0) -> None:
        """Append the end of a line to its log."""
        now = self.gateway.clock()
        is_failed = self.random.random() < 0.2
        outcome = FAILED if is_failed else InlineJson({"n": number, "attempt": attempt})
        reply = JobReply(line_id(self.spec.id, number), outcome, now, now)
        blob = ends_blob(self.spec.id, segment_of(state.segments, number)[0])
        entry = encode_end(number, JobOutcome.replied(reply, now), "noop") + b"\n"
        self.blobs.put(blob, self.content(blob) + entry)

    def content(self, blob: str) -> bytes:
        return self.gateway.payloads.blobs.get(blob, ("", b""))[1]

    def output(self, blob: str) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.content(blob).splitlines()]

    def first_ends(self, state: BatchState) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for index in range(len(state.segments)):
            for row in self.content(ends_blob(self.spec.id, index)).splitlines():
                end = parse_end(row)
                assert end is not None
                found.setdefault(end.number, end.outcome)
        return found

    async def check(self) -> BatchState:
        """Check that each line is in the output once, in order, and as its first end says."""
        state = await self.state()
        assert state.status.is_final
        if not state.total and not self.queues.sent:
            return state  # it was stopped before its file was checked
        assert state.total == len(self.names)
        firsts = self.first_ends(state)
        assert len(firsts) == state.total
        good, bad = (
            [
                (self.names[number - 1], line_id(self.spec.id, number), outcome["status"])
                for number, outcome in sorted(firsts.items())
                if (outcome["status"] == "succeeded") is is_good
            ]
            for is_good in (True, False)
        )
        shown = [results_blob(self.spec.id), errors_blob(self.spec.id)]
        for expected, blob, size in zip(
            (good, bad), shown, (state.results_bytes, state.errors_bytes), strict=True
        ):
            rows = self.output(blob)
            assert [(row["custom_id"], row["job"], row["status"]) for row in rows] == expected
            assert len(self.content(blob)) == size
        for row in self.output(shown[0]):
            key = line_of(row["job"])
            assert key is not None
            assert row["result"] == firsts[key.number]["reply"]["result"]["json"]
        statuses = Counter(outcome["status"] for outcome in firsts.values())
        counted = {each: getattr(state, each) for each in step.COUNTED if getattr(state, each)}
        assert counted == statuses
        return state


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make segments, windows and appends so small that few lines need many of them."""
    monkeypatch.setattr(intake, "SEGMENT_LINES", 7)
    monkeypatch.setattr(step, "MIN_WINDOW", 10)
    monkeypatch.setattr(step, "PLACES_FILLED", 0)
    monkeypatch.setattr(step, "LOW_PRIORITY_MESSAGES_PER_WORKER", 6)
    monkeypatch.setattr(step, "SENT_AT_ONCE", 4)
    monkeypatch.setattr(output, "FLUSH_BYTES", 300)


@asynccontextmanager
async def world(
    count: int = 30,
    seed: int = 0,
    probability: float = 0,
    inputs: dict[int, dict[str, Any]] | None = None,
) -> AsyncIterator[World]:
    async with open_gateway(guard=AddressGuard("127.0.0.1")) as gateway:
        made = World(gateway, count, seed, probability)
        made.inputs |= inputs or {}
        await made.create()
        yield made


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), stop=st.sampled_from([None, "cancel", "deadline"]))
def test_each_line_ends_once_whatever_fails(seed: int, stop: str | None) -> None:
    async def main() -> None:
        async with world(30, seed, 0.15) as made:
            stop_at = made.random.randrange(40)
            for turn in range(40):
                if turn == stop_at and stop == "cancel":
                    await made.store.mark_cancelled(made.spec.id)
                elif turn == stop_at and stop == "deadline":
                    made.gateway.clock.now = made.spec.deadline_at
                await fail_steps(made)
                await made.work(made.random.randrange(6))
                made.gateway.clock.now += timedelta(seconds=0.3)
            await made.run()
            await made.check()

    run(main())


async def fail_steps(made: World) -> None:
    """Run the step on both hosts at once, and kill it at any of its awaits."""
    steps = [asyncio.create_task(made.step(host)) for host in range(2)]
    for _ in range(made.random.randrange(400)):
        await asyncio.sleep(0)
    if made.random.random() < 0.5:
        made.random.choice(steps).cancel()
    await asyncio.gather(*steps, return_exceptions=True)


class TestRun:
    async def test_lines_beyond_a_limit_wait(self) -> None:
        async with world(12) as made:
            limits = made.gateway.services.limits
            await limits.tenants.change("", {"max_queued": 3}, "ops")
            found = await made.step()
            assert found == {"pause_seconds": step.LIMITED_PAUSE_SECONDS}
            assert len(made.queues.sent) == 3
            await made.work(3)
            for _, message in made.queues.sent:
                limits.record_end(str(message.message_id), owner_of(""), "noop", 0.1)
            await asyncio.sleep(3 * GATHER_SECONDS)
            await made.step()
            assert len(made.queues.sent) == 6
            await limits.tenants.change("", None, "ops")
            await made.run()
            await made.check()

    async def test_lines_wait_while_the_day_is_used_up(self) -> None:
        async with world(3) as made:
            limits = made.gateway.services.limits
            await limits.tenants.change("", {"gpu_seconds_a_day": 1}, "ops")
            limits.usage.record(owner_of(""), "noop", 1.0)
            assert (await made.step()) == {"pause_seconds": step.LIMITED_PAUSE_SECONDS}
            assert made.queues.sent == []
            await limits.tenants.change("", None, "ops")
            await made.run()
            await made.check()

    async def test_lines_come_in_the_order_of_the_input(self) -> None:
        async with world() as made:
            assert await made.run() == {"final": "succeeded", "has_webhook": False}
            state = await made.check()
            assert state.succeeded > state.failed > 0
            assert state.error_codes == {FAILED.code: state.failed}

    async def test_half_of_a_surrogate_pair_is_no_obstacle(self) -> None:
        async with world(1) as made:
            await made.step()
            now = made.gateway.clock()
            reply = JobReply(line_id(made.spec.id, 1), InlineJson("\ud800"), now, now)
            entry = encode_end(1, JobOutcome.replied(reply, now), "noop") + b"\n"
            made.blobs.put(ends_blob(made.spec.id, 0), entry)
            assert (await made.step())["final"] == "succeeded"
            assert made.output(results_blob(made.spec.id))[0]["result"] == "\ud800"

    async def test_defect_in_one_result_ends_that_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        show = NativeLines.result_line

        async def show_most(form: NativeLines, spec: BatchSpec, line: Any, *rest: Any) -> Any:
            if line["custom_id"] == "line 2":
                raise KeyError("a defect")
            return await show(form, spec, line, *rest)

        monkeypatch.setattr(NativeLines, "result_line", show_most)
        async with world(3) as made:
            await made.step()
            state = await made.state()
            for number in (1, 2, 3):
                made.reply(state, number)
            assert (await made.step())["final"] == "succeeded"
            shown = {each["custom_id"] for each in made.output(results_blob(made.spec.id))}
            assert "line 2" not in shown
            (error,) = (
                each
                for each in made.output(errors_blob(made.spec.id))
                if each["custom_id"] == "line 2"
            )
            assert error["error"]["code"] == "unavailable"

    async def test_window_bounds_the_lines_in_flight(self) -> None:
        async with world() as made:
            await made.step()
            await made.step()
            assert len(made.queues.sent) == 10
            await made.work(4)
            await made.step()
            assert len(made.queues.sent) == 14
            assert {queue for queue, _ in made.queues.sent} == {"noop-low"}

    async def test_final_status_never_changes(self) -> None:
        async with world() as made:
            await made.run()
            await made.store.mark_cancelled(made.spec.id)
            assert await made.step() == {"final": "succeeded", "has_webhook": False}
            await made.check()

    async def test_each_lost_response_only_delays(self) -> None:
        async with world() as made:
            made.blobs.is_repeating = True
            assert (await made.run())["final"] == "succeeded"
            await made.check()

    async def test_lines_with_urls_wait_for_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sending, "MAX_URL_LINES", 3)
        urls = {number: {"input_url": "http://127.0.0.1:9/x"} for number in range(3, 31)}
        async with world(inputs=urls) as made:
            await made.step()
            assert len(made.queues.sent) == 3
            await made.work(2)
            await made.step()
            assert len(made.queues.sent) == 5
            await made.run()
            await made.check()

    async def test_line_whose_upload_is_gone_fails_alone(self) -> None:
        upload = new_upload(ManualClock()())
        async with world(inputs={15: {"upload": upload}}) as made:
            blob = upload_blob_of(upload, "")
            made.blobs.put(blob, b"x", "application/octet-stream")
            await made.step()
            del made.gateway.payloads.blobs[blob]
            await made.run()
            state = await made.check()
            assert state.error_codes["invalid-input"] == 1
            assert line_id(made.spec.id, 15) not in made.queues.ids

    async def test_cancelled_batch_keeps_what_it_has(self) -> None:
        async with world() as made:
            await made.step()
            await made.work(5)
            await made.store.mark_cancelled(made.spec.id)
            assert (await made.run())["final"] == "cancelled"
            state = await made.check()
            assert (state.cancelled, state.sent) == (25, 10)

    async def test_cancellation_ends_the_check_of_the_file(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(step, "CANCEL_SECONDS", 0.001)
        async with world() as made:
            made.blobs.is_hanging = True
            checking = asyncio.create_task(made.step())
            await made.blobs.has_looked.wait()
            await made.store.mark_cancelled(made.spec.id)
            assert (await checking)["final"] == "cancelled"

    async def test_expired_batch_keeps_what_it_has(self) -> None:
        async with world() as made:
            await made.step()
            await made.work(5)
            made.gateway.clock.now = made.spec.deadline_at
            assert (await made.run())["final"] == "expired"
            state = await made.check()
            assert state.error_codes["expired"] == state.expired == 25

    async def test_cancelled_line_is_not_sent(self) -> None:
        async with world() as made:
            await made.step()
            await made.store.mark_cancelled(made.spec.id, 12)
            await made.run()
            assert (await made.check()).cancelled == 1
            assert line_id(made.spec.id, 12) not in made.queues.ids

    async def test_refused_file_ends_as_failed(self) -> None:
        async with world() as made:
            made.names[3] = made.names[4]
            await made.create()
            assert (await made.run())["final"] == "failed"
            state = await made.state()
            assert [each.line for each in state.problems] == [5]
            assert not made.queues.sent

    async def test_window_follows_the_rate(self) -> None:
        async with world(200) as made:
            for _ in range(20):
                await made.step()
                await made.work(1000)
                made.gateway.clock.now += timedelta(seconds=0.5)
            state = await made.state()
            assert state.rate is not None
            assert state.rate > 30
            await made.run()

    async def test_window_lets_one_more_worker_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(step, "LOW_PRIORITY_MESSAGES_PER_WORKER", 6)
        async with world() as made:
            for worker in ("a", "b"):
                beat(made.gateway, worker)
            await made.step()
            assert len(made.queues.sent) == 18

    async def test_window_fills_the_places_of_a_worker(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(step, "PLACES_FILLED", 1)
        async with world() as made:
            noop = made.gateway.services.catalogue["noop"]
            await made.step()
            assert len(made.queues.sent) == max(noop.max_concurrent_jobs, noop.max_batch_size)

    async def test_pause_grows_while_nothing_changes(self) -> None:
        async with world() as made:
            await made.step()
            first = (await made.step())["pause_seconds"]
            made.gateway.clock.now += timedelta(minutes=1)
            assert first == step.SHORTEST_PAUSE_SECONDS
            assert (await made.step())["pause_seconds"] == 60
            made.gateway.clock.now = made.spec.deadline_at - timedelta(seconds=3)
            assert (await made.step())["pause_seconds"] == 3
