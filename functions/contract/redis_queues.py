"""The keys, the fields and the scripts of the queues in Redis.

A queue is a stream with the consumer group `workers`. A message that a worker has locked is a
pending entry of the group, and stays in the stream until it is completed. Its lock lasts as long as
the entry is not idle for longer than the lock time. A lock is identified by the entry, the consumer
and the number of deliveries, so an old lock never settles a later delivery. An entry that a worker
gives back keeps its place: it becomes a pending entry of the consumer `returned`, and the next
worker takes it before new entries.

Each script changes one queue in one step, so a process may die before or after it. The keys of a
queue have its name in braces: they are in one slot. The time is that of Redis.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from contract.brokers import BrokerMessage, DeadMessage

GROUP: Final = "workers"
DEAD_GROUP: Final = "gateways"

DUPLICATES_MS: Final = 600_000
"""How long Redis remembers the ids of messages, to drop a second message with the same id."""

LONGEST_LOCK_MS: Final = 300_000
"""A message that was not renewed for this time is locked by no worker."""

LOCK_ID_CHARACTERS: Final = 12
"""The name of a consumer ends with so many random hexadecimal digits, which identify it."""

_ENTRY_TIME_BYTES: Final = 6
_ENTRY_NUMBER_BYTES: Final = 4


def queue_key(queue: str) -> str:
    """Return the key of the stream of a queue."""
    return f"loosely:{{{queue}}}:queue"


def dead_key(queue: str) -> str:
    """Return the key of the stream of the dead letters of a queue."""
    return f"loosely:{{{queue}}}:dead"


def queue_keys(queue: str) -> list[str]:
    """Return the keys that all scripts but SEND use.

    They are the queue, its dead letters, a hash with what is known of earlier deliveries of an
    entry, and a sorted set of the entries by the time at which they expire.
    """
    prefix = f"loosely:{{{queue}}}"
    return [queue_key(queue), dead_key(queue), f"{prefix}:history", f"{prefix}:expiries"]


def send_keys(queue: str, message_id: str) -> list[str]:
    """Return the keys of SEND. One of them exists while Redis remembers the message's id."""
    prefix = f"loosely:{{{queue}}}"
    return [queue_key(queue), f"{prefix}:sent:{message_id}", f"{prefix}:expiries"]


# All scripts begin with this.
_HEAD: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function pending(id)
    return redis.call('XPENDING', KEYS[1], 'workers', id, id, 1)[1]
