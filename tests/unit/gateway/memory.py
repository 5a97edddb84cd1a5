"""The services of the gateway in memory, for tests.

`MemoryDurable` replays the real orchestrator with the SDK's own executor and the history that a
host would have. It executes only the kinds of actions that this orchestrator requests. As in Azure,
`MemoryBlobs` and `MemoryPayloads` share their storage.
"""

import asyncio
import json
import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.durable_functions import Orchestrator

from contract.brokers import BrokerMessage
from contract.messages import JobRequest, PayloadRef, decode_request, reference, verify
from contract.names import ACTIVITY_ANNOUNCE_WEBHOOK, ACTIVITY_CONCLUDE, ORCHESTRATOR_JOB
from gateway.brokers.port import HandleLetter, MessageCounts, Queues
from gateway.durable import Durable, HistoryEvent, InstancePage, InstanceSnapshot, RuntimeStatus
from gateway.errors import (
    FinalInstance,
    MissingPayload,
    NoAnswer,
    Unavailable,
    UnknownInstance,
    UnknownQueue,
    WebhookUndelivered,
)
from gateway.jobs import orchestrator
from gateway.storage.blobs import BlobProperties, Blobs, ListedBlob, SmallBlob
from gateway.storage.payloads import PayloadLinks, PayloadStore
from gateway.webhooks.activities import start_delivery
from gateway.webhooks.sender import WebhookResponse, WebhookSender

# The kinds of events that a host shows, by their numbers in the orchestrator's history.
_HISTORY_KINDS = {
    0: "ExecutionStarted",
    5: "TaskCompleted",
    6: "TaskFailed",
    11: "TimerFired",
    15: "EventRaised",
}

run_orchestrator = Orchestrator.create(orchestrator.job)


class ManualClock:
    """A clock that only tests advance."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class MemoryQueues(Queues):
    """`Queues` in memory, which stores each sent message with the name of its queue."""

    sent: list[tuple[str, BrokerMessage]] = field(default_factory=list)
    has_sent: asyncio.Event = field(default_factory=asyncio.Event)
    may_confirm: asyncio.Event = field(default_factory=set_event)
    """While this event is not set, `send` has stored the message but does not return."""
    is_down: bool = False
    refusal: str | None = None
    is_hanging: bool = False
    """Whether no call returns, except `send`."""
    lengths: dict[str, int] = field(default_factory=dict)
    """The number of active messages that `count` returns for each queue in this dict.

    For other queues, `count` returns the number of messages that were sent to the queue.
    """
    others: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The numbers of scheduled and of dead-lettered messages, by queue."""
    look_count: int = 0
    missing: set[str] = field(default_factory=set)
    enqueued_at: dict[str, datetime] = field(default_factory=dict)
    """The time at which the oldest message of each queue was enqueued."""

    async def send(self, queue: str, message: BrokerMessage) -> None:
        if self.is_down:
            raise Unavailable("queue", "switched off")
        if queue in self.missing:
            raise UnknownQueue("queue", "never made")
        self.sent.append((queue, message))
        self.has_sent.set()
        await self.may_confirm.wait()

    async def wait_for(self, count: int) -> None:
        """Wait until `count` messages were sent."""
        while len(self.sent) < count:
            self.has_sent.clear()
            await self.has_sent.wait()

    async def check(self, queue: str) -> None:
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.is_down:
            raise NoAnswer("queue", "switched off")

    async def find_refusal(self) -> str | None:
        return self.refusal

    async def oldest(self, queue: str) -> datetime | None:
        await self.check(queue)
        return self.enqueued_at.get(queue)

    async def watch_dead_letters(self, queues: Collection[str], handle: HandleLetter) -> None:
        pass

    async def close(self) -> None:
        pass

    async def count(self, queue: str) -> MessageCounts:
        self.look_count += 1
        await self.check(queue)
        sent = sum(name == queue for name, _ in self.sent)
        return MessageCounts(self.lengths.get(queue, sent), *self.others.get(queue, (0, 0)))

    def request(self, number: int = -1) -> JobRequest:
        """Return the request in the sent message with this index, by default in the last one."""
        return decode_request(self.sent[number][1].body)


