"""Create the consumer of a model, for the worker and for `loosely models check --load`."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from contract.catalogue import ModelEntry
from worker.brokers.receiver import LockRenewer, ModelQueue
from worker.inference.model_manager import ModelManager
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.memory import InputMemory, MemoryBudget
from worker.inputs.payloads import BlobPayloads
from worker.inputs.urls import UrlFetcher
from worker.memory.queued_work import QueueView
from worker.memory.reservation import ModelWorkload
from worker.pipeline.children import ChildServices, JobChildren
from worker.pipeline.concurrent import ConcurrentRuns
from worker.pipeline.consumer import Consumer
from worker.pipeline.deliveries import DeliveryNotes
from worker.pipeline.infer import Batcher, BatchQueue, InferStep
from worker.pipeline.prepare import CancellationCheck, PrepareStep, RetryPolicy
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.receive import Capacity, InFlight, ReceivedJob, ReceiveStep
from worker.pipeline.reply import ReplyStep, SettleStep
from worker.pipeline.suspects import RunningJobs, Suspects
from worker.processes.shutdown import Shutdown
from worker.replies import GatewayClient, ReplyCache, ReplySenders
from worker.stops import StopOrders
from worker.streams.writer import StreamWriter
from worker.telemetry.recording import ModelTelemetry


@dataclass(frozen=True, slots=True)
class SharedServices:
    """The objects that the consumers of all models in one process share."""

    children: ChildServices
    gateway: GatewayClient
    senders: ReplySenders
    cache: ReplyCache
    payloads: BlobPayloads
    notes: DeliveryNotes
    urls: UrlFetcher
    large_inputs: MemoryBudget
    decoders: DecoderProcesses
    locks: LockRenewer
    shutdown: Shutdown
    stops: StopOrders
    running: RunningJobs = field(default_factory=RunningJobs)
    suspects: Suspects = field(default_factory=Suspects)
    streams: StreamWriter | None = None


def make_consumer(  # noqa: PLR0913, PLR0917 - what the consumers of a process do not share
    model: ModelEntry,
    services: SharedServices,
    queues: tuple[ModelQueue, ModelQueue],
    telemetry: ModelTelemetry,
    make_manager: Callable[[ModelWorkload], ModelManager],
    queue_views: Sequence[QueueView] = (),
) -> Consumer:
    """Return a consumer that receives and runs the jobs of a model. No thread is started.

    `make_manager` gets an object that shows whether the model has jobs to run. `queue_views` show
    whether messages wait for the model while the model is not loaded.
    """
    normal, low = queues
    stopping = threading.Event()
    in_flight = InFlight(telemetry)
    batches = BatchQueue[ReceivedJob](Batcher(model.max_batch_size, model.max_wait_ms / 1000))
    workload = ModelWorkload(
        model.name,
        busy_count=lambda: in_flight.busy_count,
        may_receive=lambda: normal.receiver.may_receive or low.receiver.may_receive,
        request_unload=batches.pause,
        queues=queue_views,
    )
    services.suspects.add_queue(workload.may_receive)
    manager = make_manager(workload)

    @contextlib.contextmanager
    def release_device() -> Iterator[None]:
        # While a job waits for jobs of other models, its own code does not run, and its time does
        # not count.
        with (
            infer.runs.pausing_run() as jobs,
            services.running.noting_pause([job.delivery for job in jobs]),
            services.suspects.suspended(),
            manager.release_device(),
        ):
            yield

    def children_of(reply_url: str | None) -> JobChildren:
        return JobChildren(
            services.children,
            reply_url,
            release_device,
            lambda: stopping.is_set() or manager.must_unload,
        )

    progress = (
        ProgressReporter(services.gateway.send_progress, children_of, streams=services.streams)
        if model.reports_progress
        else None
    )
    retries = RetryPolicy(stopping)
    cancellation = CancellationCheck(services.gateway, retries)
    infer = InferStep(manager, in_flight, cancellation, progress, model)
    telemetry.watch(
        in_flight=lambda: in_flight.held_count,
        is_loaded=lambda: manager.loaded is not None,
        is_connected=lambda: normal.receiver.is_connected,
        reserved_bytes=lambda: manager.reserved_bytes,
        is_set_aside=lambda: manager.is_set_aside,
    )
    return Consumer(
        model=model,
        normal=normal,
        low=low,
        receive=ReceiveStep(model, services.senders.check_reply_address, services.locks, telemetry),
        prepare=PrepareStep(
            *(model, manager, services.payloads, services.urls, cancellation, retries),
            InputMemory(services.large_inputs),
            services.decoders,
            services.running,
            infer.runs,
        ),
        infer=infer,
        reply=ReplyStep(services.payloads, services.senders, services.cache, in_flight),
        settle=SettleStep(
            in_flight,
            {queue.name: queue.receiver.request_settlement for queue in queues},
            services.suspects,
        ),
        manager=manager,
        in_flight=in_flight,
        capacity=Capacity(manager.admits, in_flight, model, manager.loaded_kind),
        batches=batches,
        cache=services.cache,
        progress=progress,
        stopping=stopping,
        shutdown=services.shutdown,
        notes=services.notes,
        running=services.running,
        suspects=services.suspects,
        concurrent=ConcurrentRuns(
            *(model, manager, in_flight, batches, progress),
            notes=services.notes,
            running=services.running,
            runs=infer.runs,
            stops=services.stops,
            shutdown=services.shutdown,
        ),
    )
