"""`python -m worker`: run the worker until shutdown is requested, then drain it and exit.

With WORKER_RESTART=on the worker runs in a child process (`worker.processes.parent`).
"""

import gc

if __name__ == "__main__":
    # Almost all objects that the imports create stay in memory, so a garbage collection now would
    # only take time: with torch, a quarter of the start. `run_worker` enables the collector again.
    gc.disable()

import argparse
import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING, Any

from contract.allocator import start_trimming
from contract.catalogue import Catalogue, ModelEntry
from contract.errors import ContractError
from contract.guard import Resolver
from contract.heartbeats import Heartbeat
from contract.names import low_priority_queue
from contract.weights import WeightsScheme
from worker.brokers.factory import make_broker
from worker.brokers.receiver import LockRenewer, ModelQueue
from worker.brokers.replies import QueueReplies
from worker.clock import utc_now
from worker.heartbeats import Heartbeats, describe_model, describe_worker
from worker.inference.loaded_model import LoadedModel, ModelLoader
from worker.inference.loading import LoadProgress
from worker.inference.model_manager import ModelManager
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.memory import MemoryBudget
from worker.inputs.payloads import BlobPayloads
from worker.inputs.urls import UrlFetcher
from worker.memory.device_errors import is_device_lost, run_tiny_kernel
from worker.memory.reservation import ModelWorkload
from worker.memory.sharing import DeviceSharing
from worker.objects.factory import make_blob_store, make_stream_logs
from worker.pipeline.children import ChildServices
from worker.pipeline.consumer import Consumer
from worker.pipeline.deliveries import DeliveryNotes
from worker.pipeline.factory import SharedServices, make_consumer
from worker.processes.load_journal import LoadJournal, import_name
from worker.processes.lock_journal import LockJournals, WorkerDeath
from worker.processes.parent import STOP_SIGNALS, WATCHED_SIGNALS, run_in_child
from worker.processes.setup import keep_large_blocks, prefer_device_thread
from worker.processes.shutdown import EXIT_DEVICE_LOST, EXIT_RESTART, RestartNeeded, Shutdown
from worker.replies import GatewayClient, ReplyCache, ReplySenders
from worker.settings import ScheduledEventMode, WorkerSettings
from worker.stops import StopOrders
from worker.streams.store import WritableLogs
from worker.streams.writer import StreamWriter
from worker.telemetry.health import DeviceProbe, Loops, check_readiness
from worker.telemetry.health_server import HealthServer, check_page, metrics_page
from worker.telemetry.recording import JobTracing, Metrics, ModelTelemetry
from worker.telemetry.setup import configure_logs, flush, tracer_provider
from worker.weights.store import WeightsStore

if TYPE_CHECKING:
    from worker.processes.scheduled_events import ScheduledEvents

_log = logging.getLogger("worker")

# A worker fetches at most 64 inputs of a model at the same time. A look-up may take longer than the
# fetch that needs it.
_MAX_LOOK_UPS = 256
_MAX_LOOK_UPS_OF_A_SHARE = 64

_EXIT_USAGE = 2
_EXIT_PORT_BUSY = 98
_CLOSE_SECONDS = 2.0
_POLL_SECONDS = 0.02


