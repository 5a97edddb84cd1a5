"""Define the outcomes of a delivery, and convert them from and to AMQP delivery states.

Section 3.4 of the AMQP specification defines the outcomes.
"""

from dataclasses import dataclass, field
from typing import Any

from emulator.servicebus.amqp.errors import AmqpError, DecodeError
from emulator.servicebus.amqp.performatives import build_error
from emulator.servicebus.amqp.types import Described, ULong

_ACCEPTED = 0x24
_REJECTED = 0x25
_MODIFIED = 0x27


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver has processed the message."""


@dataclass(frozen=True, slots=True)
class Released:
    """The receiver did not process the message and returns the message unchanged."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The receiver considers the message invalid. `info` may contain the reason."""

    condition: str | None = None
    info: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Modified:
    """The receiver did not process the message and returns the message with new information.

    `undeliverable_here` means not to this receiver again. Service Bus ignores `delivery-failed`.
    """

    undeliverable_here: bool = False
    annotations: dict[Any, Any] = field(default_factory=dict)


Outcome = Accepted | Released | Rejected | Modified

ACCEPTED = Described(ULong(_ACCEPTED), [])
_REJECTED_WITHOUT_ERROR = Described(ULong(_REJECTED), [None])
_MODIFIED_FIELDS = 3


def build_rejection(error: AmqpError) -> Described:
    """Return the delivery state `rejected` with the given error."""
    return Described(ULong(_REJECTED), [build_error(error.condition, error.description)])


def read_outcome(state: Described | None) -> Outcome | None:
    """Convert a delivery state to an outcome, or None. Raises DecodeError if it is malformed."""
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
            _, here, annotations = [*fields, None, None, None][:3]
            if not isinstance(annotations, dict | None):
                raise DecodeError("the message annotations of a modified outcome must be a map")
            return Modified(here is True, annotations or {})
        case 0x23 | "amqp:received:list":
            return None
    raise DecodeError(
        f"the AMQP specification defines no delivery state with the descriptor {state.descriptor!r}"
    )


def build_confirmation(outcome: Outcome, state: Described) -> Described:
    """Build the state that confirms to the receiver that a message has been settled.

    It repeats the receiver's state with null for omitted fields, but not the error of a rejection:
    clients would see a failed settlement.
    """
    if isinstance(outcome, Rejected):
        return _REJECTED_WITHOUT_ERROR
    if isinstance(outcome, Modified):
        missing = _MODIFIED_FIELDS - len(state.value)
        return Described(ULong(_MODIFIED), [*state.value, *[None] * missing])
    return state


def _rejected(fields: list[Any]) -> Rejected:
    error = fields[0] if fields else None
    if error is None:
        return Rejected()
    if not isinstance(error, Described) or not isinstance(error.value, list):
        raise DecodeError("the error of a rejected outcome must be a list")
    condition, _, info = [*error.value, None, None, None][:3]
    if not isinstance(condition, str) or not isinstance(info, dict | None):
        raise DecodeError(
            "a rejected outcome's error must have a condition, and the error's info must be a map"
        )
    return Rejected(condition, info or {})
