"""Responses: https://platform.openai.com/docs/api-reference/responses."""

from typing import Any, Final

from contract.catalogue import ModelEntry
from contract.messages import FailureCode
from gateway.jobs.model import JobStatus, Record
from gateway.openai.calls import ApiOperation, CallResult, Members, created_of, refused
from gateway.openai.chat import text_of, usage_of

_STATELESS: Final = ("conversation", "previous_response_id")
_STATUSES: Final = {
    JobStatus.QUEUED: "queued",
    JobStatus.CANCELLED: "cancelled",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.EXPIRED: "failed",
}


def show(job_id: str, record: Record) -> dict[str, Any]:
    """Return a response without its output."""
    error = record["error"] and {
        "code": "invalid_prompt"
        if record["error"]["code"] == FailureCode.INVALID_INPUT
        else "server_error",
        "message": record["error"]["message"],
    }
    return {
        "id": f"resp_{job_id.replace('-', '')}",
        "object": "response",
        "created_at": created_of(record),
        "status": _STATUSES.get(JobStatus(record["status"]), "in_progress"),
        "background": record.get("background", False),
        "error": error,
        "incomplete_details": None,
        "instructions": None,
        "metadata": record.get("metadata") or {},
        "model": record["model"],
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def complete(result: CallResult) -> dict[str, Any]:
    """Return the response of a job that has succeeded: an engine's with our id, or a text."""
    shown, found = show(result.job_id, result.record), result.json()
    if isinstance(found, dict) and found.get("object") == "response":
        # The engine does not know of the background.
        return {**found, "id": shown["id"], **({"background": True} if shown["background"] else {})}
    usage = usage_of(found)
    return {
        **shown,
        "output": [message_of(result.job_id, text_of(found))],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }


def message_of(job_id: str, text: str | None) -> dict[str, Any]:
    """Return the only item of a text's output; None: before the text."""
    return {
        "id": f"msg_{job_id.replace('-', '')}",
        "type": "message",
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "content": [] if text is None else [part_of(text)],
    }


def part_of(text: str) -> dict[str, Any]:
    """Return the only part of a message."""
    return {"type": "output_text", "text": text, "annotations": []}


def _check(_: ModelEntry, asked: Members) -> Members:
    if not isinstance(asked.get("input"), str | list) or not asked["input"]:
        raise refused("input", "it is missing or empty")
    for name in _STATELESS:
        if asked.get(name) is not None:
            raise refused(name, "the gateway keeps no conversations: send all of it in input")
    if "background" not in asked:
        return asked
    return {name: each for name, each in asked.items() if name != "background"}


RESPONSES: Final = ApiOperation(
    "responses", _check, lambda _, result: complete(result), has_metadata=True
)
"""The model gets the call's JSON without `background`. It returns a text, or the API's object."""
