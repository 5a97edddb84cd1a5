"""The keys, the fields and the scripts of the queues in Redis.

A queue is a stream with the consumer group `workers`. A message that a worker has locked is a
pending entry of the group, and stays in the stream until it is completed. Its lock lasts as long as
the entry is not idle for longer than the lock time. An entry that a worker gives back keeps its
place: it gets such a large idle time that the next worker takes it before new entries.

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

# More than any lock time, so that the entry is taken next. Redis refuses times before 1970.
_IDLE_MS: Final = 10**9


def queue_key(queue: str) -> str:
    """Return the key of the stream of a queue."""
    return f"loosely:{{{queue}}}:queue"


def dead_key(queue: str) -> str:
    """Return the key of the stream of the dead letters of a queue."""
    return f"loosely:{{{queue}}}:dead"


def history_key(queue: str) -> str:
    """Return the key of the hash with what is known of earlier deliveries, by entry."""
    return f"loosely:{{{queue}}}:history"


def sent_key(queue: str, message_id: str) -> str:
    """Return the key that exists while Redis remembers a message's id."""
    return f"loosely:{{{queue}}}:sent:{message_id}"


# All scripts begin with this. An entry is owned if it is pending for this consumer.
_HEAD: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function pending(id)
    return redis.call('XPENDING', KEYS[1], 'workers', id, id, 1)[1]
end
local function field(fields, name)
    for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
end
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
    redis.call('XADD', KEYS[2], '*', unpack(copy))
    redis.call('XACK', KEYS[1], 'workers', id)
    redis.call('XDEL', KEYS[1], id)
    redis.call('HDEL', KEYS[3], id)
end
"""

SEND: Final = (
    _HEAD
    + """
-- KEYS: queue, sent. ARGV: remember ms, time to live ms or 0, fields...
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
if not redis.call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[1]) then return 0 end
local expires = 0
if tonumber(ARGV[2]) > 0 then expires = now + tonumber(ARGV[2]) end
redis.call('XADD', KEYS[1], '*', 'enqueued', now, 'expires', expires, unpack(ARGV, 3))
return 1
"""
)
"""Adds a message unless one with its id was added.

Returns 1, or 0 for a repeat, or -1 if the queue does not exist.
"""

TAKE: Final = (
    _HEAD
    + """
-- KEYS: queue, dead, history. ARGV: consumer, lock ms, count, cursor.
local found, left = {}, tonumber(ARGV[3])
local function add(id, fields, times)
    local expires = tonumber(field(fields, 'expires') or 0)
    if expires > 0 and expires <= now then
        bury(id, fields, 'TTLExpiredException', '', times - 1)
    else
        left = left - 1
        found[#found + 1] = {id, times, fields, redis.call('HGET', KEYS[3], id)}
    end
end
local claimed = redis.call(
    'XAUTOCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], ARGV[4], 'COUNT', left)
for _, entry in ipairs(claimed[2]) do add(entry[1], entry[2], pending(entry[1])[4]) end
while left > 0 do
    local new = redis.call(
        'XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', left, 'STREAMS', KEYS[1], '>')
    if not new then break end
    for _, entry in ipairs(new[1][2]) do add(entry[1], entry[2], 1) end
end
local info, last = redis.call('XINFO', 'STREAM', KEYS[1]), '0-0'
for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i + 1] end end
return {claimed[1], last, found}
"""
)
"""Locks up to `count` messages: first those whose lock has expired, then new ones.

Returns the cursor for the next call, the id of the last entry that there was, and for each message
its id, how often it was delivered with this time, its fields, and its history.
"""

RENEW: Final = (
    _HEAD
    + """
-- KEYS: queue. ARGV: consumer, id.
local entry = pending(ARGV[2])
if not entry or entry[2] ~= ARGV[1] then return 0 end
redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[2], 'JUSTID')
return 1
"""
)
"""Renews a lock. Returns 0 if the consumer does not have it."""

COMPLETE: Final = (
    _HEAD
    + """
-- KEYS: queue, dead, history. ARGV: consumer, ids...
local done = {}
for i = 2, #ARGV do
    local entry = pending(ARGV[i])
    if entry and entry[2] == ARGV[1] then
        redis.call('XACK', KEYS[1], 'workers', ARGV[i])
        redis.call('XDEL', KEYS[1], ARGV[i])
        redis.call('HDEL', KEYS[3], ARGV[i])
        done[#done + 1] = 1
    else
        done[#done + 1] = 0
    end
end
return done
"""
)
"""Deletes messages that the consumer has locked. Returns for each whether it had."""

GIVE_BACK: Final = (
    _HEAD
    + f"""
-- KEYS: queue, dead, history. ARGV: consumer, id, history, 1 if the delivery counts, times or 0.
local entry = pending(ARGV[2])
if not entry then return 0 end
local times = tonumber(ARGV[5])
if times == 0 and entry[2] ~= ARGV[1] then return 0 end
if times > 0 and entry[4] ~= times then return 0 end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[3], ARGV[2], ARGV[3]) end
local count = entry[4]
if ARGV[4] ~= '1' then count = count - 1 end
redis.call('XCLAIM', KEYS[1], 'workers', entry[2], 0, ARGV[2],
    'IDLE', {_IDLE_MS}, 'RETRYCOUNT', count, 'JUSTID')
return 1
"""
)
"""Ends a lock, so that the message is taken next. Returns 0 if there is no such lock.

Without `times`, the consumer must have the lock. With it, the message must have been delivered so
often: then it is still locked for a worker that has died.
"""

BURY: Final = (
    _HEAD
    + """
-- KEYS: queue, dead, history. ARGV: consumer, id, reason, description.
local entry = pending(ARGV[2])
if not entry or entry[2] ~= ARGV[1] then return 0 end
local read = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if read[1] then bury(ARGV[2], read[1][2], ARGV[3], ARGV[4], entry[4]) end
return 1
"""
)
"""Moves a message to the dead letters. Returns 0 if the consumer does not have its lock."""

EXPIRE: Final = (
    _HEAD
    + """
-- KEYS: queue, dead, history. ARGV: how many entries to look at.
local after, moved = '-', 0
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    for i = 1, #group, 2 do
        if group[i] == 'last-delivered-id' then after = '(' .. group[i + 1] end
    end
end
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', ARGV[1])) do
    local expires = tonumber(field(entry[2], 'expires') or 0)
    if expires > 0 and expires <= now then
        bury(entry[1], entry[2], 'TTLExpiredException', '', 0)
        moved = moved + 1
    end
end
return moved
"""
)
"""Moves expired messages that no worker has received to the dead letters; returns their number."""

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


def to_token(entry_id: bytes) -> bytes:
    """Return an entry's id as 16 bytes."""
    time, number = entry_id.split(b"-")
    return int(time).to_bytes(8, "big") + int(number).to_bytes(8, "big")


def from_token(token: bytes) -> str:
    """Return the id of an entry from its 16 bytes."""
    return f"{int.from_bytes(token[:8], 'big')}-{int.from_bytes(token[8:], 'big')}"


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
