"""Define the performatives (commands) of the AMQP transport and of SASL.

Parts 2 and 5 of the AMQP specification describe the performatives. Each class defines the fields of
one performative. The base class `Performative` checks the fields that a peer sent, and encodes
fields as the body of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from emulator.servicebus.amqp.codec import Decoder, encode_composite
from emulator.servicebus.amqp.errors import DecodeError
from emulator.servicebus.amqp.types import Array, Described, Symbol, UByte, UInt, ULong, UShort

_ANY: tuple[type, ...] = (object,)
_FLAG: tuple[type, ...] = (bool,)
_ERROR: tuple[type, ...] = (Described,)
_MAP: tuple[type, ...] = (dict,)
_SYMBOLS: tuple[type, ...] = (Symbol, Array)
_UINT: tuple[type, ...] = (UInt,)
_UINT_MAX = UInt(0xFFFFFFFF)
_CHANNEL_MAX = UShort(0xFFFF)
_ZERO = UInt(0)
_MIXED = UByte(2)
_FIRST = UByte(0)
_Kinds = tuple[tuple[type, ...], ...]


@dataclass(frozen=True, slots=True)
class Performative:
    """The base class of performatives, which are the commands of AMQP, such as `open`.

    A performative has a list of fields. The specification defines the order of the fields.
    """

    code: ClassVar[int]
    kinds: ClassVar[_Kinds]
    required: ClassVar[int] = 0
    """The number of required fields. They are the first fields of the list."""

    @classmethod
    def read(cls, values: Sequence[Any]) -> Self:
        """Build a performative from a peer's fields. Raises DecodeError if one is invalid."""
        if len(values) > len(cls.kinds):
            raise DecodeError(
                f"{cls.__name__} has {len(values)} fields, more than the specification defines"
            )
        given: dict[str, Any] = {}
        names = cls.names()
        for value, kind, name in zip(values, cls.kinds, names, strict=False):
            if value is None:
                continue
            if not isinstance(value, kind):
                expected = " or ".join(each.__name__ for each in kind)
                raise DecodeError(
                    f"{cls.__name__}.{name}: expected {expected}, found {type(value).__name__}"
                )
            given[name] = value
        for name in names[: cls.required]:
            if name not in given:
                raise DecodeError(f"{cls.__name__}.{name} is missing")
        return cls(**given)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the performative's fields, in the order of the specification."""
        return cls.__match_args__

    def encode(self) -> bytes:
        """Encode the performative as the body of a frame."""
        return encode_composite(self.code, [getattr(self, name) for name in self.names()])


