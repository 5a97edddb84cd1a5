"""Functions that change the index. The committer runs each call in a transaction.

A function that receives conditions checks them in the same transaction as the change. Therefore, if
several requests create the same blob on the condition that it does not exist, exactly one of them
succeeds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from enum import Enum

from emulator.blobs.errors import ErrorCode, StorageError, copy_source_not_verified
from emulator.blobs.headers import Conditions, WritePrecondition
from emulator.blobs.index.queries import (
    find_blob,
    find_container,
    find_container_id,
    find_segments,
    find_uncommitted_blocks,
    look_up_blob,
)
from emulator.blobs.index.schema import (
    APPEND_BLOB,
    BLOCK_BLOB,
    CURRENT,
    AppendedBlock,
    Blob,
    BlobContainer,
    NewBlob,
    Segment,
    UncommittedBlock,
    WriteResult,
    create_etag,
)
from emulator.blobs.lease import NO_LEASE, LeaseRequest
from emulator.blobs.names import read_block_id_length
from emulator.blobs.times import format_iso_date

Orphans = tuple[str, ...]


class DeletedSnapshots(Enum):
    """The snapshots that Delete Blob deletes: the values of the header `x-ms-delete-snapshots`.

    NONE means that the header is absent.
    """

    NONE = ""
    INCLUDE = "include"
    ONLY = "only"


APPEND_BLOCKS_MAX = 50_000


def set_service_properties(db: sqlite3.Connection, properties: Mapping[str, str]) -> None:
    """Store properties of the Blob service."""
    db.executemany(
        "INSERT OR REPLACE INTO service_property (name, element) VALUES (?, ?)",
        list(properties.items()),
    )


def create_container(
    db: sqlite3.Connection, name: str, metadata: dict[str, str], now_us: int
) -> BlobContainer:
    """Create a container. Raises StorageError (ContainerAlreadyExists) if it already exists."""
    etag = create_etag()
    row = db.execute(
        "INSERT INTO container (name, etag, modified_us, metadata) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING RETURNING id",
        (name, etag, now_us, json.dumps(metadata)),
    ).fetchone()
    if row is None:
        raise StorageError(ErrorCode.CONTAINER_ALREADY_EXISTS)
    return BlobContainer(row[0], name, etag, now_us, metadata)


def set_container_metadata(
    db: sqlite3.Connection,
    name: str,
    metadata: dict[str, str],
    conditions: Conditions,
    now_us: int,
) -> BlobContainer:
    """Replace a container's metadata, and return it. Raises StorageError if refused."""
    current = find_container(db, name)
    conditions.check_version(current)
    conditions.check_lease(current, requires_id=False)
    changed = replace(
        current,
        etag=create_etag(),
        modified_us=now_us,
        metadata=metadata,
        lease=current.lease.after_write(now_us),
    )
    db.execute(
        "UPDATE container SET etag = ?, modified_us = ?, metadata = ?, lease = ? WHERE id = ?",
        (changed.etag, now_us, json.dumps(metadata), changed.lease.encode(), current.id),
    )
    return changed


def lease_container(
    db: sqlite3.Connection, name: str, conditions: Conditions, asked: LeaseRequest
) -> BlobContainer:
    """Change the lease of a container, and return it. Raises StorageError if refused."""
    current = find_container(db, name)
    conditions.check_version(current)
    lease = asked.apply(current.lease, conditions.now_us)
    db.execute("UPDATE container SET lease = ? WHERE id = ?", (lease.encode(), current.id))
    return replace(current, lease=lease)


def lease_blob(
    db: sqlite3.Connection,
    container: str,
    name: str,
    conditions: Conditions,
    asked: LeaseRequest,
) -> Blob:
    """Change the lease of a blob, and return it. Raises StorageError if refused."""
    current = find_blob(db, container, name)
    conditions.check_version(current)
    lease = asked.apply(current.lease, conditions.now_us)
    db.execute("UPDATE blob SET lease = ? WHERE id = ?", (lease.encode(), current.id))
    return replace(current, lease=lease)


