"""The orchestration of one job. It is replayed from its history, so it must be deterministic.

    wait for the first of: reply ──▶ end with the recorded outcome
                           cancel ─▶ wait until the worker has stopped the job
                           timer ──▶ check for a recorded outcome; at the deadline record that
                                     the job has expired

Usually the job's message has been sent before the orchestration is started. If the broker did not
respond, the orchestration sends the message by the activity `enqueue`, with retries. If the job
ended before the start, the ticket contains the outcome, and the orchestration ends at once.

The outcome is recorded in a blob before the event `reply` is raised (see `lifecycle`). The event
can be lost, so the orchestration also reads the blob when its timer fires.

The .NET host processes the tasks in groups. The tasks that are new at a `yield` form a group.
Before the host processes the next group, it waits until one task of this group is complete.
Therefore this orchestrator waits for all its events in the first group, and starts only one
activity or timer in each later group.
"""

import json
import logging
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from azure.durable_functions import DurableOrchestrationContext, RetryOptions

from contract.errors import ContractError
from contract.messages import (
    FailureCode,
    Fields,
    JobError,
    Json,
    Stage,
    error_from_json,
    reply_from_json,
)
from contract.names import (
    ACTIVITY_ANNOUNCE_WEBHOOK,
    ACTIVITY_CONCLUDE,
    ACTIVITY_ENQUEUE,
    EVENT_CANCEL,
    EVENT_REPLY,
    EVENT_STOPPED,
)
from gateway.jobs.model import (
    LOST,
    JobOutcome,
    JobStatus,
    Record,
    Ticket,
    final_record,
    initial_record,
    outcome_from_json,
    outcome_of,
    outcome_to_json,
    read_ticket,
)

SEND_RETRIES: Final = RetryOptions(
    first_retry_interval_in_milliseconds=1000, max_number_of_attempts=60
)

FIRST_CHECK: Final = timedelta(seconds=10)
FIRST_CHECK_WITH_WEBHOOK: Final = timedelta(seconds=2)
"""The first check for a job with a webhook, which a lost event would delay."""

LONGEST_CHECK_INTERVAL: Final = timedelta(minutes=10)
"""The longest interval between two checks for an outcome. The interval doubles after each check."""

STOP_WITHIN: Final = timedelta(seconds=30)
"""How long the orchestration waits for a worker to stop a cancelled job."""

NOT_SENT: Final = JobError(
    FailureCode.UNAVAILABLE,
    "the job could not be queued; send it again later",
    Stage.QUEUE,
    retryable=True,
)

# The events of a first episode, and the schema of the state that ends it.
_STARTED: Final = ("OrchestratorStarted", "ExecutionStarted")
_SCHEMA: Final = 2

_NOT_LOGGED: Final = {JobStatus.SUCCEEDED, JobStatus.CANCELLED}

_log = logging.getLogger(__name__)


def job(context: DurableOrchestrationContext) -> Generator[Any, Any, Record]:
    """Run a job until it has ended, start the delivery of its webhook, and return its record."""
    ticket = read_ticket(context.get_input(str))
    if (ended := outcome_of(ticket)) is not None:
        outcome = ended
    elif ticket.version == 1:
        outcome = yield from _run_without_record(context, ticket)
    else:
        outcome = yield from _run(context, ticket)
    if ticket.webhook_url is not None:
        # This only starts another orchestration, and does not wait for the receiver.
        announcing = context.call_activity_with_retry(
            ACTIVITY_ANNOUNCE_WEBHOOK, SEND_RETRIES, ticket.job_id
        )
        yield context.task_any([announcing])
    return final_record(initial_record(ticket), outcome)


