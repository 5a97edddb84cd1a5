"""Test the load journal: how it finds the models whose loading has killed processes."""

import os
import threading
from pathlib import Path

import pytest

from tests.unit.worker.load_deaths import die_while_loading
from worker.processes.load_journal import LoadJournal, import_name
from worker.processes.lock_journal import LockJournal

NOW = 1_000_000.0
NEVER = threading.Event()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def successor(folder: Path, *models: str, at: float = NOW) -> LoadJournal:
    journal = LoadJournal(folder, lambda: at)
    journal.take_over_notes(models)
    return journal


def test_three_deaths_set_a_model_aside_for_five_minutes(folder: Path) -> None:
    counts = []
    for _ in range(3):
        die_while_loading(folder, "killer")
        found = successor(folder, "killer", "other").killed_loads("killer")
        counts.append((found.death_count, found.pause_seconds))
    assert counts == [(1, 0.0), (2, 0.0), (3, 300.0)]
    assert successor(folder, "other").killed_loads("other").death_count == 0


def test_each_further_death_doubles_the_delay(folder: Path) -> None:
    for _ in range(3):
        die_while_loading(folder, "killer")
        journal = successor(folder, "killer")
    assert not journal.is_holding, "a model that is set aside does not delay the others"
    assert successor(folder, "killer", at=NOW + 299).killed_loads("killer").pause_seconds == 1.0
    later = successor(folder, "killer", at=NOW + 300)
    assert later.killed_loads("killer").pause_seconds == 0.0
    assert later.is_holding
    die_while_loading(folder, "killer")
    assert successor(folder, "killer", at=NOW + 300).killed_loads("killer").pause_seconds == 600.0
    # Test a clock that was set back.
    assert successor(folder, "killer", at=0.0).killed_loads("killer").pause_seconds == 600.0


def test_models_that_always_load_together_stay_suspects(folder: Path) -> None:
    for _ in range(5):
        die_while_loading(folder, "killer", "other")
        journal = successor(folder, "killer", "other")
    assert (
        journal.killed_loads("killer").death_count == journal.killed_loads("other").death_count == 1
    )
    assert journal.is_holding


def test_death_beside_a_held_message_is_not_certain(folder: Path) -> None:
    def hold_a_job() -> LockJournal:
        journal = LockJournal(folder, "namespace", "queue")
        journal.note_arrival(b"x" * 16)
        return journal

    for _ in range(5):
        die_while_loading(folder, "slow", prepare=hold_a_job)
        journal = successor(folder, "slow")
        assert journal.killed_loads("slow").death_count == 1
        for path in folder.glob("*.locks"):
            path.unlink()
    assert journal.is_holding


def test_successful_load_resets_the_deaths(folder: Path) -> None:
    die_while_loading(folder, "unlucky")
    journal = successor(folder, "unlucky")
    with journal.noting_load("unlucky"):
        pass
    journal.end_load("unlucky", has_succeeded=True)
    assert not journal.is_holding
    assert successor(folder, "unlucky").killed_loads("unlucky").death_count == 0


def test_load_that_raises_is_no_death(folder: Path) -> None:
    with pytest.raises(RuntimeError), LoadJournal(folder).noting_load("broken"):
        raise RuntimeError
    assert successor(folder, "broken").killed_loads("broken").death_count == 0


def test_load_of_a_running_process_is_no_death(folder: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with LoadJournal(folder).noting_load("busy"):
            os.write(write, b".")
            os.read(os.pipe()[0], 1)
    os.read(read, 1)
    assert successor(folder, "busy").killed_loads("busy").death_count == 0
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert successor(folder, "busy").killed_loads("busy").death_count == 1


def test_other_models_wait_for_suspects_up_to_a_limit(folder: Path) -> None:
    die_while_loading(folder, "suspect")
    journal = LoadJournal(folder, hold_seconds=0.05)
    journal.take_over_notes(["suspect", "other"])
    holding = [journal.is_holding]
    journal.wait_for_suspects("suspect", NEVER)  # returns at once
    journal.wait_for_suspects("other", NEVER)  # returns after 0.05 s
    assert [*holding, journal.is_holding] == [True, False]

    patient = successor(folder, "suspect", "other")
    waiting = threading.Thread(target=patient.wait_for_suspects, args=("other", NEVER))
    waiting.start()
    patient.end_load("suspect", has_succeeded=False)
    waiting.join(5)
    assert not waiting.is_alive()


def test_deaths_of_imports_and_loads_are_counted_apart(folder: Path) -> None:
    die_while_loading(folder, import_name("my.module"))
    journal = successor(folder, "my.module")
    assert journal.killed_loads(import_name("my.module")).death_count == 1
    assert journal.killed_loads("my.module").death_count == 0


def test_model_is_loaded_without_a_writable_journal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = LoadJournal(tmp_path / "file")
    journal.take_over_notes(["model"])
    with journal.noting_load("model"):
        journal.end_load("model", has_succeeded=True)
    assert LoadJournal(None).killed_loads("model").death_count == 0
