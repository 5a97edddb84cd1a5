"""Uncommitted blocks: put aside until a block list names them, forgotten after a week."""

from __future__ import annotations

import sqlite3

from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.index.reads import container_id
from emulator.blobs.index.records import Staged
from emulator.blobs.names import block_id_length

UNCOMMITTED_BLOCKS_MAX = 100_000
WEEK_US = 7 * 24 * 3600 * 1_000_000


def stage_block(
    db: sqlite3.Connection, container: str, blob: str, block: Staged, now_us: int
) -> tuple[str, ...]:
    """Put a block aside; returns the content of the block of that id before it.

    All block ids of one blob have one length.
    """
    parent = container_id(db, container)
    key = (parent, blob)
    any_other = db.execute(
        "SELECT block_id FROM staged WHERE container = ? AND blob = ? LIMIT 1", key
    ).fetchone()
    if any_other and block_id_length(any_other[0]) != block_id_length(block.block_id):
        raise StorageError(ErrorCode.INVALID_BLOB_OR_BLOCK)
    before = db.execute(
        "SELECT content FROM staged WHERE container = ? AND blob = ? AND block_id = ?",
        (*key, block.block_id),
    ).fetchone()
    if before is None and any_other:
        (count,) = db.execute(
            "SELECT count(*) FROM staged WHERE container = ? AND blob = ?", key
        ).fetchone()
        if count >= UNCOMMITTED_BLOCKS_MAX:
            raise StorageError(ErrorCode.BLOCK_COUNT_EXCEEDS_LIMIT)
    db.execute(
        "INSERT OR REPLACE INTO staged (container, blob, block_id, size, content, staged_us)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (*key, block.block_id, block.size, block.content, now_us),
    )
    return () if before is None else (before[0],)


def expire_blocks(db: sqlite3.Connection, now_us: int) -> tuple[str, ...]:
    """Forget the blocks of every blob to which none was added for a week."""
    stale = db.execute(
        "SELECT container, blob FROM staged GROUP BY container, blob HAVING max(staged_us) < ?",
        (now_us - WEEK_US,),
    ).fetchall()
    dropped: list[str] = []
    for key in stale:
        rows = db.execute(
            "DELETE FROM staged WHERE container = ? AND blob = ? RETURNING content", key
        )
        dropped += (row[0] for row in rows)
    return tuple(dropped)
