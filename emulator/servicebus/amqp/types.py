"""The AMQP 1.0 types as Python types (part 1 of the specification).

Python's own types stand for None, bool, float (double), bytes (binary), str (string), UUID, list
and dict (map). Every other AMQP type is a subclass, so that a decoded value encodes as the same
type. A plain int encodes as a long.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class UByte(int):
    """An unsigned integer of 8 bits."""

    __slots__ = ()


class UShort(int):
    """An unsigned integer of 16 bits."""

    __slots__ = ()


class UInt(int):
    """An unsigned integer of 32 bits."""

    __slots__ = ()


class ULong(int):
    """An unsigned integer of 64 bits."""

    __slots__ = ()


class Byte(int):
    """A signed integer of 8 bits."""

    __slots__ = ()


class Short(int):
    """A signed integer of 16 bits."""

    __slots__ = ()


class Int(int):
    """A signed integer of 32 bits."""

    __slots__ = ()


class Long(int):
    """A signed integer of 64 bits."""

    __slots__ = ()


class Float(float):
    """A floating-point number of 32 bits."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970 in UTC. An int, because its range exceeds that of datetime."""

    __slots__ = ()

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """Return the timestamp of a time, rounded down to the millisecond."""
        return cls((instant - _EPOCH) // _MILLISECOND)

    def instant(self) -> datetime:
        """Return the time in UTC. Raises OverflowError outside the years 1 to 9999."""
        return _EPOCH + timedelta(milliseconds=self)


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """A symbolic value in ASCII."""

    __slots__ = ()


class Decimal32(bytes):
    """A decimal number of 32 bits as its encoded octets."""


class Decimal64(bytes):
    """A decimal number of 64 bits as its encoded octets."""


class Decimal128(bytes):
    """A decimal number of 128 bits as its encoded octets."""


class Array(list[Any]):
    """Values of one type. An empty array encodes as an array of null."""


class Raw(bytes):
    """One value that is already encoded."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor, which is a ULong for the types that AMQP itself defines."""

    descriptor: Any
    value: Any
