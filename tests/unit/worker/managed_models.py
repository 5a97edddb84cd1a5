"""Models for tests of memory management, on a simulated device with 80 bytes of memory.

Each model declares how many bytes it needs, and is loaded and unloaded by a thread of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from azure.storage.blob import BlobServiceClient

from contract.catalogue import Catalogue, ModelEntry
from worker.brokers.port import Peeked
from worker.inference.loaded_model import LoadedModel
from worker.inference.loading import LoadProgress
from worker.inference.model_manager import ModelManager
from worker.memory.reservation import ModelWorkload
from worker.memory.sharing import DeviceSharing
from worker.models import Accepts
from worker.processes.load_journal import LoadJournal
from worker.settings import MemorySettings
from worker.telemetry.recording import ModelTelemetry

NOOP = Catalogue.load()["noop"]
BUDGET = 80
# How long a test waits for a thread. A busy machine is slow.
LONG_SECONDS = 45.0


def no_account() -> BlobServiceClient:
    """The storage account of weights that are not in blob storage."""
    raise AssertionError("no blob is read")


class Infer:
    """A model that needs `resident` bytes of memory, and 10 more bytes for each item of a batch."""

    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self, resident: int) -> None:
        self.resident = resident
        self.passes: list[int] = []
        self.is_closed = False

    def memory_bytes(self, cost: float) -> int:
        return self.resident + int(10 * cost)

    def sample(self) -> bytes:
        return b""

    def preprocess(self, item: bytes) -> bytes:
        return item

    def __call__(self, batch: list[bytes]) -> list[int]:
        self.passes.append(len(batch))
        return [len(item) for item in batch]

    def close(self) -> None:
        self.is_closed = True


class Block:
    """An object that a forward pass creates. Tests check when this object is freed."""


class Raising(Infer):
    """A model whose forward pass raises an error while a local variable refers to a `Block`."""

    blocks: list[weakref.ref[Block]]

    def __call__(self, batch: list[bytes]) -> list[int]:
        block = Block()
        self.blocks.append(weakref.ref(block))
        raise ValueError("a defect in the model")


@dataclass
class ManagedModel:
    """A model with its model manager, the thread that loads and unloads it, and its queue.

    `has_work` says whether the queue contains a message.
    """

    model: ModelEntry
    sharing: DeviceSharing
    load: Callable[[], Infer]
    has_work: bool = False
    infer: Infer | None = None
    in_flight: list[str] = field(default_factory=list)
    vacated: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    seen: threading.Event = field(default_factory=threading.Event)
    lost: list[RuntimeError] = field(default_factory=list)
    journal: LoadJournal = field(default_factory=lambda: LoadJournal(None))

    def __post_init__(self) -> None:
        occupant = ModelWorkload(
            name=self.model.name,
            busy_count=lambda: len(self.in_flight),
            may_receive=lambda: False,
            request_unload=self.vacated.set,
            queues=[self],
        )
        self.telemetry = ModelTelemetry(self.model.name)
        self.loading = LoadProgress(self.model.name)
        self.manager = ModelManager(
            *(self.model, self._load, self.sharing, occupant, self.telemetry, self.journal),
            loading=self.loading,
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    @property
    def passes(self) -> list[int]:
        """The size of each batch that has run since the last load."""
        return self.infer.passes if self.infer else []

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        if not self.has_work:
            return []
        self.seen.set()
        return [Peeked(1, datetime.now(UTC))]

    def stop(self) -> None:
        self.stopping.set()
        self.vacated.set()
        self.thread.join(LONG_SECONDS)

    def _load(self, model: ModelEntry) -> LoadedModel:
        self.infer = self.load()
        return LoadedModel(model, self.infer)

    def _run(self) -> None:
        try:
            self._stay()
        except RuntimeError as error:
            self.lost.append(error)

    def _stay(self) -> None:
        while self.manager.load(self.stopping):
            self.entered.set()
            self.vacated.wait()
            self.vacated.clear()
            self.manager.unload()
            self.entered.clear()


class Models:
    """The models of one worker process, which share its device."""

    def __init__(self, sharing: DeviceSharing) -> None:
        self.sharing = sharing
        self.started: list[ManagedModel] = []

    def start(
        self,
        name: str,
        load: int | Callable[[], Infer],
        journal: LoadJournal | None = None,
        **entry: Any,
    ) -> ManagedModel:
        """Start a model. `load` is the number of bytes that the model needs, or loads it."""
        model = replace(NOOP, name=name, queue=name, max_batch_size=4, **entry)
        make = (lambda: Infer(load)) if isinstance(load, int) else load
        managed = ManagedModel(model, self.sharing, make, journal=journal or LoadJournal(None))
        self.started.append(managed)
        return managed

    def load(self, *arguments: Any, has_work: bool = False, **entry: Any) -> ManagedModel:
        """Start a model, and wait until it is loaded."""
        managed = self.start(*arguments, **entry)
        managed.has_work = has_work
        assert managed.entered.wait(LONG_SECONDS)
        return managed


@contextlib.contextmanager
def running_models(folder: Path, budget_bytes: int | None = BUDGET) -> Iterator[Models]:
    """Run the thread that shares the device. Stop it and all models after the `with` block."""
    sharing = DeviceSharing(MemorySettings(budget_bytes, folder, turn_seconds=0.05))
    models, stopping = Models(sharing), threading.Event()
    thread = threading.Thread(target=sharing.run, args=(stopping,))
    thread.start()
    yield models
    for managed in models.started:
        managed.stop()
    stopping.set()
    thread.join(LONG_SECONDS)


def until(condition: Callable[[], bool], seconds: float = LONG_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        threading.Event().wait(0.01)


def problem_of(managed: ManagedModel) -> dict[str, str]:
    """Wait until a load of the model has failed, and return the problem."""
    until(lambda: managed.manager.problem is not None)
    assert managed.manager.problem is not None
    return managed.manager.problem