def end_at_start(context_json: str) -> str | None:
    """Return the state of an orchestration that was started with its outcome, as the SDK does.

    The SDK first prepares a replay, which costs more than the rest of the orchestration. Return
    None if the SDK must run the orchestration.
    """
    context = json.loads(context_json)
    try:
        if len(context["history"]) != len(_STARTED) or context["upperSchemaVersionNew"] < _SCHEMA:
            return None
        ticket = read_ticket(json.loads(context["input"]))
        outcome = outcome_of(ticket)
    except (ContractError, ValueError, KeyError, TypeError):
        return None
    if outcome is None or ticket.webhook_url is not None:
        return None
    record = final_record(initial_record(ticket), outcome)
    log_failure(context["instanceId"], record)
    state = {"isDone": True, "schemaVersion": _SCHEMA, "actions": [[]], "output": record}
    return json.dumps(state)


def log_failure(job_id: str, record: Record) -> None:
    """Log a job that failed or expired. Alerts in infra/modules/alerts.bicep parse the line."""
    if record["status"] not in _NOT_LOGGED:
        code = (record.get("error") or {}).get("code", "unknown")
        job = (job_id, record["model"], record["status"], code)
        _log.warning("job %s of %s ended as %s: %s", *job)


def _run(context: DurableOrchestrationContext, ticket: Ticket) -> Generator[Any, Any, JobOutcome]:
    """Send the job's message if necessary, wait until the job ends, and return the outcome."""
    interval = FIRST_CHECK if ticket.webhook_url is None else FIRST_CHECK_WITH_WEBHOOK
    now = context.current_utc_datetime
    deadline = ends_at = _like(now, ticket.deadline)
    refusal: JobError | None = None
    is_cancelled = False
    started_at: str | None = None
    sending = None
    if not ticket.is_sent:
        sending = context.call_activity_with_retry(ACTIVITY_ENQUEUE, SEND_RETRIES, ticket.text)
    reply = context.wait_for_external_event(EVENT_REPLY, str)
    cancel = context.wait_for_external_event(EVENT_CANCEL, str)
    timer = context.create_timer(min(now + interval, ends_at))
    waiting = [reply, cancel] if sending is None else [sending, reply, cancel]
    while True:
        first = yield context.task_any([*waiting, timer])
        now = context.current_utc_datetime
        if first is reply:
            # An orchestration does not end before its timers have fired or are cancelled.
            timer.cancel()
            return _outcome_of(reply.result, now)
        if first is timer:
            proposed = _proposed(refusal, is_cancelled, started_at, now) if now >= ends_at else None
            found = yield from _conclude(context, ticket, proposed)
            now = context.current_utc_datetime
            if "outcome" in found:
                return outcome_from_json(found["outcome"])
            if "stopping" in found and not is_cancelled:
                is_cancelled, started_at = True, found["stopping"]["started_at"]
                ends_at = min(now + STOP_WITHIN, deadline)
            interval = min(interval * 2, LONGEST_CHECK_INTERVAL)
            if proposed is not None:
                # The blob storage did not respond, so the outcome was not recorded.
                timer = context.create_timer(now + FIRST_CHECK)
                continue
        else:
            waiting.remove(first)
            if sending is not None and first is sending:
                refusal = _refusal(sending.result)
                if refusal is None:
                    continue
                ends_at = now
            elif not is_cancelled:
                is_cancelled, started_at = True, _started_at(cancel.result)
                ends_at = now if started_at is None else min(now + STOP_WITHIN, deadline)
            timer.cancel()
        timer = context.create_timer(min(now + interval, ends_at))


def _proposed(
    refusal: JobError | None, is_cancelled: bool, started_at: str | None, now: datetime
) -> JobOutcome:
    """Return the outcome to record for a job that ends without a reply."""
    at = now.replace(tzinfo=UTC)
    if refusal is not None:
        return JobOutcome.failed(refusal, at)
    return JobOutcome.cancelled(at, started_at) if is_cancelled else JobOutcome.expired(at)


