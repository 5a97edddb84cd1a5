"""The orchestration that delivers one webhook. It is replayed, so it must be deterministic.

    deliver ──▶ 2xx ▶ delivered, 410 ▶ stopped
       ▲  └───▶ else wait: a durable timer, or an operator's event `wake-N`
       └──────────┘                      └─▶ failed, after 24 hours

Each wait has its own event name, since the Python SDK gives an event to all waits for its name.

The orchestration shows its delivery log as custom status and output:

    {"state": "pending" | "delivered" | "stopped" | "failed",
     "attempts": [{"at", "status": the receiver's or null, "error": a class or null}, …],
     "next_attempt_at": a time or null}

Of the receiver's response only the status is kept.
"""

import hashlib
import json
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, cast

from azure.durable_functions import DurableOrchestrationContext
from pydantic import Field
from typing_extensions import TypedDict

from contract.messages import Json, format_time
from contract.names import ACTIVITY_DELIVER_REPLY, ACTIVITY_DELIVER_WEBHOOK
from gateway.durable import InstanceSnapshot
from gateway.jobs.model import Time

WINDOW: Final = timedelta(hours=24)
"""How long a delivery is tried."""

FIRST_SECONDS: Final = 2.0
LONGEST_SECONDS: Final = 3600.0


def retry_pause_seconds(instance_id: str, failures: int) -> float:
    """Return the pause after this many failures: doubling up to an hour, with a jitter of 25 %.

    The jitter is computed from the instance's id, so a replay gives the same pause.
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
    """Return the time of the next attempt, not before `retry_after_seconds`; None after the end."""
    pause = max(retry_pause_seconds(instance_id, failures), retry_after_seconds or 0.0)
    left_seconds = (ends_at - now).total_seconds()
    return now + timedelta(seconds=pause) if pause <= left_seconds else None


# Durable limits the custom status to 16 KB.
MAX_LOGGED_ATTEMPTS: Final = 100


class DeliveryState(StrEnum):
    """The state of a delivery. `stopped` means that the receiver answered 410."""

    PENDING = "pending"
    DELIVERED = "delivered"
    STOPPED = "stopped"
    FAILED = "failed"


class DeliveryAttempt(TypedDict):
    """One attempt to deliver a webhook: the receiver's status, or a class of error."""

    at: Time
    status: int | None
    error: Annotated[str | None, Field(examples=["timeout"])]


class WebhookDelivery(TypedDict):
    """The delivery log of a job's webhook."""

    state: Annotated[
        Literal["pending", "delivered", "stopped", "failed"],
        Field(
            description="`stopped`: the receiver answered 410. `failed`: not delivered in 24 hours."
        ),
    ]
    attempts: list[DeliveryAttempt]
    next_attempt_at: Time | None


def delivery_log(
    state: DeliveryState, attempts: Sequence[Json], next_attempt_at: str | None = None
) -> WebhookDelivery:
    """Return the delivery log as JSON."""
    return {
        "state": state.value,
        "attempts": list(attempts[-MAX_LOGGED_ATTEMPTS:]),
        "next_attempt_at": next_attempt_at,
    }


def read_delivery_log(instance: InstanceSnapshot | None) -> WebhookDelivery:
    """Return the log of a delivery; an empty log if the delivery has not started."""
    for found in (instance.output, instance.custom_status) if instance else ():
        if isinstance(found, dict) and "attempts" in found:
            return cast(WebhookDelivery, found)
    return delivery_log(DeliveryState.PENDING, ())


def delivery_input(job_id: str, attempts: Json = (), told: Json = None) -> str:
    """Return the input of the orchestration.

    Args:
        job_id: The job whose webhook is delivered.
        attempts: The attempts of earlier runs.
        told: What to deliver in place of the job: the members of a WebhookReply.
    """
    given = {"job_id": job_id, "attempts": list(attempts)}
    return json.dumps(given if told is None else {**given, "told": told})


def wake_event(attempts: int) -> str:
    """Return the name of the event that ends the wait after this many attempts."""
    return f"wake-{attempts}"


def webhook(context: DurableOrchestrationContext) -> Generator[Any, Any, Json]:
    """Try to deliver until the receiver answers 2xx or 410, or the time is over; return the log."""
    given = json.loads(context.get_input(str))
    attempts: list[Json] = given["attempts"]
    ends_at = context.current_utc_datetime + WINDOW
    failures = 0
    while True:
        outcome = yield from _deliver(context, given)
        attempts.append({key: outcome[key] for key in ("at", "status", "error")})
        state = DeliveryState(outcome["state"])
        if state is not DeliveryState.PENDING:
            return _set_status(context, delivery_log(state, attempts))
        failures += 1
        now = context.current_utc_datetime
        again_at = next_attempt_at(
            context.instance_id, failures, now, ends_at, outcome["retry_after_seconds"]
        )
        if again_at is None:
            return _set_status(context, delivery_log(DeliveryState.FAILED, attempts))
        _set_status(
            context,
            delivery_log(
                DeliveryState.PENDING, attempts, format_time(again_at.replace(tzinfo=UTC))
            ),
        )
        timer = context.create_timer(again_at)
        wake = context.wait_for_external_event(wake_event(len(attempts)), str)
        if (yield context.task_any([timer, wake])) is wake:
            timer.cancel()


def _deliver(
    context: DurableOrchestrationContext, given: Json
) -> Generator[Any, Any, dict[str, Any]]:
    """Return the outcome of one attempt. A failed activity counts as a failed attempt."""
    if "told" in given:
        delivering = context.call_activity(ACTIVITY_DELIVER_REPLY, json.dumps(given["told"]))
    else:
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
    """Return the outcome of an attempt: the receiver's status, or a class of error."""
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
