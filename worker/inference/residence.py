"""A model's stay in memory: it comes when there is room, is measured, and goes to make room."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Any, Protocol

from contract.catalogue import Model
from worker.errors import ModelFailed, ModelUnusable, OutOfMemory, WorkerError
from worker.inference.lost_device import causes, is_device_lost
from worker.inference.runner import Runner
from worker.inference.warmup import run_once, warm_up
from worker.memory.allowance import Allowance, MeasuredAllowance, Residency
from worker.memory.device import Device
from worker.memory.errors import BudgetExceeded, is_out_of_memory
from worker.memory.place import Occupant, Place, SharedPlace
from worker.memory.profile import Profile
from worker.memory.sharing import Sharing, needed, profile_key
from worker.remote.backoff import Backoff

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Who counts what becomes of a model."""

    def loaded(self) -> None:
        """The model was loaded."""
        ...

    def unloaded(self) -> None:
        """The model was unloaded."""
        ...

    def split(self) -> None:
        """A batch was too much for the memory."""
        ...

    def batch(self, jobs: Sequence[Any]) -> AbstractContextManager[None]:
        """Around each pass of the model, with the jobs that are in it."""
        ...


class _Nobody:
    """See Observer."""

    def loaded(self) -> None:
        """See Observer."""

    def unloaded(self) -> None:
        """See Observer."""

    def split(self) -> None:
        """See Observer."""

    def batch(self, jobs: Sequence[Any]) -> AbstractContextManager[None]:
        """See Observer."""
        return nullcontext()


