"""Measure a model under load, with a worker's `Consumer`, and queues and blobs in memory.

Each simulated caller submits one job, and submits the next job when it has the reply.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Final

from contract.catalogue import Catalogue, ModelEntry
from contract.guard import AddressGuard, Resolver
from contract.messages import (
    INPUT_INLINE_LIMIT_BYTES,
    InlineBytes,
    InputPayload,
    JobError,
    JobReply,
    JobRequest,
    Json,
    PayloadRef,
    ReplyQueue,
    decode_reply,
    encode_request,
    fits_inline,
    reference,
)
from contract.names import low_priority_queue
from worker.brokers.port import LockedMessage, Peeked, SendReply
from worker.brokers.receiver import LockRenewer, ModelQueue
from worker.brokers.replies import QueueReplies
from worker.clock import utc_now
from worker.errors import Settlement
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_checks import ModelKind
from worker.inference.model_manager import ModelManager
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.memory import MemoryBudget
from worker.inputs.payloads import BlobPayloads
from worker.inputs.urls import UrlFetcher
from worker.memory.reservation import ModelWorkload
from worker.memory.sharing import DeviceSharing
from worker.objects.port import BlobStore
from worker.pipeline.children import ChildServices
from worker.pipeline.consumer import Consumer
from worker.pipeline.deliveries import DeliveryNotes
from worker.pipeline.factory import SharedServices, make_consumer
from worker.processes.history import DeliveryHistory
from worker.processes.lock_journal import LockJournals
from worker.processes.setup import available_processors, preparing_threads
from worker.processes.shutdown import Shutdown
from worker.replies import GatewayClient, ReplyCache, ReplySenders
from worker.settings import DEFAULT_INPUT_MEMORY_BYTES, MemorySettings
from worker.stops import StopOrders
from worker.telemetry.recording import ModelTelemetry

_REPLIES: Final = "replies"
_BLOB: Final = "input"
_DAY: Final = timedelta(days=1)
# A measurement takes at least this time and this number of batches.
_MIN_SECONDS: Final = 3.0
_MIN_BATCHES: Final = 6
# It ends after this time if it has one complete batch.
_MAX_SECONDS: Final = 60.0
_MIN_PATIENCE_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
# A larger batch must increase the throughput by more than this share.
_WORTHWHILE_SHARE: Final = 0.05
# The wait for an incomplete batch is at most this share of the time that the batch runs.
_WAIT_SHARE: Final = 0.1
_MAX_WAIT_MS: Final = 100


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The bytes and the media type of an input, the named inputs, and the parameters."""

    data: bytes
    media_type: str
    named: Mapping[str, tuple[bytes, str]] = field(default_factory=dict)
    parameters: Mapping[str, Json] = field(default_factory=dict)

    def prepare(self, loaded: LoadedModel) -> Any:
        """Decode and preprocess the input, and return the prepared item."""
        return loaded.prepare(self.data, self.media_type, self.parameters, inputs=self.named)


class LoadFailed(Exception):
    """A job of the measurement failed, or none ended in time. `code` is the error's code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class BatchThroughput:
    """The throughput of a worker in several batches. The model ran during `busy_seconds`."""

    items: int
    batches: int
    seconds: float
    busy_seconds: float

    @property
    def per_second(self) -> float:
        """The number of jobs per second."""
        return self.items / self.seconds

    @property
    def batch_ms(self) -> float:
        """The average time of a batch in milliseconds."""
        return self.busy_seconds / self.batches * 1000


def measure_batches(replies: Sequence[JobReply]) -> BatchThroughput:
    """Return the throughput of a worker, computed from the times in its replies."""
    # The jobs of one batch have the same start and duration.
    batches = {(reply.started_at.timestamp(), reply.timing.inference_ms) for reply in replies}
    begin = min(started for started, _ in batches)
    end = max(started + took_ms / 1000 for started, took_ms in batches)
    busy_seconds = sum(took_ms for _, took_ms in batches) / 1000
    return BatchThroughput(len(replies), len(batches), end - begin, busy_seconds)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The measurement of one batch size, with the ascending latencies from submit to reply."""

    batch_size: int
    throughput: BatchThroughput
    latencies_ms: tuple[float, ...]

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the latencies in milliseconds, by the nearest-rank method."""
        rank = math.ceil(len(self.latencies_ms) * percent / 100)
        return self.latencies_ms[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The suggested values of `max_batch_size` and `max_wait_ms`, each with the reason."""

    max_batch_size: int
    max_wait_ms: int
    size_reason: str
    wait_reason: str