class Worker:
    """Creates, starts and stops all components of a worker process."""

    def __init__(
        self,
        settings: WorkerSettings,
        shutdown: Shutdown,
        death: WorkerDeath | None = None,
    ) -> None:
        """Create all components. `start` starts their threads.

        Raises InvalidSetting if a setting is not valid, and OSError if the health port is in use.
        """
        catalogue = Catalogue.load(settings.catalogue)
        self._broker = make_broker(settings.broker, catalogue)
        self._settings = settings
        self._shutdown = shutdown
        self._stop_background = threading.Event()
        self._traces = tracer_provider(settings.trace_exporters)
        self._tracing = JobTracing(self._traces)
        self._metrics = Metrics()
        self._death = death
        self._journals = LockJournals(settings.lock_folder, death) if settings.lock_folder else None
        self._loads = LoadJournal(settings.lock_folder)
        gateway = GatewayClient(settings.reply_hosts, self._tracing.headers)
        resolver = Resolver(max_count=_MAX_LOOK_UPS, max_count_of_a_share=_MAX_LOOK_UPS_OF_A_SHARE)
        blobs = make_blob_store(settings.payload_storage)
        self._streams = StreamWriter(_stream_store(settings))
        self._started_at = utc_now()
        self._heartbeats = Heartbeats(blobs, settings.heartbeat_seconds, self._describe)
        self._publishing: threading.Thread | None = None
        senders = ReplySenders(gateway, QueueReplies(self._broker.open_sender, catalogue))
        payloads = BlobPayloads(blobs)
        self._services = SharedServices(
            # A client of its own, so that requests that wait do not use up the connections.
            children=ChildServices(
                GatewayClient(settings.reply_hosts, self._tracing.headers), catalogue, payloads
            ),
            gateway=gateway,
            senders=senders,
            cache=ReplyCache(),
            payloads=payloads,
            notes=DeliveryNotes(blobs),
            urls=UrlFetcher(settings.guard, resolver),
            large_inputs=MemoryBudget(settings.input_memory_bytes),
            decoders=DecoderProcesses(),
            locks=LockRenewer(),
            shutdown=shutdown,
            stops=StopOrders(blobs),
            streams=self._streams,
        )
        weights = WeightsStore.of(settings.weights, settings.guard, settings.payload_storage)
        self._loader = ModelLoader(weights, settings.torch_threads)
        self._sharing = DeviceSharing(settings.memory)
        self._metrics.watch_memory_used(lambda: self._sharing.used_bytes)
        self._metrics.watch_device(self._describe_device)
        models = _models(settings, catalogue)
        self._loads.take_over_notes([model.name for model in models])
        self._consumers = [self._consumer(model) for model in models]
        self._receiving: list[threading.Thread] = []
        self._running: list[threading.Thread] = []
        self._events = _make_scheduled_events(settings, shutdown)
        self._device = DeviceProbe(run_tiny_kernel, self._note_device_failure)
        self._loops = self._watched_loops()
        check = partial(check_readiness, self._states, self._device, lambda: shutdown.reason)
        pages = {
            "/live": check_page(self._loops.live),
            "/ready": check_page(partial(check, are_broken_allowed=False)),
            "/started": check_page(partial(check, are_broken_allowed=True)),
            "/metrics": metrics_page(self._metrics.exposition),
        }
        self._health = HealthServer(settings.health_host, settings.health_port, pages)

    def _consumer(self, model: ModelEntry) -> Consumer:
        """Create the consumer of a model, which receives and runs the model's jobs."""
        telemetry = ModelTelemetry(model.name, self._metrics, self._tracing)
        queues = self._queues(model)
        loading = LoadProgress(model.name, lambda: self._shutdown.is_requested)

        def make_manager(workload: ModelWorkload) -> ModelManager:
            return ModelManager(
                *(
                    model,
                    partial(self._load, loading),
                    self._sharing,
                    workload,
                    telemetry,
                    self._loads,
                ),
                self._settings.broken_model_seconds,
                loading,
            )

        queue_views = [self._broker.open_link(queue.name, model.lock_seconds) for queue in queues]
        return make_consumer(model, self._services, queues, telemetry, make_manager, queue_views)

    def _load(self, loading: LoadProgress, model: ModelEntry) -> LoadedModel:
        # If the load kills the process, this must not count against the job that runs meanwhile.
        with self._services.running.noting_load():
            return self._loader.load(model, loading)

    def _queues(self, model: ModelEntry) -> tuple[ModelQueue, ModelQueue]:
        broker, lock_seconds = self._broker, model.lock_seconds
        low, journals, locks = low_priority_queue(model.queue), self._journals, self._services.locks
        return (
            ModelQueue(model.queue, broker, locks, lock_seconds, journals=journals),
            ModelQueue(low, broker, locks, lock_seconds, is_low=True, journals=journals),
        )

    @property
    def health_port(self) -> int:
        """The port on which the health server listens."""
        return self._health.server_port

    def start(self) -> None:
        """Start all threads. They load the models and connect to the queues."""
        self._health.start()
        self._thread("lock-renewal", lambda: self._services.locks.run(self._stop_background))
        self._thread("stop-orders", lambda: self._services.stops.run(self._stop_background))
        self._thread("memory", lambda: self._sharing.run(self._stop_background))
        self._thread("device-probe", lambda: self._device.run(self._stop_background))
        if self._events is not None:
            self._events.start()
        self._publishing = self._thread("heartbeats", self._heartbeats.run)
        for consumer in self._consumers:
            self._running.append(self._thread(f"{consumer.name}-device", consumer.run_device))
            for queue in consumer.queues:
                receive = partial(consumer.run_queue, queue)
                self._receiving.append(self._thread(f"{queue.name}-receive", receive))

    def drain(self) -> None:
        """Stop receiving, finish the running jobs within the grace period, and close connections.

        Jobs that have not started are returned to their queues at once. Those that still run at the
        end of the grace period are abandoned.
        """
        ends_at = time.monotonic() + self._settings.drain_seconds
        self._heartbeats.publish()
        if self._events is not None:
            self._events.stop()
        for consumer in self._consumers:
            consumer.stop_receiving()
        if unfinished_count := self._wait_until_settled(ends_at):
            _log.warning(
                "the grace period is over: abandoning %d unfinished jobs", unfinished_count
            )
            for consumer in self._consumers:
                consumer.abandon_jobs()
            if left_count := self._wait_until_settled(time.monotonic() + _CLOSE_SECONDS):
                _log.warning(
                    "exiting with %d unsettled messages: the broker delivers them again, at the "
                    "latest when their locks expire",
                    left_count,
                )
        self._stop_background.set()
        self._heartbeats.close()
        closes_by = time.monotonic() + _CLOSE_SECONDS
        # The models are unloaded, so that a model can end what it has started.
        for thread in (*self._receiving, *self._running):
            thread.join(max(0.0, closes_by - time.monotonic()))
        self._services.notes.wait(max(0.0, closes_by - time.monotonic()))
        if self._publishing is not None:
            self._publishing.join(max(0.0, closes_by - time.monotonic()))
        self._streams.close()
        self._services.gateway.close()
        self._services.decoders.close()
        if self._events is not None:
            self._events.acknowledge()
        flush(self._traces)

    def _wait_until_settled(self, ends_at: float) -> int:
        """Wait until all messages are settled or `ends_at`. Return how many are not settled."""
        while (
            held_count := sum(consumer.in_flight.held_count for consumer in self._consumers)
        ) and time.monotonic() < ends_at:
            time.sleep(_POLL_SECONDS)
        return held_count

    def _thread(self, name: str, target: Callable[[], object]) -> threading.Thread:
        # A daemon thread: if a model's code never returns, the process still exits after the drain.
        guarded = self._loops.guarded(name, target)
        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _watched_loops(self) -> Loops:
        loops = Loops()
        loops.watch("lock-renewal", lambda: self._services.locks.iterated_at)
        loops.watch("memory", lambda: self._sharing.iterated_at)
        loops.watch("device-probe", lambda: self._device.iterated_at)
        for consumer in self._consumers:
            for queue in consumer.queues:
                iterated_at = partial(getattr, queue.receiver, "iterated_at")
                loops.watch(f"{queue.name}-receive", iterated_at)
        return loops

    def _states(self) -> dict[str, dict[str, Any]]:
        """Return the state of each model for the readiness probe, by the model's name.

        The low-priority queue need not be connected, because older deployments do not have it.
        """
        states = {}
        for consumer in self._consumers:
            manager, is_connected = consumer.manager, consumer.normal.receiver.is_connected
            is_loaded, is_standing_by = manager.loaded is not None, manager.is_standing_by
            states[consumer.name] = {
                "ready": (is_loaded or is_standing_by) and is_connected,
                "loaded": is_loaded,
                "standing_by": is_standing_by,
                "set_aside": manager.is_set_aside,
                "problem": manager.problem,
                "connected": is_connected,
                "low_connected": consumer.low.receiver.is_connected,
                "held": consumer.in_flight.held_count,
            }
        return states

    def _describe_device(self) -> dict[str, str]:
        info = self._sharing.info
        return asdict(info) if info else {}

    def _describe(self) -> Heartbeat:
        """Return a heartbeat that describes the current state of this worker."""
        return describe_worker(
            self._started_at,
            self._settings.heartbeat_seconds,
            self._sharing,
            [
                describe_model(
                    consumer.manager,
                    consumer.in_flight,
                    consumer.manager.telemetry,
                    consumer.concurrent,
                )
                for consumer in self._consumers
            ],
            is_draining=self._shutdown.is_requested,
            death=self._death,
        )

    def _note_device_failure(self, error: Exception) -> None:
        """Request shutdown if `error` means that the device is lost."""
        # The probe's own test computation has failed, so no second test computation is tried.
        if is_device_lost(error, lambda: False):
            self._shutdown.request("the device is lost", EXIT_DEVICE_LOST)


