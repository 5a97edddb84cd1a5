"""Send replies to the gateway and to queues, and cache recent replies.

The gateway answers with status 2xx if it accepts the reply, and with 410 if the job has already
ended. In both cases the worker completes the message. Replies that are ready at the same time are
sent in one request, which has an answer for each. After status 404, 408, 425, 429 or 5xx, or a
failed connection, the worker sends the reply again after a random delay that grows with each try.
After any other status, it does not.
"""

import json
import ssl
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import count
from typing import Any, Final, Generic, NamedTuple, TypeVar

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import Timeout, Url, parse_url

from contract.guard import is_loopback
from contract.messages import ReplyQueue, ReplyTo, ReplyUrl
from contract.names import (
    GATHERED_REPLIES_PATH,
    MAX_GATHERED_BYTES,
    MAX_GATHERED_REPLIES,
    WORKER_ROUTE,
)
from worker.brokers.port import LockedMessage
from worker.brokers.replies import QueueReplies
from worker.errors import (
    ReplyForbidden,
    ReplyRefused,
    ReplyUndelivered,
)
from worker.retries import Wait, backoff_seconds
from worker.settings import PLAIN_HTTP
from worker.telemetry.recording import ServiceStatus

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")

_GONE: Final = 410
_MAY_SUCCEED_LATER: Final = frozenset({404, 408, 425, 429})

_REPLY_TIMEOUT: Final = Timeout(connect=3.0, read=10.0)
_CHECK_TIMEOUT: Final = Timeout(2.0)
# Shorter than the 5 s after which uvicorn and others close an idle connection.
_KEEP_ALIVE_SECONDS: Final = 4.0
_MAX_CONNECTIONS: Final = 64
_USER_AGENT: Final = {"user-agent": "loosely-worker"}
_PARSED_URLS: Final = 256
_HEADERS: Final[Mapping[str, str]] = {"content-type": "application/json", **_USER_AGENT}
_GATHERED_HEADERS: Final[Mapping[str, str]] = {"content-type": "text/plain", **_USER_AGENT}
_GATHER_SECONDS: Final = 0.05
# How long replies are sent alone after the gateway refused a request with several.
_NO_GATHERING_SECONDS: Final = 60.0

# How long to retry a reply to a producer's queue during one delivery of the message.
_MAX_PRODUCER_SECONDS: Final = 30.0

_MAX_CACHE_BYTES: Final = 64 * 1024 * 1024
_MAX_CACHE_SECONDS: Final = 600.0
# The size of a cache entry without its reply. It is counted, so that the limit also holds for many
# small entries.
_ENTRY_BYTES: Final = 500


class _Answer(NamedTuple):
    """The gateway's answer: the status, which is None without a response, and the body.

    `problem` describes a failure that may not last; None if there is none.
    """

    status: int | None
    body: bytes
    problem: str | None = None


class _Reply(NamedTuple):
    """A reply and the URL to which it is sent."""

    url: Url
    body: bytes

    @property
    def address(self) -> bytes:
        """The job and the query of its reply URL, for a request with several replies."""
        job_id = (self.url.path or "").rpartition("/v1/jobs/")[2].removesuffix("/reply")
        return f"{job_id}?{self.url.query or ''}".encode()

    def size_bytes(self) -> int:
        """Return how many bytes the reply adds to a request with several replies."""
        return len(self.address) + len(self.body) + 2


class UnwantedLines(NamedTuple):
    """The lines of a batch that must not run: these jobs, or all lines of the batch."""

    job_ids: frozenset[str] = frozenset()
    is_whole_batch: bool = False


class _HttpConnection(HTTPConnection):
    """Sends a request's head and body together, which urllib3 sends one after the other.

    Otherwise the gateway's process wakes for the head, and then waits for the body.
    """

    _parts: list[bytes] | None = None

    def request(self, *arguments: Any, **options: Any) -> None:
        self._parts = []
        try:
            super().request(*arguments, **options)
            data = b"".join(self._parts)
        finally:
            self._parts = None
        self.send(data)

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)


