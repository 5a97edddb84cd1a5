"""Share one device between the models of this process and the models of other processes."""

import hashlib
import importlib
import importlib.util
import logging
import threading
import time
from pathlib import Path

from contract.catalogue import ModelEntry
from worker.memory.admission import ReservationRecord, ReservationState
from worker.memory.device import CudaDevice, DeviceInfo, describe_device, require_cuda
from worker.memory.limits import DeviceLock
from worker.memory.profile import MemoryProfile, MemoryProfiles
from worker.memory.queued_work import QueuedWork
from worker.memory.reservation import (
    MemoryReservation,
    ModelWorkload,
    ReservationFile,
    SharedReservation,
    UnlimitedReservation,
)
from worker.memory.simulated_device import Device, MemoryAccount, SimulatedDevice
from worker.settings import MemorySettings

_log = logging.getLogger(__name__)

# The pause of the sharing thread while a model waits for memory, and while no model waits.
_BUSY_SECONDS = 0.1
_CALM_SECONDS = 0.5

# The share of the device's memory for the first batches of a model of unknown size.
_FIRST_BATCH_SHARE = 1 / 16


class DeviceSharing:
    """The device of this process, and the memory reservations of its models.

    The device is chosen when the first model is about to be loaded. A separate thread calls `run`.
    Any thread may call the other methods.
    """

    def __init__(self, settings: MemorySettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.device: Device | None = None
        """None without a device, or if it is not chosen yet."""
        self._reservations: list[SharedReservation] = []
        self.device_lock = DeviceLock()
        self.iterated_at = time.monotonic()
        self.info: DeviceInfo | None = None
        """A description of the device; None until the first model is about to be loaded."""

    @property
    def used_bytes(self) -> int:
        """How many bytes of device memory this process uses now; 0 without a device."""
        return self.device.used_bytes if self.device else 0

    def find_device(self, model: ModelEntry) -> Device | None:
        """Return the simulated device or the GPU of this process; None if there is neither.

        The model's file is imported first, because a GPU is used only if a model has imported
        torch. Raises DeviceMissing if the settings require a GPU, or any error of the import.
        """
        importlib.import_module(model.implementation)
        with self._lock:
            if self._settings.is_cuda_required:
                require_cuda()
            if self.device is None:
                self.device = self._find()
            info = describe_device(self.device.name if self.device else "cpu")
            if info != self.info:
                self.info = info
                _log.info(
                    "the device is %s: driver %s, CUDA %s, torch %s",
                    *(info.device, info.driver or "none", info.cuda or "none"),
                    info.torch or "none",
                )
            return self.device

    def reserve(
        self, model: ModelEntry, device: Device | None, workload: ModelWorkload
    ) -> MemoryReservation:
        """Return a new memory reservation for a model that is not loaded yet."""
        if device is None or not self._settings.is_admitting:
            return UnlimitedReservation(device.total_bytes if device else 0)
        profile = self.profiles(device).get(profile_key(model))
        size_bytes = needed_bytes(profile, model, device) if profile else model.memory_bytes or None
        if size_bytes is not None and size_bytes > device.total_bytes:
            _log.error(
                "%s: the model needs %d bytes, but the device has only %d bytes; "
                "the worker does not receive jobs for this model",
                *(model.name, size_bytes, device.total_bytes),
            )
        turn_seconds = self._settings.turn_seconds
        state = ReservationState(model.name, device.total_bytes, turn_seconds, size_bytes)
        file = ReservationFile(self._folder(device) / "claims", ReservationRecord(model.name))
        queued_work = QueuedWork(workload.queues, model.lock_seconds)
        reservation = SharedReservation(workload, file, state, queued_work)
        with self._lock:
            self._reservations.append(reservation)
        return reservation

    def profiles(self, device: Device) -> MemoryProfiles:
        """Return the store that contains the measured memory of models on this device."""
        return MemoryProfiles(self._folder(device) / "profiles")

    def run(self, stopping: threading.Event) -> None:
        """Update all reservations repeatedly until `stopping` is set."""
        pause_seconds = _CALM_SECONDS
        while not stopping.wait(pause_seconds):
            self.iterated_at = time.monotonic()
            with self._lock:
                reservations = list(self._reservations)
            try:
                for reservation in reservations:
                    # Each reservation may peek into its queues, which is slow while the broker
                    # cannot be reached.
                    self.iterated_at = time.monotonic()
                    reservation.update()
            except Exception:  # noqa: BLE001  this thread must not end
                _log.exception("updating the memory reservations failed; the worker tries again")
            is_calm = bool(reservations) and all(each.is_settled for each in reservations)
            pause_seconds = _CALM_SECONDS if is_calm else _BUSY_SECONDS

    def _find(self) -> Device | None:
        if self._settings.budget_bytes is not None:
            budget_bytes = self._settings.budget_bytes
            folder = self._settings.folder / SimulatedDevice.key / "account"
            return SimulatedDevice(MemoryAccount(folder, budget_bytes), budget_bytes)
        return CudaDevice.find(self._settings.card_shares)

    def _folder(self, device: Device) -> Path:
        return self._settings.folder / device.key


def profile_key(model: ModelEntry) -> str:
    """Return the key of a model's measured memory, from its catalogue entry and its code."""
    spec = importlib.util.find_spec(model.implementation)
    source = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    digest = hashlib.sha256(repr(model).encode() + source).hexdigest()
    return f"{model.name}-{digest[:16]}"


def needed_bytes(profile: MemoryProfile, model: ModelEntry, device: Device) -> int:
    """Return how many bytes to reserve for a model and a full batch, at most the whole device.

    The result is more than the device if a batch of one item needs more. It is an estimate if no
    batch was measured.
    """
    resident_bytes = profile.resident_bytes
    if not profile.peaks:
        if not resident_bytes:
            return model.memory_bytes
        batch_bytes = max(resident_bytes, int(device.total_bytes * _FIRST_BATCH_SHARE))
        guess_bytes = max(model.memory_bytes, resident_bytes + batch_bytes)
        return min(guess_bytes, max(device.total_bytes, resident_bytes))
    unit_cost, largest_cost = profile.peaks[0][0], profile.peaks[-1][0]
    full_bytes = profile.needed_bytes(max(unit_cost * model.max_batch_size, largest_cost))
    return min(full_bytes, max(device.total_bytes, profile.needed_bytes(unit_cost)))