end
local function locked(id, lock_id, times)
    local entry = pending(id)
    if entry and string.sub(entry[2], -#lock_id) == lock_id and entry[4] == tonumber(times) then
        return entry
    end
end
local function give_back(id, count)
    redis.call('XCLAIM', KEYS[1], 'workers', 'returned', 0, id, 'RETRYCOUNT', count, 'JUSTID')
end
local function get(flat, name)
    for i = 1, #flat, 2 do if flat[i] == name then return flat[i + 1] end end
end
local function remove(id)
    redis.call('XACK', KEYS[1], 'workers', id)
    redis.call('XDEL', KEYS[1], id)
    redis.call('HDEL', KEYS[3], id)
    redis.call('ZREM', KEYS[4], id)
end
-- Returns an error if Redis has no memory left. Then nothing has changed.
local function bury(id, fields, reason, description, count)
    local copy = {}
    for i = 1, #fields do copy[i] = fields[i] end
    for _, each in ipairs({'reason', reason, 'description', description, 'deliveries', count}) do
        copy[#copy + 1] = each
    end
    local stored = redis.call('HGET', KEYS[3], id)
    if stored then
        copy[#copy + 1] = 'stored'
        copy[#copy + 1] = stored
    end
    local added = redis.pcall('XADD', KEYS[2], '*', unpack(copy))
    if type(added) == 'table' and added['err'] then return added end
    remove(id)
end
"""

SEND: Final = (
    _HEAD
    + """
-- KEYS: queue, sent, expiries. ARGV: remember ms, time to live ms or 0, fields...
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
if not redis.call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[1]) then return 0 end
local expires = 0
if tonumber(ARGV[2]) > 0 then expires = now + tonumber(ARGV[2]) end
local id = redis.call('XADD', KEYS[1], '*', 'enqueued', now, 'expires', expires, unpack(ARGV, 3))
if expires > 0 then redis.call('ZADD', KEYS[3], expires, id) end
return 1
"""
)
"""Adds a message unless one with its id was added.

Returns 1, or 0 for a repeat, or -1 if the queue does not exist.
"""

TAKE: Final = (
    _HEAD
    + """
-- KEYS: queue_keys. ARGV: consumer, lock ms, count, cursor.
local found, left, cursor, last = {}, tonumber(ARGV[3]), ARGV[4], '0-0'
local function add(id, fields, times)
    local expires = tonumber(get(fields, 'expires') or 0)
    if expires > 0 and expires <= now then
        bury(id, fields, 'TTLExpiredException', '', times - 1)
    else
        left = left - 1
        found[#found + 1] = {id, times, fields, redis.call('HGET', KEYS[3], id)}
    end
end
for _, entry in ipairs(redis.call('XPENDING', KEYS[1], 'workers', '-', '+', left, 'returned')) do
    local got = redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, entry[1])
    if got[1] then add(got[1][1], got[1][2], entry[4] + 1) end
end
if left > 0 then
    local claimed = redis.call(
        'XAUTOCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], cursor, 'COUNT', left)
    cursor = claimed[1]
    for _, entry in ipairs(claimed[2]) do add(entry[1], entry[2], pending(entry[1])[4]) end
end
while left > 0 do
    local new = redis.call(
        'XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', left, 'STREAMS', KEYS[1], '>')
    if not new then break end
    for _, entry in ipairs(new[1][2]) do add(entry[1], entry[2], 1) end
end
if #found == 0 then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        if get(group, 'name') == 'workers' then last = get(group, 'last-delivered-id') end
    end
end
return {cursor, last, found}
"""
)
"""Locks up to `count` messages: those that were given back, those with expired locks, new ones.

Returns the cursor for the next call, the id of the last entry that was ever delivered (if it finds
no messages), and for each message its id, how often it was delivered with this time, its fields,
and its history.
"""

RENEW: Final = (
    _HEAD
    + """
-- KEYS: queue_keys. ARGV: lock id, id, times.
local entry = locked(ARGV[2], ARGV[1], ARGV[3])
if not entry then return 0 end
redis.call('XCLAIM', KEYS[1], 'workers', entry[2], 0, ARGV[2], 'JUSTID')
return 1
"""
)
"""Renews a lock. Returns 0 if it has been lost."""

COMPLETE: Final = (
    _HEAD
    + """
-- KEYS: queue_keys. ARGV: lock id, then id and times of each.
local done = {}
for i = 2, #ARGV, 2 do
    if locked(ARGV[i], ARGV[1], ARGV[i + 1]) then
        remove(ARGV[i])
        done[#done + 1] = 1
    else
        done[#done + 1] = 0
    end
end
return done
"""
)
"""Deletes locked messages. Returns for each whether its lock was still there."""

GIVE_BACK: Final = (
    _HEAD
    + """
-- KEYS: queue_keys. ARGV: lock id, id, times, history, 1 if the delivery counts.
local entry = locked(ARGV[2], ARGV[1], ARGV[3])
if not entry then return 0 end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[3], ARGV[2], ARGV[4]) end
local count = entry[4]
if ARGV[5] ~= '1' then count = count - 1 end
give_back(ARGV[2], count)
return 1
"""
)
"""Ends a lock, so that the message is taken next. Returns 0 if the lock has been lost."""

GIVE_BACK_OTHERS: Final = (
    _HEAD
    + """
-- KEYS: queue_keys. ARGV: consumer, most messages, then id and times of each message to keep.
local kept = {}
for i = 3, #ARGV, 2 do kept[ARGV[i]] = tonumber(ARGV[i + 1]) end
local count = 0
for _, entry in ipairs(
    redis.call('XPENDING', KEYS[1], 'workers', '-', '+', ARGV[2], ARGV[1])) do
    if kept[entry[1]] ~= entry[4] then
        give_back(entry[1], entry[4] - 1)
        count = count + 1
    end
end
return count
"""
)
"""Gives back what a consumer has locked without having read the answer of TAKE."""

BURY: Final = (
    _HEAD
    + """
-- KEYS: queue_keys. ARGV: lock id, id, times, reason, description.
local entry = locked(ARGV[2], ARGV[1], ARGV[3])
if not entry then return 0 end
local read = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if read[1] then
    local failed = bury(ARGV[2], read[1][2], ARGV[4], ARGV[5], entry[4])
    if failed then return failed end
end
return 1
"""
)
"""Moves a message to the dead letters. Returns 0 if its lock has been lost."""

EXPIRE: Final = (
    _HEAD
    + """
-- KEYS: queue_keys. ARGV: longest lock ms, most messages.
local moved = 0
for _, id in ipairs(
    redis.call('ZRANGE', KEYS[4], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
    local entry = pending(id)
    if not entry or entry[2] == 'returned' or entry[3] >= tonumber(ARGV[1]) then
        local read = redis.call('XRANGE', KEYS[1], id, id)
        if not read[1] then
            remove(id)
        else
            local failed = bury(id, read[1][2], 'TTLExpiredException', '', entry and entry[4] or 0)
            if failed then return failed end
            moved = moved + 1
        end
    end
end
return moved
"""
)
"""Moves expired messages that no worker has locked to the dead letters. Returns their number."""

FORGET_CONSUMERS: Final = """
-- KEYS: queue. ARGV: idle ms.
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'workers')) do
    local facts = {}
    for i = 1, #each, 2 do facts[each[i]] = each[i + 1] end
    if facts['pending'] == 0 and facts['idle'] > tonumber(ARGV[1]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', facts['name'])
    end
end
"""
"""Deletes the consumers of workers that have ended. One that still lives is created again."""

LEAVE: Final = """
-- KEYS: queue. ARGV: consumer.
local count = redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 1, ARGV[1])
if #count == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', ARGV[1]) end
"""
"""Deletes a consumer that has no locks."""


def fields_of(message: BrokerMessage) -> list[str | bytes]:
    """Return the fields of an entry, besides those that the script adds."""
    return [
        *("body", message.body),
        *("id", message.message_id),
        *("correlation", message.correlation_id),
        *("type", message.content_type),
        *("properties", json.dumps(dict(message.properties), separators=(",", ":"))),
    ]


def to_mapping(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields that a script returns as a flat list."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


def text(fields: Mapping[bytes, bytes], name: bytes) -> str:
    """Return a field as text; an empty text if it is missing."""
    return fields.get(name, b"").decode("utf-8", "replace")


def whole(fields: Mapping[bytes, bytes], name: bytes) -> int:
    """Return a field as a number; 0 if it is missing or not valid."""
    value = fields.get(name, b"")
    return int(value) if value.isdigit() and len(value) < 20 else 0


def properties_of(fields: Mapping[bytes, bytes], stored: bytes | None = None) -> dict[str, str]:
    """Return a message's properties, with those that workers have stored for it."""
    return _read_properties(fields.get(b"properties")) | _read_properties(stored)


def _read_properties(data: bytes | None) -> dict[str, str]:
    """Return the properties in a JSON object; none if it is not valid."""
    try:
        found: Any = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def enqueued_at(entry_id: bytes) -> datetime:
    """Return when an entry was added: its id begins with the time of Redis."""
    return datetime.fromtimestamp(int(entry_id.split(b"-")[0]) / 1000, UTC)


def lock_id(consumer: str) -> str:
    """Return the end of a consumer's name, which identifies it."""
    return consumer[-LOCK_ID_CHARACTERS:]


def to_token(entry_id: bytes, consumer: str) -> bytes:
    """Return 16 bytes that identify an entry, and the consumer that has locked it."""
    time, number = entry_id.split(b"-")
    # An id has 64 bits for each. Redis gives a number of more than 32 bits only to the entries of a
    # stream that gets 4 billion of them within a millisecond.
    return (
        int(time).to_bytes(_ENTRY_TIME_BYTES, "big")
        + (int(number) & 0xFFFFFFFF).to_bytes(_ENTRY_NUMBER_BYTES, "big")
        + bytes.fromhex(lock_id(consumer))
    )


def from_token(token: bytes) -> tuple[str, str]:
    """Return the id of the entry and the lock id of the consumer that a token names."""
    number_at, id_at = _ENTRY_TIME_BYTES, _ENTRY_TIME_BYTES + _ENTRY_NUMBER_BYTES
    time = int.from_bytes(token[:number_at], "big")
    number = int.from_bytes(token[number_at:id_at], "big")
    return f"{time}-{number}", token[id_at:].hex()


def read_dead_message(entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadMessage:
    """Return a dead letter from its entry in the stream of dead letters."""
    enqueued = whole(fields, b"enqueued")
    return DeadMessage(
        fields.get(b"body", b""),
        text(fields, b"id") or f"entry-{entry_id.decode()}",
        text(fields, b"correlation") or None,
        text(fields, b"reason") or None,
        text(fields, b"description") or None,
        whole(fields, b"deliveries"),
        datetime.fromtimestamp(enqueued / 1000, UTC) if enqueued else enqueued_at(entry_id),
        text(fields, b"type") or None,
        properties_of(fields, fields.get(b"stored")),
    )
