"""Look up the hosts of URLs that callers have given. The SSRF guard checks each address.

`contract.guard.Resolver` looks up the host names. The event loop's default executor is not used for
these look-ups, because Azure's clients need this executor for their own look-ups. Look-ups that get
no answer would occupy all its threads.
"""

import asyncio
import contextlib
from typing import Final

from contract.guard import AddressGuard, Resolver, Target

DNS_TIMEOUT_SECONDS: Final = 3.0


def tenant_share(tenant: str) -> str:
    """Return the name of the group in which a tenant's DNS look-ups are counted.

    Such a group is called a share. Only a limited number of look-ups may run at the same time in
    each group.
    """
    return f"tenant {tenant}"


async def resolve_url(
    guard: AddressGuard,
    resolver: Resolver,
    url: str,
    share: str,
    seconds: float = DNS_TIMEOUT_SECONDS,
) -> tuple[Target, tuple[str, ...]]:
    """Return the parsed URL, and the IP addresses of its host.

    Args:
        guard: Checks the URL and its addresses.
        resolver: Looks up the host name.
        url: The URL.
        share: The name of the group in which this look-up is counted: `tenant_share(tenant)`. Only
            a limited number of look-ups may run at the same time in each group.
        seconds: How long to wait for the look-up, in seconds.

    Raises:
        ForbiddenAddress: The guard forbids the URL or its addresses, or the host has no address.
        TooManyLookUps: Too many look-ups are running, in this process or in the group `share`.
    """
    target = guard.check_form(url)
    found: tuple[str, ...] = ()
    if target.address is None:
        looking = resolver.start(target.host, target.port, share)
        # TimeoutError is an OSError, too. Without addresses, the guard refuses the URL.
        with contextlib.suppress(OSError, UnicodeError):
            async with asyncio.timeout(seconds):
                found = await asyncio.wrap_future(looking)
    return target, guard.resolve(target, lambda host, port: found)
