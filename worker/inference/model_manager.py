"""Load a model when memory is free, and unload the model when other models need the memory."""

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf
from typing import Any

from contract.catalogue import ModelEntry
from worker.errors import (
    LoadInterrupted,
    ModelBroken,
    ModelFailed,
    ModelKillsWorker,
    ModelUnusable,
    OutOfMemory,
    WorkerError,
)
from worker.inference.loaded_model import LoadedModel, NoParentJob
from worker.inference.loading import LoadProgress
from worker.inference.model_checks import ModelKind
from worker.memory.device_errors import (
    BudgetExceeded,
    error_chain,
    is_device_lost,
    is_out_of_memory,
)
from worker.memory.limits import BatchLimit, DeviceModel, MeasuredBatchLimit
from worker.memory.profile import MemoryProfile
from worker.memory.reservation import MemoryReservation, ModelWorkload, SharedReservation
from worker.memory.sharing import DeviceSharing, needed_bytes, profile_key
from worker.memory.simulated_device import Device
from worker.processes.load_journal import LoadJournal, import_name
from worker.retries import RetryDelays
from worker.telemetry.recording import ModelTelemetry

_log = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS = 30.0


class ModelManager:
    """Loads and unloads one model.

    Only the thread that runs the model may call `load` and `unload`. Any thread may call the other
    methods.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the worker that a model needs
        self,
        model: ModelEntry,
        load: Callable[[ModelEntry], LoadedModel],
        sharing: DeviceSharing,
        workload: ModelWorkload,
        telemetry: ModelTelemetry | None = None,
        journal: LoadJournal | None = None,
        refuse_after_seconds: float = 0.0,
        loading: LoadProgress | None = None,
    ) -> None:
        """Store the dependencies. The model is loaded later, by `load`, which tells `loading`.

        Jobs wait for `refuse_after_seconds` while the model is set aside. Then they are received
        and fail; if it is 0, they are never received.
        """
        self._model = model
        self._load = load
        self._sharing = sharing
        self._workload = workload
        self.telemetry = telemetry or ModelTelemetry(model.name)
        self._backoff = RetryDelays(first_seconds=1.0, limit_seconds=60.0)
        self.loaded: LoadedModel | None = None
        """The loaded model. It may be unloaded at any time, so read this attribute only once."""
        self._reservation: MemoryReservation | None = None
        self._device: Device | None = None
        self._resident_bytes = 0
        self.problem: dict[str, str] | None = None
        """Code and text of the error of the last load; None also while the model waits for memory.
        """
        self._journal = journal or LoadJournal(None)
        self._refuse_after_seconds = refuse_after_seconds
        self._loading = loading or LoadProgress(model.name)
        self._loading.request_reload = workload.request_unload
        self._set_aside_at: float | None = None
        self.is_loading = False
        """Whether the model is being loaded now, after its memory was reserved."""
        self.load_seconds: float | None = None
        """How long the last successful load took, in seconds; None before the first load."""
        self.limit = self._new_limit()

    def loaded_kind(self) -> ModelKind | None:
        """Return the kind of the loaded model; None while no model is loaded."""
        loaded = self.loaded
        return None if loaded is None else loaded.kind

    @property
    def loading_text(self) -> str | None:
        """What the load of the model does now; None without a load, or if it does not say."""
        return self._loading.message if self.is_loading else None

    @property
    def is_standing_by(self) -> bool:
        """Whether the model waits for memory of a shared device, after no failed load."""
        is_waiting = self.loaded is None and isinstance(self._reservation, SharedReservation)
        return is_waiting and self.problem is None

    @property
    def is_set_aside(self) -> bool:
        """Whether the model is broken: a load failed, but not because a service was down."""
        return self._set_aside_at is not None

    @property
    def refusal(self) -> ModelBroken | None:
        """The error with which jobs of the model fail; None if they may run or must wait."""
        problem, since = self.problem, self._set_aside_at
        if problem is None or since is None or not self._refuse_after_seconds:
            return None
        if time.monotonic() < since + self._refuse_after_seconds:
            return None
        return ModelBroken(
            f"the worker cannot load the model: {problem['code']}: {problem['detail']}; repair the "
            "model, and send the job again"
        )

    @property
    def reserved_bytes(self) -> int:
        """How many bytes of device memory are reserved for this model now."""
        return self._reservation.reserved_bytes if self._reservation else 0

    @property
    def has_device(self) -> bool:
        """Whether the model uses a GPU or the simulated device."""
        return self._device is not None

    @property
    def device_name(self) -> str:
        """The name of the device that runs the model; `cpu` if the process uses no GPU."""
        return self._device.name if self._device else "cpu"

    def admits(self) -> bool:
        """Return whether the worker may receive jobs for this model.

        False as soon as another model needs the memory, and while the worker loads models whose
        load may have killed a process. True if the jobs fail with the error `refusal`.
        """
        is_serving = (
            not (self._journal.suspects and self._journal.is_holding)
            and self.loaded is not None
            and self._reservation is not None
            and self._reservation.is_in
        )
        return is_serving or self.refusal is not None

    @property
    def must_unload(self) -> bool:
        """Whether the model must be unloaded, because another model needs its memory."""
        return self._reservation is not None and not self._reservation.is_in

    def release_device(self) -> AbstractContextManager[None]:
        """Let other models use the device while a job waits for the jobs of other models."""
        return self._sharing.device_lock.released()

    def touch(self) -> None:
        """Record that a message for this model was received, so the model is not idle."""
        if isinstance(self._reservation, SharedReservation):
            self._reservation.touch()

    def load(self, stopping: threading.Event) -> bool:
        """Wait until memory is reserved, and load the model. Repeat this until it succeeds.

        Return False if `stopping` was set before the model was loaded. Raises the error of a load
        if it means that the device is lost.
        """
        while not stopping.is_set():
            if pause_seconds := self._journal.killed_loads(self._model.name).pause_seconds:
                self._note_killer()
                stopping.wait(min(pause_seconds, _LONGEST_WAIT_SECONDS))
                continue
            self._journal.wait_for_suspects(self._model.name, stopping)
            try:
                with self._journal.noting_load(self._model.name):  # imports the module
                    reservation = self._reserve()
                reserved_bytes = reservation.wait_for_memory(stopping)
                if reserved_bytes is None:
                    break
                self._enter(reservation, reserved_bytes)
            except LoadInterrupted:
                stopping.wait(_LONGEST_WAIT_SECONDS)
            except (Exception, SystemExit) as error:
                # A model's code may raise anything, and may call sys.exit.
                if is_device_lost(error):
                    raise
                self._note_failure(error, stopping)
            else:
                return True
        if self._reservation is not None:
            # The model will not be loaded any more, so its reservation ends.
            self._reservation.record_failure(inf, None)
        return False

    def unload(self) -> None:
        """Unload the model, and free its memory. All its jobs must have ended."""
        loaded, self.loaded = self.loaded, None
        if loaded is None or self._reservation is None:
            return
        self._close(loaded)
        # The memory is only freed when the last reference to the model is gone.
        del loaded
        self.limit = self._new_limit()
        if self._device is not None:
            self._device.unload(self._resident_bytes)
        self._reservation.record_unload()
        self.telemetry.unloads.inc()
        _log.info("%s: the model was unloaded", self._model.name)

    def _close(self, loaded: LoadedModel) -> None:
        try:
            loaded.close()
        except Exception:  # noqa: BLE001  a model's code may raise anything
            _log.exception("%s: the model's method close raised an error", self._model.name)

    def _reserve(self) -> MemoryReservation:
        if self._reservation is None:
            self._device = self._sharing.find_device(self._model)
            self._reservation = self._sharing.reserve(self._model, self._device, self._workload)
        return self._reservation

    def _enter(self, reservation: MemoryReservation, reserved_bytes: int) -> None:
        started = time.monotonic()
        self._loading.begin()
        self.is_loading = True
        try:
            size_bytes = self._load_into(reservation, reserved_bytes)
        finally:
            self.is_loading = False
        self.load_seconds = time.monotonic() - started
        reservation.record_load(size_bytes, self.load_seconds)
        self.problem = None
        self._set_aside(is_broken=False)
        self._backoff.reset()
        self.telemetry.loads.inc()
        _log.info("%s: the model was loaded in %.1f s", self._model.name, self.load_seconds)

    def _load_into(self, reservation: MemoryReservation, reserved_bytes: int) -> int:
        """Load the model. Return its size in device memory in bytes, or 0 without a device."""
        with self._journal.noting_load(self._model.name):
            if self._device is None:
                self.loaded, self.limit = self._load_unmeasured(), self._new_limit()
                size_bytes = 0
            else:
                size_bytes = self._load_on(self._device, reservation, reserved_bytes)
        # The parent process may import the module again.
        for name in (self._model.name, import_name(self._model.implementation)):
            self._journal.end_load(name, has_succeeded=True)
        return size_bytes

    def _load_unmeasured(self) -> LoadedModel:
        loaded = self._load(self._model)
        try:
            run_sample(loaded)
        except BaseException:
            self._close(loaded)
            raise
        return loaded

    def _load_on(self, device: Device, reservation: MemoryReservation, reserved_bytes: int) -> int:
        device_lock, started = self._sharing.device_lock, time.monotonic()
        profiles, key = self._sharing.profiles(device), profile_key(self._model)
        profile = profiles.get(key)
        if profile is not None and needed_bytes(profile, self._model, device) > reserved_bytes:
            # Another process has measured the model in the meantime.
            raise BudgetExceeded(
                f"{reserved_bytes} bytes are reserved for the model, but an earlier measurement "
                "shows that the model needs more"
            )
        # A measurement would also include all other work on the device, so it needs exclusive use.
        access, limit_bytes = (
            (device_lock.exclusive(), reserved_bytes)
            if profile is None
            else (device_lock.shared(), None)
        )
        with access:
            loaded, resident_bytes = self._build_on(device, limit_bytes)
        measured = profile
        if measured is None:
            measured = MemoryProfile(resident_bytes, load_seconds=time.monotonic() - started)
        if loaded.has_fixed_memory:
            # No job has to run alone to be measured.
            measured = measured.with_peak(most_together(self._model, loaded.kind), 0)
        if measured != profile:
            profiles.put(key, measured)
        device_model = DeviceModel(device, loaded, measured, reserved_bytes)

        def save_measurement(device_model: DeviceModel) -> None:
            profiles.put(key, device_model.profile)
            wanted_bytes = needed_bytes(device_model.profile, self._model, device)
            least_bytes = device_model.profile.needed_bytes(device_model.profile.peaks[0][0])
            device_model.reserved_bytes = reservation.resize(wanted_bytes, least_bytes)

        record_split = self.telemetry.splits.inc
        limit = MeasuredBatchLimit(
            self._model.name, device_lock, device_model, save_measurement, record_split
        )
        try:
            warm_up(self._model, loaded, limit)
        except BaseException:
            self._close(loaded)
            device.unload(resident_bytes)
            raise
        self.loaded, self._resident_bytes, self.limit = loaded, resident_bytes, limit
        return needed_bytes(device_model.profile, self._model, device)

    def _build_on(self, device: Device, limit_bytes: int | None) -> tuple[LoadedModel, int]:
        """Load the model on the device, and close it if it is larger than `limit_bytes`."""
        built = list[LoadedModel]()

        def build() -> LoadedModel:
            built.append(self._load(self._model))
            return built[0]

        try:
            return device.load(build, limit_bytes)
        except BudgetExceeded:
            self._close(built.pop())
            raise

    def _next_reservation_bytes(self, device: Device) -> int:
        """Return the measured need after a load ran out of memory, or the whole device."""
        profile = self._sharing.profiles(device).get(profile_key(self._model))
        if profile is None or not profile.peaks:
            return device.total_bytes
        known_bytes = needed_bytes(profile, self._model, device)
        return known_bytes if known_bytes > self.reserved_bytes else device.total_bytes

    def _new_limit(self) -> BatchLimit:
        return BatchLimit(self._model.name, self._sharing.device_lock, self.telemetry.splits.inc)

    def _note_failure(self, error: BaseException, stopping: threading.Event) -> None:
        size_bytes: int | None = None
        if is_out_of_memory(error) and self._device is not None:
            size_bytes = self._next_reservation_bytes(self._device)
            has_all = self.reserved_bytes >= self._device.total_bytes
            too_large = OutOfMemory(f"the model does not fit into the device's memory: {error}")
            self.problem = _describe(too_large) if has_all else None
            self._set_aside(is_broken=has_all)
            _log.warning(
                "%s: loading the model ran out of memory; the worker tries again: %s",
                *(self._model.name, error),
            )
        else:
            failed = ModelFailed.from_error(self._model.implementation, error)
            problem = error if isinstance(error, ModelUnusable) else failed
            self.problem = _describe(problem)
            self._set_aside(is_broken=not problem.retryable)
            _log.error(
                "%s: loading the model failed; the worker tries again: %s",
                self._model.name,
                problem,
                # The traceback of our own error would say nothing about the model.
                exc_info=None if problem is error and error.__cause__ is None else error,
            )
        if self.problem:
            self.telemetry.record_load_failure(self.problem["code"])
        self._journal.end_load(self._model.name, has_succeeded=False)
        for cause in error_chain(error):
            # The frames of the traceback reference the partly built network.
            traceback.clear_frames(cause.__traceback__)
        if self._device is not None:
            self._device.release_cached()
        # If only memory is missing, the model waits for memory and needs no further delay.
        retry_seconds = self._backoff.next() if self.problem else 0.0
        if self._reservation is None:
            stopping.wait(retry_seconds)
        else:
            self._reservation.record_failure(retry_seconds, size_bytes)

    def _note_killer(self) -> None:
        """Record that the model is set aside, because its loads have killed processes."""
        killed = self._journal.killed_loads(self._model.name)
        error = ModelKillsWorker(
            f"loading {self._model.implementation} has killed the worker {killed.death_count} "
            "times in a row"
        )
        if not self.is_set_aside:
            self.telemetry.record_load_failure(error.code)
            _log.error(
                "%s: %s; the worker does not load the model now, and tries again in %.0f s",
                *(self._model.name, error, killed.pause_seconds),
            )
        self.problem = _describe(error)
        self._set_aside(is_broken=True)

    def _set_aside(self, *, is_broken: bool) -> None:
        if not is_broken:
            self._set_aside_at = None
        elif self._set_aside_at is None:
            self._set_aside_at = time.monotonic()


def _describe(error: WorkerError) -> dict[str, str]:
    return {"code": error.code, "detail": str(error)}


def warm_up(model: ModelEntry, loaded: LoadedModel, limit: MeasuredBatchLimit) -> None:
    """Run the example item in batches of 1, 2, 4 … items, to measure the memory of each batch.

    Stop at the first batch that does not fit into memory. Skip batches whose memory is known,
    except the batch of one item, because the first batch of a model is slow. Do nothing if the
    model has no example item. Raises any error that the model raises for a batch of one item.
    """
    sample = loaded.sample()
    if sample is None:
        return
    unit_cost = loaded.cost(sample)
    for count in batch_sizes(most_together(model, loaded.kind)):
        cost = unit_cost * count
        is_measured = limit.is_measured(cost)
        if is_measured and count > 1:
            continue
        if cost > limit.fitting_cost:
            _log.info(
                "%s: batches of %d items would not fit into memory; smaller batches are used",
                model.name,
                count,
            )
            return
        try:
            with limit.admit_batch(cost) if is_measured else limit.try_batch(cost):
                _run(loaded, [sample] * count)
        except Exception as error:
            if count == 1 or not is_out_of_memory(error):
                raise
            limit.note_exceeded(cost, cost / 2)
            return


def run_sample(loaded: LoadedModel) -> None:
    """Run the model's example item once, if it has one, because the first run is slow."""
    if (sample := loaded.sample()) is not None:
        _run(loaded, [sample])


def _run(loaded: LoadedModel, batch: list[Any]) -> None:
    # An example item warms up the model until it would run jobs of other models.
    with contextlib.suppress(NoParentJob):
        loaded.call_without_jobs(batch)


def most_together(model: ModelEntry, kind: ModelKind) -> int:
    """Return how many jobs of the model may run together."""
    return model.max_concurrent_jobs if kind is ModelKind.CONCURRENT else model.max_batch_size


def batch_sizes(largest: int) -> list[int]:
    """Return 1, 2, 4 … up to the largest size."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest})
