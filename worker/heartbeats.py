"""Publish the state of this worker as a small blob, which gateways read.

A separate thread overwrites the blob at a fixed interval, so that heartbeats do not delay jobs. A
failed write is not repeated. `contract.heartbeats` defines the content.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import contract
from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, encode_heartbeat
from contract.media import JSON
from contract.names import heartbeat_blob
from worker.inference.model_checks import ModelKind
from worker.inference.model_manager import ModelManager
from worker.memory.sharing import DeviceSharing
from worker.objects.port import BlobStore, ObjectsUnavailable
from worker.pipeline.concurrent import ConcurrentRuns
from worker.pipeline.receive import InFlight
from worker.processes.lock_journal import WorkerDeath
from worker.processes.setup import worker_name
from worker.telemetry.recording import ModelTelemetry, ServiceStatus

TIMEOUT_SECONDS: Final = 5.0
"""How long one request to blob storage may take."""

_log = logging.getLogger(__name__)


class Heartbeats:
    """Writes this worker's heartbeat at a fixed interval. A separate thread must call `run`."""

    def __init__(
        self, store: BlobStore, interval_seconds: float, describe: Callable[[], Heartbeat]
    ) -> None:
        """Store the dependencies. With the interval 0, no heartbeats are written."""
        self._store = store
        self._interval_seconds = interval_seconds
        self._describe = describe
        self._status = ServiceStatus("blob storage for heartbeats")
        self._changed = threading.Event()
        self._is_closed = False
        self._blob = heartbeat_blob(worker_name())

    def run(self) -> None:
        """Write heartbeats until `close` is called, then delete the heartbeat's blob."""
        while self._interval_seconds and not self._is_closed:
            self._call(self._write)
            self._changed.wait(self._interval_seconds)
            self._changed.clear()
        if self._interval_seconds:
            self._call(lambda: self._store.delete(self._blob, TIMEOUT_SECONDS))

    def publish(self) -> None:
        """Make `run` write a heartbeat now, because the state of the worker has changed."""
        self._changed.set()

    def close(self) -> None:
        """Make `run` delete the blob and return."""
        self._is_closed = True
        self._changed.set()

    def _write(self) -> None:
        data = encode_heartbeat(self._describe())
        self._store.write(self._blob, data, JSON, TIMEOUT_SECONDS)

    def _call(self, request: Callable[[], None]) -> None:
        try:
            request()
        except (ObjectsUnavailable, OSError) as error:
            self._status.mark_down(str(error))
        except Exception:  # noqa: BLE001  the worker must go on
            _log.exception("the heartbeat could not be written or deleted")
        else:
            self._status.mark_up()


def describe_worker(  # noqa: PLR0913 - what a heartbeat contains
    started_at: datetime,
    interval_seconds: float,
    sharing: DeviceSharing,
    models: Iterable[ModelHeartbeat],
    *,
    is_draining: bool,
    death: WorkerDeath | None = None,
) -> Heartbeat:
    """Return the heartbeat of this process, which may replace one that has died."""
    device = sharing.device
    return Heartbeat(
        worker=worker_name(),
        version=contract.VERSION,
        started_at=started_at,
        interval_seconds=interval_seconds,
        is_draining=is_draining,
        device=device.name if device else "cpu",
        total_bytes=device.total_bytes if device else None,
        used_bytes=device.used_bytes if device else None,
        models=tuple(models),
        replaced=death.worker if death else None,
        death=death.description if death else None,
    )


def describe_model(
    manager: ModelManager,
    in_flight: InFlight,
    telemetry: ModelTelemetry,
    concurrent: ConcurrentRuns | None = None,
) -> ModelHeartbeat:
    """Return the heartbeat's information about one model. `concurrent` has its running jobs."""
    problem = manager.problem
    if manager.loaded is not None:
        state = ModelState.LOADED
    elif problem is not None:
        state = ModelState.BROKEN
    elif manager.is_standing_by and not manager.is_loading:
        state = ModelState.UNLOADED
    else:
        state = ModelState.LOADING
    runs = concurrent if manager.loaded_kind() is ModelKind.CONCURRENT else None
    return ModelHeartbeat(
        name=telemetry.model,
        state=state,
        code=problem["code"] if problem else None,
        reason=problem["detail"] if problem else None,
        load_seconds=manager.load_seconds,
        in_flight=in_flight.held_count,
        batch_size=telemetry.last_batch_size,
        device_bytes=manager.reserved_bytes if manager.has_device else None,
        concurrent_jobs=runs.count if runs else None,
        max_concurrent_jobs=runs.model.max_concurrent_jobs if runs else None,
        streams=in_flight.stream_count,
        loading=manager.loading_text,
    )
