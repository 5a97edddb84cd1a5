"""The SASL layer, from the server's side: one offer, one answer, one outcome."""

from emulator.servicebus.amqp.frames import SASL_FRAME, Frame, encode_frame
from emulator.servicebus.amqp.node import Peer
from emulator.servicebus.amqp.performatives import (
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    array_of_symbols,
    read_performative,
)
from emulator.servicebus.amqp.types import UByte
from emulator.servicebus.errors import ConnectionFault

MECHANISMS = "ANONYMOUS", "PLAIN", "MSSBCBS"

_OK = UByte(0)
_WRONG_CREDENTIALS = UByte(1)


def offer() -> bytes:
    """Return the frame with the mechanisms. Always an array, which clients rely on."""
    return _frame(SaslMechanisms(array_of_symbols(*MECHANISMS)).encode())


def decide(frame: Frame, peer: Peer) -> tuple[bool, bytes]:
    """Read the peer's choice; returns whether it is let in, and the frame that tells it so.

    Raises ConnectionFault for a frame that is no such choice.
    """
    if frame.type != SASL_FRAME:
        raise ConnectionFault("amqp:not-allowed", "a SASL frame was expected")
    init, _ = read_performative(frame.body)
    if not isinstance(init, SaslInit):
        raise ConnectionFault("amqp:not-allowed", "sasl-init was expected")
    accepted = init.mechanism in MECHANISMS and peer.authenticate(
        init.mechanism, init.initial_response
    )
    outcome = SaslOutcome(_OK if accepted else _WRONG_CREDENTIALS)
    return accepted, _frame(outcome.encode())


def _frame(body: bytes) -> bytes:
    return encode_frame(body, frame_type=SASL_FRAME)
