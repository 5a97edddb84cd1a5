"""The outcomes of a delivery (section 3.4 of the specification)."""

from dataclasses import dataclass, field
from typing import Any

from emulator.servicebus.amqp.errors import AmqpError, DecodeError
from emulator.servicebus.amqp.performatives import build_error
from emulator.servicebus.amqp.types import Described, ULong

_RECEIVED = 0x23
_ACCEPTED = 0x24
_REJECTED = 0x25
_RELEASED = 0x26
_MODIFIED = 0x27


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver has processed the message."""


@dataclass(frozen=True, slots=True)
class Released:
    """The receiver gives the message back without having processed it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The receiver considers the message invalid. `info` may contain the reason."""

    condition: str | None = None
    info: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Modified:
    """The receiver gives the message back and changes the message's state or annotations."""

    delivery_failed: bool = False
    undeliverable_here: bool = False


Outcome = Accepted | Released | Rejected | Modified

ACCEPTED = Described(ULong(_ACCEPTED), [])
_REJECTED_WITHOUT_ERROR = Described(ULong(_REJECTED), [])


def build_rejection(error: AmqpError) -> Described:
    """Build the delivery state that rejects a peer's message or settlement."""
    return Described(ULong(_REJECTED), [build_error(error.condition, error.description)])


def read_outcome(state: Described | None) -> Outcome | None:
    """Return the outcome in a delivery state, or None if the state is not an outcome.

    Raises DecodeError if the state is malformed.
    """
    if state is None:
        return None
    fields = state.value
    if not isinstance(fields, list):
        raise DecodeError("a delivery state must be a list")
    match state.descriptor:
        case 0x24 | "amqp:accepted:list":
            return Accepted()
        case 0x25 | "amqp:rejected:list":
            return _rejected(fields)
        case 0x26 | "amqp:released:list":
            return Released()
        case 0x27 | "amqp:modified:list":
            failed, here = [*fields, None, None][:2]
            return Modified(failed is True, here is True)
        case 0x23 | "amqp:received:list":
            return None
    raise DecodeError("the specification does not define this delivery state")


def build_confirmation(outcome: Outcome, state: Described) -> Described:
    """Build the delivery state that confirms a receiver's settlement of a message.

    The state is the receiver's own outcome. If the outcome is a rejection, its error is removed,
    because a client would conclude from the error that the settlement failed.
    """
    return _REJECTED_WITHOUT_ERROR if isinstance(outcome, Rejected) else state


def _rejected(fields: list[Any]) -> Rejected:
    error = fields[0] if fields else None
    if error is None:
        return Rejected()
    if not isinstance(error, Described) or not isinstance(error.value, list):
        raise DecodeError("the error of a rejection must be a list")
    condition, _, info = [*error.value, None, None, None][:3]
    if not isinstance(condition, str) or not isinstance(info, dict | None):
        raise DecodeError("the error of a rejection has no condition")
    return Rejected(condition, info or {})
