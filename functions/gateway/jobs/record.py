"""The record of a job, as JSON: what callers see of it, in the form in which it is stored.

A job begins with what its ticket says and ends with its outcome.

    {"model", "status", "created_at", "started_at", "finished_at", "deadline", "attempt",
     "result": a payload as the contract writes it, "error": likewise, "timing", "trace_id",
     "tenant": only where it has one, "priority": only where it is not normal}

Pure functions: the orchestrator calls them, so the same input must give the same record.
"""

from datetime import datetime
from typing import Any

from contract.codec import error_to_json, format_time, payload_to_json
from contract.messages import JobError
from contract.status import JobStatus
from gateway.access.callers import OPEN_TENANT
from gateway.durable import Instance, RuntimeStatus
from gateway.jobs.outcome import Outcome
from gateway.jobs.ticket import Ticket, read
from gateway.queueing.priority import Priority

Record = dict[str, Any]


def begun(ticket: Ticket) -> Record:
    """Return the record of a job that was accepted and has not ended."""
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


def ended(begun: Record, outcome: Outcome) -> Record:
    """Return the final record of a job that began as `begun` and ended with this outcome."""
    record = {
        **begun,
        "status": outcome.status.value,
        "started_at": outcome.started_at,
        "finished_at": format_time(outcome.at),
        "error": error_to_json(outcome.error) if outcome.error else None,
        "timing": {
            "queued_ms": None,
            "inference_ms": None,
            "batch_size": None,
            "total_ms": _total_ms(begun, outcome.at),
        },
    }
    reply = outcome.reply
    if reply is None:
        return record
    return {
        **record,
        "started_at": format_time(reply.started_at),
        "finished_at": format_time(reply.finished_at),
        "attempt": reply.attempt,
        "result": None if isinstance(reply.outcome, JobError) else payload_to_json(reply.outcome),
        "error": error_to_json(reply.outcome) if isinstance(reply.outcome, JobError) else None,
        "timing": {
            "queued_ms": reply.timing.queued_ms,
            "inference_ms": reply.timing.inference_ms,
            "batch_size": reply.timing.batch_size,
            "total_ms": _total_ms(begun, outcome.at),
        },
    }


def output_of(instance: Instance) -> Record | None:
    """Return the record that a completed job orchestration ended with; None for any other."""
    output = instance.output
    is_record = isinstance(output, dict) and "status" in output
    return output if is_record and instance.runtime_status is RuntimeStatus.COMPLETED else None


def begun_by(instance: Instance) -> Record | None:
    """Return the record with which a job's orchestration began; None if it is not a job's."""
    try:
        return begun(read(instance.input))
    except (ValueError, KeyError, TypeError):
        return None


def tenant_of(record: Record) -> str:
    """Whose the job is."""
    return str(record.get("tenant", OPEN_TENANT))


def priority_of(record: Record) -> Priority:
    """How urgent the job is."""
    return Priority(record.get("priority", Priority.NORMAL))


def is_final(record: Record) -> bool:
    """Whether nothing can change any more."""
    return JobStatus(record["status"]).is_final


def _total_ms(begun: Record, ended_at: datetime) -> float:
    # Gateway clocks on both ends: a worker's clock may be off.
    elapsed = ended_at - datetime.fromisoformat(begun["created_at"])
    return max(0.0, round(elapsed.total_seconds() * 1000, 3))