def suggest(
    results: Sequence[LoadResult], prepare_ms: float, kind: ModelKind = ModelKind.BATCH
) -> Suggestion:
    """Suggest a batch size and a wait, from results in ascending order of batch size.

    For a concurrent model, the batch size is how many jobs run at once.

    The batch size is the smallest one with almost the highest throughput. The wait is as long as
    the worker takes to prepare the other inputs of such a batch, up to two limits.
    """
    best = max(results, key=lambda result: result.throughput.per_second)
    least = best.throughput.per_second * (1 - _WORTHWHILE_SHARE)
    chosen = next(result for result in results if result.throughput.per_second >= least)
    size, rate = chosen.batch_size, chosen.throughput.per_second
    is_concurrent = kind is ModelKind.CONCURRENT
    together = (
        f"{best.batch_size} jobs at once" if is_concurrent else f"batches of {best.batch_size}"
    )
    if chosen is best:
        size_reason = f"the highest throughput, {rate:.1f} items/s"
    else:
        size_reason = (
            f"{rate:.1f} items/s, and {together} have only {best.throughput.per_second:.1f} items/s"
        )
    size_reason += f", with a p95 of {chosen.percentile_ms(95):.0f} ms"
    if size == 1:
        return Suggestion(1, 0, size_reason, "a batch of one job is always full")
    threads = preparing_threads(available_processors())
    gather_ms = prepare_ms * math.ceil((size - 1) / threads)
    limit_ms = chosen.throughput.batch_ms * _WAIT_SHARE
    wait_ms = round(min(gather_ms, limit_ms, _MAX_WAIT_MS))
    wait_reason = (
        f"{threads} threads prepare the other inputs of a batch in {gather_ms:.1f} ms"
        if gather_ms <= limit_ms
        else f"a tenth of the {chosen.throughput.batch_ms:.1f} ms that a batch runs"
    )
    return Suggestion(size, wait_ms, size_reason, wait_reason)


class _MemoryQueue:
    """A queue of messages in this process, with the methods of a `MessageLink`."""

    is_connected = True
    has_credit = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._bodies: deque[bytes] = deque()
        self._arrived = threading.Condition()
        self._numbers = count(1)
        self.problem: tuple[str, str] | None = None
        """The reason and the description of a message that was not completed."""

    def put(self, body: bytes) -> None:
        with self._arrived:
            self._bodies.append(body)
            self._arrived.notify()

    def serve(self) -> None:
        pass

    def receive_messages(
        self, limit: int, wait_seconds: float, room: int = 0
    ) -> list[LockedMessage]:
        ends_at = time.monotonic() + wait_seconds
        with self._arrived:
            while len(self._bodies) < limit and (left_seconds := ends_at - time.monotonic()) > 0:
                self._arrived.wait(left_seconds)
            bodies = [self._bodies.popleft() for _ in range(min(limit, len(self._bodies)))]
        return [self._message(body) for body in bodies]

    def _message(self, body: bytes) -> LockedMessage:
        now, number = utc_now(), next(self._numbers)
        return LockedMessage(
            body, 0, now, now + _DAY, {}, f"load-{number}", None, self.name, number
        )

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        return [True] * len(deliveries)

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        if how is not Settlement.COMPLETE:
            self.problem = (reason or how.value, description)

    def renew_lock(self, delivery: LockedMessage, timeout_seconds: float) -> datetime:
        return utc_now() + _DAY

    def connect(self) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def stop_receiving(self) -> None:
        pass

    def forget_token(self, delivery: LockedMessage) -> None:
        pass

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        return []


class _MemoryBroker:
    """The two queues of one model, with the methods of a `Broker` that a consumer needs."""

    name = "memory"
    modules: Sequence[str] = ()

    def __init__(self, *queues: _MemoryQueue) -> None:
        self._queues = {queue.name: queue for queue in queues}

    def open_link(
        self, queue: str, lock_seconds: float, journals: LockJournals | None = None
    ) -> _MemoryQueue:
        return self._queues[queue]

    def open_sender(self, queue: str) -> SendReply:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _MemoryBlobs(BlobStore):
    """Blob storage in memory, with the inputs of one job. Written results are discarded."""

    contents: Mapping[str, bytes] = field(repr=False)

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        yield self.contents[ref.blob]

    def write(
        self, blob: str, data: bytes, media_type: str, timeout_seconds: float | None = None
    ) -> None:
        pass


