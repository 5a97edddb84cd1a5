"""One POST to a stranger's URL, to the very addresses that the guard has checked."""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from contract.errors import ForbiddenAddress
from contract.guard import AddressGuard, Target
from gateway.errors import WebhookUndelivered

ATTEMPT_SECONDS: Final = 15.0
LOOK_UP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said: its body is of no interest."""

    status: int
    retry_after_seconds: float | None


class Sender(Protocol):
    """How a webhook leaves the gateway."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post once and follow no redirect; WebhookUndelivered where there was no answer."""


async def checked_target(guard: AddressGuard, url: str) -> tuple[Target, tuple[str, ...]]:
    """The URL in parts and the addresses to connect to; ForbiddenAddress."""
    target = guard.check_form(url)
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            return target, await asyncio.to_thread(guard.resolve, target)
    except TimeoutError:
        raise ForbiddenAddress(f"the host {target.host} cannot be found") from None


class HttpSender:
    """Over aiohttp. A connection of its own each time: receivers are many, deliveries few."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """See Sender."""
        try:
            target, addresses = await checked_target(self._guard, url)
        except ForbiddenAddress as error:
            raise WebhookUndelivered(error.code) from None
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(addresses), use_dns_cache=False, force_close=True
        )
        try:
            async with (
                # Neither cookies nor proxies: what we send goes to the checked address alone.
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
                ) as session,
                session.post(
                    _exact(target),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=ATTEMPT_SECONDS),
                ) as response,
            ):
                return Answer(response.status, _seconds(response.headers.get("retry-after")))
        except TimeoutError:
            raise WebhookUndelivered("timeout") from None
        except aiohttp.ClientSSLError:
            raise WebhookUndelivered("tls-failed") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise WebhookUndelivered("connection-failed") from None


class _Pinned(AbstractResolver):
    """Gives the addresses that were checked, whatever DNS says by now."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def _exact(target: Target) -> yarl.URL:
    return yarl.URL(f"{target.scheme}://{target.authority}{target.path}", encoded=True)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds, be it a number or a date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        at = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
