"""The queues in Redis Streams, by the scripts of `contract.redis_queues`.

Messages that wait to be sent go to Redis together, in one pipeline. Redis keeps what it has
confirmed only as safely as its settings say, so the adapter warns if these may lose messages.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Collection, Iterable
from datetime import datetime
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

from contract.brokers import BrokerMessage
from contract.redis_queues import (
    DEAD_GROUP,
    DUPLICATES_MS,
    EXPIRE,
    FORGET_CONSUMERS,
    GROUP,
    LONGEST_LOCK_MS,
    SEND,
    dead_key,
    enqueued_at,
    fields_of,
    queue_key,
    queue_keys,
    read_dead_message,
    send_keys,
)
from gateway.brokers.port import HandleLetter, MessageCounts, Queues
from gateway.errors import NoAnswer, Unavailable, UnknownQueue

TRY_SECONDS: Final = 5.0
"""How long to wait for the answer to a request."""

_CONNECTIONS: Final = 8
_MOST_TOGETHER: Final = 100
_LETTERS_AT_ONCE: Final = 8
_BLOCK_MS: Final = 1000
_PAUSE_SECONDS: Final = 1.0
# A letter whose handling has failed, or whose gateway has died, is taken again after this time.
_AGAIN_AFTER_MS: Final = 10_000
_EXPIRE_EVERY_SECONDS: Final = 5.0
_EXPIRE_LOOKS_AT: Final = 1000
# The consumers of workers that were killed are deleted after this time.
_CONSUMER_IDLE_MS: Final = 3_600_000

_FAILURES = (RedisError, OSError, TimeoutError)

_MEMORY_IS_FULL: Final = "its memory is full (maxmemory)"
_CANNOT_WRITE: Final = "it cannot write its append-only file, perhaps because the disk is full"

_log = logging.getLogger(__name__)

_Waiting = tuple[str, BrokerMessage, "asyncio.Future[int]"]


class RedisQueues(Queues):
    """The queues of the models in one Redis, which must not be a cluster."""

    broker_name = "Redis"

    def __init__(self, url: str, names: Iterable[str]) -> None:
        """Create the object, which connects when it is first used."""
        self._names = sorted(names)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=TRY_SECONDS,
            # The client would wait with asyncio.wait_for, which may swallow a cancellation before
            # Python 3.12. So each request here has a time limit of its own.
            socket_timeout=None,
            socket_connect_timeout=TRY_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Any = Redis.from_pool(pool)
        self._send_script = self._redis.register_script(SEND)
        self._forget_script = self._redis.register_script(FORGET_CONSUMERS)
        self._expire_script = self._redis.register_script(EXPIRE)
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_ready = False
        self._has_checked_settings = False
        self._refuses = False

    async def send(self, queue: str, message: BrokerMessage) -> None:
        """Send a message, and return when Redis has stored it. May raise UnknownQueue."""
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((queue, message, sent))
        if self._task is None:
            self._task = asyncio.create_task(self._send_waiting())
        try:
            found = await sent
        except _FAILURES as error:
            if (refusal := _refusal_of(error)) is None:
                raise Unavailable(
                    "queue", f"sending a message to the queue {queue} failed: {_describe(error)}"
                ) from error
            if not self._refuses:
                self._refuses = True
                _log.error("Redis stores no new messages: %s", refusal)
            raise Unavailable("queue", f"Redis stores no new messages: {refusal}") from error
        if self._refuses:
            self._refuses = False
            _log.info("Redis stores messages again")
        if found < 0 and queue in self._names:
            # Its data was deleted. The next call creates the queues again.
            self._is_ready = False
            raise Unavailable("queue", f"the queue {queue} was deleted in Redis")
        if found < 0:
            raise UnknownQueue("queue", f"the queue {queue} does not exist")

    async def check(self, queue: str) -> None:
        """Check that Redis responds and stores messages."""
        del queue
        if (refusal := await self._read_refusal()) is not None:
            raise Unavailable("queue", f"Redis stores no new messages: {refusal}")

    async def find_refusal(self) -> str | None:
        """Return why Redis stores no new messages at present; None if it stores them."""
        try:
            return await self._read_refusal()
        except NoAnswer:
            return None

    async def oldest(self, queue: str) -> datetime | None:
        """Return when the oldest message, locked or not, was enqueued; None if there is none."""
        found = await self._answer(self._redis.xrange(queue_key(queue), count=1))
        return enqueued_at(found[0][0]) if found else None

    async def count(self, queue: str) -> MessageCounts:
        """Return the numbers of messages in the queue."""

        async def lengths() -> list[int]:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.exists(queue_key(queue))
                pipeline.xlen(queue_key(queue))
                pipeline.xlen(dead_key(queue))
                return list(await pipeline.execute())

        exists, active, dead = await self._answer(lengths())
        if not exists and queue not in self._names:
            raise UnknownQueue("queue", f"the queue {queue} does not exist")
        return MessageCounts(active, dead=dead)

    async def watch_dead_letters(self, queues: Collection[str], handle: HandleLetter) -> None:
        """Call `handle` for each dead letter of these queues, until this call is cancelled."""
        is_available = True
        while True:
            try:
                await self._take_letters(sorted(queues), handle)
            except _FAILURES as error:
                if is_available:
                    _log.warning("dead letters cannot be taken from Redis: %s", _describe(error))
                is_available = self._is_ready = False
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                is_available = True

    async def close(self) -> None:
        """Close all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._redis.aclose()

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), _MOST_TOGETHER)
                batch = [self._waiting.popleft() for _ in range(count)]
                await self._send_batch([each for each in batch if not each[2].done()])
        finally:
            self._task = None
            for _, _, sent in self._waiting:
                sent.cancel()
            self._waiting.clear()

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        """Send messages with one pipeline, and end the calls of `send` that wait for them."""
        results: list[Any]
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await self._make_queues()
                results = await self._run_pipeline(batch)
                if any(isinstance(each, NoScriptError) for each in results):
                    # Redis was restarted. It has run none of these.
                    self._is_ready = False
                    await self._make_queues()
                    results = await self._run_pipeline(batch)
        except _FAILURES as error:
            self._is_ready = False
            results = [error] * len(batch)
        except BaseException:
            for _, _, sent in batch:
                sent.cancel()
            raise
        for (_, _, sent), result in zip(batch, results, strict=True):
            if sent.done():
                continue
            if isinstance(result, BaseException):
                sent.set_exception(result)
            else:
                sent.set_result(int(result))

    async def _run_pipeline(self, batch: list[_Waiting]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for queue, message, _ in batch:
                left = message.time_to_live
                milliseconds = max(1, round(left.total_seconds() * 1000)) if left else 0
                keys = send_keys(queue, message.message_id)
                args = DUPLICATES_MS, milliseconds, *fields_of(message)
                pipeline.evalsha(self._send_script.sha, len(keys), *keys, *args)
            return list(await pipeline.execute(raise_on_error=False))

    async def _make_queues(self) -> None:
        """Create the streams, their groups and the scripts, after each loss of the connection."""
        if self._is_ready:
            return
        await self._redis.script_load(SEND)
        for name in self._names:
            for key, group in ((queue_key(name), GROUP), (dead_key(name), DEAD_GROUP)):
                try:
                    await self._redis.xgroup_create(key, group, id="0", mkstream=True)
                except ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):
                        raise
        if not self._has_checked_settings:
            await self._warn()
        self._is_ready = True

    async def _warn(self) -> None:
        """Log a warning if the settings of Redis may lose messages."""
        try:
            found = await self._redis.config_get("appendonly", "appendfsync", "maxmemory-policy")
        except ResponseError:
            return  # a managed Redis forbids the command
        self._has_checked_settings = True
        settings = {_text(name): _text(value) for name, value in found.items()}
        if settings.get("appendonly") == "no":
            _log.warning("Redis loses all messages when it stops: set appendonly to yes")
        elif settings.get("appendfsync") != "always":
            _log.warning(
                "Redis loses the messages of about the last second if its machine stops: set "
                "appendfsync to always"
            )
        if settings.get("maxmemory-policy") not in {"noeviction", None}:
            _log.warning("Redis may delete messages: set maxmemory-policy to noeviction")

    async def _take_letters(self, queues: list[str], handle: HandleLetter) -> None:
        """Take dead letters, and dead-letter expired messages, until a request fails."""
        async with asyncio.timeout(TRY_SECONDS):
            await self._make_queues()
        loop = asyncio.get_running_loop()
        names = {dead_key(queue).encode(): queue for queue in queues}
        due_at = loop.time()
        while True:
            if loop.time() >= due_at:
                due_at = loop.time() + _EXPIRE_EVERY_SECONDS
                for queue in queues:
                    await self._expire(queue)
                    await self._take_again(queue, handle)
            wanted: Any = dict.fromkeys(names, ">")
            async with asyncio.timeout(TRY_SECONDS):
                found = await self._redis.xreadgroup(
                    DEAD_GROUP, "gateway", wanted, count=_LETTERS_AT_ONCE, block=_BLOCK_MS
                )
            for key, entries in found or []:
                await self._handle(names[key], entries, handle)

    async def _expire(self, queue: str) -> None:
        """Dead-letter expired messages, and delete the consumers of workers that have ended."""
        keys = queue_keys(queue)
        async with asyncio.timeout(TRY_SECONDS):
            await self._expire_script(keys=keys, args=[LONGEST_LOCK_MS, _EXPIRE_LOOKS_AT])
            await self._forget_script(keys=keys[:1], args=[_CONSUMER_IDLE_MS])

    async def _take_again(self, queue: str, handle: HandleLetter) -> None:
        async with asyncio.timeout(TRY_SECONDS):
            found = await self._redis.xautoclaim(
                dead_key(queue), DEAD_GROUP, "gateway", _AGAIN_AFTER_MS, count=_LETTERS_AT_ONCE
            )
        await self._handle(queue, found[1], handle)

    async def _handle(self, queue: str, entries: Iterable[Any], handle: HandleLetter) -> None:
        key = dead_key(queue)
        for entry_id, fields in entries:
            letter = read_dead_message(entry_id, fields or {})
            try:
                await handle(queue, letter)
            except Exception as error:  # noqa: BLE001 - it is taken again later
                _log.warning(
                    "dead letter %.100r: it is handled again: %r", letter.message_id, error
                )
            else:
                async with asyncio.timeout(TRY_SECONDS):
                    await self._redis.xack(key, DEAD_GROUP, entry_id)
                    await self._redis.xdel(key, entry_id)

    async def _read_refusal(self) -> str | None:
        found = await self._answer(self._redis.info("memory", "persistence"))
        if 0 < found.get("maxmemory", 0) <= found.get("used_memory", 0):
            return _MEMORY_IS_FULL
        return _CANNOT_WRITE if found.get("aof_last_write_status", "ok") != "ok" else None

    async def _answer(self, request: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(TRY_SECONDS):
                return await request
        except _FAILURES as error:
            raise NoAnswer("queue", f"Redis does not respond: {_describe(error)}") from error


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _refusal_of(error: BaseException) -> str | None:
    """Return why Redis stores no messages, if this is the error with which it refuses one."""
    if isinstance(error, OutOfMemoryError):
        return _MEMORY_IS_FULL
    return _CANNOT_WRITE if str(error).startswith("MISCONF") else None


def _describe(error: BaseException) -> str:
    """Return the error for people. The client's own representation leaves its text out."""
    return f"{type(error).__name__} {str(error)[:200]}".rstrip()
