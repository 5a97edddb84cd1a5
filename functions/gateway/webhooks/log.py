"""The delivery log: what a webhook's orchestration shows of itself.

    {"state": "pending" | "delivered" | "stopped" | "failed",
     "attempts": [{"at", "status": the receiver's or null, "error": a class or null}, …],
     "next_attempt_at": a time or null}

Never anything of what the receiver answered but its status.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from contract.fields import Json
from gateway.durable import Instance

# Durable keeps up to 16 KB of custom status.
KEPT_ATTEMPTS: Final = 100


class State(StrEnum):
    """Where a delivery stands. `stopped`: the receiver answered 410 and wants no more."""

    PENDING = "pending"
    DELIVERED = "delivered"
    STOPPED = "stopped"
    FAILED = "failed"


def log(state: State, attempts: Sequence[Json], next_attempt_at: str | None = None) -> Json:
    """The log as JSON."""
    return {
        "state": state.value,
        "attempts": list(attempts[-KEPT_ATTEMPTS:]),
        "next_attempt_at": next_attempt_at,
    }


def of_instance(instance: Instance | None) -> dict[str, Any]:
    """The log of a delivery; that of none yet where the job has not ended."""
    for found in (instance.output, instance.custom_status) if instance else ():
        if isinstance(found, dict) and "attempts" in found:
            return found
    empty: dict[str, Any] = log(State.PENDING, ())
    return empty
