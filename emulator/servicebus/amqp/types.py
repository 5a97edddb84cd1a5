"""The AMQP 1.0 type system in Python (part 1 of the specification).

Python's own types stand for their nearest AMQP type: None, bool, float (double), bytes (binary),
str (string), UUID, list and dict. The other types are subclasses, so that a value that was
decoded encodes again as the same type. A plain int encodes as a long.
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
    """Milliseconds since 1970 in UTC. An int, because the wire can hold what datetime cannot."""

    __slots__ = ()

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """Return the timestamp of an instant, rounded down to the millisecond."""
        return cls((instant - _EPOCH) // _MILLISECOND)

    def instant(self) -> datetime:
        """Return the instant; raises OverflowError outside the years 1 to 9999."""
        return _EPOCH + timedelta(milliseconds=self)


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """A name from a constrained domain, in ASCII."""

    __slots__ = ()


class Decimal32(bytes):
    """A decimal number of 32 bits, kept as its octets."""


class Decimal64(bytes):
    """A decimal number of 64 bits, kept as its octets."""


class Decimal128(bytes):
    """A decimal number of 128 bits, kept as its octets."""


class Array(list[Any]):
    """Values of one type, which is that of the first; an empty array is encoded as one of null."""


class Raw(bytes):
    """One value that is encoded already."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor: for what AMQP itself defines, a ULong."""

    descriptor: Any
    value: Any
