"""Admission: reservations never exceed the device, and every model gets its turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.memory.gpu_sharing.admission import (
    ReservationRecord,
    ReservationStage,
    ReservationState,
    WorkState,
    lacking_a_place,
    may_enter,
    must_leave,
    reserved_bytes,
)

TURN_SECONDS = 2.0
STEP_SECONDS = 0.1


def loaded(
    model: str, size: int, turn_ends_at: float, *, is_idle: bool = False
) -> ReservationRecord:
    return ReservationRecord(model, size, turn_ends_at=turn_ends_at, is_idle=is_idle)


def waiting(model: str, size: int, since: float) -> ReservationRecord:
    return ReservationRecord(model, waiting_bytes=size, waiting_since=since)


def test_a_model_that_fits_loads_and_one_that_does_not_fit_waits() -> None:
    claims = {"a": loaded("a", 3, 0), "b": ReservationRecord("b")}
    assert may_enter("b", 5, claims, 8)
    assert not may_enter("b", 6, claims, 8)


def test_a_small_model_does_not_overtake_a_waiting_large_one() -> None:
    claims = {"a": loaded("a", 3, 99), "b": waiting("b", 6, 1), "c": waiting("c", 2, 2)}
    assert not may_enter("c", 2, claims, 8)
    assert not may_enter("b", 6, claims, 8)
    assert may_enter("b", 6, claims | {"a": ReservationRecord("a")}, 8)


def test_models_leave_in_the_order_of_their_turns() -> None:
    claims = {"a": loaded("a", 3, 10), "b": loaded("b", 3, 20), "c": waiting("c", 5, 1)}
    assert not must_leave("a", claims, 8, 9)
    assert must_leave("a", claims, 8, 10)
    assert not must_leave("b", claims, 8, 30), "a's memory is enough"
    claims["c"] = waiting("c", 6, 1)
    assert not must_leave("a", claims, 8, 10), "it would help nobody before b goes"
    assert must_leave("a", claims, 8, 20)
    assert must_leave("b", claims, 8, 20)
    claims["a"] = replace(claims["a"], is_leaving=True)
    assert must_leave("b", claims, 8, 20)


def test_an_idle_model_leaves_first_and_at_once() -> None:
    claims = {
        "a": loaded("a", 3, 10),
        "b": loaded("b", 3, 20, is_idle=True),
        "c": waiting("c", 3, 1),
    }
    assert must_leave("b", claims, 8, 0)
    assert not must_leave("a", claims, 8, 99)


def test_no_model_leaves_for_one_that_is_loaded_or_can_never_fit() -> None:
    claims = {"a": loaded("a", 6, 0), "b": waiting("a", 6, 1), "c": waiting("c", 9, 1)}
    assert lacking_a_place(claims, 8) == []
    assert not must_leave("a", claims, 8, 99)


@dataclass
class Process:
    """One model in one process of the simulated device."""

    name: str
    model: str
    size: int
    seat: ReservationState
    load_seconds: float
    claim: ReservationRecord
    busy_until: float = 0.0
    received: int = 0


@dataclass
class Simulation:
    """Reservations that advance in any order, with loads and unloads that take time."""

    total: int
    processes: list[Process]
    now: float = 0.0
    backlog: dict[str, bool] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)

    def step(self, order: list[int]) -> None:
        self.now += STEP_SECONDS
        for at in order:
            self.turn(self.processes[at % len(self.processes)])
        used = reserved_bytes(process.claim for process in self.processes)
        assert used <= self.total, "more is reserved than there is"
        for model, has_work in self.backlog.items():
            served = any(
                p.model == model and p.seat.stage is ReservationStage.IN for p in self.processes
            )
            since = self.waited.setdefault(model, self.now)
            if served or not has_work:
                self.waited[model] = self.now
            self.longest[model] = max(self.longest.get(model, 0.0), self.now - since)

    def turn(self, process: Process) -> None:
        claims = {each.name: each.claim for each in self.processes}
        seat, has_work = process.seat, self.backlog[process.model]
        if seat.stage is ReservationStage.ENTERING and self.now >= process.busy_until:
            process.claim = seat.enter(self.now, process.size, process.load_seconds)
        elif seat.stage is ReservationStage.LEAVING and self.now >= process.busy_until:
            process.claim = seat.leave()
        else:
            before = seat.stage
            facts = WorkState(0.0 if has_work else None, is_idle=not has_work)
            process.claim = seat.advance(self.now, process.name, claims, facts)
            if seat.stage is not before:
                wait = (
                    process.load_seconds
                    if seat.stage is ReservationStage.ENTERING
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
            seat=ReservationState(model, total, TURN_SECONDS, size),
            load_seconds=load_seconds,
            claim=ReservationRecord(model),
        )
        for number in range(process_count)
        for model, size in sizes.items()
    ]
    return Simulation(total, processes, backlog=dict.fromkeys(sizes, True))


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("load_seconds", [0.1, 2.0])
def test_two_models_that_do_not_fit_together_take_turns(
    process_count: int, load_seconds: float
) -> None:
    simulation = simulate(8, {"a": 3, "b": 6}, process_count, load_seconds)
    order = list(range(len(simulation.processes)))
    for _ in range(1500):
        simulation.step(order)
    # A fair wait: the other model's turn, and the time to load.
    turn_seconds = max(TURN_SECONDS, 4 * load_seconds)
    fair_seconds = turn_seconds + load_seconds
    for model in ("a", "b"):
        assert turn_seconds * 0.9 <= simulation.longest[model] <= 1.5 * fair_seconds


@settings(max_examples=60)
@given(data=st.data())
def test_reservations_never_exceed_the_device_and_no_model_starves(data: st.DataObject) -> None:
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
    # Each other model has at most one turn in between, in the worst case alone.
    rounds = len(sizes) * (turn_seconds + 2 * load_seconds + 1.0)
    assert max(simulation.longest.values()) <= 2 * rounds


def test_a_model_of_unknown_size_reserves_the_free_memory_and_after_a_failure_all() -> None:
    seat = ReservationState("a", 8, TURN_SECONDS, None)
    claims = {"a": ReservationRecord("a"), "b": loaded("b", 3, 0)}
    claims["a"] = seat.advance(0, "a", claims, WorkState(0.0, is_idle=False))
    assert (seat.stage, claims["a"].reserved_bytes) == (ReservationStage.ENTERING, 5)
    claims["a"] = seat.fail(0, 1.0, 8)
    claims["a"] = seat.advance(0.5, "a", claims, WorkState(0.0, is_idle=False))
    assert claims["a"] == ReservationRecord("a"), "it lets others go first for a while"
    claims["a"] = seat.advance(1.0, "a", claims, WorkState(0.0, is_idle=False))
    assert (seat.stage, claims["a"].waiting_bytes) == (ReservationStage.OUT, 8)
    claims["b"] = ReservationRecord("b")
    claims["a"] = seat.advance(1.1, "a", claims, WorkState(0.0, is_idle=False))
    assert claims["a"].reserved_bytes == 8
    claims["a"] = seat.enter(1.2, 6, 0.1)
    assert claims["a"].reserved_bytes == 6
    assert seat.resize("a", claims, 5).reserved_bytes == 5
    assert seat.resize("a", claims, 7).reserved_bytes == 7
    claims["b"] = loaded("b", 1, 0)
    assert seat.resize("a", claims, 9).reserved_bytes == 7, "no more than is free"


def test_a_model_without_work_loads_into_free_memory_only() -> None:
    seat = ReservationState("a", 8, TURN_SECONDS, 6)
    full = {"a": ReservationRecord("a"), "b": loaded("b", 3, 0, is_idle=True)}
    assert seat.advance(0, "a", full, WorkState(None, is_idle=True)) == ReservationRecord("a")
    empty = {"a": ReservationRecord("a"), "b": ReservationRecord("b")}
    assert seat.advance(1, "a", empty, WorkState(None, is_idle=True)).reserved_bytes == 6


def test_waiting_time_starts_when_no_process_serves_the_model() -> None:
    seat = ReservationState("a", 8, TURN_SECONDS, 6)
    claims = {"a": ReservationRecord("a"), "other": loaded("a", 6, 99)}
    for now in (10.0, 20.0):
        claims["a"] = seat.advance(now, "a", claims, WorkState(1.0, is_idle=False))
        assert claims["a"].waiting_since == now
    claims["other"] = replace(claims["other"], is_leaving=True, served_until=20.5)
    for now in (21.0, 22.0):
        claims["a"] = seat.advance(now, "a", claims, WorkState(1.0, is_idle=False))
        assert claims["a"].waiting_since == 20.5, "from then on it counts"
    claims["other"] = ReservationRecord("a")
    claims["a"] = seat.advance(23.0, "a", claims, WorkState(1.0, is_idle=False))
    assert claims["a"].reserved_bytes == 6


def test_a_model_larger_than_the_device_neither_loads_nor_waits() -> None:
    seat = ReservationState("a", 8, TURN_SECONDS, 9)
    assert seat.advance(
        0, "a", {"a": ReservationRecord("a")}, WorkState(0.0, is_idle=False)
    ) == ReservationRecord("a")
    assert seat.stage is ReservationStage.OUT
