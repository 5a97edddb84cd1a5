"""What the index holds, as values."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex


@dataclass(frozen=True, slots=True)
class Container:
    """A container; times in microseconds since 1970."""

    id: int
    name: str
    etag: str
    modified_us: int
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Blob:
    """A committed block blob. ``data`` is its content if that is small enough to lie here."""

    id: int
    name: str
    size: int
    etag: str
    created_us: int
    modified_us: int
    properties: dict[str, str]
    metadata: dict[str, str]
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class NewBlob:
    """What is about to be committed as a blob, apart from its content."""

    container: str
    name: str
    properties: dict[str, str]
    metadata: dict[str, str]
    now_us: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive bytes of a blob, from ``start`` on: the whole of the content file ``content``."""

    start: int
    size: int
    content: str
    block_id: str = ""


@dataclass(frozen=True, slots=True)
class Staged:
    """A block that is uploaded and not yet committed."""

    block_id: str
    size: int
    content: str


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write: the blob as it is now, and content that nobody refers to any more."""

    blob: Blob
    orphans: tuple[str, ...] = ()


def new_etag() -> str:
    """An entity tag that was never used before."""
    return f'"0x8D{token_hex(7).upper()[:13]}"'
