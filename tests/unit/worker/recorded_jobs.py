"""A consumer whose jobs are settled in memory, for the tests of the steps of a job."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from contract.catalogue import Catalogue, ModelEntry
from contract.deliveries import DeliveryNote, decode_note
from contract.guard import AddressGuard, Resolver
from contract.messages import InlineJson, PayloadRef, ReplyTo
from contract.settings import AzureEndpoint
from tests.unit.worker.pictures import MIB
from tests.unit.worker.received import locked_message, received_job
from worker.brokers.receiver import LockRenewer, ModelQueue, SettleRequest
from worker.brokers.replies import QueueReplies
from worker.brokers.servicebus.broker import ServiceBus
from worker.errors import Settlement
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_manager import ModelManager
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.memory import MemoryBudget
from worker.inputs.payloads import BlobPayloads
from worker.inputs.urls import UrlFetcher
from worker.memory.reservation import ModelWorkload
from worker.memory.sharing import DeviceSharing
from worker.objects.port import BlobStore, ObjectsUnavailable
from worker.pipeline.children import ChildServices
from worker.pipeline.deliveries import DeliveryNotes
from worker.pipeline.factory import SharedServices, make_consumer
from worker.pipeline.receive import ReceivedJob
from worker.pipeline.reply import SettleStep
from worker.processes.history import NO_HISTORY, DeliveryHistory
from worker.processes.shutdown import Shutdown
from worker.replies import GatewayClient, ReplyCache, ReplySenders
from worker.settings import MemorySettings
from worker.stops import StopOrders
from worker.telemetry.recording import ModelTelemetry

NOOP = Catalogue.load()["noop"]


@dataclass
class RecordedBlobs(BlobStore):
    """A blob store in memory. If the error `failure` is set, each write raises this error."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    failure: ObjectsUnavailable | None = None

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        raise AssertionError("nothing is read here")

    def write(
        self, blob: str, data: bytes, media_type: str, timeout_seconds: float | None = None
    ) -> None:
        if self.failure is not None:
            raise self.failure
        self.blobs[blob] = data

    def read_from(self, blob: str, offset: int, max_bytes: int, timeout_seconds: float) -> bytes:
        if self.failure is not None:
            raise self.failure
        return self.blobs.get(blob, b"")[offset : offset + max_bytes]


@dataclass
class RecordedJobs:
    """A consumer, its jobs, and a record of how the message of each job was settled.

    If a test runs the consumer's device thread, the model is an instance `infer` of its class.
    The method `job` returns a job without a reply address, unless `reply_to` is given.
    """

    settled: list[SettleRequest] = field(default_factory=list)
    now: float = 0.0
    gateway: str = "127.0.0.1:1"
    has_settled: threading.Event = field(default_factory=threading.Event)
    model: ModelEntry = NOOP
    infer: object = None
    memory: MemorySettings = field(default_factory=MemorySettings)

    def __post_init__(self) -> None:
        self.sharing = DeviceSharing(self.memory)
        broker, catalogue = ServiceBus(AzureEndpoint(address="unused")), Catalogue.load()
        gateway = GatewayClient(frozenset({self.gateway}))
        self.blobs = RecordedBlobs()
        payloads = BlobPayloads(self.blobs)
        self.cache = ReplyCache()
        self.locks = LockRenewer(lambda: self.now)
        self.shutdown = Shutdown()
        services = SharedServices(
            children=ChildServices(gateway, catalogue, payloads),
            gateway=gateway,
            senders=ReplySenders(gateway, QueueReplies(broker.open_sender, catalogue)),
            cache=self.cache,
            payloads=payloads,
            notes=DeliveryNotes(self.blobs),
            urls=UrlFetcher(AddressGuard(""), Resolver()),
            large_inputs=MemoryBudget(MIB),
            decoders=DecoderProcesses(),
            locks=self.locks,
            shutdown=self.shutdown,
            stops=StopOrders(self.blobs),
        )
        queues = (
            ModelQueue("noop", broker, self.locks, 10.0),
            ModelQueue("noop-low", broker, self.locks, 10.0, is_low=True),
        )
        self.consumer = make_consumer(
            self.model, services, queues, ModelTelemetry("noop"), self._make_manager
        )
        self.in_flight = self.consumer.in_flight
        self.consumer.settle = SettleStep(
            self.in_flight,
            {queue.name: self.request_settlement for queue in queues},
            services.suspects,
        )

    def _make_manager(self, workload: ModelWorkload) -> ModelManager:
        def load(model: ModelEntry) -> LoadedModel:
            return LoadedModel(model, self.infer)

        return ModelManager(self.model, load, self.sharing, workload)

    def request_settlement(self, request: SettleRequest) -> None:
        self.settled.append(request)
        self.has_settled.set()

    def job(
        self,
        delivery_count: int = 0,
        reply_to: ReplyTo | None = None,
        deadline_seconds: float = 60.0,
        history: DeliveryHistory = NO_HISTORY,
        sequence_number: int = 7,
        *,
        queue: str = "noop",
    ) -> ReceivedJob:
        delivery = locked_message(
            delivery_count=delivery_count,
            enqueued_at=datetime.now(UTC),
            sequence_number=sequence_number,
            history=history,
            queue=queue,
        )
        job = received_job(
            delivery,
            self.locks,
            lock_seconds=10.0,
            deadline_seconds=deadline_seconds,
            reply_to=reply_to,
        )
        self.in_flight.add_delivery(delivery)
        self.in_flight.add_job(job)
        return job

    def reply_and_settle(self, job: ReceivedJob) -> None:
        """Let the consumer reply with a result, and settle the message even if the reply fails."""
        with self.consumer.ending_on_error(job):
            self.consumer.reply_and_settle(job, InlineJson(1))

    def notes(self) -> list[DeliveryNote]:
        """Return the worker's notes about deliveries, in the order in which they were written."""
        self.consumer.notes.wait(10)
        return [decode_note(data) for _, data in sorted(self.blobs.blobs.items())]

    @property
    def settlements(self) -> list[Settlement]:
        return [request.settlement for request in self.settled]
