"""Look up the hosts of URLs that callers have given. The SSRF guard checks each address.

The event loop's default executor is not used, because Azure's clients need it for their own
look-ups, and look-ups that get no answer would occupy all its threads.
"""

import asyncio
import contextlib
from typing import Final

from contract.guard import AddressGuard, Resolver, Target

DNS_TIMEOUT_SECONDS: Final = 3.0


def tenant_share(tenant: str) -> str:
    """Return the name of the group that limits a tenant's DNS look-ups at the same time."""
    return f"tenant {tenant}"


async def resolve_url(
    guard: AddressGuard,
    resolver: Resolver,
    url: str,
    share: str,
    seconds: float = DNS_TIMEOUT_SECONDS,
) -> tuple[Target, tuple[str, ...]]:
    """Return the parsed URL and its IP addresses. Raises ForbiddenAddress or TooManyLookUps."""
    target = guard.check_form(url)
    found: tuple[str, ...] = ()
    if target.address is None:
        looking = resolver.start(target.host, target.port, share)
        # TimeoutError is an OSError, too. Without addresses, the guard refuses the URL.
        with contextlib.suppress(OSError, UnicodeError):
            async with asyncio.timeout(seconds):
                found = await asyncio.wrap_future(looking)
    return target, guard.resolve(target, lambda host, port: found)