def delete_container(db: sqlite3.Connection, name: str, conditions: Conditions) -> Orphans:
    """Delete a container and its blobs; return the keys of the content files to remove."""
    container = find_container(db, name)
    conditions.check_write(container)
    rows = db.execute(
        "SELECT content FROM segment WHERE blob IN (SELECT id FROM blob WHERE container = ?)"
        " UNION SELECT content FROM staged WHERE container = ?",
        (container.id, container.id),
    )
    candidates = [row[0] for row in rows]
    db.execute(
        "DELETE FROM segment WHERE blob IN (SELECT id FROM blob WHERE container = ?)",
        (container.id,),
    )
    for table in ("blob", "staged"):
        db.execute(f"DELETE FROM {table} WHERE container = ?", (container.id,))  # noqa: S608 - constants
    db.execute("DELETE FROM container WHERE id = ?", (container.id,))
    return _unreferenced(db, candidates)


def put_blob(
    db: sqlite3.Connection,
    new: NewBlob,
    content: bytes | Segment,
    precondition: WritePrecondition,
) -> WriteResult:
    """Create or replace a blob. Raises StorageError if the precondition is not met."""
    container = find_container_id(db, new.container)
    return _replace_blob(
        db, container, new, [content] if isinstance(content, Segment) else content, precondition
    )


def create_append_blob(
    db: sqlite3.Connection, new: NewBlob, precondition: WritePrecondition
) -> WriteResult:
    """Create an empty append blob, also in place of another one. Raises StorageError."""
    return _replace_blob(db, find_container_id(db, new.container), new, (), precondition)


def copy_blob(
    db: sqlite3.Connection,
    source: tuple[str, str, str],
    source_conditions: Conditions,
    new: NewBlob,
    precondition: WritePrecondition,
) -> WriteResult:
    """Create or replace a blob as a copy of another blob. Both refer to the same content files.

    If `new` has no metadata, the copy has that of the source. Raises StorageError if a condition on
    the source or the copy is not met.
    """
    try:
        found = find_blob(db, *source, with_data=True)
    except StorageError as refused:
        raise copy_source_not_verified(refused) from None
    check_source(found, source_conditions)
    container = find_container_id(db, new.container)
    content: bytes | Sequence[Segment]
    if found.data is not None:
        content = found.data
    else:
        content = find_segments(db, found.id, 0, max(found.size, 1))
    copy = replace(
        new,
        properties=found.properties,
        metadata=new.metadata or found.metadata,
        kind=found.kind,
        append_blocks=found.append_blocks,
    )
    return _replace_blob(db, container, copy, content, precondition)


def check_source(source: Blob, conditions: Conditions) -> None:
    """Raise StorageError if the source of a copy does not meet the conditions."""
    try:
        conditions.check_version(source)
    except StorageError as refused:
        if refused.status != 412:
            raise
        raise StorageError(ErrorCode.SOURCE_CONDITION_NOT_MET) from None


def append_block(
    db: sqlite3.Connection,
    container: str,
    name: str,
    block: AppendedBlock,
    conditions: Conditions,
) -> Blob:
    """Append a block to an append blob, and return it. Raises StorageError if refused."""
    current = find_blob(db, container, name)
    check_append(current, block, conditions)
    changed = replace(
        current,
        size=current.size + block.size,
        etag=create_etag(),
        modified_us=conditions.now_us,
        lease=current.lease.after_write(conditions.now_us),
        append_blocks=current.append_blocks + 1,
    )
    db.execute(
        "INSERT INTO segment (blob, start, size, content, block_id, data)"
        " VALUES (?, ?, ?, ?, '', ?)",
        (current.id, current.size, block.size, block.content, block.data),
    )
    db.execute(
        "UPDATE blob SET size = ?, etag = ?, modified_us = ?, lease = ?, append_blocks = ?"
        " WHERE id = ?",
        (
            changed.size,
            changed.etag,
            changed.modified_us,
            changed.lease.encode(),
            changed.append_blocks,
            current.id,
        ),
    )
    return changed


