"""Receive and settle the messages of one queue in Redis, and renew their locks.

The scripts of `contract.redis_queues` do each step. A lock has a time, as in Service Bus: a worker
that hangs or dies loses it. The next worker on the machine finds what a dead worker had locked in
its lock journal, and gives it back at once.
"""

import json
import logging
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
from worker.brokers.port import LockedMessage, Peeked
from worker.brokers.redis.connection import ERRORS, make_queue, open_client, unavailable
from worker.clock import utc_now
from worker.errors import BrokerUnavailable, LockLost, Settlement
from worker.processes.history import NO_HISTORY, DeliveryHistory, read_history
from worker.processes.lock_journal import LeftMessage, LockJournal, LockJournals
from worker.processes.setup import worker_name

_log = logging.getLogger(__name__)

_DESCRIPTION_CHARACTERS: Final = 1024
_NUMBER_BITS: Final = 20
_BEGIN: Final = "0-0"
_MOST_GIVEN_BACK: Final = 10_000


class RedisLink:
    """A connection to one queue, as `MessageLink` says. Only one thread may use it.

    Messages can be settled over any connection, because Redis knows who has locked them.
    """

    has_credit = False
    """Redis sends nothing between two calls."""

    def __init__(
        self,
        url: str,
        queue: str,
        lock_seconds: float,
        journals: LockJournals | None = None,
    ) -> None:
        """Create the object without connecting. A lock lasts `lock_seconds`."""
        self._url = url
        self._queue = queue
        self._keys = queue_keys(queue)
        self._lock_seconds = lock_seconds
        self._journals = journals
        self.journal: LockJournal | None = None
        self._consumer = f"{worker_name()}-{uuid.uuid4().hex[:LOCK_ID_CHARACTERS]}"
        self._client: Any = None
        self._scripts: dict[str, Any] = {}
        self._cursor = _BEGIN
        self._orphans: dict[bytes, LeftMessage] = {}
        # The entries that were returned and not settled, with their numbers of deliveries.
        self._held: dict[bytes, int] = {}
        self._may_have_others = False

    @property
    def is_connected(self) -> bool:
        """Whether the link is connected. A failed call ends the connection."""
        return self._client is not None

    def connect(self) -> None:
        """Connect, create the queue if it is missing, and give back what a dead worker had."""
        if self._client is not None:
            return
        client: Any = None
        try:
            # This connects already.
            client = open_client(self._url)
            make_queue(client, self._queue)
        except ERRORS as error:
            if client is not None:
                client.close()
            raise unavailable(error) from None
        self._client = client
        self._scripts = {
            script: client.register_script(script)
            for script in (TAKE, RENEW, COMPLETE, GIVE_BACK, GIVE_BACK_OTHERS, BURY, LEAVE)
        }
        self._cursor = _BEGIN
        if self._may_have_others:
            self._give_back_others()
        if self._journals is not None:
            self._take_over_journals(self._journals)
            self._give_back_orphans()

    def disconnect(self) -> None:
        """Close the connection. Messages that are not settled stay locked until their time ends."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            self._scripts[LEAVE](keys=self._keys[:1], args=[self._consumer], client=client)
            client.close()
        except ERRORS as error:
            _log.debug("closing the connection of queue %s failed: %s", self._queue, error)

    def serve(self) -> None:
        """Do nothing: Redis has no heartbeats."""

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

    def stop_receiving(self) -> None:
        """Do nothing: Redis sends nothing between two calls."""

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
                is_done = self._run(BURY, [*mine, reason, description[:_DESCRIPTION_CHARACTERS]])
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
        if self.journal is not None:
            self.journal.remove_token(delivery.token)

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return up to `count` messages, also locked ones, without locking them."""
        self.connect()
        first = f"{from_sequence_number >> _NUMBER_BITS}-{_low(from_sequence_number)}"
        try:
            found = self._opened().xrange(self._keys[0], first, "+", count)
        except ERRORS as error:
            raise self._broken(error) from None
        return [Peeked(_number(entry_id), enqueued_at(entry_id)) for entry_id, _ in found]

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
            history=read_history(properties) if times > 1 else NO_HISTORY,
            journal=self.journal,
        )
        self._held[entry_id] = times
        if self.journal is not None:
            try:
                self.journal.note_arrival(token)
            except OSError as error:
                self._stop_noting(error)
            else:
                self.journal.note_read(token, locked.history, times)
        return locked

    def _wait_for_more(self, last: bytes, seconds: float) -> bool:
        """Wait until there is an entry after this id. Return False if there is none in time."""
        milliseconds = max(1, int(seconds * 1000))
        try:
            return bool(self._opened().xread({self._keys[0]: last}, count=1, block=milliseconds))
        except ERRORS as error:
            raise self._broken(error) from None

    def _take_over_journals(self, journals: LockJournals) -> None:
        try:
            if self.journal is None:
                parts = urlsplit(self._url)
                place = f"{parts.hostname}:{parts.port}{parts.path}"
                self.journal = LockJournal(journals.folder, place, self._queue)
            self._orphans |= self.journal.take_over_journals(journals.death)
        except OSError as error:
            self._stop_noting(error)

    def _give_back_orphans(self) -> None:
        """Give back the messages that are locked for dead workers, with what is known of them."""
        for token, left in list(self._orphans.items()):
            stored = json.dumps(left.properties) if left.properties else ""
            if left.sequence_number:
                entry_id, holder = from_token(token)
                self._run(GIVE_BACK, [holder, entry_id, left.sequence_number, stored, 1])
            del self._orphans[token]
            if self.journal is not None:
                self.journal.remove_token(token)

    def _give_back_others(self) -> None:
        """Give back what Redis has locked for this link in an answer that the link did not read."""
        kept = [part for each in self._held.items() for part in each]
        self._run(GIVE_BACK_OTHERS, [self._consumer, _MOST_GIVEN_BACK, *kept])
        self._may_have_others = False

    def _stop_noting(self, error: OSError) -> None:
        _log.warning(
            "queue %s: the lock journal cannot be written, so the jobs of a killed worker wait "
            "until their locks expire: %s",
            *(self._queue, error),
        )
        self.journal = self._journals = None

    def _run(self, script: str, args: Sequence[object]) -> Any:
        client = self._opened()
        try:
            return self._scripts[script](keys=self._keys, args=args, client=client)
        except ERRORS as error:
            raise self._broken(error) from None

    def _opened(self) -> Any:
        if self._client is None:
            raise BrokerUnavailable(f"the connection to the queue {self._queue} is closed")
        return self._client

    def _broken(self, error: BaseException) -> BrokerUnavailable:
        client, self._client = self._client, None
        self._may_have_others = True
        if client is not None:
            client.close()
        return unavailable(error)


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
