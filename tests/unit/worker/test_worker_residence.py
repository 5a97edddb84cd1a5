"""A model's stay: loaded when there is memory, measured, unloaded for another, tried again."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.residence_world import BUDGET, NOOP, Block, Infer, Raising, Stay, shared
from worker.memory.device_errors import BudgetExceeded
from worker.memory.gpu_sharing.sharing import DeviceSharing, needed_bytes, profile_key
from worker.memory.profile import MemoryProfile, MemoryProfiles
from worker.memory.simulated_device import AccountRecord, MemoryAccount, SimulatedDevice
from worker.settings import MemorySettings


@pytest.fixture
def stays() -> Iterator[Callable[..., Stay]]:
    started: list[Stay] = []

    def start(name: str, sharing: DeviceSharing, load: Callable[[], Infer], **entry: Any) -> Stay:
        model = replace(NOOP, name=name, queue=name, max_batch_size=4, **entry)
        stay = Stay(model, sharing, load)
        started.append(stay)
        return stay

    yield start
    for stay in started:
        stay.stop()


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[DeviceSharing]:
    with shared(tmp_path) as sharing:
        yield sharing


def test_a_model_is_measured_and_keeps_what_a_full_batch_needs(
    sharing: DeviceSharing, stays: Callable[..., Stay], tmp_path: Path
) -> None:
    stay = stays("a", sharing, lambda: Infer(20))
    assert stay.entered.wait(10)
    assert stay.infer is not None
    assert stay.infer.passes == [1, 2, 4]
    assert stay.manager.reserved_bytes == 20 + 4 * 10
    assert stay.manager.limit.max_cost >= 4
    assert stay.manager.admits()
    assert AccountRecord.read(tmp_path / "cpu" / "account").peak_bytes == 60


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
    assert second.manager.reserved_bytes == 60


def test_where_full_batches_do_not_fit_they_are_smaller(
    sharing: DeviceSharing, stays: Callable[..., Stay]
) -> None:
    stay = stays("a", sharing, lambda: Infer(50))
    assert stay.entered.wait(10)
    assert stay.infer is not None
    assert stay.infer.passes == [1, 2]
    assert stay.manager.reserved_bytes == BUDGET
    assert 2 <= stay.manager.limit.max_cost <= 3


def test_an_idle_model_makes_room_for_one_that_has_work(
    sharing: DeviceSharing, stays: Callable[..., Stay]
) -> None:
    idle = stays("a", sharing, lambda: Infer(20))
    assert idle.entered.wait(10)
    other = stays("b", sharing, lambda: Infer(40))
    assert not other.entered.wait(0.3)
    other.has_work = True
    assert other.entered.wait(10)
    assert idle.infer is not None
    assert idle.infer.is_closed
    assert not idle.manager.admits()
    assert idle.manager.is_standing_by
    assert idle.manager.loaded is None


def test_a_busy_model_makes_room_once_its_turn_is_over_and_its_work_done(
    sharing: DeviceSharing, stays: Callable[..., Stay]
) -> None:
    busy = stays("a", sharing, lambda: Infer(20))
    assert busy.entered.wait(10)
    busy.in_hand.append("a job")
    other = stays("b", sharing, lambda: Infer(40))
    other.has_work = True
    ends_at = time.monotonic() + 10
    while busy.manager.admits():
        assert time.monotonic() < ends_at
        other.entered.wait(0.01)
    assert not other.entered.wait(0.3), "a job is in hand still"
    assert busy.manager.loaded is not None
    busy.in_hand.clear()
    assert other.entered.wait(10)
    assert busy.manager.loaded is None


def test_what_cannot_be_loaded_is_tried_again(
    sharing: DeviceSharing, stays: Callable[..., Stay]
) -> None:
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
    sharing: DeviceSharing, stays: Callable[..., Stay]
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
    while (problem := stay.manager.problem) is None:
        assert time.monotonic() < ends_at
    assert problem["code"] == "model-failed"
    assert problem["detail"] == "worker.models.noop raised ValueError"
    assert stay.entered.wait(10)
    assert first.is_closed
    assert lived == [False]
    assert stay.manager.problem is None


def test_where_nothing_is_measured_a_model_that_cannot_run_is_not_ready_either(
    stays: Callable[..., Stay], tmp_path: Path
) -> None:
    broken = Raising(20)
    broken.blocks = []
    stay = stays("a", DeviceSharing(MemorySettings(None, tmp_path)), lambda: broken)
    ends_at = time.monotonic() + 10
    while (problem := stay.manager.problem) is None:
        assert time.monotonic() < ends_at
    assert problem["detail"] == "worker.models.noop raised ValueError"
    assert broken.is_closed
    assert not stay.entered.is_set()


@pytest.mark.parametrize(
    ("module", "raised"),
    [("no_such_module", "ModuleNotFoundError"), ("tests.unit.worker.exiting_model", "SystemExit")],
)
def test_a_model_that_cannot_be_imported_is_told_of(
    sharing: DeviceSharing, stays: Callable[..., Stay], module: str, raised: str
) -> None:
    stay = stays("a", sharing, lambda: Infer(20), implementation=module)
    ends_at = time.monotonic() + 10
    while (problem := stay.manager.problem) is None:
        assert time.monotonic() < ends_at
    assert problem["detail"] == f"{module} raised {raised}"


def test_a_device_that_is_lost_while_a_model_loads_is_not_tried_again(
    sharing: DeviceSharing, stays: Callable[..., Stay]
) -> None:
    def load() -> Infer:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    stay = stays("a", sharing, load)
    stay.thread.join(10)
    assert len(stay.lost) == 1


def test_who_leaves_while_its_model_waits_keeps_no_memory_from_others(
    sharing: DeviceSharing, stays: Callable[..., Stay]
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
    assert first.manager.admits(), "nobody waits for its place"


def test_a_model_of_known_size_is_loaded_beside_those_that_run(
    sharing: DeviceSharing, stays: Callable[..., Stay], tmp_path: Path
) -> None:
    loads: list[int] = []

    def load() -> Infer:
        loads.append(1)
        return Infer(70)

    model = replace(NOOP, name="a", queue="a", max_batch_size=4)
    profile = MemoryProfile(20, ((1.0, 10), (4.0, 40)))
    MemoryProfiles(tmp_path / "cpu" / "profiles").put(profile_key(model), profile)
    stay = stays("a", sharing, load)
    assert stay.entered.wait(10)
    assert stay.manager.reserved_bytes == 60
    assert loads == [1], "what it takes cannot be told from what others take meanwhile"


def test_what_another_process_has_measured_is_not_loaded_into_less(
    sharing: DeviceSharing, stays: Callable[..., Stay], tmp_path: Path
) -> None:
    all_of_it = stays("b", sharing, lambda: Infer(50))
    assert all_of_it.entered.wait(10)
    late = stays("a", sharing, lambda: Infer(30))
    assert not late.entered.wait(0.3), "its size is not known, and nothing is free"
    profile = MemoryProfile(30, ((1.0, 10), (4.0, 40)))
    MemoryProfiles(tmp_path / "cpu" / "profiles").put(profile_key(late.model), profile)
    small = stays("c", sharing, lambda: Infer(10))
    small.has_work = True
    assert small.entered.wait(10)
    assert not late.entered.wait(0.5), "30 are free, which are known not to suffice"
    assert late.infer is None


@pytest.mark.parametrize(
    ("profile", "hint_bytes", "expected_bytes"),
    [
        (MemoryProfile(30, ((1.0, 10), (4.0, 40))), 0, 70),
        (MemoryProfile(30, ((1.0, 10), (2.0, 15))), 0, 61),
        (MemoryProfile(30, ((1.0, 20),)), 0, BUDGET),
        (MemoryProfile(30, ((1.0, 60),)), 0, 90),
        (MemoryProfile(30), 0, 60),
        (MemoryProfile(50), 0, BUDGET),
        (MemoryProfile(0), 0, 0),
        (MemoryProfile(0), 7, 7),
        (MemoryProfile(3), 0, 8),
    ],
)
def test_what_is_reserved_is_enough_for_full_batches_where_the_device_has_it(
    tmp_path: Path, profile: MemoryProfile, hint_bytes: int, expected_bytes: int
) -> None:
    account = MemoryAccount(tmp_path, BUDGET)
    model = replace(NOOP, max_batch_size=4, memory_bytes=hint_bytes)
    assert needed_bytes(profile, model, SimulatedDevice(account, BUDGET)) == expected_bytes
    account.close()


def test_what_does_not_fit_at_all_is_told(
    sharing: DeviceSharing, stays: Callable[..., Stay]
) -> None:
    stay = stays("a", sharing, lambda: Infer(BUDGET - 5))
    ends_at = time.monotonic() + 10
    while (problem := stay.manager.problem) is None:
        assert time.monotonic() < ends_at
        assert not stay.entered.wait(0.01)
    assert problem["code"] == "out-of-memory"
    assert not stay.manager.is_standing_by
    assert not stay.manager.admits()


def test_what_does_not_fit_into_what_is_free_gets_the_whole_device(
    sharing: DeviceSharing, stays: Callable[..., Stay]
) -> None:
    first = stays("a", sharing, lambda: Infer(20))
    assert first.entered.wait(10)
    second = stays("b", sharing, lambda: Infer(30))
    second.has_work = True
    assert second.entered.wait(10)
    assert second.manager.reserved_bytes == 70
    assert first.manager.loaded is None


def test_without_a_device_nothing_is_reserved_and_limits_are_learned_all_the_same(
    stays: Callable[..., Stay], tmp_path: Path
) -> None:
    stay = stays("a", DeviceSharing(MemorySettings(None, tmp_path)), lambda: Infer(10**15))
    assert stay.entered.wait(10)
    assert stay.infer is not None
    assert stay.infer.passes == [1]
    allowance = stay.manager.limit
    with pytest.raises(BudgetExceeded), allowance.admit(4):
        raise BudgetExceeded("no")
    allowance.note_exceeded(4, 2)
    assert allowance.max_cost == 2
    assert list(tmp_path.iterdir()) == []
