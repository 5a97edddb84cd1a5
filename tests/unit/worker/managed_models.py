"""Models for tests of memory management, on a simulated device with 80 bytes of memory.

Each model declares how many bytes it needs, and is loaded and unloaded by a thread of its own.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from azure.storage.blob import BlobServiceClient

from contract.catalogue import Catalogue, ModelEntry
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_manager import ModelManager
from worker.memory.queued_work import Peeked
from worker.memory.reservation import ModelWorkload
from worker.memory.sharing import DeviceSharing
from worker.models import Accepts
from worker.processes.load_journal import LoadJournal
from worker.settings import MemorySettings
from worker.telemetry.recording import ModelTelemetry

NOOP = Catalogue.load()["noop"]
BUDGET = 80


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
        self.manager = ModelManager(
            *(self.model, self._load, self.sharing, occupant, self.telemetry, self.journal)
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        if not self.has_work:
            return []
        self.seen.set()
        return [Peeked(1, datetime.now(UTC))]

    def stop(self) -> None:
        self.stopping.set()
        self.vacated.set()
        self.thread.join(10)

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


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[DeviceSharing]:
    """Run the DeviceSharing of one worker process in a thread, and yield the DeviceSharing.

    The thread ends after the `with` block.
    """
    sharing, stopping = (
        DeviceSharing(MemorySettings(BUDGET, folder, turn_seconds=0.05)),
        threading.Event(),
    )
    thread = threading.Thread(target=sharing.run, args=(stopping,))
    thread.start()
    yield sharing
    stopping.set()
    thread.join(10)
