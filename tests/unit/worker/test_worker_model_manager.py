"""Test how the model manager loads, measures and unloads models, and repeats a failed load."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.worker.load_deaths import die_while_loading
from tests.unit.worker.managed_models import (
    BUDGET,
    LONG_SECONDS,
    NOOP,
    Block,
    Infer,
    Models,
    Raising,
    problem_of,
    running_models,
    until,
)
from worker.errors import WeightsMissing, WeightsUnavailable
from worker.inference.loading import LoadProgress
from worker.memory.device_errors import BudgetExceeded
from worker.memory.profile import MemoryProfile, MemoryProfiles
from worker.memory.sharing import needed_bytes, profile_key
from worker.memory.simulated_device import AccountRecord, MemoryAccount, SimulatedDevice
from worker.processes.load_journal import LoadJournal

FULL = MemoryProfile(30, ((1.0, 10), (4.0, 40)))


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with running_models(tmp_path) as models:
        yield models


def test_shutdown_interrupts_a_load(models: Models) -> None:
    stopping, is_loading = threading.Event(), threading.Event()
    loading = LoadProgress("a", stopping.is_set)

    def load() -> Infer:
        is_loading.set()
        loading.wait(LONG_SECONDS)
        return Infer(20)

    managed = models.start("a", load)
    assert is_loading.wait(LONG_SECONDS)
    stopping.set()
    managed.stop()
    assert not managed.thread.is_alive()
    assert managed.manager.problem is None


class TestMemory:
    def test_model_and_a_full_batch_are_reserved(self, models: Models, tmp_path: Path) -> None:
        managed = models.load("a", 20)
        assert managed.passes == [1, 2, 4]
        assert managed.manager.reserved_bytes == 20 + 4 * 10
        assert managed.manager.limit.max_cost >= 4
        assert managed.manager.admits()
        assert AccountRecord.read(tmp_path / "cpu" / "account").peak_bytes == 60

    def test_fixed_memory_needs_no_measurement(self, models: Models) -> None:
        class Fixed(Infer):
            has_fixed_memory = True

            def memory_bytes(self, cost: float) -> int:
                return self.resident

            def sample(self) -> None:  # type: ignore[override]
                return None

        managed = models.load("a", lambda: Fixed(50), memory_bytes=60)
        assert managed.passes == []
        assert managed.manager.limit.measured_cost == 4
        assert 50 <= managed.manager.reserved_bytes <= 51
        models.load("b", 15)
        assert managed.manager.admits()

    def test_model_above_its_reservation_is_closed(self, models: Models) -> None:
        built = list[Infer]()

        def load() -> Infer:
            built.append(Infer(50))
            return built[-1]

        models.load("a", load, memory_bytes=40)
        assert [each.is_closed for each in built] == [True, False]

    def test_profiles_are_used_at_the_next_start(self, tmp_path: Path) -> None:
        with running_models(tmp_path) as models:
            first = models.load("a", 20)
            with running_models(tmp_path) as others:
                # The first model is still loaded, so there is not enough free memory.
                second = others.start("a", 20)
                assert not second.entered.wait(0.3)
                first.stop()
                assert second.entered.wait(LONG_SECONDS)
                assert second.passes == [1], "the slow first pass runs before jobs come"
                assert second.manager.reserved_bytes == 60

    def test_known_model_is_not_measured_again(self, models: Models, tmp_path: Path) -> None:
        loads: list[int] = []

        def load() -> Infer:
            loads.append(1)
            return Infer(70)

        model = replace(NOOP, name="a", queue="a", max_batch_size=4)
        profile = MemoryProfile(20, FULL.peaks)
        MemoryProfiles(tmp_path / "cpu" / "profiles").put(profile_key(model), profile)
        managed = models.load("a", load)
        assert managed.manager.reserved_bytes == 60
        assert loads == [1]

    def test_size_measured_elsewhere_is_waited_for(self, models: Models, tmp_path: Path) -> None:
        assert models.start("b", 50).entered.wait(LONG_SECONDS)
        late = models.start("a", 30)
        assert not late.entered.wait(0.3), "the size of the model is unknown, no memory is free"
        MemoryProfiles(tmp_path / "cpu" / "profiles").put(profile_key(late.model), FULL)
        models.load("c", 10, has_work=True)
        assert not late.entered.wait(0.5), "30 bytes are free, but the model needs more"
        assert late.infer is None

    def test_batches_shrink_to_what_fits(self, models: Models) -> None:
        managed = models.load("a", 50)
        assert managed.passes == [1, 2]
        assert managed.manager.reserved_bytes == BUDGET
        assert 2 <= managed.manager.limit.max_cost <= 3

    @pytest.mark.parametrize(
        ("profile", "hint_bytes", "expected_bytes"),
        [
            (FULL, 0, 70),
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
    def test_reservation_is_at_most_the_device_or_one_item(
        self, tmp_path: Path, profile: MemoryProfile, hint_bytes: int, expected_bytes: int
    ) -> None:
        account = MemoryAccount(tmp_path, BUDGET)
        model = replace(NOOP, max_batch_size=4, memory_bytes=hint_bytes)
        assert needed_bytes(profile, model, SimulatedDevice(account, BUDGET)) == expected_bytes

    def test_model_larger_than_the_device_is_out_of_memory(self, models: Models) -> None:
        managed = models.start("a", BUDGET - 5)
        assert problem_of(managed)["code"] == "out-of-memory"
        assert not managed.entered.is_set()
        assert not managed.manager.is_standing_by
        assert not managed.manager.admits()

    def test_memory_error_shrinks_batches_without_a_device(self, tmp_path: Path) -> None:
        with running_models(tmp_path, None) as models:
            managed = models.load("a", 10**15)
            assert managed.passes == [1]
            limit = managed.manager.limit
            with pytest.raises(BudgetExceeded), limit.admit_batch(4):
                raise BudgetExceeded("no")
            limit.note_exceeded(4, 2)
            assert limit.max_cost == 2
            assert list(tmp_path.iterdir()) == []


class TestUnloading:
    def test_idle_model_is_unloaded_for_one_with_jobs(self, models: Models) -> None:
        idle = models.load("a", 20)
        other = models.start("b", 40)
        assert not other.entered.wait(0.3)
        other.has_work = True
        assert other.entered.wait(LONG_SECONDS)
        assert idle.infer is not None
        assert idle.infer.is_closed
        assert not idle.manager.admits()
        assert idle.manager.is_standing_by
        assert idle.manager.loaded is None
        assert other.manager.reserved_bytes == 40 + 4 * 10

    def test_busy_model_is_unloaded_after_turn_and_jobs(self, models: Models) -> None:
        busy = models.load("a", 20)
        busy.in_flight.append("a job")
        other = models.start("b", 40)
        other.has_work = True
        until(lambda: not busy.manager.admits())
        assert not other.entered.wait(0.3), "a job is still running"
        assert busy.manager.loaded is not None
        busy.in_flight.clear()
        assert other.entered.wait(LONG_SECONDS)
        assert busy.manager.loaded is None

    def test_stopped_manager_does_not_wait_for_memory(self, models: Models) -> None:
        first = models.load("a", 20)
        leaving = models.start("b", 40)
        assert not leaving.entered.wait(0.3)
        leaving.stopping.set()
        leaving.thread.join(LONG_SECONDS)
        leaving.has_work = True
        assert leaving.seen.wait(LONG_SECONDS)
        models.load("c", 5, memory_bytes=20, has_work=True)
        assert first.manager.admits(), "no other model waits for the memory"


class TestFailedLoad:
    def test_it_is_repeated_with_its_memory_free(self, models: Models) -> None:
        first, blocks = Raising(20), list[weakref.ref[Block]]()
        first.blocks = blocks
        lived: list[bool] = []

        def load() -> Infer:
            if not blocks:
                return first
            lived.append(blocks[0]() is not None)
            return Infer(20)

        managed = models.start("a", load)
        assert problem_of(managed) == {
            "code": "model-failed",
            "detail": "worker.models.noop raised ValueError",
        }
        assert managed.entered.wait(LONG_SECONDS)
        assert first.is_closed
        assert lived == [False]
        assert managed.manager.problem is None

    def test_failure_on_the_sample_counts_without_a_device(self, tmp_path: Path) -> None:
        broken = Raising(20)
        broken.blocks = []
        with running_models(tmp_path, None) as models:
            managed = models.start("a", lambda: broken)
            assert problem_of(managed)["detail"] == "worker.models.noop raised ValueError"
            assert broken.is_closed
            assert not managed.entered.is_set()

    @pytest.mark.parametrize(
        ("module", "raised"),
        [
            (
                "no_such_module",
                (
                    "ModuleNotFoundError: there is no module no_such_module; if a package contains "
                    "it, add the package to requirements.txt and run "
                    "`pip install -r requirements.txt`"
                ),
            ),
            ("tests.unit.worker.exiting_model", "SystemExit"),
        ],
    )
    def test_problem_names_the_error_of_the_import(
        self, models: Models, module: str, raised: str
    ) -> None:
        managed = models.start("a", 20, implementation=module)
        assert problem_of(managed)["detail"] == f"{module} raised {raised}"

    def test_lost_device_ends_the_loads(self, models: Models) -> None:
        def load() -> Infer:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        managed = models.start("a", load)
        managed.thread.join(LONG_SECONDS)
        assert len(managed.lost) == 1

    @pytest.mark.parametrize(
        ("error", "is_set_aside"),
        [
            (WeightsMissing("gone"), True),
            (ValueError("a defect"), True),
            (WeightsUnavailable("away"), False),
        ],
    )
    def test_it_sets_aside_unless_storage_is_down(
        self, models: Models, error: Exception, *, is_set_aside: bool
    ) -> None:
        errors = [error]

        def load() -> Infer:
            if errors:
                raise errors.pop()
            return Infer(20)

        broken = models.start("broken", load)
        problem_of(broken)
        assert broken.manager.is_set_aside is is_set_aside
        # The next attempt, a second later, succeeds.
        assert broken.entered.wait(LONG_SECONDS)
        assert not broken.manager.is_set_aside


class TestDeadlyLoad:
    def test_it_is_set_aside_after_three_deaths(self, models: Models, tmp_path: Path) -> None:
        journal = LoadJournal(tmp_path)
        for _ in range(3):
            die_while_loading(tmp_path, "killer")
            journal.take_over_notes(["killer", "other"])
        killer = models.start("killer", 20, journal)
        other = models.start("other", 20, journal)

        assert other.entered.wait(LONG_SECONDS)
        assert other.manager.admits()
        problem = problem_of(killer)
        assert killer.infer is None
        assert problem["code"] == "model-kills-worker"
        assert "3 times in a row" in problem["detail"]
        assert killer.manager.is_set_aside
        assert not killer.manager.is_standing_by

    def test_no_model_gets_jobs_while_a_suspect_loads(self, models: Models, tmp_path: Path) -> None:
        die_while_loading(tmp_path, "suspect")
        journal = LoadJournal(tmp_path)
        journal.take_over_notes(["suspect", "other"])
        may_load, is_loading = threading.Event(), threading.Event()

        def load() -> Infer:
            is_loading.set()
            may_load.wait(LONG_SECONDS)
            return Infer(20)

        other = models.start("other", 20, journal)
        suspect = models.start("suspect", load, journal)
        assert is_loading.wait(LONG_SECONDS)
        assert other.infer is None
        assert not other.manager.admits()
        may_load.set()
        assert suspect.entered.wait(LONG_SECONDS)
        other.has_work = True  # now it gets the memory of the idle suspect
        assert other.entered.wait(LONG_SECONDS)
        assert other.manager.admits()
        assert journal.killed_loads("suspect").death_count == 0
