"""Test the orchestration of a batch, with the SDK's executor and a history in memory."""

import json

from gateway.batches.orchestrator import FAILED_PAUSE_SECONDS
from tests.unit.gateway.batch_generation import BATCH, LINES, Generation


def test_step_runs_first() -> None:
    assert Generation().kinds == ["step_batch", "lines"]


def test_waits_for_lines_or_the_pause() -> None:
    generation = Generation()
    generation.step(pause_seconds=5)
    assert generation.kinds == ["step_batch", "lines", 5.0]
    assert not generation.answer["isDone"]


def test_event_starts_the_next_generation() -> None:
    generation = Generation()
    generation.step(pause_seconds=5)
    generation.add(LINES)
    assert generation.kinds[-1] == "again"
    *_, timer, again = generation.actions
    assert timer["isCanceled"]
    assert json.loads(again["input"]) == BATCH


def test_timer_starts_the_next_generation() -> None:
    generation = Generation()
    generation.step(pause_seconds=5)
    generation.fire(5)
    assert generation.kinds[-1] == "again"


def test_event_during_the_step_ends_the_wait() -> None:
    generation = Generation()
    generation.step(LINES, pause_seconds=5)
    assert generation.kinds == ["step_batch", "lines", "again"]


def test_event_does_not_hurry_a_failed_step() -> None:
    generation = Generation()
    generation.step(LINES)
    assert generation.kinds == ["step_batch", "lines", FAILED_PAUSE_SECONDS]


def test_no_pause_starts_the_next_generation() -> None:
    generation = Generation()
    generation.step(pause_seconds=0)
    assert generation.kinds == ["step_batch", "lines", "again"]


def test_failed_step_is_repeated_after_a_pause() -> None:
    generation = Generation()
    generation.step()
    assert generation.kinds == ["step_batch", "lines", FAILED_PAUSE_SECONDS]


def test_final_batch_ends_the_orchestration() -> None:
    generation = Generation()
    generation.step(final="succeeded", has_webhook=False)
    assert (generation.answer["isDone"], generation.answer["output"]) == (True, "succeeded")


def test_webhook_is_announced_before_the_end() -> None:
    generation = Generation()
    generation.step(final="failed", has_webhook=True)
    assert generation.kinds == ["step_batch", "lines", "announce_webhook"]
    assert not generation.answer["isDone"]
