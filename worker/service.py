"""The whole worker: composes the parts, starts their threads, and drains them."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from azure.storage.blob import BlobServiceClient

from contract.catalogue import Catalogue, Model
from contract.errors import ContractError
from worker.consumer import Consumer, Services
from worker.errors import SettingsError
from worker.inference.loading import Loader
from worker.inputs.fetching import Fetcher
from worker.inputs.payloads import AzureBlobStore, Payloads
from worker.messages.lease import Leases
from worker.messages.servicebus import check_endpoint
from worker.observed.health import Health, checked
from worker.outcomes.outlets import Outlets, ReplyQueues, Webhooks
from worker.outcomes.replies import Replies
from worker.remote.outbound import Outbound
from worker.remote.storage import storage_account
from worker.settings import Settings
from worker.weights.library import Library
from worker.weights.source import AzureBlobReader

_log = logging.getLogger(__name__)

# The longest that a loop may rest on one call: the SDK waits 60 s for a broker gone silent.
_STALLED_AFTER_SECONDS = 90.0
_CLOSE_SECONDS = 2.0
_POLL_SECONDS = 0.02


class Worker:
    """Everything that one worker process does."""

    def __init__(self, settings: Settings) -> None:
        """Compose; SettingsError where a setting cannot be used, OSError for a busy port."""
        check_endpoint(settings.service_bus)
        self._drain_seconds = settings.drain_seconds
        self._leases = Leases()
        self._leases_turned_at = time.monotonic()
        self._stop_leases = threading.Event()
        self._replies = Replies(settings.reply_hosts)
        outbound = Outbound(settings.guard)
        account = _account(settings)
        library = Library(settings.weights_cache, AzureBlobReader(account))
        self._loader = Loader(library, settings.torch_threads)
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
            load=self._loader.load,
        )
        self._consumers = [Consumer(model, services) for model in _models(settings)]
        pages = {"/live": checked(self.live), "/ready": checked(self.ready)}
        self._health = Health(settings.health_host, settings.health_port, pages)
        self._receiving: list[threading.Thread] = []

    @property
    def health_port(self) -> int:
        """The port that health answers on."""
        return self._health.server_port

    def start(self) -> None:
        """Start every thread; models load while the queues connect."""
        self._health.start()
        _thread("leases", lambda: self._leases.run(self._stop_leases, self._leases_turned))
        for consumer in self._consumers:
            _thread(f"{consumer.name}-device", consumer.run_device)
            self._receiving.append(_thread(f"{consumer.name}-receive", consumer.run_receiver))

    def drain(self) -> bool:
        """Leave in the order that keeps the promises; returns whether nothing was left over.

        Nothing more is received and what has not started goes back at once. Locks are renewed
        until the last running job is replied and settled.
        """
        ends_at = time.monotonic() + self._drain_seconds
        for consumer in self._consumers:
            consumer.stop()
        while (held := sum(c.held_count for c in self._consumers)) and time.monotonic() < ends_at:
            time.sleep(_POLL_SECONDS)
        self._stop_leases.set()
        closes_by = min(time.monotonic() + _CLOSE_SECONDS, max(ends_at, time.monotonic()))
        for thread in self._receiving:
            thread.join(max(0.0, closes_by - time.monotonic()))
        self._replies.close()
        if held:
            _log.warning("leaving with %d jobs unfinished: their locks run out", held)
        return held == 0

    def live(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether every loop has turned lately."""
        now = time.monotonic()
        turned = {f"{c.name}-receive": c.receiver.turned_at for c in self._consumers}
        turned["leases"] = self._leases_turned_at
        ages = {name: round(now - at, 1) for name, at in turned.items()}
        return max(ages.values()) < _STALLED_AFTER_SECONDS, {"seconds_since_turn": ages}

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether every model is loaded and its queue connected."""
        models = {
            consumer.name: {
                "loaded": consumer.is_loaded,
                "problem": self._loader.problem(consumer.name),
                "connected": consumer.receiver.is_connected,
                "held": consumer.held_count,
            }
            for consumer in self._consumers
        }
        return all(m["loaded"] and m["connected"] for m in models.values()), {"models": models}

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


def _thread(name: str, target: Any) -> threading.Thread:
    # Daemons: what is stuck in a model's code must not keep the process past its drain.
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
