"""The whole worker: composes the parts, starts their threads, and drains them."""

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from azure.storage.blob import BlobServiceClient

from contract.catalogue import Catalogue, Model
from contract.errors import ContractError
from worker.consumer import Consumer, Services
from worker.errors import SettingsError
from worker.inference.loading import Loader
from worker.inputs.fetching import Fetcher
from worker.inputs.payloads import AzureBlobStore, Payloads
from worker.leaving import Leaving
from worker.memory.sharing import Sharing
from worker.messages.lease import Leases
from worker.messages.servicebus import check_endpoint
from worker.observed.health import Health, checked
from worker.outcomes.kept import KeptReplies
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

    def __init__(self, settings: Settings, leaving: Leaving) -> None:
        """Compose; SettingsError where a setting cannot be used, OSError for a busy port."""
        check_endpoint(settings.service_bus)
        self._leaving = leaving
        self._drain_seconds = settings.drain_seconds
        self._leases = Leases()
        self._leases_turned_at = time.monotonic()
        self._stop_leases = threading.Event()
        self._replies = Replies(settings.reply_hosts)
        outbound = Outbound(settings.guard)
        account = _account(settings)
        library = Library(settings.weights_cache, AzureBlobReader(account))
        self._loader = Loader(library, settings.torch_threads)
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
            load=self._loader.load,
            sharing=self._sharing,
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
        _thread("memory", lambda: self._sharing.run(self._stop_leases))
        for consumer in self._consumers:
            _thread(f"{consumer.name}-device", consumer.run_device)
            for line in consumer.lines.values():
                receive = partial(consumer.run_line, line)
                self._receiving.append(_thread(f"{line.queue}-receive", receive))

    def drain(self) -> bool:
        """Leave in the order that keeps the promises; returns whether nothing was left over.

        Nothing more is received and what has not started goes back at once. Locks are renewed
        until the last running job is replied and settled.
        """
        ends_at = time.monotonic() + self._drain_seconds
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
        return unfinished == 0

    def _wait_until_settled(self, ends_at: float) -> int:
        """How many messages are still held, 0 as soon as none is."""
        while (held := sum(c.held_count for c in self._consumers)) and time.monotonic() < ends_at:
            time.sleep(_POLL_SECONDS)
        return held

    def live(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether every loop has turned lately."""
        now = time.monotonic()
        lines = [line for consumer in self._consumers for line in consumer.lines.values()]
        turned = {f"{line.queue}-receive": line.receiver.turned_at for line in lines}
        turned["leases"] = self._leases_turned_at
        ages = {name: round(now - at, 1) for name, at in turned.items()}
        return max(ages.values()) < _STALLED_AFTER_SECONDS, {"seconds_since_turn": ages}

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether every model is loaded and its queue connected, and this worker stays.

        Queues of low priority do not count: older deployments have none.
        """
        models = {
            consumer.name: {
                "loaded": consumer.is_loaded,
                "standing_by": consumer.is_standing_by,
                "problem": self._loader.problem(consumer.name),
                "connected": consumer.normal.receiver.is_connected,
                "low_connected": consumer.low.receiver.is_connected,
                "held": consumer.held_count,
            }
            for consumer in self._consumers
        }
        details: dict[str, Any] = {"models": models}
        if self._leaving.is_asked:
            details["leaving"] = self._leaving.reason
        can_work = all(_can_work(m) for m in models.values())
        return can_work and not self._leaving.is_asked, details

    def _leases_turned(self) -> None:
        self._leases_turned_at = time.monotonic()


def _can_work(model: Mapping[str, Any]) -> bool:
    return bool((model["loaded"] or model["standing_by"]) and model["connected"])


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
