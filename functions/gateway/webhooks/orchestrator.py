"""The orchestration that delivers one webhook. It is replayed, so it must be deterministic.

    deliver ──▶ 2xx ▶ delivered, 410 ▶ stopped
       ▲  ├───▶ no place is free for an attempt: wait for a durable timer
       ▲  └───▶ otherwise wait for a durable timer, or an operator's event `wake-N`
       └──────────┘                      └─▶ failed, after 24 hours

Each wait has an event with a different name, because the SDK lets one event end all waits for its
name. The delivery log is the custom status and the output of the orchestration.

    {"state": "pending" | "delivered" | "stopped" | "failed",
     "attempts": [{"at", "status": an HTTP status or null, "error": a code or null}, …],
     "next_attempt_at": a time or null}
"""

import hashlib
import json
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, cast

from azure.durable_functions import DurableOrchestrationContext

from contract.messages import Json, format_time
from contract.names import ACTIVITY_DELIVER_WEBHOOK
from gateway.durable import InstanceSnapshot
from gateway.jobs.model import WebhookDelivery

NO_PLACE: Final = "no-place"
"""The error of an attempt that was not made, which is not logged. See `webhooks.shares`."""

WINDOW: Final = timedelta(hours=24)
"""How long the gateway tries to deliver a webhook."""

# Instances that run replay these pauses: changed ones need an orchestrator with a new name.
FIRST_SECONDS: Final = 2.0
LONGEST_SECONDS: Final = 3600.0


def retry_pause_seconds(instance_id: str, failures: int) -> float:
    """Return how long to wait after this many failed attempts.

    The wait doubles after each attempt, up to an hour. It varies by up to 25 %, which is computed
    from the instance id, so that a replay gets the same result.
    """
    full_seconds = min(FIRST_SECONDS * 2.0 ** min(failures - 1, 32), LONGEST_SECONDS)
    digest = hashlib.sha256(f"{instance_id}:{failures}".encode()).digest()
    return full_seconds * (0.75 + int.from_bytes(digest[:4]) / 2**33)


def next_attempt_at(
    instance_id: str,
    failures: int,
    now: datetime,
    ends_at: datetime,
    retry_after_seconds: float | None,
) -> datetime | None:
    """Return the time of the next attempt; None if this time would be after `ends_at`."""
    pause = max(retry_pause_seconds(instance_id, failures), retry_after_seconds or 0.0)
    left_seconds = (ends_at - now).total_seconds()
    return now + timedelta(seconds=pause) if pause <= left_seconds else None


# Durable Functions limits the custom status to 16 KB.
MAX_LOGGED_ATTEMPTS: Final = 100


class DeliveryState(StrEnum):
    """The state of a delivery. `stopped` means that the receiver responded with 410."""

    PENDING = "pending"
    DELIVERED = "delivered"
    STOPPED = "stopped"
    FAILED = "failed"


def delivery_log(
    state: DeliveryState, attempts: Sequence[Json], next_attempt_at: str | None = None
) -> WebhookDelivery:
    """Return the delivery log with the last MAX_LOGGED_ATTEMPTS attempts."""
    return {
        "state": state.value,
        "attempts": list(attempts[-MAX_LOGGED_ATTEMPTS:]),
        "next_attempt_at": next_attempt_at,
    }


def read_delivery_log(instance: InstanceSnapshot | None) -> WebhookDelivery:
    """Return the delivery log of an instance; an empty log if it has none yet."""
    for found in (instance.output, instance.custom_status) if instance else ():
        if isinstance(found, dict) and "attempts" in found:
            return cast(WebhookDelivery, found)
    return delivery_log(DeliveryState.PENDING, ())


def delivery_input(job_id: str, attempts: Json = ()) -> str:
    """Return the input of the orchestration. The new delivery log begins with `attempts`."""
    return json.dumps({"job_id": job_id, "attempts": list(attempts)})


def wake_event(attempts: int) -> str:
    """Return the name of the event that ends the wait after attempt number `attempts`."""
    return f"wake-{attempts}"


def webhook(context: DurableOrchestrationContext) -> Generator[Any, Any, Json]:
    """Deliver a webhook, and return the delivery log.

    The delivery ends when the receiver responds with 2xx or 410, or when WINDOW has passed.
    """
    given = json.loads(context.get_input(str))
    attempts: list[Json] = given["attempts"]
    ends_at = context.current_utc_datetime + WINDOW
    failures = 0
    while True:
        outcome = yield from _deliver(context, given)
        now = context.current_utc_datetime
        if outcome["error"] == NO_PLACE:
            again_at = now + timedelta(seconds=outcome["retry_after_seconds"])
            if again_at < ends_at:
                # The wait is outside the activity, where it would occupy a place.
                _set_status(context, _pending_log(attempts, again_at))
                yield context.task_any([context.create_timer(again_at)])
                continue
        attempts.append({key: outcome[key] for key in ("at", "status", "error")})
        state = DeliveryState(outcome["state"])
        if state is not DeliveryState.PENDING:
            return _set_status(context, delivery_log(state, attempts))
        failures += 1
        next_at = next_attempt_at(
            context.instance_id, failures, now, ends_at, outcome["retry_after_seconds"]
        )
        if next_at is None:
            return _set_status(context, delivery_log(DeliveryState.FAILED, attempts))
        _set_status(context, _pending_log(attempts, next_at))
        timer = context.create_timer(next_at)
        wake = context.wait_for_external_event(wake_event(len(attempts)), str)
        if (yield context.task_any([timer, wake])) is wake:
            timer.cancel()


def _pending_log(attempts: Sequence[Json], next_at: datetime) -> WebhookDelivery:
    next_text = format_time(next_at.replace(tzinfo=UTC))
    return delivery_log(DeliveryState.PENDING, attempts, next_text)


def _deliver(
    context: DurableOrchestrationContext, given: Json
) -> Generator[Any, Any, dict[str, Any]]:
    """Call the activity that makes one attempt, and return its outcome. An error is a failure."""
    delivering = context.call_activity(ACTIVITY_DELIVER_WEBHOOK, given["job_id"])
    yield context.task_any([delivering])
    if not isinstance(delivering.result, str):
        return attempt_outcome(context.current_utc_datetime.replace(tzinfo=UTC), "gateway-failed")
    outcome: dict[str, Any] = json.loads(delivering.result)
    return outcome


def attempt_outcome(
    now: datetime,
    error: str | None,
    *,
    status: int | None = None,
    state: DeliveryState = DeliveryState.PENDING,
    retry_after_seconds: float | None = None,
) -> dict[str, Any]:
    """Return the JSON object that describes one attempt, and the state after it."""
    return {
        "at": format_time(now),
        "status": status,
        "error": error,
        "state": state.value,
        "retry_after_seconds": retry_after_seconds,
    }


def _set_status(context: DurableOrchestrationContext, shown: Json) -> Json:
    context.set_custom_status(shown)
    return shown
