"""The orchestration that delivers one job's webhook. Replayed, hence deterministic.

    deliver ──▶ 2xx ▶ delivered, 410 ▶ stopped
       ▲  └───▶ else wait: a durable timer, or an operator's wake event
       └──────────┘                      └─▶ failed, once the window is over

Each wait has an event name of its own: the Python SDK gives an event to every wait of its name.
"""

import json
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

from azure.durable_functions import DurableOrchestrationContext

from contract.codec import format_time
from contract.fields import Json
from contract.names import ACTIVITY_DELIVER_REPLY, ACTIVITY_DELIVER_WEBHOOK
from gateway.webhooks.log import State, log
from gateway.webhooks.schedule import WINDOW, next_try


def input_text(job_id: str, attempts: Json = (), told: Json = None) -> str:
    """What the orchestration is started with.

    `attempts` are those of earlier runs; `told` is what is delivered where that is not the job.
    """
    given = {"job_id": job_id, "attempts": list(attempts)}
    return json.dumps(given if told is None else {**given, "told": told})


def wake_event(attempts: int) -> str:
    """Name of the event that ends the wait after so many attempts."""
    return f"wake-{attempts}"


def webhook(context: DurableOrchestrationContext) -> Generator[Any, Any, Json]:
    """Deliver until it is taken, refused for good, or given up; returns the log."""
    given = json.loads(context.get_input(str))
    attempts: list[Json] = given["attempts"]
    ends_at = context.current_utc_datetime + WINDOW
    failures = 0
    while True:
        outcome = yield from _delivered(context, given)
        attempts.append({key: outcome[key] for key in ("at", "status", "error")})
        state = State(outcome["state"])
        if state is not State.PENDING:
            return _shown(context, log(state, attempts))
        failures += 1
        now = context.current_utc_datetime
        again_at = next_try(
            context.instance_id, failures, now, ends_at, outcome["retry_after_seconds"]
        )
        if again_at is None:
            return _shown(context, log(State.FAILED, attempts))
        _shown(context, log(State.PENDING, attempts, format_time(again_at.replace(tzinfo=UTC))))
        timer = context.create_timer(again_at)
        wake = context.wait_for_external_event(wake_event(len(attempts)), str)
        if (yield context.task_any([timer, wake])) is wake:
            timer.cancel()


def _delivered(
    context: DurableOrchestrationContext, given: Json
) -> Generator[Any, Any, dict[str, Any]]:
    """One try. An activity that failed itself is a try that failed."""
    if "told" in given:
        delivering = context.call_activity(ACTIVITY_DELIVER_REPLY, json.dumps(given["told"]))
    else:
        delivering = context.call_activity(ACTIVITY_DELIVER_WEBHOOK, given["job_id"])
    yield context.task_any([delivering])
    if not isinstance(delivering.result, str):
        return failed_try(context.current_utc_datetime.replace(tzinfo=UTC), "gateway-failed")
    outcome: dict[str, Any] = json.loads(delivering.result)
    return outcome


def failed_try(
    now: datetime,
    error: str | None,
    *,
    status: int | None = None,
    state: State = State.PENDING,
    retry_after_seconds: float | None = None,
) -> dict[str, Any]:
    """The outcome of a try that was not taken: a status that was answered, or a class of error."""
    return {
        "at": format_time(now),
        "status": status,
        "error": error,
        "state": state.value,
        "retry_after_seconds": retry_after_seconds,
    }


def _shown(context: DurableOrchestrationContext, shown: Json) -> Json:
    context.set_custom_status(shown)
    return shown
