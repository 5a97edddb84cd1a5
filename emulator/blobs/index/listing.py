"""Pages of blobs and of containers, in the order of their names."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from emulator.blobs.index.reads import (
    BLOB_COLUMNS,
    CONTAINER_COLUMNS,
    container_id,
    read_blob,
    read_container,
)
from emulator.blobs.index.records import Blob, Container

_ROWS_A_QUERY = 500
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class BlobQuery:
    """At most ``limit`` blobs with ``prefix`` from the name ``start`` on.

    Names that have ``delimiter`` after the prefix are folded into their common prefixes.
    """

    prefix: str
    delimiter: str
    start: str
    limit: int


@dataclass(frozen=True, slots=True)
class BlobPage:
    """Blobs and, if names are folded at a delimiter, their common prefixes (``str``), in order.

    ``next_name`` is where the following page begins, or None if this is the last.
    """

    entries: list[Blob | str]
    next_name: str | None


def list_containers(
    db: sqlite3.Connection, prefix: str, start: str, limit: int
) -> tuple[list[Container], str | None]:
    """At most ``limit`` containers from ``start`` on, and where the next page begins."""
    rows = db.execute(
        f"SELECT {CONTAINER_COLUMNS} FROM container"  # noqa: S608 - a constant
        " WHERE name >= ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
        (max(start, prefix), len(prefix), prefix, limit + 1),
    ).fetchall()
    found = [read_container(row) for row in rows]
    return found[:limit], (found[limit].name if len(found) > limit else None)


def list_blobs(db: sqlite3.Connection, container: str, query: BlobQuery) -> BlobPage:
    """One page of a container's blobs; raises ContainerNotFound.

    A common prefix is skipped over by asking for the name after it, so that a listing costs as
    much as it returns, however many blobs lie behind a prefix.
    """
    parent = container_id(db, container)
    prefix, limit = query.prefix, query.limit
    entries: list[Blob | str] = []
    cursor: str | None = max(query.start, prefix)
    while cursor is not None:
        rows = _names_from(db, parent, cursor, min(limit + 1 - len(entries), _ROWS_A_QUERY))
        cursor = None
        for row in rows:
            name = str(row[1])
            if not name.startswith(prefix):
                return BlobPage(entries, None)
            if len(entries) == limit:
                return BlobPage(entries, name)
            folded = _folded(name, prefix, query.delimiter)
            if folded is not None:
                entries.append(folded)
                cursor = successor(folded)
                break
            entries.append(read_blob(row))
            cursor = name + "\0"
    return BlobPage(entries, None)


def _names_from(
    db: sqlite3.Connection, container: int, start: str, limit: int
) -> list[tuple[Any, ...]]:
    return db.execute(
        f"SELECT {BLOB_COLUMNS} FROM blob"  # noqa: S608 - a constant
        " WHERE container = ? AND name >= ? ORDER BY name LIMIT ?",
        (container, start, limit),
    ).fetchall()


def _folded(name: str, prefix: str, delimiter: str) -> str | None:
    if not delimiter:
        return None
    at = name.find(delimiter, len(prefix))
    return None if at < 0 else name[: at + len(delimiter)]


def successor(prefix: str) -> str | None:
    """The least name that is greater than every name with ``prefix``; None if there is none."""
    kept = prefix.rstrip(_LAST)
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # surrogates are no characters
        following = 0xE000
    return kept[:-1] + chr(following)
