"""The life of one job. Pure and deterministic: it is replayed from its history at each event.

    send ──▶ wait for the first of: reply ─▶ succeeded | failed
                                    cancel ▶ cancelled; at once, or if it runs on a worker that
                                             can be told: once it has stopped there
                                    timer ─▶ expired

All tasks are made before the first yield and only waited for again after it. The .NET side awaits
each yielded group to its end before it looks at the next, and a group has only what it newly
brings: a reply waited for in a later group of its own would keep a cancelled job open for ever.
It also lets a job be cancelled, or expire, while its message cannot be sent. What a cancelled job
waits for in the end is therefore an event of its own, `stopped`, and a timer of its own.
"""

import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from azure.durable_functions import DurableOrchestrationContext, RetryOptions

from contract.codec import error_from_json, reply_from_json
from contract.errors import ContractError
from contract.fields import Fields
from contract.messages import FailureCode, JobError, Stage
from contract.names import (
    ACTIVITY_ANNOUNCE_WEBHOOK,
    ACTIVITY_ENQUEUE,
    EVENT_CANCEL,
    EVENT_REPLY,
    EVENT_STOPPED,
)
from contract.status import JobStatus
from gateway.jobs.record import EXPIRED, LOST, Record, ended, replied
from gateway.jobs.ticket import Ticket, read

SEND_RETRIES: Final = RetryOptions(
    first_retry_interval_in_milliseconds=1000, max_number_of_attempts=60
)

STOP_WITHIN: Final = timedelta(seconds=30)
"""How long a worker has to say that it has stopped; after that it is taken for stopped."""

NOT_SENT: Final = JobError(
    FailureCode.UNAVAILABLE,
    "the job could not be queued; send it again later",
    Stage.QUEUE,
    retryable=True,
)


def job(context: DurableOrchestrationContext) -> Generator[Any, Any, Record]:
    """Run one job to its one final record, and have its webhook delivered after that."""
    ticket = read(context.get_input(str))
    record = yield from _lived(context, ticket)
    if ticket.webhook_url is not None:
        # Only the start of another orchestration: this one ends, whatever the receiver does.
        announcing = context.call_activity_with_retry(
            ACTIVITY_ANNOUNCE_WEBHOOK, SEND_RETRIES, ticket.job_id
        )
        yield context.task_any([announcing])
    return record


def _lived(context: DurableOrchestrationContext, ticket: Ticket) -> Generator[Any, Any, Record]:
    sending = context.call_activity_with_retry(ACTIVITY_ENQUEUE, SEND_RETRIES, ticket.text)
    reply = context.wait_for_external_event(EVENT_REPLY, str)
    cancel = context.wait_for_external_event(EVENT_CANCEL, str)
    timer = context.create_timer(_like(context.current_utc_datetime, ticket.deadline))

    first = yield context.task_any([sending, reply, cancel, timer])
    refusal = _refusal(sending.result) if first is sending else None
    if first is sending and refusal is None:
        first = yield context.task_any([reply, cancel, timer])

    if first is not timer:
        # An orchestration stays open until its timers have fired or were cancelled.
        timer.cancel()
    now = context.current_utc_datetime.replace(tzinfo=UTC)
    if refusal is not None:
        return ended(ticket, JobStatus.FAILED, refusal, now)
    if first is reply:
        return _answered(ticket, reply.result, now)
    if first is cancel:
        started_at = _started_at(cancel.result)
        if started_at is not None:
            now = yield from _stopped(context, ticket)
            # It overtook the wish to cancel, and its worker was told that it was accepted.
            if reply.is_completed:
                return _answered(ticket, reply.result, now)
        return {**ended(ticket, JobStatus.CANCELLED, None, now), "started_at": started_at}
    return ended(ticket, JobStatus.EXPIRED, EXPIRED, now)


def _started_at(event: object) -> str | None:
    """Since when the job runs on a worker that can be told to stop; else None."""
    value = json.loads(event) if isinstance(event, str) else event
    started_at = value.get("started_at") if isinstance(value, dict) else None
    return started_at if isinstance(started_at, str) else None


def _stopped(context: DurableOrchestrationContext, ticket: Ticket) -> Generator[Any, Any, datetime]:
    """Wait until the worker has stopped, but not for ever; returns when that was."""
    begun = context.current_utc_datetime
    stopped = context.wait_for_external_event(EVENT_STOPPED, str)
    bound = context.create_timer(min(begun + STOP_WITHIN, _like(begun, ticket.deadline)))
    if (yield context.task_any([stopped, bound])) is stopped:
        bound.cancel()
    ended_at: datetime = context.current_utc_datetime.replace(tzinfo=UTC)
    return ended_at


def _refusal(sent: object) -> JobError | None:
    """Why the request will never be sent: the retries are spent, or the activity says so."""
    if isinstance(sent, Exception):
        return NOT_SENT
    return error_from_json(Fields(json.loads(sent))) if isinstance(sent, str) else None


def _answered(ticket: Ticket, event: object, now: datetime) -> Record:
    # The SDK's client encodes an event twice, a plain HTTP client once.
    try:
        reply = reply_from_json(json.loads(event) if isinstance(event, str) else event)
    except (ContractError, ValueError):
        # Only somebody with the management key gets past the reply route's checks.
        return ended(ticket, JobStatus.FAILED, LOST, now)
    return replied(ticket, reply, now)


def _like(now: datetime, text: str) -> datetime:
    """A UTC time that can be compared with `now`, be that aware or naive."""
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=now.tzinfo)
