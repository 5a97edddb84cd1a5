"""Test that reservations never exceed the device's memory, and that no model waits forever."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.memory.admission import (
    Records,
    ReservationRecord,
    ReservationStage,
    ReservationState,
    WorkState,
    may_enter,
    must_leave,
    reserved_bytes,
    waiting_names,
)
from worker.memory.queued_work import QueuedWork
from worker.memory.reservation import ModelWorkload, ReservationFile, SharedReservation

TURN_SECONDS = 2.0
STEP_SECONDS = 0.1


def loaded(
    model: str, size: int, turn_ends_at: float, *, is_idle: bool = False
) -> ReservationRecord:
    return ReservationRecord(model, size, turn_ends_at=turn_ends_at, is_idle=is_idle)


def waiting(model: str, size: int, since: float) -> ReservationRecord:
    return ReservationRecord(model, waiting_bytes=size, waiting_since=since)


def test_model_enters_only_into_enough_free_memory() -> None:
    records = {"a": loaded("a", 3, 0), "b": ReservationRecord("b")}
    assert may_enter("b", 5, records, 8)
    assert not may_enter("b", 6, records, 8)


def test_small_model_waits_behind_a_large_one() -> None:
    records = {"a": loaded("a", 3, 99), "b": waiting("b", 6, 1), "c": waiting("c", 2, 2)}
    assert not may_enter("c", 2, records, 8)
    assert not may_enter("b", 6, records, 8)
    assert may_enter("b", 6, records | {"a": ReservationRecord("a")}, 8)


def test_model_whose_turn_ends_first_leaves_first() -> None:
    records = {"a": loaded("a", 3, 10), "b": loaded("b", 3, 20), "c": waiting("c", 5, 1)}
    assert not must_leave("a", records, 8, 9)
    assert must_leave("a", records, 8, 10)
    assert not must_leave("b", records, 8, 30), "the memory of model a is enough"
    records["c"] = waiting("c", 6, 1)
    assert not must_leave("a", records, 8, 10), "unloading a is useless before b is unloaded"
    assert must_leave("a", records, 8, 20)
    assert must_leave("b", records, 8, 20)
    records["a"] = replace(records["a"], is_leaving=True)
    assert must_leave("b", records, 8, 20)


def test_idle_model_leaves_at_once_before_busy_ones() -> None:
    records = {
        "a": loaded("a", 3, 10),
        "b": loaded("b", 3, 20, is_idle=True),
        "c": waiting("c", 3, 1),
    }
    assert must_leave("b", records, 8, 0)
    assert not must_leave("a", records, 8, 99)


def test_nobody_leaves_for_what_cannot_or_need_not_enter() -> None:
    records = {"a": loaded("a", 6, 0), "b": waiting("a", 6, 1), "c": waiting("c", 9, 1)}
    assert waiting_names(records, 8) == []
    assert not must_leave("a", records, 8, 99)


@dataclass
class Process:
    """A simulated worker process that serves one model. All processes share one device."""

    name: str
    model: str
    size: int
    state: ReservationState
    load_seconds: float
    record: ReservationRecord
    busy_until: float = 0.0
    received: int = 0


@dataclass
class Simulation:
    """Simulates worker processes that reserve the memory of one device.

    `step` advances the simulated time, and then each process in the list `order`, which contains
    indices of `processes`. `backlog` says for each model whether messages wait.
    """

    total: int
    processes: list[Process]
    now: float = 0.0
    backlog: dict[str, bool] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)

    def step(self, order: list[int]) -> None:
        self.now += STEP_SECONDS
        for at in order:
            self.step_process(self.processes[at % len(self.processes)])
        used = reserved_bytes(process.record for process in self.processes)
        assert used <= self.total, "more memory is reserved than the device has"
        for model, has_work in self.backlog.items():
            served = any(
                p.model == model and p.state.stage is ReservationStage.IN for p in self.processes
            )
            since = self.waited.setdefault(model, self.now)
            if served or not has_work:
                self.waited[model] = self.now
            self.longest[model] = max(self.longest.get(model, 0.0), self.now - since)

    def step_process(self, process: Process) -> None:
        records = {each.name: each.record for each in self.processes}
        state, has_work = process.state, self.backlog[process.model]
        if state.stage is ReservationStage.ENTERING and self.now >= process.busy_until:
            process.record = state.enter(self.now, process.size, process.load_seconds)
        elif state.stage is ReservationStage.LEAVING and self.now >= process.busy_until:
            process.record = state.leave()
        else:
            before = state.stage
            work = WorkState(0.0 if has_work else None, is_idle=not has_work)
            process.record = state.advance(self.now, process.name, records, work)
            if state.stage is not before:
                wait = (
                    process.load_seconds
                    if state.stage is ReservationStage.ENTERING
                    else STEP_SECONDS
                )
                process.busy_until = self.now + wait


def simulate(
    total: int, sizes: dict[str, int], process_count: int, load_seconds: float
) -> Simulation:
    processes = [
        Process(
            name=f"{number}-{model}",
            model=model,
            size=size,
            state=ReservationState(model, total, TURN_SECONDS, size),
            load_seconds=load_seconds,
            record=ReservationRecord(model),
        )
        for number in range(process_count)
        for model, size in sizes.items()
    ]
    return Simulation(total, processes, backlog=dict.fromkeys(sizes, True))


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("load_seconds", [0.1, 2.0])
def test_two_models_that_do_not_fit_alternate(process_count: int, load_seconds: float) -> None:
    simulation = simulate(8, {"a": 3, "b": 6}, process_count, load_seconds)
    order = list(range(len(simulation.processes)))
    for _ in range(1500):
        simulation.step(order)
    # A fair wait: the other model's turn, and the time to load.
    turn_seconds = max(TURN_SECONDS, 4 * load_seconds)
    fair_seconds = turn_seconds + load_seconds
    for model in ("a", "b"):
        assert turn_seconds * 0.9 <= simulation.longest[model] <= 1.5 * fair_seconds


@settings(max_examples=30)
@given(data=st.data())
def test_memory_suffices_and_no_model_starves(data: st.DataObject) -> None:
    total = data.draw(st.integers(4, 12))
    sizes = data.draw(st.dictionaries(st.sampled_from("abcd"), st.integers(1, total), min_size=1))
    count = data.draw(st.integers(1, 3))
    simulation = simulate(total, sizes, count, data.draw(st.sampled_from([0.1, 0.5, 3.0])))
    order = data.draw(st.permutations(range(len(simulation.processes))))
    changes = data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(sizes)), st.booleans()), max_size=10)
    )
    for model, has_work in changes:
        simulation.backlog[model] = has_work
        for _ in range(20):
            simulation.step(order)
    for model in sizes:
        simulation.backlog[model] = True
    for _ in range(400):
        simulation.step(order)
    load_seconds = simulation.processes[0].load_seconds
    turn_seconds = max(TURN_SECONDS, 4 * load_seconds)
    # Each other model has at most one turn in between, at worst alone in memory.
    rounds = len(sizes) * (turn_seconds + 2 * load_seconds + 1.0)
    assert max(simulation.longest.values()) <= 2 * rounds


def test_unknown_size_takes_free_then_all_memory() -> None:
    state = ReservationState("a", 8, TURN_SECONDS, None)
    records = {"a": ReservationRecord("a"), "b": loaded("b", 3, 0)}
    records["a"] = state.advance(0, "a", records, WorkState(0.0, is_idle=False))
    assert (state.stage, records["a"].reserved_bytes) == (ReservationStage.ENTERING, 5)
    records["a"] = state.fail(0, 1.0, 8)
    records["a"] = state.advance(0.5, "a", records, WorkState(0.0, is_idle=False))
    assert records["a"] == ReservationRecord("a"), "the model reserves no memory until the next try"
    records["a"] = state.advance(1.0, "a", records, WorkState(0.0, is_idle=False))
    assert (state.stage, records["a"].waiting_bytes) == (ReservationStage.OUT, 8)
    records["b"] = ReservationRecord("b")
    records["a"] = state.advance(1.1, "a", records, WorkState(0.0, is_idle=False))
    assert records["a"].reserved_bytes == 8
    records["a"] = state.enter(1.2, 6, 0.1)
    assert records["a"].reserved_bytes == 6
    assert state.resize("a", records, 5).reserved_bytes == 5
    assert state.resize("a", records, 7).reserved_bytes == 7
    records["b"] = loaded("b", 1, 0)
    assert state.resize("a", records, 9).reserved_bytes == 7, (
        "the reservation does not exceed the free memory"
    )


def test_model_without_jobs_enters_only_free_memory() -> None:
    state = ReservationState("a", 8, TURN_SECONDS, 6)
    full = {"a": ReservationRecord("a"), "b": loaded("b", 3, 0, is_idle=True)}
    assert state.advance(0, "a", full, WorkState(None, is_idle=True)) == ReservationRecord("a")
    empty = {"a": ReservationRecord("a"), "b": ReservationRecord("b")}
    assert state.advance(1, "a", empty, WorkState(None, is_idle=True)).reserved_bytes == 6


def test_time_served_elsewhere_is_no_waiting() -> None:
    state = ReservationState("a", 8, TURN_SECONDS, 6)
    records = {"a": ReservationRecord("a"), "other": loaded("a", 6, 99)}
    for now in (10.0, 20.0):
        records["a"] = state.advance(now, "a", records, WorkState(1.0, is_idle=False))
        assert records["a"].waiting_since == now
    records["other"] = replace(records["other"], is_leaving=True, served_until=20.5)
    for now in (21.0, 22.0):
        records["a"] = state.advance(now, "a", records, WorkState(1.0, is_idle=False))
        assert records["a"].waiting_since == 20.5, (
            "the waiting time starts when the other process unloads the model"
        )
    records["other"] = ReservationRecord("a")
    records["a"] = state.advance(23.0, "a", records, WorkState(1.0, is_idle=False))
    assert records["a"].reserved_bytes == 6


def test_model_larger_than_the_device_never_waits() -> None:
    state = ReservationState("a", 8, TURN_SECONDS, 9)
    assert state.advance(
        0, "a", {"a": ReservationRecord("a")}, WorkState(0.0, is_idle=False)
    ) == ReservationRecord("a")
    assert state.stage is ReservationStage.OUT


class SlowState(ReservationState):
    """A state that gives the model's thread time to read it before the record is written."""

    def __init__(self) -> None:
        super().__init__("a", 8, TURN_SECONDS, 8)
        self.read = threading.Event()

    def advance(
        self, now: float, name: str, records: Records, work: WorkState
    ) -> ReservationRecord:
        record = super().advance(now, name, records, work)
        self.read.wait(0.3)
        return record


def test_thread_sees_its_memory_after_the_record(tmp_path: Path) -> None:
    state, file = SlowState(), ReservationFile(tmp_path, ReservationRecord("a"))
    workload = ModelWorkload("a", lambda: 0, lambda: False, lambda: None, [])
    reservation = SharedReservation(workload, file, state, QueuedWork([], lock_seconds=10))
    updating = threading.Thread(target=reservation.update)
    updating.start()
    while state.stage is not ReservationStage.ENTERING:
        assert updating.is_alive()
    assert reservation.wait_for_memory(threading.Event()) == 8
    state.read.set()
    updating.join(10)
