"""The AMQP 1.0 types as Python types (part 1 of the specification).

Python's own types represent null (None), boolean (bool), double (float), binary (bytes), string
(str), uuid (UUID), list and map (dict). This module defines a class for each other AMQP type, so
that a decoded value can be encoded as the same AMQP type again. An int is encoded as a long.
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
    """A time as the number of milliseconds since 1970-01-01 in UTC.

    The number is not converted to a datetime, because AMQP allows times outside datetime's range.
    """

    __slots__ = ()

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """Convert a datetime to a timestamp, rounded down to the millisecond."""
        return cls((instant - _EPOCH) // _MILLISECOND)

    def instant(self) -> datetime:
        """Return this time as a datetime in UTC. Raises OverflowError outside years 1 to 9999."""
        return _EPOCH + timedelta(milliseconds=self)


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """An AMQP symbol, which is a name in ASCII."""

    __slots__ = ()


class Decimal32(bytes):
    """The encoded bytes of a 32-bit decimal number."""


class Decimal64(bytes):
    """The encoded bytes of a 64-bit decimal number."""


class Decimal128(bytes):
    """The encoded bytes of a 128-bit decimal number."""


class Array(list[Any]):
    """A list of values that have the same AMQP type.

    An empty array is encoded with the item type null.
    """


class Raw(bytes):
    """A value that is already encoded. The encoder writes these bytes unchanged."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value and its descriptor, which identifies the type of the value.

    If AMQP itself defines the type, the descriptor is a ULong or a Symbol.
    """

    descriptor: Any
    value: Any