def check_append(blob: Blob, block: AppendedBlock, conditions: Conditions) -> None:
    """Raise StorageError if a block cannot be appended to a blob."""
    check_kind(blob, APPEND_BLOB)
    conditions.check_write(blob)
    if block.size_max is not None and blob.size + block.size > block.size_max:
        raise StorageError(ErrorCode.MAX_BLOB_SIZE_CONDITION_NOT_MET)
    if block.position is not None and blob.size != block.position:
        raise StorageError(ErrorCode.APPEND_POSITION_CONDITION_NOT_MET)
    if blob.append_blocks >= APPEND_BLOCKS_MAX:
        raise StorageError(ErrorCode.COMMITTED_BLOCK_COUNT_EXCEEDS_LIMIT)


def check_kind(blob: Blob, kind: str) -> None:
    """Raise StorageError if a blob is not of the type `kind`. The type of a blob never changes."""
    if blob.kind != kind:
        raise StorageError(ErrorCode.INVALID_BLOB_TYPE)


def commit_blocks(
    db: sqlite3.Connection,
    new: NewBlob,
    block_list: Sequence[tuple[str, str]],
    precondition: WritePrecondition,
) -> WriteResult:
    """Create or replace a blob by committing a list of blocks.

    An entry of `block_list` is (Committed, Uncommitted or Latest, block id); Latest prefers the
    uncommitted block. Raises StorageError if a block does not exist or the precondition is not met.
    """
    container = find_container_id(db, new.container)
    current = look_up_blob(db, container, new.name)
    committed = {}
    if current is not None:
        check_kind(current, BLOCK_BLOB)
        for segment in find_segments(db, current.id, 0, max(current.size, 1)):
            committed[segment.block_id] = (segment.size, segment.content)
    staged = {
        block.block_id: (block.size, block.content)
        for block in find_uncommitted_blocks(db, container, new.name)
    }
    latest = committed | staged
    by_element = {"Committed": committed, "Uncommitted": staged, "Latest": latest}
    chosen = []
    start = 0
    for element, block_id in block_list:
        block = by_element[element].get(block_id) if block_id else None
        if block is None:
            raise StorageError(ErrorCode.INVALID_BLOCK_LIST)
        chosen.append(Segment(start, *block, block_id))
        start += block[0]
    return _replace_blob(db, container, new, chosen, precondition)


def describe_blob(
    db: sqlite3.Connection,
    container: str,
    name: str,
    conditions: Conditions,
    update: Callable[[Blob], Blob],
) -> Blob:
    """Replace a blob's properties or metadata by those that `update` returns for it.

    Raises StorageError if the blob does not exist or does not meet the conditions.
    """
    current = find_blob(db, container, name)
    conditions.check_write(current)
    changed = replace(
        update(current), etag=create_etag(), lease=current.lease.after_write(conditions.now_us)
    )
    db.execute(
        "UPDATE blob SET etag = ?, modified_us = ?, properties = ?, metadata = ?, lease = ?,"
        " copy = ? WHERE id = ?",
        (
            changed.etag,
            changed.modified_us,
            json.dumps(changed.properties),
            json.dumps(changed.metadata),
            changed.lease.encode(),
            _encode_copy(changed),
            current.id,
        ),
    )
    return changed


def set_blob_tags(
    db: sqlite3.Connection, container: str, name: str, conditions: Conditions, tags: dict[str, str]
) -> None:
    """Replace a blob's tags, but not its ETag. Of `conditions`, only the lease id counts."""
    current = find_blob(db, container, name)
    conditions.check_lease(current, requires_id=True)
    db.execute("UPDATE blob SET tags = ? WHERE id = ?", (json.dumps(tags), current.id))