class Residence:
    """One model's. `runner` is there while it is loaded. `enter` and `leave` are the device's."""

    def __init__(
        self,
        model: Model,
        load: Callable[[Model], Runner],
        sharing: Sharing,
        occupant: Occupant,
        observer: Observer | None = None,
    ) -> None:
        self._model = model
        self._load = load
        self._sharing = sharing
        self._occupant = occupant
        self.observer: Observer = observer or _Nobody()
        self._backoff = Backoff(first_seconds=1.0, limit_seconds=60.0)
        self._runner: Runner | None = None
        self._place: Place | None = None
        self._device: Device | None = None
        self._resident_bytes = 0
        self._problem: dict[str, str] | None = None
        self.allowance = Allowance(model.name, sharing.gate, self.observer.split)

    @property
    def runner(self) -> Runner | None:
        """The loaded model. It may come and go: take it once for what belongs together."""
        return self._runner

    @property
    def is_standing_by(self) -> bool:
        """Whether the model is not loaded only because others have the memory, and will be."""
        waits = self._runner is None and isinstance(self._place, SharedPlace)
        return waits and self._problem is None

    @property
    def problem(self) -> dict[str, str] | None:
        """Why it could not be loaded when last tried, where that may be so again; else None."""
        return self._problem

    @property
    def reserved_bytes(self) -> int:
        """What is reserved of the device for this model now."""
        return self._place.reserved_bytes if self._place else 0

    def admits(self) -> bool:
        """See Admission: jobs may be received once the model can be called, until it is to go."""
        return self._runner is not None and self._place is not None and self._place.is_in

    def touch(self) -> None:
        """A message came."""
        if isinstance(self._place, SharedPlace):
            self._place.touch()

    def enter(self, stopping: threading.Event) -> bool:
        """Wait for memory and load, trying on until it works; False where the worker leaves."""
        while not stopping.is_set():
            try:
                place = self._find_place()
                held_bytes = place.wait(stopping)
                if held_bytes is None:
                    break
                self._enter(place, held_bytes)
            except (Exception, SystemExit) as error:
                # A model's code may raise anything, and exit.
                if is_device_lost(error):
                    raise
                self._fail(error, stopping)
            else:
                return True
        if self._place is not None:
            # It loads nothing any more: what it waits for is free for others.
            self._place.failed(inf, None)
        return False

    def leave(self) -> None:
        """Unload the model. Nothing of it may be in use."""
        runner, self._runner = self._runner, None
        if runner is None or self._place is None:
            return
        self._close(runner)
        # Whoever keeps the runner keeps its memory.
        del runner
        self.allowance = self._unmeasured()
        if self._device is not None:
            self._device.unload(self._resident_bytes)
        self._place.left()
        self.observer.unloaded()
        _log.info("%s: unloaded", self._model.name)

    def _close(self, runner: Runner) -> None:
        try:
            runner.close()
        except Exception:  # noqa: BLE001  the edge: a model's code may raise anything
            _log.exception("%s: closing the model failed", self._model.name)

    def _find_place(self) -> Place:
        if self._place is None:
            self._device = self._sharing.find_device(self._model)
            self._place = self._sharing.place(self._model, self._device, self._occupant)
        return self._place

    def _enter(self, place: Place, held_bytes: int) -> None:
        begun = time.monotonic()
        if self._device is None:
            self._runner, self.allowance = self._load_anywhere(), self._unmeasured()
            needed_bytes = 0
        else:
            needed_bytes = self._load_on(self._device, place, held_bytes)
        seconds = time.monotonic() - begun
        place.entered(needed_bytes, seconds)
        self._problem = None
        self._backoff.reset()
        self.observer.loaded()
        _log.info("%s: loaded in %.1f s", self._model.name, seconds)

    def _load_anywhere(self) -> Runner:
        runner = self._load(self._model)
        try:
            run_once(self._model, runner)
        except BaseException:
            self._close(runner)
            raise
        return runner

    def _load_on(self, device: Device, place: Place, held_bytes: int) -> int:
        """Load and measure; returns what the model needs."""
        gate, begun = self._sharing.gate, time.monotonic()
        profiles, key = self._sharing.profiles(device), profile_key(self._model)
        profile = profiles.get(key)
        if profile is not None and needed(profile, self._model, device) > held_bytes:
            # Another process has measured it meanwhile.
            raise BudgetExceeded(f"{held_bytes} bytes are reserved, which are known not to suffice")
        # What ran beside would be measured along.
        apart, limit_bytes = (
            (gate.alone(), held_bytes) if profile is None else (gate.beside_others(), None)
        )
        with apart:
            runner, resident_bytes = device.load(lambda: self._load(self._model), limit_bytes)
        if profile is None:
            profile = Profile(resident_bytes, load_seconds=time.monotonic() - begun)
            profiles.put(key, profile)
        residency = Residency(device, runner, profile, held_bytes)

        def measured(residency: Residency) -> None:
            profiles.put(key, residency.profile)
            needed_bytes = needed(residency.profile, self._model, device)
            least_bytes = residency.profile.needed_bytes(residency.profile.peaks[0][0])
            residency.held_bytes = place.resize(needed_bytes, least_bytes)

        name, split = self._model.name, self.observer.split
        allowance = MeasuredAllowance(name, gate, residency, measured, split)
        try:
            warm_up(self._model, runner, allowance)
        except BaseException:
            self._close(runner)
            device.unload(resident_bytes)
            raise
        self._runner, self._resident_bytes, self.allowance = runner, resident_bytes, allowance
        return needed(residency.profile, self._model, device)

    def _known_or_all(self, device: Device) -> int:
        """What to reserve next time: as measured, unless that was reserved and did not suffice."""
        profile = self._sharing.profiles(device).get(profile_key(self._model))
        if profile is None or not profile.peaks:
            return device.total_bytes
        known_bytes = needed(profile, self._model, device)
        return known_bytes if known_bytes > self.reserved_bytes else device.total_bytes

    def _let_go(self, error: BaseException) -> None:
        """Free what a failed load has left: its memory is somebody else's next."""
        for cause in causes(error):
            # Their frames hold the network, as far as it was there.
            traceback.clear_frames(cause.__traceback__)
        if self._device is not None:
            self._device.release_cached()

    def _unmeasured(self) -> Allowance:
        return Allowance(self._model.name, self._sharing.gate, self.observer.split)

    def _fail(self, error: BaseException, stopping: threading.Event) -> None:
        needed_bytes: int | None = None
        if is_out_of_memory(error) and self._device is not None:
            needed_bytes = self._known_or_all(self._device)
            is_all = self.reserved_bytes >= self._device.total_bytes
            unfit = OutOfMemory(f"it does not fit into the device: {error}")
            self._problem = _told(unfit) if is_all else None
            _log.warning("%s: no memory to load it: %s", self._model.name, error)
        else:
            failed = ModelFailed(f"{self._model.implementation} raised {type(error).__name__}")
            self._problem = _told(error if isinstance(error, ModelUnusable) else failed)
            _log.error("%s: cannot be loaded, trying on", self._model.name, exc_info=error)
        self._let_go(error)
        # Where others have the memory, its turn is all that it waits for.
        retry_seconds = self._backoff.next() if self._problem else 0.0
        if self._place is None:
            stopping.wait(retry_seconds)
        else:
            self._place.failed(retry_seconds, needed_bytes)


def _told(error: WorkerError) -> dict[str, str]:
    return {"code": error.code, "detail": str(error)}
