"""A model's stay: loaded when there is memory, measured, unloaded for another, tried again."""

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

import pytest

from contract.catalogue import Catalogue, Model
from worker.inference.residence import Residence
from worker.inference.runner import Runner
from worker.memory.budget import Account, Budget, Record
from worker.memory.errors import BudgetExceeded
from worker.memory.pending import Peeked
from worker.memory.place import Occupant
from worker.memory.profile import Profile, Profiles
from worker.memory.settings import MemorySettings
from worker.memory.sharing import Sharing, needed, profile_key
from worker.models import Accepts

NOOP = Catalogue.load()["noop"]
BUDGET = 80


class Infer:
    """Takes 10 for each of a batch's items, beside what it holds."""

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
    """What a pass of a model has in memory."""


class Raising(Infer):
    """Its pass raises, with something in memory that its frame holds."""

    blocks: list[weakref.ref[Block]]

    def __call__(self, batch: list[bytes]) -> list[int]:
        block = Block()
        self.blocks.append(weakref.ref(block))
        raise ValueError("a defect in the model")


@dataclass
class Stay:
    """A residence with its device thread, and the work it is told of."""

    model: Model
    sharing: Sharing
    load: Callable[[], Infer]
    has_work: bool = False
    infer: Infer | None = None
    in_hand: list[str] = field(default_factory=list)
    vacated: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    seen: threading.Event = field(default_factory=threading.Event)
    lost: list[RuntimeError] = field(default_factory=list)

    def __post_init__(self) -> None:
        occupant = Occupant(
            name=self.model.name,
            busy_count=lambda: len(self.in_hand),
            may_take=lambda: False,
            vacate=self.vacated.set,
            windows=[self],
        )
        self.residence = Residence(self.model, self._load, self.sharing, occupant)
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

    def _load(self, model: Model) -> Runner:
        self.infer = self.load()
        return Runner(model, self.infer)

    def _run(self) -> None:
        try:
            self._stay()
        except RuntimeError as error:
            self.lost.append(error)

    def _stay(self) -> None:
        while self.residence.enter(self.stopping):
            self.entered.set()
            self.vacated.wait()
            self.vacated.clear()
            self.residence.leave()
            self.entered.clear()


@pytest.fixture
def stays() -> Iterator[Callable[..., Stay]]:
    started: list[Stay] = []

    def start(name: str, sharing: Sharing, load: Callable[[], Infer], **entry: Any) -> Stay:
        model = replace(NOOP, name=name, queue=name, max_batch_size=4, **entry)
        stay = Stay(model, sharing, load)
        started.append(stay)
        return stay

    yield start
    for stay in started:
        stay.stop()


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[Sharing]:
    """What one process makes of the device."""
    sharing, stopping = (
        Sharing(MemorySettings(BUDGET, folder, turn_seconds=0.05)),
        threading.Event(),
    )
    thread = threading.Thread(target=sharing.run, args=(stopping,))
    thread.start()
    yield sharing
    stopping.set()
    thread.join(10)


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Sharing]:
    with shared(tmp_path) as sharing:
        yield sharing


def test_a_model_is_measured_and_keeps_what_a_full_batch_needs(
    sharing: Sharing, stays: Callable[..., Stay], tmp_path: Path
) -> None:
    stay = stays("a", sharing, lambda: Infer(20))
    assert stay.entered.wait(10)
    assert stay.infer is not None
    assert stay.infer.passes == [1, 2, 4]
    assert stay.residence.reserved_bytes == 20 + 4 * 10
    assert stay.residence.allowance.max_cost >= 4
    assert stay.residence.admits()
    assert Record.read(tmp_path / "cpu" / "account").peak_bytes == 60


def test_its_sizes_are_known_at_the_next_start(stays: Callable[..., Stay], tmp_path: Path) -> None:
    with shared(tmp_path) as sharing:
        first = stays("a", sharing, lambda: Infer(20))
        assert first.entered.wait(10)
    with shared(tmp_path) as sharing:
        # The first is still there: what is free would be too little for one of unknown size.
        second = stays("a", sharing, lambda: Infer(20))
        assert not second.entered.wait(0.3)
        first.stop()
        assert second.entered.wait(10)
    assert second.infer is not None
    assert second.infer.passes == [1], "the first pass is slow, and no job's"
    assert second.residence.reserved_bytes == 60