def create_snapshot(
    db: sqlite3.Connection,
    container: str,
    name: str,
    conditions: Conditions,
    metadata: dict[str, str],
) -> Blob:
    """Create and return a snapshot with the content, properties and tags of the blob.

    If `metadata` is empty, it also has the metadata and the ETag of the blob. Raises StorageError
    if the blob does not exist or does not meet the conditions.
    """
    parent = find_container_id(db, container)
    current = look_up_blob(db, parent, name, with_data=True)
    if current is None:
        raise StorageError(ErrorCode.BLOB_NOT_FOUND)
    conditions.check_version(current)
    conditions.check_lease(current, requires_id=False)
    taken_us = conditions.now_us
    while look_up_blob(db, parent, name, format_iso_date(taken_us)) is not None:
        taken_us += 1
    copy = replace(current, snapshot=format_iso_date(taken_us), lease=NO_LEASE)
    if metadata:
        copy = replace(copy, metadata=metadata, etag=create_etag(), modified_us=conditions.now_us)
    row_id = _insert_blob(db, parent, copy, None)
    db.execute(
        "INSERT INTO segment (blob, start, size, content, block_id, data)"
        " SELECT ?, start, size, content, block_id, data FROM segment WHERE blob = ?",
        (row_id, current.id),
    )
    return replace(copy, id=row_id)


def delete_blob(
    db: sqlite3.Connection,
    container: str,
    name: str,
    conditions: Conditions,
    snapshots: DeletedSnapshots,
) -> Orphans:
    """Delete a blob and its snapshots, or only these; return the content files to remove.

    Raises StorageError if a condition is not met or other snapshots would remain.
    """
    parent = find_container_id(db, container)
    blob = look_up_blob(db, parent, name)
    if blob is None:
        raise StorageError(ErrorCode.BLOB_NOT_FOUND)
    conditions.check_write(blob)
    taken = db.execute(
        "SELECT id FROM blob WHERE container = ? AND name = ? AND snapshot <> ?",
        (parent, name, CURRENT),
    ).fetchall()
    if taken and snapshots is DeletedSnapshots.NONE:
        raise StorageError(ErrorCode.SNAPSHOTS_PRESENT)
    candidates = []
    for (row_id,) in taken:
        candidates += _delete_row(db, row_id)
    if snapshots is not DeletedSnapshots.ONLY:
        candidates += _forget_content(db, blob.id, parent, name)
        candidates += _delete_row(db, blob.id)
    return _unreferenced(db, candidates)


def delete_snapshot(
    db: sqlite3.Connection, container: str, name: str, snapshot: str, conditions: Conditions
) -> Orphans:
    """Delete a snapshot, and return the keys of the content files to remove."""
    found = find_blob(db, container, name, snapshot)
    conditions.check_write(found)
    return _unreferenced(db, _delete_row(db, found.id))


def _delete_row(db: sqlite3.Connection, row_id: int) -> list[str]:
    rows = db.execute("DELETE FROM segment WHERE blob = ? RETURNING content", (row_id,)).fetchall()
    db.execute("DELETE FROM blob WHERE id = ?", (row_id,))
    return [row[0] for row in rows]


def _replace_blob(
    db: sqlite3.Connection,
    container: int,
    new: NewBlob,
    content: bytes | Sequence[Segment],
    precondition: WritePrecondition,
) -> WriteResult:
    current = look_up_blob(db, container, new.name)
    precondition.check(current)
    if current is not None:
        check_kind(current, new.kind)
    candidates = _forget_content(db, current.id if current else None, container, new.name)
    data, parts = (content, ()) if isinstance(content, bytes) else (None, content)
    size = sum(part.size for part in parts) if data is None else len(data)
    created_us = current.created_us if current else new.now_us
    lease = current.lease.after_write(new.now_us) if current else NO_LEASE
    etag = create_etag()
    blob = Blob(
        current.id if current else 0,
        new.name,
        size,
        etag,
        created_us,
        new.now_us,
        new.properties,
        new.metadata,
        lease,
        new.kind,
        new.append_blocks,
        new.tags,
        copy=new.copy,
        data=data,
    )
    row_id = _insert_blob(db, container, blob, current.id if current else None)
    db.executemany(
        "INSERT INTO segment (blob, start, size, content, block_id, data)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        ((row_id, part.start, part.size, part.content, part.block_id, part.data) for part in parts),
    )
    blob = replace(blob, id=row_id, data=None)
    return WriteResult(blob, _unreferenced(db, candidates))