def _stream_store(settings: WorkerSettings) -> WritableLogs:
    if settings.stream_redis_url is None:
        return make_stream_logs(settings.payload_storage)
    from worker.streams.redis_streams import RedisStreamLogs  # noqa: PLC0415  only where needed

    return RedisStreamLogs(settings.stream_redis_url, settings.retention_hours * 3600)


def _make_scheduled_events(
    settings: WorkerSettings, shutdown: Shutdown
) -> "ScheduledEvents | None":
    if settings.scheduled_events.mode is ScheduledEventMode.OFF:
        return None
    # Its HTTP library, whose import takes 0.1 s, is imported only where needed.
    from worker.processes.scheduled_events import ScheduledEvents  # noqa: PLC0415

    return ScheduledEvents(settings.scheduled_events, shutdown.request)


def _models(settings: WorkerSettings, catalogue: Catalogue) -> list[ModelEntry]:
    # Two names may stand for the same version, such as NAME and NAME:1.
    models = list({catalogue.model(name): None for name in settings.models or catalogue})
    least = settings.lock_seconds
    return [replace(model, lock_seconds=max(model.lock_seconds, least)) for model in models]


def _shutdown_on_signals(*, is_child: bool) -> Shutdown:
    """Let SIGTERM and SIGINT request shutdown. Return the `Shutdown` object.

    A second signal ends this process at once, unless it is a child process: a signal to the process
    group reaches the child twice, from its sender and from the parent, which kills the child at its
    second signal.
    """
    shutdown, signals = Shutdown(), count(1)

    def on_signal(number: int, frame: FrameType | None) -> None:
        if next(signals) > 1 and not is_child:
            os._exit(128 + number)
        shutdown.request(f"received {signal.Signals(number).name}")

    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)
    # The parent has blocked these signals, so that none was lost between the fork and this line.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED_SIGNALS)
    return shutdown


