"""Receive and settle the messages of one queue in Redis, and renew their locks.

The scripts of `contract.redis_queues` do each step. A lock has a time, as in Service Bus: a worker
that hangs or dies loses it. The next worker on the machine finds what a dead worker had locked in
its lock journal, and gives it back at once.
"""

import json
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from contract.messages import MAX_MESSAGE_BYTES
from contract.redis_queues import (
    BURY,
    COMPLETE,
    GIVE_BACK,
    GIVE_BACK_OTHERS,
    LEAVE,
    LOCK_ID_CHARACTERS,
    RENEW,
    TAKE,
    enqueued_at,
    from_token,
    lock_id,
    properties_of,
    queue_keys,
    text,
    to_mapping,
    to_token,
)
from worker.brokers.port import BrokerLink, LockedMessage, Peeked, earlier_deliveries
from worker.brokers.redis.connection import ERRORS, make_queue, open_client
from worker.clock import utc_now
from worker.errors import BrokerUnavailable, LockLost, Settlement
from worker.processes.history import DeliveryHistory
from worker.processes.lock_journal import LeftMessage, LockJournals
from worker.processes.setup import worker_name

_NUMBER_BITS: Final = 20
_BEGIN: Final = "0-0"
_MOST_GIVEN_BACK: Final = 10_000