@dataclass
class MemoryPayloads(PayloadStore):
    """`PayloadStore` in memory, which stores blobs by name."""

    blobs: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    is_down: bool = False
    is_hanging: bool = False
    whole_reads: int = 0
    blocks: dict[tuple[str, str], bytes] = field(default_factory=dict)

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        await self.check()
        self.blobs[blob] = (media_type, data)
        return reference(media_type, blob, data)

    async def put_pieces(
        self, blob: str, pieces: AsyncIterator[bytes], media_type: str
    ) -> PayloadRef:
        return await self.put(blob, b"".join([piece async for piece in pieces]), media_type)

    async def put_block(self, blob: str, block: str, data: bytes) -> None:
        await self.check()
        self.blocks[blob, block] = data

    async def commit_blocks(self, blob: str, blocks: Sequence[str], media_type: str) -> bool:
        await self.check()
        if any((blob, each) not in self.blocks for each in blocks):
            return False
        self.blobs[blob] = media_type, b"".join(self.blocks[blob, each] for each in blocks)
        return True

    async def discard_blocks(self, blob: str) -> None:
        self.blocks = {key: data for key, data in self.blocks.items() if key[0] != blob}

    async def get(self, ref: PayloadRef) -> bytes:
        self.whole_reads += 1
        return await self._find(ref)

    async def _find(self, ref: PayloadRef) -> bytes:
        await self.check()
        if ref.blob not in self.blobs:
            raise MissingPayload(ref.blob)
        return verify(ref, self.blobs[ref.blob][1])

    async def get_pieces(self, ref: PayloadRef) -> AsyncIterator[bytes]:
        data = await self._find(ref)
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    async def check(self) -> None:
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.is_down:
            raise Unavailable("blobs", "switched off")


@dataclass
class Run:
    """One orchestration, with its history and its active timers."""

    job_id: str
    input: str
    started_at: datetime
    status: RuntimeStatus = RuntimeStatus.RUNNING
    output: Any = None
    history: list[dict[str, Any]] = field(default_factory=list)
    contexts: list[str] = field(default_factory=list)
    timers: dict[int, datetime] = field(default_factory=dict)
    next_id: int = 0
    attempts: int = 0
    retry_timer: int | None = None
    group_count: int = 1
    custom_status: Any = None
    events: list[str] = field(default_factory=list)

    def take_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1