def test_where_full_batches_do_not_fit_they_are_smaller(
    sharing: Sharing, stays: Callable[..., Stay]
) -> None:
    stay = stays("a", sharing, lambda: Infer(50))
    assert stay.entered.wait(10)
    assert stay.infer is not None
    assert stay.infer.passes == [1, 2]
    assert stay.residence.reserved_bytes == BUDGET
    assert 2 <= stay.residence.allowance.max_cost <= 3


def test_an_idle_model_makes_room_for_one_that_has_work(
    sharing: Sharing, stays: Callable[..., Stay]
) -> None:
    idle = stays("a", sharing, lambda: Infer(20))
    assert idle.entered.wait(10)
    other = stays("b", sharing, lambda: Infer(40))
    assert not other.entered.wait(0.3)
    other.has_work = True
    assert other.entered.wait(10)
    assert idle.infer is not None
    assert idle.infer.is_closed
    assert not idle.residence.admits()
    assert idle.residence.is_standing_by
    assert idle.residence.runner is None


def test_a_busy_model_makes_room_once_its_turn_is_over_and_its_work_done(
    sharing: Sharing, stays: Callable[..., Stay]
) -> None:
    busy = stays("a", sharing, lambda: Infer(20))
    assert busy.entered.wait(10)
    busy.in_hand.append("a job")
    other = stays("b", sharing, lambda: Infer(40))
    other.has_work = True
    ends_at = time.monotonic() + 10
    while busy.residence.admits():
        assert time.monotonic() < ends_at
        other.entered.wait(0.01)
    assert not other.entered.wait(0.3), "a job is in hand still"
    assert busy.residence.runner is not None
    busy.in_hand.clear()
    assert other.entered.wait(10)
    assert busy.residence.runner is None


def test_what_cannot_be_loaded_is_tried_again(sharing: Sharing, stays: Callable[..., Stay]) -> None:
    tries: list[int] = []

    def load() -> Infer:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("the weights are away")
        return Infer(20)

    stay = stays("a", sharing, load)
    assert stay.entered.wait(10)
    assert len(tries) == 2


def test_nothing_of_a_failed_load_lives_on_while_it_is_told(
    sharing: Sharing, stays: Callable[..., Stay]
) -> None:
    first, blocks = Raising(20), list[weakref.ref[Block]]()
    first.blocks = blocks
    lived: list[bool] = []

    def load() -> Infer:
        if not blocks:
            return first
        lived.append(blocks[0]() is not None)
        return Infer(20)

    stay = stays("a", sharing, load)
    ends_at = time.monotonic() + 10
    while (problem := stay.residence.problem) is None:
        assert time.monotonic() < ends_at
    assert problem["code"] == "model-failed"
    assert problem["detail"] == "worker.models.noop raised ValueError"
    assert stay.entered.wait(10)
    assert first.is_closed
    assert lived == [False]
    assert stay.residence.problem is None


def test_where_nothing_is_measured_a_model_that_cannot_run_is_not_ready_either(
    stays: Callable[..., Stay], tmp_path: Path
) -> None:
    broken = Raising(20)
    broken.blocks = []
    stay = stays("a", Sharing(MemorySettings(None, tmp_path)), lambda: broken)
    ends_at = time.monotonic() + 10
    while (problem := stay.residence.problem) is None:
        assert time.monotonic() < ends_at
    assert problem["detail"] == "worker.models.noop raised ValueError"
    assert broken.is_closed
    assert not stay.entered.is_set()


@pytest.mark.parametrize(
    ("module", "raised"),
    [("no_such_module", "ModuleNotFoundError"), ("tests.unit.worker.exiting_model", "SystemExit")],
)
def test_a_model_that_cannot_be_imported_is_told_of(
    sharing: Sharing, stays: Callable[..., Stay], module: str, raised: str
) -> None:
    stay = stays("a", sharing, lambda: Infer(20), implementation=module)
    ends_at = time.monotonic() + 10
    while (problem := stay.residence.problem) is None:
        assert time.monotonic() < ends_at
    assert problem["detail"] == f"{module} raised {raised}"


def test_a_device_that_is_lost_while_a_model_loads_is_not_tried_again(
    sharing: Sharing, stays: Callable[..., Stay]
) -> None:
    def load() -> Infer:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    stay = stays("a", sharing, load)
    stay.thread.join(10)
    assert len(stay.lost) == 1