class RedisLink(BrokerLink[Any]):
    """A connection to one queue, as `MessageLink` says. Only one thread may use it.

    Messages can be settled over any connection, because Redis knows who has locked them.
    """

    errors = ERRORS
    has_credit = False

    def __init__(
        self,
        url: str,
        queue: str,
        lock_seconds: float,
        journals: LockJournals | None = None,
    ) -> None:
        """Create the object without connecting. A lock lasts `lock_seconds`."""
        parts = urlsplit(url)
        super().__init__(f"{parts.hostname}:{parts.port}{parts.path}", queue, journals)
        self._url = url
        self._keys = queue_keys(queue)
        self._lock_seconds = lock_seconds
        self._consumer = f"{worker_name()}-{uuid.uuid4().hex[:LOCK_ID_CHARACTERS]}"
        self._scripts: dict[str, Any] = {}
        self._cursor = _BEGIN
        self._orphans: dict[bytes, LeftMessage] = {}
        # The entries that were returned and not settled, with their numbers of deliveries.
        self._held: dict[bytes, int] = {}
        self._may_have_others = False

    def receive_messages(
        self, limit: int, wait_seconds: float, room: int = 0
    ) -> list[LockedMessage]:
        """Return up to `limit` messages. If there are none, wait up to `wait_seconds`."""
        del room
        ends_at = time.monotonic() + wait_seconds
        found, last = self._take(limit)
        while not found and (left := ends_at - time.monotonic()) > 0:
            if not self._wait_for_more(last, left):
                break
            found, last = self._take(limit)
        return found

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        """Settle a message. Raises LockLost if this worker does not have its lock any more."""
        mine = delivery.handle.lock
        match how:
            case Settlement.COMPLETE:
                is_done = all(self._run(COMPLETE, mine))
            case Settlement.ABANDON | Settlement.RELEASE:
                counts = how is Settlement.ABANDON
                kept = _encode(history) if history is not None and counts else ""
                is_done = self._run(GIVE_BACK, [*mine, kept, int(counts)])
            case Settlement.DEAD_LETTER:
                is_done = self._run(BURY, [*mine, reason, description])
            case Settlement.LEAVE:
                is_done = True
        self.forget_token(delivery)
        if not is_done:
            raise LockLost("another worker may have the message, because the lock has expired")

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        """Complete messages with one request for each connection that has received some."""
        done: dict[int, bool] = {}
        for holder in {each.handle.lock_id for each in deliveries}:
            own = [each for each in deliveries if each.handle.lock_id == holder]
            locks = [part for each in own for part in each.handle.lock[1:]]
            found = self._run(COMPLETE, [holder, *locks])
            done |= {id(each): bool(one) for each, one in zip(own, found, strict=True)}
        for each in deliveries:
            self.forget_token(each)
        return [done[id(each)] for each in deliveries]

    def renew_lock(self, delivery: LockedMessage, timeout_seconds: float) -> datetime:
        """Renew a lock, and return when it expires. Raises LockLost."""
        del timeout_seconds
        self.connect()
        asked_at = utc_now()
        if not self._run(RENEW, delivery.handle.lock):
            raise LockLost("another worker may have the message, because the lock has expired")
        return asked_at + timedelta(seconds=self._lock_seconds)

    def forget_token(self, delivery: LockedMessage) -> None:
        """Remove the token of a message from the journal: it is settled, or its lock is lost."""
        handle: _Held = delivery.handle
        # The lock may have expired, and this link may have received the message again.
        if self._held.get(handle.id) != handle.times:
            return
        del self._held[handle.id]
        self._remove_note(delivery.token)

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return up to `count` messages, also locked ones, without locking them."""
        self.connect()
        first = f"{from_sequence_number >> _NUMBER_BITS}-{_low(from_sequence_number)}"
        with self._use_connection() as client:
            found = client.xrange(self._keys[0], first, "+", count)
        return [Peeked(_number(entry_id), enqueued_at(entry_id)) for entry_id, _ in found]

    def _open(self) -> Any:
        # This connects already.
        client = open_client(self._url)
        try:
            make_queue(client, self._queue)
        except ERRORS:
            client.close()
            raise
        scripts = TAKE, RENEW, COMPLETE, GIVE_BACK, GIVE_BACK_OTHERS, BURY, LEAVE
        self._scripts = {script: client.register_script(script) for script in scripts}
        self._cursor = _BEGIN
        return client

    def _close(self, connection: Any) -> None:
        # The messages that are not settled stay locked until their time ends.
        self._scripts[LEAVE](keys=self._keys[:1], args=[self._consumer], client=connection)
        connection.close()

    def _broken(self, error: BaseException) -> BrokerUnavailable:
        client, self._connection = self._connection, None
        self._may_have_others = True
        if client is not None:
            client.close()
        return BrokerUnavailable(self._describe(error))

    def _take_back(self, left: dict[bytes, LeftMessage]) -> None:
        if self._may_have_others:
            # What Redis has locked for this link in an answer that the link did not read.
            kept = [part for each in self._held.items() for part in each]
            self._run(GIVE_BACK_OTHERS, [self._consumer, _MOST_GIVEN_BACK, *kept])
            self._may_have_others = False
        self._orphans |= left
        for token, message in list(self._orphans.items()):
            stored = json.dumps(message.properties) if message.properties else ""
            if message.sequence_number:
                entry_id, holder = from_token(token)
                self._run(GIVE_BACK, [holder, entry_id, message.sequence_number, stored, 1])
            del self._orphans[token]
            self._remove_note(token)

    def _take(self, limit: int) -> tuple[list[LockedMessage], bytes]:
        asked_at = utc_now()
        lock_ms = int(self._lock_seconds * 1000)
        answer = self._run(TAKE, [self._consumer, lock_ms, limit, self._cursor])
        self._cursor, last, entries = answer[0].decode(), answer[1], answer[2]
        locked_until = asked_at + timedelta(seconds=self._lock_seconds)
        return [self._locked(entry, locked_until) for entry in entries], last

    def _locked(self, entry: Sequence[Any], locked_until: datetime) -> LockedMessage:
        entry_id, times, flat = entry[:3]
        fields, stored = to_mapping(flat), entry[3] if len(entry) > 3 else None
        body = fields.get(b"body")
        token = to_token(entry_id, self._consumer)
        properties = properties_of(fields, stored)
        locked = LockedMessage(
            body=body if body is not None and len(body) <= MAX_MESSAGE_BYTES else None,
            delivery_count=times - 1,
            enqueued_at=enqueued_at(entry_id),
            locked_until=locked_until,
            properties=properties,
            message_id=text(fields, b"id") or "?",
            handle=_Held(lock_id(self._consumer), entry_id, times),
            queue=self._queue,
            sequence_number=_number(entry_id),
            token=token,
            history=earlier_deliveries(properties, times - 1),
            journal=self.journal,
        )
        self._held[entry_id] = times
        self._note_arrival(token)
        return self._note_read(locked, times)

    def _wait_for_more(self, last: bytes, seconds: float) -> bool:
        """Wait until there is an entry after this id. Return False if there is none in time."""
        milliseconds = max(1, int(seconds * 1000))
        with self._use_connection() as client:
            return bool(client.xread({self._keys[0]: last}, count=1, block=milliseconds))

    def _run(self, script: str, args: Sequence[object]) -> Any:
        with self._use_connection() as client:
            return self._scripts[script](keys=self._keys, args=args, client=client)


class _Held:
    """A lock: its holder, the entry, and the number of the entry's deliveries."""

    __slots__ = ("id", "lock_id", "times")

    def __init__(self, holder: str, entry_id: bytes, times: int) -> None:
        self.lock_id = holder
        self.id = entry_id
        self.times = times

    @property
    def lock(self) -> list[object]:
        """The lock as the first arguments of a script."""
        return [self.lock_id, self.id, self.times]


def _encode(history: DeliveryHistory) -> str:
    return json.dumps(history.to_properties())


def _number(entry_id: bytes) -> int:
    """Return an entry's id as one number, in the order of the ids."""
    milliseconds, number = entry_id.split(b"-")
    return (int(milliseconds) << _NUMBER_BITS) + min(int(number), (1 << _NUMBER_BITS) - 1)


def _low(number: int) -> int:
    return number & ((1 << _NUMBER_BITS) - 1)
