"""Replies: posted to the URL that the job names, if it is one that we may call.

Protocol: 2xx is taken and 410 is decided already, so both end the job. 404, 408, 425, 429, 5xx
and a connection that fails may mend: tried again with jittered backoff. Anything else is final.
"""

import ipaddress
import logging
from collections.abc import Callable, Mapping

import httpx

from worker.errors import ReplyForbidden, ReplyRefused, ReplyUndelivered
from worker.inputs.payloads import Wait
from worker.remote.backoff import Backoff
from worker.remote.reach import Reach

_log = logging.getLogger(__name__)

_GONE = 410
_MAY_MEND = frozenset({404, 408, 425, 429})

_REPLY_SECONDS = httpx.Timeout(10.0, connect=3.0)
_CHECK_SECONDS = httpx.Timeout(2.0)
# Shorter than the five seconds after which uvicorn and others hang up on a silent connection.
_KEEP_ALIVE_SECONDS = 4.0
_CONNECTIONS = 64


class Replies:
    """The gateway as a worker sees it. One client with kept connections, for all threads."""

    def __init__(
        self, hosts: frozenset[str], trace_headers: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """`hosts` are the host:port that replies may go to."""
        self._hosts = hosts
        self._trace_headers = trace_headers
        self._reach = Reach("the gateway")
        self._client = httpx.Client(
            follow_redirects=False,
            timeout=_REPLY_SECONDS,
            # Neither proxies nor netrc: the token must reach the listed host and no other.
            trust_env=False,
            limits=httpx.Limits(
                max_connections=_CONNECTIONS,
                max_keepalive_connections=_CONNECTIONS,
                keepalive_expiry=_KEEP_ALIVE_SECONDS,
            ),
            headers={"content-type": "application/json", "user-agent": "loosely-worker"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def check(self, url: str) -> None:
        """Raise ReplyForbidden where the URL is not one that replies may go to."""
        self._checked(url)

    def is_wanted(self, url: str) -> bool | None:
        """Whether the job still waits for a reply; None while nobody can tell."""
        try:
            status = self._client.get(self._checked(url), timeout=_CHECK_SECONDS).status_code
        except httpx.HTTPError as error:
            self._reach.lost(type(error).__name__)
            return None
        # 404 is also what answers in place of a gateway that is being started or replaced.
        if status >= 500 or status in _MAY_MEND:
            self._reach.lost(f"status {status}")
            return None
        self._reach.found()
        return status != _GONE

    def report(self, url: str, body: bytes) -> bool:
        """Tell how far a job is; False where it is to stop, True also where nobody can tell."""
        try:
            answer = self._client.put(self._checked(url), content=body, timeout=_CHECK_SECONDS)
        except httpx.HTTPError as error:
            self._reach.lost(type(error).__name__)
            return True
        self._reach.found()
        return answer.status_code != _GONE

    def post(self, url: str, body: bytes, wait: Wait) -> None:
        """Deliver one reply. ReplyUndelivered where `wait` gives up first; ReplyRefused."""
        checked, backoff = self._checked(url), Backoff()
        while True:
            if (problem := self._posted(checked, body)) is None:
                return
            if not wait(backoff.next()):
                raise ReplyUndelivered(f"the reply was not taken: {problem}")

    def _posted(self, url: httpx.URL, body: bytes) -> str | None:
        """Try once: None where it is done, or what may mend."""
        try:
            headers = self._trace_headers()
            status = self._client.post(url, content=body, headers=headers).status_code
        except httpx.HTTPError as error:
            self._reach.lost(type(error).__name__)
            return type(error).__name__
        if status >= 500:
            self._reach.lost(f"status {status}")
            return f"status {status}"
        self._reach.found()
        if status // 100 == 2 or status == _GONE:
            return None
        if status in _MAY_MEND:
            return f"status {status}"
        raise ReplyRefused(f"the gateway answered {status} to the reply")

    def _checked(self, text: str) -> httpx.URL:
        # Parsed once, by the parser that also connects: two parsers may disagree on the host.
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError):
            raise ReplyForbidden("the reply URL cannot be parsed") from None
        if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
            raise ReplyForbidden("the reply URL must be https, or http on loopback")
        port = url.port or (443 if url.scheme == "https" else 80)
        host = f"[{url.host}]" if ":" in url.host else url.host
        if url.userinfo or f"{host}:{port}".lower() not in self._hosts:
            raise ReplyForbidden(f"replies may not go to {host}:{port}; see REPLY_HOSTS")
        return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
