"""What is known of a job, as JSON. The record of an ended job is its orchestration's output.

    {"model", "status", "created_at", "started_at", "finished_at", "deadline", "attempt",
     "result": a payload as the contract writes it, "error": likewise, "timing", "trace_id",
     "tenant": only where it has one, "priority": only where it is not normal}

Pure functions: the orchestrator calls them, so the same input must give the same record.
"""

from datetime import datetime
from typing import Any

from contract.codec import error_to_json, format_time, payload_to_json
from contract.messages import FailureCode, JobError, JobReply, Stage
from contract.status import JobStatus
from gateway.access.callers import OPEN_TENANT
from gateway.durable import Instance, RuntimeStatus
from gateway.jobs.ticket import Ticket, read
from gateway.queueing.priority import Priority

Record = dict[str, Any]

LOST = JobError(
    FailureCode.UNAVAILABLE,
    "the gateway lost track of the job; send it again",
    Stage.QUEUE,
    retryable=True,
)
EXPIRED = JobError(
    FailureCode.EXPIRED, "the deadline passed before a reply came", Stage.QUEUE, retryable=True
)


def begun(ticket: Ticket) -> Record:
    """A job that was accepted and has not ended."""
    return {
        "model": ticket.model,
        "status": JobStatus.QUEUED.value,
        "created_at": ticket.created_at,
        "started_at": None,
        "finished_at": None,
        "deadline": ticket.deadline,
        "attempt": 1,
        "result": None,
        "error": None,
        "timing": None,
        "trace_id": ticket.trace_id,
        **({"tenant": ticket.tenant} if ticket.tenant else {}),
        **({"priority": ticket.priority.value} if ticket.priority is not Priority.NORMAL else {}),
    }


def replied(ticket: Ticket, reply: JobReply, now: datetime) -> Record:
    """The record of a job whose reply came."""
    failed = isinstance(reply.outcome, JobError)
    return {
        **begun(ticket),
        "status": (JobStatus.FAILED if failed else JobStatus.SUCCEEDED).value,
        "started_at": format_time(reply.started_at),
        "finished_at": format_time(reply.finished_at),
        "attempt": reply.attempt,
        "result": None if isinstance(reply.outcome, JobError) else payload_to_json(reply.outcome),
        "error": error_to_json(reply.outcome) if isinstance(reply.outcome, JobError) else None,
        "timing": {
            "queued_ms": reply.timing.queued_ms,
            "inference_ms": reply.timing.inference_ms,
            "batch_size": reply.timing.batch_size,
            "total_ms": _total_ms(ticket, now),
        },
    }


def ended(ticket: Ticket, status: JobStatus, error: JobError | None, now: datetime) -> Record:
    """The record of a job that ended without a reply."""
    return {
        **begun(ticket),
        "status": status.value,
        "finished_at": format_time(now),
        "error": error_to_json(error) if error else None,
        "timing": {
            "queued_ms": None,
            "inference_ms": None,
            "batch_size": None,
            "total_ms": _total_ms(ticket, now),
        },
    }


def of_instance(instance: Instance) -> Record | None:
    """The record behind an orchestration; None where that is no job of ours.

    The one place where Durable's runtime status becomes a job's status.
    """
    if instance.runtime_status is RuntimeStatus.COMPLETED:
        output = instance.output
        return output if isinstance(output, dict) and "status" in output else None
    try:
        ticket = read(instance.input)
    except (ValueError, KeyError, TypeError):
        return None
    match instance.runtime_status:
        case RuntimeStatus.FAILED:
            return ended(ticket, JobStatus.FAILED, LOST, instance.updated_at)
        case RuntimeStatus.TERMINATED | RuntimeStatus.CANCELED:
            return ended(ticket, JobStatus.CANCELLED, None, instance.updated_at)
        case _:
            return begun(ticket)


def tenant_of(record: Record) -> str:
    """Whose the job is."""
    return str(record.get("tenant", OPEN_TENANT))


def priority_of(record: Record) -> Priority:
    """How urgent the job is."""
    return Priority(record.get("priority", Priority.NORMAL))


def is_final(record: Record) -> bool:
    """Whether nothing can change any more."""
    return JobStatus(record["status"]).is_final


def _total_ms(ticket: Ticket, now: datetime) -> float:
    # Gateway clocks on both ends: a worker's clock may be off.
    elapsed = now - datetime.fromisoformat(ticket.created_at)
    return max(0.0, round(elapsed.total_seconds() * 1000, 3))
