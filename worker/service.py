"""The whole worker: composes the parts, starts their threads, and drains them."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from azure.storage.blob import BlobServiceClient

from contract.catalogue import Catalogue, Model
from contract.errors import ContractError
from worker.consumer import Consumer, Services
from worker.errors import SettingsError
from worker.inference.loading import Loader
from worker.inference.lost_device import is_device_lost, run_tiny_kernel
from worker.inputs.fetching import Fetcher
from worker.inputs.payloads import AzureBlobStore, Payloads
from worker.leaving import EXIT_DEVICE_LOST, Leaving
from worker.memory.sharing import Sharing
from worker.messages.lease import Leases
from worker.messages.servicebus import check_endpoint
from worker.notices import Notices
from worker.observed.exporting import flush, tracer_provider
from worker.observed.health import Health, checked, scraped
from worker.observed.metrics import Metrics
from worker.observed.probes import Loops, Readiness
from worker.observed.pulse import Pulse
from worker.observed.tracing import Tracing
from worker.outcomes.kept import KeptReplies
from worker.outcomes.outlets import Outlets, ReplyQueues, Webhooks
from worker.outcomes.replies import Replies
from worker.remote.outbound import Outbound
from worker.remote.storage import storage_account
from worker.settings import Settings
from worker.weights.library import Library
from worker.weights.source import AzureBlobReader

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
_POLL_SECONDS = 0.02


class Worker:
    """Everything that one worker process does."""

    def __init__(self, settings: Settings, leaving: Leaving) -> None:
        """Compose; SettingsError where a setting cannot be used, OSError for a busy port."""
        check_endpoint(settings.service_bus)
        self._leaving = leaving
        self._drain_seconds = settings.drain_seconds
        self._leases = Leases()
        self._leases_turned_at = time.monotonic()
        self._stop_leases = threading.Event()
        self._traces = tracer_provider(settings.trace_exporters)
        tracing = Tracing(self._traces)
        self._replies = Replies(settings.reply_hosts, tracing.headers)
        outbound = Outbound(settings.guard)
        account = _account(settings)
        library = Library(settings.weights_cache, AzureBlobReader(account))
        loader = Loader(library, settings.torch_threads)
        self._sharing = Sharing(settings.memory)
        services = Services(
            service_bus=settings.service_bus,
            leases=self._leases,
            payloads=Payloads(AzureBlobStore(account)),
            replies=self._replies,
            outlets=Outlets(
                self._replies,
                ReplyQueues(settings.service_bus, _catalogue(settings)),
                Webhooks(outbound, settings.webhook_secrets),
            ),
            fetcher=Fetcher(outbound),
            kept=KeptReplies(),
            leaving=leaving,
            load=loader.load,
            sharing=self._sharing,
            metrics=Metrics(),
            tracing=tracing,
        )
        services.metrics.watch_memory_used(lambda: self._sharing.used_bytes)
        self._consumers = [Consumer(model, services) for model in _models(settings)]
        self._receiving: list[threading.Thread] = []
        self._notices = Notices(settings.notices, leaving.ask)
        self._pulse = Pulse(run_tiny_kernel, self._device_failed)
        self._loops = self._watched_loops()
        readiness = Readiness(self._states, self._pulse, lambda: leaving.reason)
        pages = {
            "/live": checked(self._loops.live),
            "/ready": checked(readiness.ready),
            "/metrics": scraped(services.metrics.exposition),
        }
        self._health = Health(settings.health_host, settings.health_port, pages)

    @property
    def health_port(self) -> int:
        """The port that health answers on."""
        return self._health.server_port

    def start(self) -> None:
        """Start every thread; models load while the queues connect."""
        self._health.start()
        self._thread("leases", lambda: self._leases.run(self._stop_leases, self._leases_turned))
        self._thread("memory", lambda: self._sharing.run(self._stop_leases))
        self._thread("pulse", lambda: self._pulse.run(self._stop_leases))
        self._notices.start()
        for consumer in self._consumers:
            self._thread(f"{consumer.name}-device", consumer.run_device)
            for line in consumer.lines.values():
                receive = partial(consumer.run_line, line)
                self._receiving.append(self._thread(f"{line.queue}-receive", receive))

    def drain(self) -> bool:
        """Leave in the order that keeps the promises; returns whether nothing was left over.

        Nothing more is received and what has not started goes back at once. Locks are renewed
        until the last running job is replied and settled.
        """
        ends_at = time.monotonic() + self._drain_seconds
        self._notices.stop()
        for consumer in self._consumers:
            consumer.stop()
        unfinished = self._wait_until_settled(ends_at)
        if unfinished:
            _log.warning("the grace is over: giving %d unfinished jobs back", unfinished)
            for consumer in self._consumers:
                consumer.give_up()
            if left := self._wait_until_settled(time.monotonic() + _CLOSE_SECONDS):
                _log.warning("leaving with %d jobs unsettled: their locks run out", left)
        self._stop_leases.set()
        closes_by = time.monotonic() + _CLOSE_SECONDS
        for thread in self._receiving:
            thread.join(max(0.0, closes_by - time.monotonic()))
        self._replies.close()
        self._notices.acknowledge()
        flush(self._traces)
        return unfinished == 0

    def _wait_until_settled(self, ends_at: float) -> int:
        """How many messages are still held, 0 as soon as none is."""
        while (held := sum(c.held_count for c in self._consumers)) and time.monotonic() < ends_at:
            time.sleep(_POLL_SECONDS)
        return held

    def _thread(self, name: str, target: Callable[[], object]) -> threading.Thread:
        # Daemons: what is stuck in a model's code must not keep the process past its drain.
        guarded = self._loops.guarded(name, target)
        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _watched_loops(self) -> Loops:
        loops = Loops()
        loops.watch("leases", lambda: self._leases_turned_at)
        loops.watch("memory", lambda: self._sharing.turned_at)
        loops.watch("pulse", lambda: self._pulse.turned_at)
        for consumer in self._consumers:
            for line in consumer.lines.values():
                loops.watch(f"{line.queue}-receive", partial(getattr, line.receiver, "turned_at"))
        return loops

    def _states(self) -> dict[str, dict[str, Any]]:
        """What is known of each model.

        Queues of low priority do not count: older deployments have none.
        """
        return {
            consumer.name: {
                "ready": (consumer.is_loaded or consumer.is_standing_by)
                and consumer.normal.receiver.is_connected,
                "loaded": consumer.is_loaded,
                "standing_by": consumer.is_standing_by,
                "problem": consumer.problem,
                "connected": consumer.normal.receiver.is_connected,
                "low_connected": consumer.low.receiver.is_connected,
                "held": consumer.held_count,
            }
            for consumer in self._consumers
        }

    def _device_failed(self, error: Exception) -> None:
        """A kernel of ours failed, so there is nothing more to ask."""
        if is_device_lost(error, lambda: False):
            self._leaving.ask("the device is lost", EXIT_DEVICE_LOST)

    def _leases_turned(self) -> None:
        self._leases_turned_at = time.monotonic()


def _catalogue(settings: Settings) -> Catalogue:
    try:
        return Catalogue.load(settings.catalogue)
    except ContractError as error:
        raise SettingsError(str(error)) from None


def _models(settings: Settings) -> list[Model]:
    catalogue = _catalogue(settings)
    try:
        return [catalogue.model(name) for name in settings.models or catalogue]
    except ContractError as error:
        raise SettingsError(str(error)) from None


def _account(settings: Settings) -> BlobServiceClient:
    try:
        return storage_account(settings.payload_storage)
    # The text would repeat the connection string.
    except ValueError:
        raise SettingsError("PAYLOAD_STORAGE: cannot be used as a connection string") from None
