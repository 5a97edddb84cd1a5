"""The AMQP 1.0 types as Python types (part 1 of the specification).

None, bool, float (double), bytes (binary), str (string), UUID, list and dict (map) are Python's own
types. This module has a class for each other AMQP type, so that a decoded value is encoded as the
same type again. A plain int is encoded as a long.
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
    """A time in milliseconds since 1970 in UTC.

    The class is a subclass of int, because AMQP allows times that datetime cannot represent.
    """

    __slots__ = ()

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """Convert a datetime to a timestamp, rounded down to the millisecond."""
        return cls((instant - _EPOCH) // _MILLISECOND)

    def instant(self) -> datetime:
        """Return this time as a datetime in UTC.

        Raises OverflowError if the year is not between 1 and 9999.
        """
        return _EPOCH + timedelta(milliseconds=self)


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """A symbolic value in ASCII."""

    __slots__ = ()


class Decimal32(bytes):
    """The encoded bytes of a decimal number of 32 bits."""


class Decimal64(bytes):
    """The encoded bytes of a decimal number of 64 bits."""


class Decimal128(bytes):
    """The encoded bytes of a decimal number of 128 bits."""


class Array(list[Any]):
    """Values of one type. An empty array is encoded as an array of null."""


class Raw(bytes):
    """The encoded bytes of one value, which are written unchanged."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor.

    In the types that AMQP itself defines, the descriptor is a ULong.
    """

    descriptor: Any
    value: Any