class MemoryDurable(Durable):
    """`Durable` in memory. The call that starts an orchestration also runs it."""

    def __init__(
        self,
        clock: ManualClock,
        enqueue: Callable[[str], Awaitable[str | None]],
        conclude: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self.runs: dict[str, Run] = {}
        self.is_down = False
        self.status_count = 0
        self.check_count = 0
        self.list_count = 0
        self._clock = clock
        self._enqueue = enqueue
        self._conclude = conclude
        self.discards_events = False
        """Whether events are lost, as happens before the first episode is saved."""
        self.may_start = asyncio.Event()
        """While this event is not set, `start` waits."""
        self.may_start.set()
        self.started: list[str] = []
        self.updated_at: dict[str, datetime] = {}
        """When orchestrations did something last, if not now."""
        self.starts_left = math.inf
        """How many calls of `start` succeed before all others fail."""

    async def start(
        self, job_id: str, ticket_text: str, orchestrator: str = ORCHESTRATOR_JOB
    ) -> None:
        self._check()
        await self.may_start.wait()
        if self.starts_left <= 0:
            raise Unavailable("durable", "killed")
        self.starts_left -= 1
        self.started.append(job_id)
        run = self.runs[job_id] = Run(job_id, ticket_text, self._clock())
        if orchestrator != ORCHESTRATOR_JOB:
            return  # tests of webhooks run this orchestration
        started = {
            "EventType": 0,
            "Name": "job",
            "Version": "",
            "Input": json.dumps(ticket_text),
            "OrchestrationInstance": {"InstanceId": job_id, "ExecutionId": "1"},
            "ParentInstance": None,
        }
        await self._turn(run, started)

    async def check(self) -> None:
        self.check_count += 1
        self._check()

    async def status(self, job_id: str) -> InstanceSnapshot | None:
        self._check()
        self.status_count += 1
        run = self.runs.get(job_id)
        if run is None:
            return None
        updated_at = self.updated_at.pop(job_id, self._clock())
        return InstanceSnapshot(run.status, run.input, run.output, updated_at, run.custom_status)

    async def history(self, job_id: str) -> tuple[HistoryEvent, ...]:
        self._check()
        run = self.runs.get(job_id)
        events = run.history if run else []
        names = {event["EventId"]: event["Name"] for event in events if event["EventType"] == 4}
        return tuple(
            HistoryEvent(
                _HISTORY_KINDS[event["EventType"]],
                event.get("Name") or names.get(event.get("TaskScheduledId")),
                datetime.fromisoformat(event["Timestamp"]),
            )
            for event in events
            if event["EventType"] in _HISTORY_KINDS
        )

    async def raise_event(self, job_id: str, name: str, data: Any) -> None:
        self._check()
        run = self.runs.get(job_id)
        if run is None:
            raise UnknownInstance(job_id)
        if run.status.is_final:
            raise FinalInstance(job_id)
        # The SDK's client encodes an event as JSON twice.
        text = json.dumps(json.dumps(data))
        if self.discards_events:
            return
        if not run.history:
            run.events.append(name)
            return
        await self._turn(run, {"EventType": 15, "Name": name, "Input": text})

    async def terminate(self, job_id: str, reason: str) -> None:
        self._check()
        self.runs[job_id].status = RuntimeStatus.TERMINATED

    async def list_jobs(
        self, prefix: str, limit: int, statuses: Collection[RuntimeStatus]
    ) -> InstancePage:
        self._check()
        self.list_count += 1
        found = [
            (run.job_id, InstanceSnapshot(run.status, run.input, run.output, self._clock()))
            for run in self.runs.values()
            if run.job_id.startswith(prefix) and (not statuses or run.status in statuses)
        ]
        return InstancePage(tuple(found[:limit]), len(found) <= limit)

    async def purge(self, created_before: datetime) -> int:
        self._check()
        old = [
            run
            for run in self.runs.values()
            if run.status.is_final and run.started_at < created_before
        ]
        for run in old:
            del self.runs[run.job_id]
        return len(old)

    async def advance(self, seconds: float) -> None:
        """Advance the clock by `seconds`. Each timer that becomes due fires at its own time."""
        end = self._clock.now + timedelta(seconds=seconds)
        while due := next(self._due(end), None):
            run, timer_id, fire_at = due
            self._clock.now = max(self._clock.now, fire_at)
            del run.timers[timer_id]
            fired = {"EventType": 11, "TimerId": timer_id, "FireAt": _text(fire_at)}
            await self._turn(run, fired)
            if timer_id == run.retry_timer and not run.status.is_final:
                run.retry_timer = None
                if run.attempts < orchestrator.SEND_RETRIES.max_number_of_attempts:
                    await self._perform(run, self._schedule(run, "enqueue"))
        self._clock.now = end

    def _due(self, end: datetime) -> Iterator[tuple[Run, int, datetime]]:
        timers = [
            (fire_at, timer_id, run)
            for run in self.runs.values()
            if not run.status.is_final
            for timer_id, fire_at in run.timers.items()
            if fire_at <= end
        ]
        for fire_at, timer_id, run in sorted(timers, key=lambda timer: timer[:2]):
            yield run, timer_id, fire_at

    async def _turn(self, run: Run, *news: dict[str, Any]) -> None:
        is_first = not run.history
        for event in run.history:
            event["IsPlayed"] = True
        self._append(run, {"EventType": 12}, *news)
        context = json.dumps(episode_context(run.job_id, run.input, run.history))
        run.contexts.append(context)
        result = json.loads(run_orchestrator(context))
        if result["isDone"]:
            run.status, run.output = RuntimeStatus.COMPLETED, result["output"]
        elif is_first:
            await self._begin(run, result["actions"])
        else:
            await self._go_on(run, result["actions"])

    async def _go_on(self, run: Run, actions: list[Any]) -> None:
        """Execute the groups of actions that the newest execution of the orchestrator has added."""
        for group in actions[0][run.group_count :]:
            run.group_count += 1
            for action in group["compoundActions"]:
                if "fireAt" in action:
                    timer_id = run.take_id()
                    run.timers[timer_id] = datetime.fromisoformat(action["fireAt"])
                    created = {"EventId": timer_id, "FireAt": action["fireAt"]}
                    self._append(run, {"EventType": 10, **created})
                if action.get("functionName") == ACTIVITY_CONCLUDE:
                    await self._run_conclude(run, json.loads(action["input"]))
                    return
                for call in action.get("compoundActions", ()):
                    if call["functionName"] == ACTIVITY_ANNOUNCE_WEBHOOK:
                        await self._announce(run)
                        return
        self._append(run, {"EventType": 13})

    async def _run_conclude(self, run: Run, asked: str) -> None:
        task_id = self._schedule(run, ACTIVITY_CONCLUDE, {"EventType": 13})
        assert self._conclude is not None
        try:
            result = await self._conclude(asked)
        except Unavailable as error:
            ended = {"EventType": 6, "Reason": str(error), "Details": ""}
        else:
            ended = {"EventType": 5, "Result": json.dumps(result)}
        await self._turn(run, {**ended, "TaskScheduledId": task_id})

    async def _announce(self, run: Run) -> None:
        task_id = self._schedule(run, ACTIVITY_ANNOUNCE_WEBHOOK, {"EventType": 13})
        await start_delivery(run.job_id, self)
        await self._turn(run, {"EventType": 5, "Result": "null", "TaskScheduledId": task_id})

    async def _begin(self, run: Run, actions: list[Any]) -> None:
        ((group,),) = actions
        *sends, _, _, timer = group["compoundActions"]
        activity_ids = [self._schedule(run, "enqueue") for _ in sends]
        timer_id = run.take_id()
        run.timers[timer_id] = datetime.fromisoformat(timer["fireAt"])
        created = {"EventType": 10, "EventId": timer_id, "FireAt": timer["fireAt"]}
        self._append(run, created, {"EventType": 13})
        for activity_id in activity_ids:
            await self._perform(run, activity_id)

    def _schedule(self, run: Run, name: str, *more: dict[str, Any]) -> int:
        """Append the schedule of an activity to the history, and return the activity's id."""
        task_id = run.take_id()
        scheduled = {"EventType": 4, "EventId": task_id, "Name": name, "Version": ""}
        self._append(run, scheduled, *more)
        return task_id

    async def _perform(self, run: Run, activity_id: int) -> None:
        run.attempts += 1
        try:
            result = await self._enqueue(run.input)
        except Unavailable as error:
            failed = {"EventType": 6, "Reason": str(error), "Details": ""}
            await self._turn(run, {**failed, "TaskScheduledId": activity_id})
            run.retry_timer = run.take_id()
            interval_ms = orchestrator.SEND_RETRIES.first_retry_interval_in_milliseconds
            fire_at = self._clock() + timedelta(milliseconds=interval_ms)
            run.timers[run.retry_timer] = fire_at
            created = {"EventType": 10, "EventId": run.retry_timer, "FireAt": _text(fire_at)}
            self._append(run, created)
            return
        if not run.status.is_final:
            completed = {"EventType": 5, "Result": json.dumps(result)}
            await self._turn(run, {**completed, "TaskScheduledId": activity_id})

    def _append(self, run: Run, *events: dict[str, Any]) -> None:
        now = _text(self._clock())
        for event in events:
            run.history.append({"EventId": -1, "IsPlayed": False, "Timestamp": now, **event})

    def _check(self) -> None:
        if self.is_down:
            raise Unavailable("durable", "switched off")


def episode_context(instance_id: str, text: str, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a host passes to an orchestrator with the input `text`."""
    return {
        "history": history,
        "input": json.dumps(text),
        "instanceId": instance_id,
        "isReplaying": False,
        "parentInstanceId": None,
        "upperSchemaVersion": 1,
        "upperSchemaVersionNew": 2,
        "longRunningTimerIntervalDuration": "3.00:00:00",
        "maximumShortTimerDuration": "6.00:00:00",
    }


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class MemoryBlobs(Blobs):
    """`Blobs` in memory. A blob's ETag is the number of its last write, from 1."""

    payloads: MemoryPayloads
    clock: ManualClock
    etags: dict[str, str] = field(default_factory=dict)
    modified_at: dict[str, datetime] = field(default_factory=dict)
    write_count: int = 0
    content_encoding: str = ""
    is_unlistable: bool = False
    undeletable: set[str] = field(default_factory=set)

    def put(self, blob: str, data: bytes, media_type: str = "application/json") -> str:
        """Write a blob unconditionally, as a caller with a signed link does. Return the ETag."""
        self.write_count += 1
        self.payloads.blobs[blob] = (media_type, data)
        self.etags[blob] = f'"{self.write_count}"'
        self.modified_at[blob] = self.clock()
        return self.etags[blob]

    async def create(self, blob: str, data: bytes) -> str | None:
        await asyncio.sleep(0)  # other tasks run in the meantime, as during a network request
        await self.payloads.check()
        return None if blob in self.payloads.blobs else self.put(blob, data)

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        await self.payloads.check()
        return self.put(blob, data) if self.etags.get(blob) == etag else None

    async def read(self, blob: str) -> SmallBlob | None:
        await asyncio.sleep(0)
        await self.payloads.check()
        found = self.payloads.blobs.get(blob)
        return SmallBlob(found[1], self.etags.get(blob, '"0"')) if found else None

    async def append(self, blob: str, data: bytes) -> int:
        await asyncio.sleep(0)
        await self.payloads.check()
        found = self.payloads.blobs.get(blob, ("", b""))[1]
        self.put(blob, found + data)
        return len(found)

    async def append_at(self, blob: str, position: int, data: bytes) -> bool:
        await asyncio.sleep(0)
        await self.payloads.check()
        found = self.payloads.blobs.get(blob, ("", b""))[1]
        if len(found) != position:
            return False
        self.put(blob, found + data)
        return True

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        await asyncio.sleep(0)
        await self.payloads.check()
        return self.payloads.blobs.get(blob, ("", b""))[1][offset:][:max_bytes]

    async def read_version(self, blob: str, offset: int, max_bytes: int, etag: str) -> bytes:
        if blob not in self.payloads.blobs or self.etags.get(blob, '"0"') != etag:
            raise MissingPayload(blob)
        return await self.read_from(blob, offset, max_bytes)

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        await self.payloads.check()
        found = self.payloads.blobs.get(blob)
        if found is None:
            return None
        media_type, data = found
        etag = self.etags.get(blob, '"0"')
        return BlobProperties(media_type, len(data), etag, data[:head_bytes], self.content_encoding)

    async def delete(self, blob: str, etag: str | None = None) -> None:
        await self.payloads.check()
        if blob in self.undeletable:
            raise Unavailable("blobs", f"the blob {blob} has a legal hold")
        if etag is None or self.etags.get(blob, '"0"') == etag:
            self.payloads.blobs.pop(blob, None)
            self.etags.pop(blob, None)

    async def list_names(self, prefix: str) -> list[str]:
        return [blob.name async for blob in self.list(prefix)]

    async def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        await self.payloads.check()
        if self.is_unlistable:
            raise Unavailable("blobs", "switched off")
        for name in sorted(self.payloads.blobs):
            if name.startswith(prefix):
                modified_at = self.modified_at.get(name, self.clock())
                yield ListedBlob(name, self.etags.get(name, '"0"'), modified_at)


class MemoryLinks(PayloadLinks):
    """`PayloadLinks` with unsigned URLs, whose query shows what the link permits."""

    origin = "http://blobs.test"
    upload_headers = {"x-ms-blob-type": "BlockBlob"}  # noqa: RUF012  never changed

    def __init__(self) -> None:
        pass

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        return f"http://blobs.test/{blob}?sp=c&se={expires_at.isoformat()}"

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        shown: dict[str, Any] = {"rsct": media_type, "rscd": file_name}
        query = "&".join(f"{name}={value}" for name, value in shown.items())
        return f"http://blobs.test/{blob}?sp=r&se={expires_at.isoformat()}&{query}"


@dataclass
class MemoryReceiver(WebhookSender):
    """`WebhookSender` in memory: stores each request, and gives it the next answer in `answers`.

    An answer is a response, or a string. For a string, the call raises WebhookUndelivered with this
    string. If `answers` is empty, the response has the status 200.
    """

    answers: list[WebhookResponse | str] = field(default_factory=list)
    posts: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    shares: list[str] = field(default_factory=list)
    """The share of DNS look-ups that each request would use."""
    seconds: list[float] = field(default_factory=list)
    """How long each request may take."""
    may_answer: asyncio.Event = field(default_factory=set_event)
    """While this event is not set, no request is answered."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, share: str, seconds: float
    ) -> WebhookResponse:
        self.posts.append((url, headers, body))
        self.shares.append(share)
        self.seconds.append(seconds)
        await self.may_answer.wait()
        answer = self.answers.pop(0) if self.answers else WebhookResponse(200, None)
        if isinstance(answer, str):
            raise WebhookUndelivered(answer)
        return answer