def _insert_blob(db: sqlite3.Connection, container: int, blob: Blob, row_id: int | None) -> int:
    """Insert a blob, or replace the row `row_id`. Return the id of the row."""
    row = db.execute(
        "INSERT OR REPLACE INTO blob (id, container, name, snapshot, size, etag, created_us,"
        " modified_us, properties, metadata, lease, kind, append_blocks, tags, copy, data)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            row_id,
            container,
            blob.name,
            blob.snapshot,
            blob.size,
            blob.etag,
            blob.created_us,
            blob.modified_us,
            json.dumps(blob.properties),
            json.dumps(blob.metadata),
            blob.lease.encode(),
            blob.kind,
            blob.append_blocks,
            json.dumps(blob.tags),
            _encode_copy(blob),
            blob.data,
        ),
    ).fetchone()
    return int(row[0])


def _encode_copy(blob: Blob) -> str:
    return json.dumps(asdict(blob.copy)) if blob.copy else ""


def _forget_content(
    db: sqlite3.Connection, blob: int | None, container: int, name: str
) -> list[str]:
    """Delete a blob's content and uncommitted blocks; return their content files' keys."""
    rows = db.execute(
        "DELETE FROM staged WHERE container = ? AND blob = ? RETURNING content", (container, name)
    ).fetchall()
    if blob is not None:
        rows += db.execute(
            "DELETE FROM segment WHERE blob = ? RETURNING content", (blob,)
        ).fetchall()
    return [row[0] for row in rows]


def _unreferenced(db: sqlite3.Connection, candidates: Iterable[str]) -> Orphans:
    """Return each key in `candidates` once, if no committed blob uses its content file."""
    return tuple(
        content
        for content in dict.fromkeys(candidates)
        if content  # otherwise the bytes were in the index
        and db.execute("SELECT 1 FROM segment WHERE content = ?", (content,)).fetchone() is None
    )


UNCOMMITTED_BLOCKS_MAX = 100_000
WEEK_US = 7 * 24 * 3600 * 1_000_000


def put_block(
    db: sqlite3.Connection,
    container: str,
    blob: str,
    block: UncommittedBlock,
    conditions: Conditions,
) -> tuple[str, ...]:
    """Store an uncommitted block, and return the keys of the content files to remove.

    It replaces a block with the same id. Of `conditions`, only the lease id is checked. Raises
    StorageError if there is an append blob, if the blob has 100,000 uncommitted blocks or blocks
    with ids of another length, or if the lease id does not fit.
    """
    parent = find_container_id(db, container)
    current = look_up_blob(db, parent, blob)
    if current is not None:
        check_kind(current, BLOCK_BLOB)
    conditions.check_lease(current, requires_id=True)
    key = (parent, blob)
    any_other = db.execute(
        "SELECT block_id FROM staged WHERE container = ? AND blob = ? LIMIT 1", key
    ).fetchone()
    if any_other and read_block_id_length(any_other[0]) != read_block_id_length(block.block_id):
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
        (*key, block.block_id, block.size, block.content, conditions.now_us),
    )
    return () if before is None else (before[0],)


def expire_blocks(db: sqlite3.Connection, now_us: int) -> tuple[str, ...]:
    """Delete uncommitted blocks after a week without another; return the files to remove."""
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