def test_who_leaves_while_its_model_waits_keeps_no_memory_from_others(
    sharing: Sharing, stays: Callable[..., Stay]
) -> None:
    first = stays("a", sharing, lambda: Infer(20))
    assert first.entered.wait(10)
    leaving = stays("b", sharing, lambda: Infer(40))
    assert not leaving.entered.wait(0.3)
    leaving.stopping.set()
    leaving.thread.join(10)
    leaving.has_work = True
    assert leaving.seen.wait(10)
    later = stays("c", sharing, lambda: Infer(5), memory_bytes=20)
    later.has_work = True
    assert later.entered.wait(10)
    assert first.residence.admits(), "nobody waits for its place"


def test_a_model_of_known_size_is_loaded_beside_those_that_run(
    sharing: Sharing, stays: Callable[..., Stay], tmp_path: Path
) -> None:
    loads: list[int] = []

    def load() -> Infer:
        loads.append(1)
        return Infer(70)

    model = replace(NOOP, name="a", queue="a", max_batch_size=4)
    profile = Profile(20, ((1.0, 10), (4.0, 40)))
    Profiles(tmp_path / "cpu" / "profiles").put(profile_key(model), profile)
    stay = stays("a", sharing, load)
    assert stay.entered.wait(10)
    assert stay.residence.reserved_bytes == 60
    assert loads == [1], "what it takes cannot be told from what others take meanwhile"


def test_what_another_process_has_measured_is_not_loaded_into_less(
    sharing: Sharing, stays: Callable[..., Stay], tmp_path: Path
) -> None:
    all_of_it = stays("b", sharing, lambda: Infer(50))
    assert all_of_it.entered.wait(10)
    late = stays("a", sharing, lambda: Infer(30))
    assert not late.entered.wait(0.3), "its size is not known, and nothing is free"
    profile = Profile(30, ((1.0, 10), (4.0, 40)))
    Profiles(tmp_path / "cpu" / "profiles").put(profile_key(late.model), profile)
    small = stays("c", sharing, lambda: Infer(10))
    small.has_work = True
    assert small.entered.wait(10)
    assert not late.entered.wait(0.5), "30 are free, which are known not to suffice"
    assert late.infer is None


@pytest.mark.parametrize(
    ("profile", "hint_bytes", "needed_bytes"),
    [
        (Profile(30, ((1.0, 10), (4.0, 40))), 0, 70),
        (Profile(30, ((1.0, 10), (2.0, 15))), 0, 61),
        (Profile(30, ((1.0, 20),)), 0, BUDGET),
        (Profile(30, ((1.0, 60),)), 0, 90),
        (Profile(30), 0, 60),
        (Profile(50), 0, BUDGET),
        (Profile(0), 0, 0),
        (Profile(0), 7, 7),
        (Profile(3), 0, 8),
    ],
)
def test_what_is_reserved_is_enough_for_full_batches_where_the_device_has_it(
    tmp_path: Path, profile: Profile, hint_bytes: int, needed_bytes: int
) -> None:
    account = Account(tmp_path, BUDGET)
    model = replace(NOOP, max_batch_size=4, memory_bytes=hint_bytes)
    assert needed(profile, model, Budget(account, BUDGET)) == needed_bytes
    account.close()


def test_what_does_not_fit_at_all_is_told(sharing: Sharing, stays: Callable[..., Stay]) -> None:
    stay = stays("a", sharing, lambda: Infer(BUDGET - 5))
    ends_at = time.monotonic() + 10
    while (problem := stay.residence.problem) is None:
        assert time.monotonic() < ends_at
        assert not stay.entered.wait(0.01)
    assert problem["code"] == "out-of-memory"
    assert not stay.residence.is_standing_by
    assert not stay.residence.admits()


def test_what_does_not_fit_into_what_is_free_gets_the_whole_device(
    sharing: Sharing, stays: Callable[..., Stay]
) -> None:
    first = stays("a", sharing, lambda: Infer(20))
    assert first.entered.wait(10)
    second = stays("b", sharing, lambda: Infer(30))
    second.has_work = True
    assert second.entered.wait(10)
    assert second.residence.reserved_bytes == 70
    assert first.residence.runner is None


def test_without_a_device_nothing_is_reserved_and_limits_are_learned_all_the_same(
    stays: Callable[..., Stay], tmp_path: Path
) -> None:
    stay = stays("a", Sharing(MemorySettings(None, tmp_path)), lambda: Infer(10**15))
    assert stay.entered.wait(10)
    assert stay.infer is not None
    assert stay.infer.passes == [1]
    allowance = stay.residence.allowance
    with pytest.raises(BudgetExceeded), allowance.running(4):
        raise BudgetExceeded("no")
    allowance.exceeded(4, 2)
    assert allowance.max_cost == 2
    assert list(tmp_path.iterdir()) == []