def main() -> int:
    """Read the settings, run the worker until its shutdown has ended, and return the exit code."""
    argparse.ArgumentParser(
        prog="python -m worker",
        description="Runs jobs from the models' queues. All settings are environment variables.",
    ).parse_args()
    settings = WorkerSettings.from_env(os.environ)
    catalogue = Catalogue.load(settings.catalogue)
    models = _models(settings, catalogue)
    configure_logs(settings.log_level, settings.log_format)
    keep_large_blocks()
    prefer_device_thread(os.environ)
    if not settings.is_restarting:
        return run_worker(settings)
    loads = LoadJournal(settings.lock_folder)
    loads.take_over_notes()
    # A module whose import has killed a process is imported by the child only.
    modules = [
        model.implementation
        for model in models
        if not loads.killed_loads(import_name(model.implementation)).death_count
    ]
    # The worker imports these modules only when it first uses them. The parent imports them here.
    if settings.scheduled_events.mode is not ScheduledEventMode.OFF:
        modules += ["worker.processes.scheduled_events", "httpcore"]
    if any(model.weights.startswith(f"{WeightsScheme.HUB}:") for model in models):
        modules += ["worker.weights.hub", "httpcore"]
    modules += make_broker(settings.broker, catalogue).modules
    return run_in_child(
        *(partial(run_worker, settings), modules),
        lambda module: loads.noting_load(import_name(module)),
        loads.is_loading,
        has_spare=settings.has_spare,
    )


def run_worker(
    settings: WorkerSettings,
    parent: int | None = None,
    death: WorkerDeath | None = None,
) -> int:
    """Run the worker in this process, and return the exit code.

    `parent` is the process id of the parent process, and `death` how the previous worker died.
    """
    # The garbage collector does not have to look at the imported modules again. A child process
    # then also writes to fewer pages of memory, which it shares with its parent.
    gc.freeze()
    gc.enable()
    shutdown = _shutdown_on_signals(is_child=parent is not None)
    try:
        worker = Worker(settings, shutdown, death)
    except ContractError as problem:
        sys.stderr.write(f"{problem}\n")
        return _EXIT_USAGE
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.stderr.write(
            f"HEALTH_PORT: port {settings.health_port} is already in use; choose another port\n"
        )
        return _EXIT_PORT_BUSY
    worker.start()
    start_trimming()
    _log.info("the worker has started; its health server listens on port %d", worker.health_port)
    shutdown.wait()
    _log.info(
        "%s: shutting down; running jobs have %g s to finish; a second signal ends the worker at "
        "once",
        *(shutdown.reason, settings.drain_seconds),
    )
    worker.drain()
    _log.info("stopped")
    if shutdown.exit_code == EXIT_RESTART:
        raise RestartNeeded(shutdown.reason)
    return shutdown.exit_code


if __name__ == "__main__":
    try:
        code = main()
    except ContractError as problem:
        sys.stderr.write(f"{problem}\n")
        code = _EXIT_USAGE
    except RestartNeeded:
        code = EXIT_RESTART
    logging.shutdown()
    # Not sys.exit, which would wait for threads that a model's code or a network call still blocks.
    os._exit(code)
