"""Run the real webhook orchestrator without a Functions host, with a history in memory."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

from azure.durable_functions import Orchestrator

from contract.guard import AddressGuard
from contract.webhook import parse_secrets
from gateway.webhooks.orchestrator import delivery_input, webhook
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.memory import MemoryReceiver, episode_context

SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
URL = "http://127.0.0.1:9/hook?token=hidden"
HOOKS: dict[str, Any] = {
    "webhook_secrets": parse_secrets(SECRET),
    "guard": AddressGuard("127.0.0.1"),
}
"""The settings of a gateway that may deliver webhooks to URL."""

run_webhook = Orchestrator.create(webhook)


class Delivery:
    """The orchestration of one webhook, run as by a host, with these results of its attempts."""

    def __init__(self, *outcomes: dict[str, Any], input_text: str | None = None) -> None:
        self.input_text = input_text or delivery_input("job")
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self.outcomes = list(outcomes)
        self.history: list[dict[str, Any]] = []
        self.episodes: list[dict[str, Any]] = []
        self.next_id = 0
        self.actions = 0

    def play(self, wake: str | None = None) -> dict[str, Any]:
        """Run until the end or the last result; `wake` is an event that ends each wait early."""
        news: list[dict[str, Any]] = [
            {
                "EventType": 0,
                "Name": "webhook",
                "Version": "",
                "Input": json.dumps(self.input_text),
                "OrchestrationInstance": {"InstanceId": "webhook-job", "ExecutionId": "1"},
                "ParentInstance": None,
            }
        ]
        while True:
            answer = self._turn(news)
            if answer["isDone"]:
                return answer
            groups = answer["actions"][0][self.actions :]
            self.actions = len(answer["actions"][0])
            (group,) = groups
            kinds = group["compoundActions"]
            task_id, self.next_id = self.next_id, self.next_id + 1
            if "functionName" in kinds[0]:
                if not self.outcomes:
                    return answer
                self._append({"EventType": 4, "EventId": task_id, "Name": "deliver_webhook"})
                result = json.dumps(json.dumps(self.outcomes.pop(0)))
                news = [{"EventType": 5, "TaskScheduledId": task_id, "Result": result}]
                continue
            fire_at = datetime.fromisoformat(kinds[0]["fireAt"])
            self._append({"EventType": 10, "EventId": task_id, "FireAt": kinds[0]["fireAt"]})
            if wake and kinds[1]["externalEventName"] == wake:
                news = [{"EventType": 15, "Name": wake, "Input": json.dumps("null")}]
            else:
                self.now = fire_at
                news = [{"EventType": 11, "TimerId": task_id, "FireAt": kinds[0]["fireAt"]}]

    def _turn(self, news: list[dict[str, Any]]) -> dict[str, Any]:
        for event in self.history:
            event["IsPlayed"] = True
        self._append({"EventType": 12}, *news)
        context = episode_context("webhook-job", self.input_text, self.history)
        answer: dict[str, Any] = json.loads(run_webhook(json.dumps(context)))
        self.episodes.append({"context": json.loads(json.dumps(context)), "answer": answer})
        self._append({"EventType": 13})
        return answer

    def _append(self, *events: dict[str, Any]) -> None:
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.history += [
            {"EventId": -1, "IsPlayed": False, "Timestamp": stamp, "Version": "", **event}
            for event in events
        ]


def tried(state: str, status: int | None, retry_after: float | None = None) -> dict[str, Any]:
    return {
        "at": "2026-03-01T12:00:00.000Z",
        "status": status,
        "error": None if status else "timeout",
        "state": state,
        "retry_after_seconds": retry_after,
    }


def receiver(gateway: RunningGateway) -> MemoryReceiver:
    assert isinstance(gateway.services.webhooks, MemoryReceiver)
    return gateway.services.webhooks


async def deliver(gateway: RunningGateway, job_id: str) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(
        await gateway.services.webhook_activities.deliver(job_id, gateway.durable)
    )
    return outcome