class _HeldModel(ModelManager):
    """A manager whose loaded model stays, for the measurement of the next batch size."""

    def unload(self) -> None:
        self.loaded = None


class _Callers:
    """Simulated callers. Each submits a job, waits for the reply, then submits the next job."""

    def __init__(self, requests: dict[str, bytes], queue: _MemoryQueue) -> None:
        self._requests = requests
        self._queue = queue
        self._sent_at: dict[str, float] = {}
        self._changed = threading.Condition()
        self._replies: list[tuple[bytes, float]] = []
        self._is_stopped = False

    def start(self) -> None:
        for job_id in self._requests:
            self._submit(job_id)

    def stop(self) -> None:
        self._is_stopped = True

    def send_reply(self, body: bytes, job_id: str) -> None:
        """Store a reply with its latency, and submit the caller's next job unless stopped."""
        latency_ms = (time.perf_counter() - self._sent_at[job_id]) * 1000
        with self._changed:
            self._replies.append((body, latency_ms))
            self._changed.notify_all()
        if not self._is_stopped:
            self._submit(job_id)

    def _submit(self, job_id: str) -> None:
        self._sent_at[job_id] = time.perf_counter()
        self._queue.put(self._requests[job_id])

    def wait(self, number: int, ends_at: float, patience_seconds: float) -> int:
        """Wait for `number` replies, or from `ends_at` on for one. Return how many have arrived.

        Raises LoadFailed if a message was not completed, or no reply came for `patience_seconds`.
        """
        with self._changed:
            seen, seen_at = len(self._replies), time.monotonic()
            while len(self._replies) < number and not (
                self._replies and time.monotonic() >= ends_at
            ):
                self._changed.wait(0.1)
                if self._queue.problem is not None:
                    raise LoadFailed(*self._queue.problem)
                if len(self._replies) > seen:
                    seen, seen_at = len(self._replies), time.monotonic()
                elif time.monotonic() > seen_at + patience_seconds:
                    raise LoadFailed(
                        "no-reply",
                        f"no job has ended for {patience_seconds:.0f} seconds: "
                        "run the check without --load to see how long one job takes",
                    )
            return len(self._replies)

    def replies(self) -> list[tuple[JobReply, float]]:
        """Return all replies with the latency of their jobs in ms, or raise LoadFailed."""
        with self._changed:
            found = [(decode_reply(body), latency_ms) for body, latency_ms in self._replies]
        for reply, _ in found:
            if isinstance(reply.outcome, JobError):
                raise LoadFailed(reply.outcome.code, reply.outcome.message)
        return found