class _HttpsConnection(_HttpConnection, HTTPSConnection):
    """The same over TLS."""


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class GatewayClient:
    """The HTTP client with which the worker calls the gateway. Any thread may call the methods."""

    def __init__(
        self,
        hosts: frozenset[str],
        trace_headers: Callable[[], Mapping[str, str]] = dict,
        gather_seconds: float = _GATHER_SECONDS,
    ) -> None:
        """Create the HTTP client. It connects when the first request is sent.

        `hosts` are the gateways to which replies may be sent, as `host:port`, or as
        `host:port/path` if the gateway's own address has a path. `http://` before the host permits
        replies without TLS. Loopback addresses never need TLS. A reply waits at most
        `gather_seconds` for the request with the replies before it.
        """
        self._hosts = frozenset(host.removeprefix(PLAIN_HTTP) for host in hosts)
        self._plain_hosts = frozenset(
            host.removeprefix(PLAIN_HTTP).partition("/")[0]
            for host in hosts
            if host.startswith(PLAIN_HTTP)
        )
        self._trace_headers = trace_headers
        self._gather_seconds = gather_seconds
        self._status = ServiceStatus("the gateway")
        # urllib3 uses neither a proxy nor netrc, so the reply token reaches only the listed host.
        self._pools = urllib3.PoolManager(
            maxsize=_MAX_CONNECTIONS,
            block=True,
            retries=False,
            ssl_context=ssl.create_default_context(cafile=certifi.where()),
        )
        self._pools.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        self._used_at = time.monotonic()
        # By the address of the gateway.
        self._gatherers: dict[str, ReplyGatherer[_Reply, _Answer | None]] = {}
        # When replies may be gathered (again), for a gateway without the route for them.
        self._gathers_at = 0.0
        # Each URL is parsed at least twice: when its job is received, and for the reply.
        self._parse = lru_cache(_PARSED_URLS)(self._parse_anew)

    @property
    def waiting_count(self) -> int:
        """Return how many replies wait for the request before them."""
        return sum(each.waiting_count for each in list(self._gatherers.values()))

    def close(self) -> None:
        """Close the connections."""
        self._pools.clear()

    def check_reply_url(self, url: str) -> None:
        """Raise ReplyForbidden if replies must not be sent to this URL."""
        self._parse(url)

    def is_wanted(self, url: str) -> bool | None:
        """Return whether a job must still be run; None without a definite answer.

        A job that the gateway does not know is wanted: its start may be delayed. If its gateway
        died before the start, a repeat of its request finds its outcome.
        """
        answer = self._ask(url)
        return None if answer is None else answer.status != _GONE

    def find_unwanted(self, url: str) -> UnwantedLines | None:
        """Return which lines of a batch must not run; None without a definite answer.

        `url` is the reply URL of any line of the batch.
        """
        if (answer := self._ask(f"{url}&batch=true")) is None:
            return None
        if answer.status == _GONE:
            return UnwantedLines(is_whole_batch=True)
        try:
            return UnwantedLines(frozenset(json.loads(answer.body)["cancelled"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return UnwantedLines()

    def _ask(self, url: str) -> _Answer | None:
        """Return the gateway's answer about a job; None if it is not definite."""
        answer = self._request("GET", self._parse(url), _CHECK_TIMEOUT)
        if answer.status is None:
            return None
        is_unknown = answer.status == 404 and has_code(answer.body, "unknown-job")
        # What stands in front of a gateway that is being started or replaced may answer 404, too.
        if answer.status >= 500 or (answer.status in _MAY_SUCCEED_LATER and not is_unknown):
            self._status.mark_down(f"HTTP status {answer.status}")
            return None
        self._status.mark_up()
        return answer

    def send_progress(self, url: str, body: bytes) -> bool:
        """Send an encoded progress report. Return False if the job must stop."""
        status = self._request("PUT", self._parse(url), _CHECK_TIMEOUT, body).status
        if status is not None:
            self._status.mark_up()
        return status != _GONE

    def run_child(
        self, url: str, body: bytes, media_type: str | None, wait_seconds: int
    ) -> tuple[int | None, bytes]:
        """Send a request for a child job once, which the gateway answers when the job has ended.

        The gateway recognises the input if `media_type` is None. Return the status and the body of
        the response; the status is None if there was none.
        """
        headers = {"prefer": f"wait={wait_seconds}", **self._trace_headers(), **_USER_AGENT}
        if media_type is not None:
            headers["content-type"] = media_type
        timeout = Timeout(connect=3.0, read=wait_seconds + 10.0)
        answer = self._request("POST", self._parse(url), timeout, body, headers)
        if answer.status is not None and answer.status < 500:
            self._status.mark_up()
        return answer.status, answer.body

    def cancel_children(self, url: str) -> None:
        """Cancel all child jobs of the job with this children URL, if the gateway answers."""
        self._request("DELETE", self._parse(url), _CHECK_TIMEOUT)

    def send_reply(self, url: str, body: bytes, wait: Wait) -> bool:
        """Send a reply. Try again until the gateway accepts it or answers that the job has ended.

        Return whether the gateway accepted the reply; False if the job had already ended. It may
        have ended with this reply if the response to an earlier try was lost.

        Raises:
            ReplyUndelivered: `wait`, which sleeps before each new try, returned False.
            ReplyRefused: The gateway will never accept this reply.
            ReplyForbidden: Replies must not be sent to this URL.
        """
        parsed = self._parse(url)
        attempts = count()
        answer = self._judge(self._post_gathered(parsed, body))
        # Later tries are sent alone, so that no reply depends on another for long.
        while answer.problem is not None:
            if not wait(backoff_seconds(next(attempts))):
                raise ReplyUndelivered(f"the gateway did not accept the reply: {answer.problem}")
            answer = self._judge(self._post(_Reply(parsed, body)))
        return answer.status != _GONE

    def _request(
        self,
        method: str,
        url: Url,
        timeout: Timeout,
        body: bytes | None = None,
        headers: Mapping[str, str] = _HEADERS,
    ) -> _Answer:
        """Send a request to a URL that `_parse` has checked."""
        now = time.monotonic()
        if now - self._used_at > _KEEP_ALIVE_SECONDS:
            self._pools.clear()
        self._used_at = now
        pool = self._pools.connection_from_host(url.host, url.port, url.scheme)
        try:
            response = pool.urlopen(
                method, url.request_uri, body, headers=headers, redirect=False, timeout=timeout
            )
        except HTTPError as error:
            problem = type(error).__name__
            self._status.mark_down(problem)
            return _Answer(None, b"", problem)
        return _Answer(response.status, response.data)

    def _post(self, reply: _Reply) -> _Answer:
        headers = {**_HEADERS, **self._trace_headers()}
        return self._request("POST", reply.url, _REPLY_TIMEOUT, reply.body, headers)

    def _post_gathered(self, url: Url, body: bytes) -> _Answer:
        """Send a reply once, together with others that are ready now if the gateway allows it."""
        reply, (base, is_reply, _) = _Reply(url, body), (url.path or "").rpartition("/v1/jobs/")
        # A request has one trace, so traced replies are sent alone.
        if time.monotonic() < self._gathers_at or self._trace_headers():
            return self._post(reply)
        if not (is_reply and (url.path or "").endswith("/reply")) or b"\n" in body:
            return self._post(reply)
        key = f"{url.scheme}://{url.netloc}{base}"
        if (gatherer := self._gatherers.get(key)) is None:
            gatherer = self._gatherers.setdefault(
                key,
                ReplyGatherer(
                    partial(self._post_together, base), _Reply.size_bytes, self._gather_seconds
                ),
            )
        answer = gatherer(reply)
        return self._post(reply) if answer is None else answer

    def _post_together(self, base: str, replies: Sequence[_Reply]) -> Sequence[_Answer | None]:
        """Send replies in one request; None for each if the gateway has no route for this."""
        if len(replies) == 1:
            return [self._post(replies[0])]
        url = replies[0].url._replace(path=base + GATHERED_REPLIES_PATH, query=None)
        body = b"\n".join(part for reply in replies for part in (reply.address, reply.body))
        answer = self._request("POST", url, _REPLY_TIMEOUT, body, _GATHERED_HEADERS)
        if answer.status is None or answer.status >= 500:
            return [answer] * len(replies)
        try:
            found = [_Answer(int(each["status"]), b"") for each in json.loads(answer.body)]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = []
        if answer.status == 200 and len(found) == len(replies):
            return found
        # An older gateway, perhaps only until it is replaced.
        self._gathers_at = time.monotonic() + _NO_GATHERING_SECONDS
        return [None] * len(replies)

    def _judge(self, answer: _Answer) -> _Answer:
        """Return the answer to a reply, with a problem if the reply must be sent again."""
        status, problem = answer.status, f"HTTP status {answer.status}"
        if status is None:
            return answer
        if status >= 500:
            self._status.mark_down(problem)
            return answer._replace(problem=problem)
        self._status.mark_up()
        if status // 100 == 2 or status == _GONE:
            return answer
        if status in _MAY_SUCCEED_LATER:
            return answer._replace(problem=problem)
        raise ReplyRefused(f"the gateway refused the reply with {problem}")

    def _parse_anew(self, text: str) -> Url:
        # The URL is parsed only here, and the result is used to connect: two parsers could disagree
        # on the host.
        try:
            url = parse_url(text)
        except LocationParseError:
            raise ReplyForbidden("the reply URL cannot be parsed") from None
        host = url.host or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        address = f"{host}:{port}".lower()
        is_plain_allowed = is_loopback(host) or address in self._plain_hosts
        if url.scheme != "https" and not (url.scheme == "http" and is_plain_allowed):
            raise ReplyForbidden(
                "the scheme of the reply URL must be https; http is allowed only for loopback "
                "addresses and for hosts that REPLY_HOSTS lists with http://"
            )
        # A producer must not make the worker call another route or another service of this host.
        path = WORKER_ROUTE.fullmatch(url.path or "")
        if path is None:
            raise ReplyForbidden(
                f"the path of the reply URL at {address} is not the path of a gateway's reply route"
            )
        if url.auth or f"{address}{path[1]}" not in self._hosts:
            raise ReplyForbidden(
                f"the reply URL has the address {address}{path[1]}, which REPLY_HOSTS does not list"
            )
        return url


class ReplyGatherer(Generic[ItemT, AnswerT]):
    """Combines the replies of several threads into one request. Any thread may call it.

    A reply that is ready while no request runs is sent at once, alone. Those that become ready
    while it runs are sent together after it, or after a short time if it does not end.
    """

    def __init__(
        self,
        send: Callable[[Sequence[ItemT]], Sequence[AnswerT]],
        size_bytes: Callable[[ItemT], int],
        wait_seconds: float,
    ) -> None:
        """Store the function that sends replies and returns an answer for each, in their order.

        A reply waits at most `wait_seconds` for the request before it.
        """
        self._send = send
        self._size_bytes = size_bytes
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[ItemT, AnswerT]] = deque()
        self._request_count = 0

    def __call__(self, item: ItemT) -> AnswerT:
        """Send a reply, perhaps with others, and return the answer to it.

        Raises the error that the request raised.
        """
        entry: _Entry[ItemT, AnswerT] = _Entry(item)
        with self._lock:
            entry.is_sender = self._request_count == 0
            if entry.is_sender:
                self._request_count += 1
            else:
                self._waiting.append(entry)
        if not entry.is_sender and not entry.changed.acquire(timeout=self._wait_seconds):
            self._stop_waiting(entry)
        if entry.is_sender:
            self._send_with_waiting(entry)
        if entry.error is not None:
            raise entry.error
        return entry.answers[0]

    @property
    def waiting_count(self) -> int:
        """Return how many replies wait, without those of the requests that are running."""
        return len(self._waiting)

    def _stop_waiting(self, entry: "_Entry[ItemT, AnswerT]") -> None:
        """Send the reply without waiting for the running request, unless it is being sent."""
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._request_count += 1
                entry.is_sender = True
        if not entry.is_sender:
            entry.changed.acquire()

    def _send_with_waiting(self, entry: "_Entry[ItemT, AnswerT]") -> None:
        group, size_bytes = [entry], self._size_bytes(entry.item)
        with self._lock:
            while self._waiting and len(group) < MAX_GATHERED_REPLIES:
                size_bytes += self._size_bytes(self._waiting[0].item)
                if size_bytes > MAX_GATHERED_BYTES:
                    break
                group.append(self._waiting.popleft())
        try:
            answers = self._send([each.item for each in group])
            for each, answer in zip(group, answers, strict=True):
                each.answers.append(answer)
        except BaseException as error:  # noqa: BLE001  raised for each reply of this request
            for each in group:
                each.error = error
        following = group[1:]
        with self._lock:
            self._request_count -= 1
            if self._waiting and not self._request_count:
                self._request_count += 1
                following.append(self._waiting.popleft())
                following[-1].is_sender = True
        for each in following:
            each.changed.release()


class _Entry(Generic[ItemT, AnswerT]):
    """A reply that waits. `changed` is released when it is answered, or must send the next ones."""

    __slots__ = ("answers", "changed", "error", "is_sender", "item")

    def __init__(self, item: ItemT) -> None:
        self.item = item
        self.is_sender = False
        self.answers: list[AnswerT] = []
        self.error: BaseException | None = None
        self.changed = threading.Lock()
        self.changed.acquire()


class ReplySenders:
    """Sends each reply to the address in the job's request: the gateway, a queue or nowhere."""

    def __init__(self, gateway: GatewayClient, queues: QueueReplies) -> None:
        self._gateway = gateway
        self._queues = queues

    def check_reply_address(self, reply_to: ReplyTo | None) -> None:
        """Raise ReplyForbidden if replies must not be sent to this address."""
        match reply_to:
            case ReplyUrl(url):
                self._gateway.check_reply_url(url)
            case ReplyQueue(queue):
                self._queues.check_reply_queue(queue)

    def send_reply(self, reply_to: ReplyTo | None, body: bytes, job_id: str, wait: Wait) -> bool:
        """Send a reply, as the two senders do. Return False if the job had already ended."""
        match reply_to:
            case ReplyUrl(url):
                return self._gateway.send_reply(url, body, wait)
            case ReplyQueue(queue):
                self._queues.send_reply(queue, body, job_id, _limited(wait))
        return True


@dataclass(frozen=True, slots=True)
class CachedReply:
    """A reply in the cache, with `succeeded` or an error's code; the body until it is delivered."""

    body: bytes = field(repr=False)
    code: str
    cached_at: float
    is_delivered: bool = False


class ReplyCache:
    """Keeps each reply until the job's message is settled, so that the job need not run again.

    If a reply cannot be sent or a message cannot be settled, the broker delivers the message again,
    often to this process. Old replies are dropped when the cache is full, and after 10 minutes. Any
    thread may call the methods.
    """

    def __init__(
        self,
        max_bytes: int = _MAX_CACHE_BYTES,
        max_seconds: float = _MAX_CACHE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._replies: OrderedDict[tuple[str, int], CachedReply] = OrderedDict()
        self._size_bytes = 0

    def cache_reply(self, delivery: LockedMessage, body: bytes, code: str) -> None:
        """Store the reply to a message. `code` is `succeeded` or the code of the job's error."""
        with self._lock:
            self._drop(delivery.key)
            cached = CachedReply(body, code, self._clock())
            self._replies[delivery.key] = cached
            self._size_bytes += _size_bytes(cached)
            self._evict()

    def mark_delivered(self, delivery: LockedMessage) -> None:
        """Record that the reply to a message was delivered, and drop the reply's body."""
        with self._lock:
            if (cached := self._replies.get(delivery.key)) is not None:
                self._size_bytes -= len(cached.body)
                self._replies[delivery.key] = replace(cached, body=b"", is_delivered=True)

    def find_reply(self, delivery: LockedMessage) -> CachedReply | None:
        """Return the cached reply to this message, if there is one."""
        with self._lock:
            self._evict()
            return self._replies.get(delivery.key)

    def remove_reply(self, delivery: LockedMessage) -> None:
        """Remove the reply to a settled message."""
        with self._lock:
            self._drop(delivery.key)

    def _evict(self) -> None:
        too_old = self._clock() - self._max_seconds
        while self._replies:
            key, oldest = next(iter(self._replies.items()))
            if self._size_bytes <= self._max_bytes and oldest.cached_at > too_old:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, int]) -> None:
        if (cached := self._replies.pop(key, None)) is not None:
            self._size_bytes -= _size_bytes(cached)


def _size_bytes(cached: CachedReply) -> int:
    return len(cached.body) + _ENTRY_BYTES


def _limited(wait: Wait) -> Wait:
    """Limit all calls of `wait` together, so that a silent queue delays others briefly."""
    ends_at = time.monotonic() + _MAX_PRODUCER_SECONDS
    return lambda seconds: time.monotonic() < ends_at and wait(seconds)


def has_code(body: bytes, code: str) -> bool:
    """Return whether a body of the gateway is the problem with this code."""
    try:
        return bool(json.loads(body).get("code") == code)
    except (ValueError, AttributeError, RecursionError):
        return False