@dataclass(frozen=True, slots=True)
class Open(Performative):
    """Opens a connection (section 2.7.1)."""

    code = 0x10
    kinds = (
        (str,), (str,), _UINT, (UShort,), _UINT, _SYMBOLS, _SYMBOLS, _SYMBOLS, _SYMBOLS, _MAP
    )  # fmt: skip
    required = 1
    container_id: str
    hostname: str | None = None
    max_frame_size: UInt = _UINT_MAX
    channel_max: UShort = _CHANNEL_MAX
    idle_time_out: UInt | None = None
    outgoing_locales: Any = None
    incoming_locales: Any = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: dict[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Begin(Performative):
    """Begins a session on a channel (section 2.7.2)."""

    code = 0x11
    kinds = (
        (UShort,), _UINT, _UINT, _UINT, _UINT, _SYMBOLS, _SYMBOLS, _MAP
    )  # fmt: skip
    remote_channel: UShort | None = None
    next_outgoing_id: UInt = _ZERO
    incoming_window: UInt = _ZERO
    outgoing_window: UInt = _ZERO
    handle_max: UInt = _UINT_MAX
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: dict[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Attach(Performative):
    """Attaches a link to a session (section 2.7.3). `role` is True from the receiver."""

    code = 0x12
    kinds = (
        (str,), _UINT, _FLAG, (UByte,), (UByte,), (Described,), (Described,), _MAP, _FLAG, _UINT,
        (ULong,), _SYMBOLS, _SYMBOLS, _MAP,
    )  # fmt: skip
    required = 3
    name: str
    handle: UInt
    role: bool
    snd_settle_mode: UByte = _MIXED
    rcv_settle_mode: UByte = _FIRST
    source: Described | None = None
    target: Described | None = None
    unsettled: dict[Any, Any] | None = None
    incomplete_unsettled: bool | None = None
    initial_delivery_count: UInt | None = None
    max_message_size: ULong | None = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: dict[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Flow(Performative):
    """Announces the windows of a session (section 2.7.4).

    If `handle` is set, the performative also announces the credit of the link with this handle.
    """

    code = 0x13
    kinds = (
        _UINT, _UINT, _UINT, _UINT, _UINT, _UINT, _UINT, _UINT, _FLAG, _FLAG, _MAP
    )  # fmt: skip
    next_incoming_id: UInt | None = None
    incoming_window: UInt = _ZERO
    next_outgoing_id: UInt = _ZERO
    outgoing_window: UInt = _ZERO
    handle: UInt | None = None
    delivery_count: UInt | None = None
    link_credit: UInt | None = None
    available: UInt | None = None
    drain: bool = False
    echo: bool = False
    properties: dict[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Transfer(Performative):
    """Carries a message or a part of a message (section 2.7.5).

    The payload follows in the same frame.
    """

    code = 0x14
    kinds = (
        _UINT, _UINT, (bytes,), _UINT, _FLAG, _FLAG, (UByte,), (Described,), _FLAG, _FLAG, _FLAG
    )  # fmt: skip
    required = 1
    handle: UInt
    delivery_id: UInt | None = None
    delivery_tag: bytes | None = None
    message_format: UInt | None = None
    settled: bool = False
    more: bool = False
    rcv_settle_mode: UByte | None = None
    state: Described | None = None
    resume: bool = False
    aborted: bool = False
    batchable: bool = False


@dataclass(frozen=True, slots=True)
class Disposition(Performative):
    """Announces the state of deliveries (section 2.7.6). `role` is True from the receiver."""

    code = 0x15
    kinds = (_FLAG, _UINT, _UINT, _FLAG, (Described,), _FLAG)
    required = 2
    role: bool
    first: UInt
    last: UInt | None = None
    settled: bool = False
    state: Described | None = None
    batchable: bool = False


@dataclass(frozen=True, slots=True)
class Detach(Performative):
    """Detaches the link that has this handle (section 2.7.7)."""

    code = 0x16
    kinds = (_UINT, _FLAG, _ERROR)
    required = 1
    handle: UInt
    closed: bool = False
    error: Described | None = None


@dataclass(frozen=True, slots=True)
class End(Performative):
    """Ends a session (section 2.7.8)."""

    code = 0x17
    kinds = (_ERROR,)
    error: Described | None = None


@dataclass(frozen=True, slots=True)
class Close(Performative):
    """Closes a connection (section 2.7.9)."""

    code = 0x18
    kinds = (_ERROR,)
    error: Described | None = None


@dataclass(frozen=True, slots=True)
class SaslMechanisms(Performative):
    """Lists the server's SASL mechanisms (section 5.3.3.1)."""

    code = 0x40
    kinds = (_SYMBOLS,)
    required = 1
    mechanisms: Array


@dataclass(frozen=True, slots=True)
class SaslInit(Performative):
    """Contains the client's SASL mechanism and the client's initial response (section 5.3.3.2)."""

    code = 0x41
    kinds = ((Symbol,), (bytes,), (str,))
    required = 1
    mechanism: Symbol
    initial_response: bytes = b""
    hostname: str | None = None

    def __repr__(self) -> str:
        return f"SaslInit({self.mechanism!r})"


@dataclass(frozen=True, slots=True)
class SaslOutcome(Performative):
    """Ends the SASL exchange (section 5.3.3.6).

    `outcome` is 0 for success and 1 for an authentication failure.
    """

    code = 0x44
    kinds = ((UByte,), (bytes,))
    required = 1
    outcome: UByte
    additional_data: bytes | None = None


_BY_CODE: dict[int, type[Performative]] = {
    each.code: each
    for each in (
        Open, Begin, Attach, Flow, Transfer, Disposition, Detach, End, Close,
        SaslMechanisms, SaslInit, SaslOutcome,
    )
}  # fmt: skip

_BY_NAME = {
    Symbol("amqp:open:list"): 0x10,
    Symbol("amqp:begin:list"): 0x11,
    Symbol("amqp:attach:list"): 0x12,
    Symbol("amqp:flow:list"): 0x13,
    Symbol("amqp:transfer:list"): 0x14,
    Symbol("amqp:disposition:list"): 0x15,
    Symbol("amqp:detach:list"): 0x16,
    Symbol("amqp:end:list"): 0x17,
    Symbol("amqp:close:list"): 0x18,
    Symbol("amqp:sasl-init:list"): 0x41,
}


def read_performative(body: bytes) -> tuple[Performative, int]:
    """Decode the performative at the start of a frame; return it and the payload's offset.

    Raises DecodeError if the body does not start with a valid performative.
    """
    decoder = Decoder(body)
    described = decoder.value()
    if not isinstance(described, Described) or not isinstance(described.value, list):
        raise DecodeError("the body of a frame does not start with a performative")
    code = described.descriptor
    if isinstance(code, Symbol):
        code = _BY_NAME.get(code)
    if not isinstance(code, int):
        raise DecodeError("the descriptor of a performative is neither a number nor a known symbol")
    kind = _BY_CODE.get(code)
    if kind is None:
        raise DecodeError(f"0x{code:x} is not the descriptor of a performative")
    return kind.read(described.value), decoder.offset


# Values inside performatives


def build_error(condition: str, description: str) -> Described:
    """Build an AMQP error. Some clients always read its third field, which is null."""
    return Described(ULong(0x1D), [Symbol(condition), description, None])


def build_symbol_array(*names: str) -> Array:
    """Build an AMQP array of symbols."""
    return Array(Symbol(name) for name in names)
