"""Post webhooks to URLs that callers have given. The SSRF guard checks each address first."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from contract.errors import ForbiddenAddress, TooManyLookUps
from contract.guard import AddressGuard, Resolver
from gateway.addresses import resolve_url
from gateway.errors import WebhookUndelivered

DNS_TIMEOUT_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The HTTP status and the Retry-After of a receiver's response to a webhook."""

    status: int
    retry_after_seconds: float | None


class WebhookSender:
    """Sends webhooks. Each webhook uses a new connection."""

    def __init__(self, guard: AddressGuard, resolver: Resolver) -> None:
        self._guard = guard
        self._resolver = resolver

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, share: str, seconds: float
    ) -> WebhookResponse:
        """Send one POST request without following redirects; return the receiver's response.

        `share` is the tenant's share of the DNS look-ups. Raises WebhookUndelivered if the URL is
        forbidden, too many look-ups are running, or no response arrives within `seconds` after the
        look-up.
        """
        try:
            target, addresses = await resolve_url(self._guard, self._resolver, url, share)
        except (ForbiddenAddress, TooManyLookUps) as error:
            raise WebhookUndelivered(error.code) from None
        connector = aiohttp.TCPConnector(
            resolver=_PinnedResolver(addresses), use_dns_cache=False, force_close=True
        )
        try:
            async with (
                # Without a proxy, only the checked address receives the request.
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
                ) as session,
                session.post(
                    yarl.URL(f"{target.scheme}://{target.authority}{target.path}", encoded=True),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=seconds),
                ) as response,
            ):
                return WebhookResponse(
                    response.status, _parse_retry_after(response.headers.get("retry-after"))
                )
        except TimeoutError:
            raise WebhookUndelivered("timeout") from None
        except aiohttp.ClientSSLError:
            raise WebhookUndelivered("tls-failed") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise WebhookUndelivered("connection-failed") from None


class _PinnedResolver(AbstractResolver):
    """A DNS resolver that always returns the addresses that the SSRF guard has checked."""

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


def _parse_retry_after(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which contains a number or a date."""
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
