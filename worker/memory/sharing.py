"""How this process shares its device: with its own models, and with other processes."""

import hashlib
import importlib
import importlib.util
import logging
import threading
import time
from pathlib import Path

from contract.catalogue import Model
from worker.memory.budget import Account, Budget
from worker.memory.cuda import Card
from worker.memory.device import Device
from worker.memory.gate import Gate
from worker.memory.ledger import Claim, Ledger
from worker.memory.pending import Pending
from worker.memory.place import Occupant, OpenPlace, Place, SharedPlace
from worker.memory.profile import Profile, Profiles
from worker.memory.seat import Seat
from worker.memory.settings import MemorySettings

_log = logging.getLogger(__name__)

# While somebody waits for memory, and while nobody does.
_BUSY_SECONDS = 0.1
_CALM_SECONDS = 0.5

# What a model's first batches may take, where nothing is known of them.
_FIRST_BATCH_SHARE = 1 / 16


class Sharing:
    """The device of this process, found when the first model is about to be loaded. Any thread."""

    def __init__(self, settings: MemorySettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._device: Device | None = None
        self._places: list[SharedPlace] = []
        self.gate = Gate()
        self.turned_at = time.monotonic()

    @property
    def used_bytes(self) -> int:
        """What this process has taken of its device; 0 before it has one."""
        return self._device.used_bytes if self._device else 0

    def find_device(self, model: Model) -> Device | None:
        """The device that this model runs on; None where its memory is nobody's concern.

        Imports the model's file, to see whether it uses torch; raises whatever that raises.
        """
        importlib.import_module(model.implementation)
        with self._lock:
            if self._device is None:
                self._device = self._find()
            return self._device

    def place(self, model: Model, device: Device | None, occupant: Occupant) -> Place:
        """A place for this model; the model is not in it yet."""
        if device is None or not self._settings.is_admitting:
            return OpenPlace(device.total_bytes if device else 0)
        profile = self.profiles(device).get(profile_key(model))
        needed_bytes = needed(profile, model, device) if profile else model.memory_bytes or None
        if needed_bytes is not None and needed_bytes > device.total_bytes:
            _log.error(
                "%s: needs %d bytes of %d that the device has: its queue is left alone",
                *(model.name, needed_bytes, device.total_bytes),
            )
        seat = Seat(model.name, device.total_bytes, self._settings.turn_seconds, needed_bytes)
        ledger = Ledger(self._folder(device) / "claims", Claim(model.name))
        place = SharedPlace(occupant, ledger, seat, Pending(occupant.windows, model.lock_seconds))
        with self._lock:
            self._places.append(place)
        return place

    def profiles(self, device: Device) -> Profiles:
        """What is known of the sizes of models on this device."""
        return Profiles(self._folder(device) / "profiles")

    def run(self, stopping: threading.Event) -> None:
        """The thread: turn all places until told to stop."""
        pause_seconds = _CALM_SECONDS
        while not stopping.wait(pause_seconds):
            self.turned_at = time.monotonic()
            with self._lock:
                places = list(self._places)
            try:
                for place in places:
                    # Each may look into its queues, which takes its time while the broker is away.
                    self.turned_at = time.monotonic()
                    place.turn()
            except Exception:  # noqa: BLE001  the process's edge: this thread must outlive a defect
                _log.exception("sharing the device failed, and goes on")
            calm = bool(places) and all(place.is_settled for place in places)
            pause_seconds = _CALM_SECONDS if calm else _BUSY_SECONDS

    def _find(self) -> Device | None:
        if self._settings.budget_bytes is not None:
            folder = self._settings.folder / Budget.key / "account"
            return Budget(Account(folder, self._settings.budget_bytes), self._settings.budget_bytes)
        return Card.find(self._settings.card_shares)

    def _folder(self, device: Device) -> Path:
        return self._settings.folder / device.key


def profile_key(model: Model) -> str:
    """Names the sizes of a model: of another entry, other weights or other code they may differ."""
    spec = importlib.util.find_spec(model.implementation)
    source = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    digest = hashlib.sha256(repr(model).encode() + source).hexdigest()
    return f"{model.name}-{digest[:16]}"


def needed(profile: Profile, model: Model, device: Device) -> int:
    """What to reserve: enough for full batches, or for the largest that the device can hold."""
    if not profile.peaks:
        return _guessed(profile.resident_bytes, model, device)
    unit_cost, largest_cost = profile.peaks[0][0], profile.peaks[-1][0]
    full_bytes = profile.needed_bytes(max(unit_cost * model.max_batch_size, largest_cost))
    return min(full_bytes, max(device.total_bytes, profile.needed_bytes(unit_cost)))


def _guessed(resident_bytes: int, model: Model, device: Device) -> int:
    """What to reserve until the first batches are measured."""
    if not resident_bytes:
        return model.memory_bytes
    room_bytes = max(resident_bytes, int(device.total_bytes * _FIRST_BATCH_SHARE))
    guess_bytes = max(model.memory_bytes, resident_bytes + room_bytes)
    return min(guess_bytes, max(device.total_bytes, resident_bytes))