class LoadMeasurement:
    """Measures a loaded model under load. All simulated callers send the same input."""

    def __init__(
        self, model: ModelEntry, loaded: LoadedModel, sample: ModelInput, memory: MemorySettings
    ) -> None:
        """Store the dependencies. The folder of `memory` must not be that of a running worker."""
        self._model = model
        self._loaded = loaded
        self._inputs = {_BLOB: (sample.data, sample.media_type)}
        self._inputs |= {f"{_BLOB}/{name}": each for name, each in sample.named.items()}
        self._parameters = dict(sample.parameters)
        self._memory = memory
        self._decoders = DecoderProcesses()

    def measure(self, batch_size: int, caller_count: int) -> LoadResult:
        """Run batches for some seconds, with one job for each caller, or raise LoadFailed."""
        model = replace(self._model, max_batch_size=batch_size, max_concurrent_jobs=batch_size)
        queue = _MemoryQueue(model.queue)
        names = [f"load-{number}" for number in range(caller_count)]
        callers = _Callers({name: self._request(name) for name in names}, queue)
        stop_background = threading.Event()
        locks = LockRenewer()
        consumer = self._consumer(model, queue, callers, locks)
        loops: list[Callable[[], object]] = [
            partial(locks.run, stop_background),
            consumer.run_device,
        ]
        loops += [partial(consumer.run_queue, each) for each in consumer.queues]
        threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        try:
            callers.start()
            replies = self._collect(callers, batch_size, caller_count)
        finally:
            callers.stop()
            consumer.stop_receiving()
            stop_background.set()
            ends_at = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, ends_at - time.monotonic()))
        latencies = sorted(latency_ms for _, latency_ms in replies)
        throughput = measure_batches([reply for reply, _ in replies])
        return LoadResult(batch_size, throughput, tuple(latencies))

    def _collect(
        self, callers: _Callers, batch_size: int, caller_count: int
    ) -> list[tuple[JobReply, float]]:
        """Return the replies of the measured batches, each with its latency in milliseconds.

        The first batches may be slow, and the last one incomplete, so they are left out, if others
        remain.
        """
        patience_seconds = max(_MIN_PATIENCE_SECONDS, float(self._model.deadline_seconds))
        ends_at = time.monotonic() + _MAX_SECONDS
        skipped = callers.wait(caller_count, ends_at, patience_seconds)
        ends_at = time.monotonic() + _MAX_SECONDS
        measured_until = time.monotonic() + _MIN_SECONDS
        least = skipped + batch_size * _MIN_BATCHES
        number = callers.wait(least, ends_at, patience_seconds)
        while time.monotonic() < measured_until:
            number = callers.wait(number + 1, measured_until, patience_seconds)
        callers.stop()
        replies = callers.replies()
        first = max((reply.started_at for reply, _ in replies[:skipped]), default=None)
        last = max(reply.started_at for reply, _ in replies)
        found = replies[skipped:]
        whole = [
            (reply, latency_ms)
            for reply, latency_ms in found
            if (first is None or reply.started_at > first) and reply.started_at < last
        ]
        return whole or found or replies

    def _request(self, job_id: str) -> bytes:
        now, left_bytes = utc_now(), INPUT_INLINE_LIMIT_BYTES
        payloads: dict[str, InputPayload] = {}
        for blob, (data, media_type) in self._inputs.items():
            if fits_inline(len(data), left_bytes):
                payloads[blob] = InlineBytes(media_type, data)
                left_bytes -= len(data)
            else:
                payloads[blob] = reference(media_type, blob, data)
        first = payloads.pop(_BLOB)
        named = {blob.removeprefix(f"{_BLOB}/"): each for blob, each in payloads.items()}
        return encode_request(
            JobRequest(
                job_id,
                self._model.name,
                first,
                now,
                now + _DAY,
                parameters=self._parameters,
                reply_to=ReplyQueue(_REPLIES),
                inputs=named,
            )
        )

    def _consumer(
        self, model: ModelEntry, queue: _MemoryQueue, callers: _Callers, locks: LockRenewer
    ) -> Consumer:
        """Create a consumer that keeps its queues, replies and blobs in memory."""
        gateway = GatewayClient(frozenset())
        blobs = _MemoryBlobs({blob: data for blob, (data, _) in self._inputs.items()})
        payloads = BlobPayloads(blobs)
        services = SharedServices(
            children=ChildServices(gateway, Catalogue({model.name: model}), payloads),
            gateway=gateway,
            senders=ReplySenders(
                gateway,
                QueueReplies(lambda _: callers.send_reply, Catalogue({model.name: model})),
            ),
            cache=ReplyCache(),
            payloads=payloads,
            notes=DeliveryNotes(blobs),
            urls=UrlFetcher(AddressGuard(""), Resolver()),
            large_inputs=MemoryBudget(DEFAULT_INPUT_MEMORY_BYTES),
            decoders=self._decoders,
            locks=locks,
            shutdown=Shutdown(),
            stops=StopOrders(blobs),
        )
        telemetry = ModelTelemetry(model.name)
        low = _MemoryQueue(low_priority_queue(model.queue))

        broker = _MemoryBroker(queue, low)

        def make_queue(link: _MemoryQueue) -> ModelQueue:
            return ModelQueue(link.name, broker, locks, model.lock_seconds, is_low=link is low)

        def make_manager(workload: ModelWorkload) -> ModelManager:
            sharing = DeviceSharing(self._memory)
            return _HeldModel(model, lambda _: self._loaded, sharing, workload, telemetry)

        queues = make_queue(queue), make_queue(low)
        return make_consumer(model, services, queues, telemetry, make_manager)
