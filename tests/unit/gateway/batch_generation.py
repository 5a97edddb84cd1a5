"""Run the real orchestrator of a batch without a Functions host, with a history in memory."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.durable_functions import Orchestrator

from gateway.batches.orchestrator import batch
from tests.unit.gateway.memory import episode_context

BATCH = "019ca945-0a00-8abc-a97d-9f9881cd0000"

run_batch = Orchestrator.create(batch)


class Generation:
    """One generation of the orchestration, run as by a host."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self.history: list[dict[str, Any]] = []
        self.episodes: list[dict[str, Any]] = []
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
        self.episodes.append({"context": json.loads(context), "answer": self.answer})
        self._append({"EventType": 13})
        return self.answer

    def step(self, *also: dict[str, Any], **result: Any) -> dict[str, Any]:
        """End the activity with this result, or without one as failed, after the events `also`."""
        self._append({"EventType": 4, "EventId": 0, "Name": "step_batch", "Version": ""})
        ended = {"EventType": 5, "Result": json.dumps(json.dumps(result))}
        failed = {"EventType": 6, "Reason": "no storage", "Details": ""}
        return self.add(*also, {**(ended if result else failed), "TaskScheduledId": 0})

    def fire(self, seconds: float) -> dict[str, Any]:
        """Let the timer fire, which is the second task."""
        self.now += timedelta(seconds=seconds)
        fire_at = self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return self.add({"EventType": 11, "TimerId": 1, "FireAt": fire_at})

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


LINES: dict[str, Any] = {"EventType": 15, "Name": "lines", "Input": json.dumps("null")}
