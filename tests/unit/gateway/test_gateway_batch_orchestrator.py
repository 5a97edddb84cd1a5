"""Test the orchestration of a batch, with the SDK's executor and a history in memory."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.durable_functions import Orchestrator

from gateway.batches.orchestrator import FAILED_PAUSE_SECONDS, batch
from tests.unit.gateway.memory import episode_context

BATCH = "019ca945-0a00-8abc-a97d-9f9881cd0000"

run_batch = Orchestrator.create(batch)


class Generation:
    """One generation of the orchestration, run as by a host."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self.history: list[dict[str, Any]] = []
        self.answer = self.add(
            {
                "EventType": 0,
                "Name": "batch",
                "Version": "",
                "Input": json.dumps(BATCH),
                "OrchestrationInstance": {"InstanceId": f"batch-{BATCH}", "ExecutionId": "1"},
                "ParentInstance": None,
            }
        )

    def add(self, *news: dict[str, Any]) -> dict[str, Any]:
        """Run an episode with these events, and return the state of the orchestration."""
        for event in self.history:
            event["IsPlayed"] = True
        self._append({"EventType": 12}, *news)
        context = json.dumps(episode_context(f"batch-{BATCH}", BATCH, self.history))
        self.answer = json.loads(run_batch(context))
        self._append({"EventType": 13})
        return self.answer

    def step(self, *also: dict[str, Any], **result: Any) -> dict[str, Any]:
        """End the activity with this result, or without one as failed, after the events `also`."""
        self._append({"EventType": 4, "EventId": 0, "Name": "step_batch", "Version": ""})
        ended = {"EventType": 5, "Result": json.dumps(json.dumps(result))}
        failed = {"EventType": 6, "Reason": "no storage", "Details": ""}
        return self.add(*also, {**(ended if result else failed), "TaskScheduledId": 0})

    @property
    def actions(self) -> list[dict[str, Any]]:
        """The actions that the orchestration has requested."""
        return list(_flatten(self.answer["actions"][0]))

    @property
    def kinds(self) -> list[Any]:
        """The names of activities and events, the seconds of timers, and "again"."""
        found: list[Any] = []
        for action in self.actions:
            name = action.get("functionName") or action.get("externalEventName")
            if "fireAt" in action:
                name = (datetime.fromisoformat(action["fireAt"]) - self.now).total_seconds()
            found.append(name or "again")
        return found

    def _append(self, *events: dict[str, Any]) -> None:
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.history += [
            {"EventId": -1, "IsPlayed": False, "Timestamp": stamp, **event} for event in events
        ]


def _flatten(actions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for action in actions:
        inner = action.get("compoundActions")
        yield from _flatten(inner) if inner else [action]


LINES = {"EventType": 15, "Name": "lines", "Input": json.dumps("null")}


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
    generation.now += timedelta(seconds=5)
    generation.add({"EventType": 11, "TimerId": 1, "FireAt": generation.now.isoformat()})
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