def _conclude(
    context: DurableOrchestrationContext, ticket: Ticket, proposed: JobOutcome | None
) -> Generator[Any, Any, dict[str, Json]]:
    """Call the activity `conclude`; return its result, or an empty dict if the call failed.

    The activity records the outcome `proposed` unless this is None, or the job has an outcome.
    """
    asked = {
        "job_id": ticket.job_id,
        "model": ticket.model,
        "propose": None if proposed is None else outcome_to_json(proposed),
    }
    concluding = context.call_activity(ACTIVITY_CONCLUDE, json.dumps(asked))
    # The group with this one task prevents that a failed activity raises an error here.
    yield context.task_any([concluding])
    answer = concluding.result
    found: dict[str, Json] = json.loads(answer) if isinstance(answer, str) else {}
    return found


def _run_without_record(
    context: DurableOrchestrationContext, ticket: Ticket
) -> Generator[Any, Any, JobOutcome]:
    """Run a job that an older gateway has started, which recorded no outcomes in blobs.

    A replay must match the job's history, so this code must not change. It can be deleted when the
    last job of the older gateway has ended.
    """
    sending = context.call_activity_with_retry(ACTIVITY_ENQUEUE, SEND_RETRIES, ticket.text)
    reply = context.wait_for_external_event(EVENT_REPLY, str)
    cancel = context.wait_for_external_event(EVENT_CANCEL, str)
    timer = context.create_timer(_like(context.current_utc_datetime, ticket.deadline))
    first = yield context.task_any([sending, reply, cancel, timer])
    refusal = _refusal(sending.result) if first is sending else None
    if first is sending and refusal is None:
        first = yield context.task_any([reply, cancel, timer])
    if first is not timer:
        timer.cancel()
    now = context.current_utc_datetime
    if refusal is not None:
        return JobOutcome.failed(refusal, now.replace(tzinfo=UTC))
    if first is reply:
        return _outcome_of(reply.result, now)
    if first is not cancel:
        return JobOutcome.expired(now.replace(tzinfo=UTC))
    started_at = _started_at(cancel.result)
    if started_at is not None:
        stopped = context.wait_for_external_event(EVENT_STOPPED, str)
        bound = context.create_timer(min(now + STOP_WITHIN, _like(now, ticket.deadline)))
        if (yield context.task_any([stopped, bound])) is stopped:
            bound.cancel()
        now = context.current_utc_datetime
        # The gateway has already told the worker that this reply was accepted.
        if reply.is_completed:
            return _outcome_of(reply.result, now)
    return JobOutcome.cancelled(now.replace(tzinfo=UTC), started_at)


def _started_at(event: object) -> str | None:
    """Return the job's start time from an event `cancel`; None if the job had not started."""
    value = json.loads(event) if isinstance(event, str) else event
    started_at = value.get("started_at") if isinstance(value, dict) else None
    return started_at if isinstance(started_at, str) else None


def _refusal(sent: object) -> JobError | None:
    """Return the error of a request that could not be sent.

    `sent` is the result of the activity `enqueue`, or an exception if all its retries failed.
    """
    if isinstance(sent, Exception):
        return NOT_SENT
    return error_from_json(Fields(json.loads(sent))) if isinstance(sent, str) else None


def _outcome_of(event: object, now: datetime) -> JobOutcome:
    """Return the outcome from an event `reply`, which contains an outcome or a worker's reply."""
    try:
        # The SDK's client encodes an event as JSON twice, a plain HTTP client once.
        value = json.loads(event) if isinstance(event, str) else event
        if isinstance(value, dict) and "status" in value:
            return outcome_from_json(value)
        return JobOutcome.replied(reply_from_json(value), now.replace(tzinfo=UTC))
    except (ContractError, ValueError):
        # Only a holder of the management key can raise an event with wrong data.
        return JobOutcome.failed(LOST, now.replace(tzinfo=UTC))


def _like(now: datetime, text: str) -> datetime:
    """Convert `text` to a datetime in UTC, with a time zone only if `now` has one."""
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=now.tzinfo)
