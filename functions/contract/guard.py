"""The SSRF guard, which checks the URLs of callers before we connect to them.

    check_form   checks the text of a URL: an allowed scheme, no credentials, an unambiguous host
    resolve      looks the host up in DNS once; each address must be public or in the allow list
    Resolver     looks names up in a limited number of threads; a tenant can use only some of them

Code that uses the guard must connect only to the addresses that `resolve` returned, because a
second look-up may return other addresses (DNS rebinding). If the server redirects to another URL,
the code must check this URL, too.

An address is public if it is not in IANA's special-purpose registries (RFC 6890). IPv6 networks
that embed IPv4 addresses (mapped, NAT64, 6to4, Teredo) are not public, because a translator decides
which IPv4 host receives the connection.

A name that cannot be found and a name with a private address get the same error. Otherwise the
errors would reveal which names exist inside the network.
"""

import ipaddress
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from contract.errors import ForbiddenAddress, TooManyLookUps

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_REFUSED: Final[tuple[IPNetwork, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host, unspecified
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' address translation
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform inside each virtual network
        "169.254.0.0/16",  # link-local: the metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "2001::/23",  # protocol assignments, Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
# All global unicast addresses that IANA has allocated. This network does not contain loopback,
# mapped, NAT64, unique-local, link-local, site-local or multicast addresses.
_GLOBAL_IPV6: Final = ipaddress.IPv6Network("2000::/3")


def is_public(address: IPAddress) -> bool:
    """Return whether the address is on the public internet."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_IPV6:
        return False
    return not any(address in network for network in _REFUSED)


MAX_URL_CHARACTERS: Final = 2048

# The characters of RFC 3986. URL parsers disagree about backslashes and control characters.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
# A host is numeric if its last label is a number, also in octal or hexadecimal (WHATWG).
_NUMERIC_PART = re.compile(r"\d+|0[xX][0-9A-Fa-f]*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

LookUp = Callable[[str, int], Iterable[str]]
"""Returns the IP addresses of a host and a port, or raises OSError if the host has none."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL: a lower-case name or an IP address without brackets, and path with query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def address(self) -> IPAddress | None:
        """The host as an IP address; None if the host is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """The host and the port as in a Host header. Other parts of a URL may contain secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class AddressGuard:
    """Allows https to public addresses, and both http and https to hosts in the allow list."""

    def __init__(self, allowed: str = "") -> None:
        """Read host names and networks in CIDR form, separated by commas. Raises ValueError."""
        self._hosts: set[str] = set()
        self._networks: list[IPNetwork] = []
        for entry in filter(None, (part.strip().lower() for part in allowed.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or _is_numeric(entry) or not _HOST.fullmatch(entry):
                    raise ValueError(
                        f"{entry!r} is neither a host name nor a network in CIDR form"
                    ) from None
                self._hosts.add(entry.rstrip("."))

    def check_form(self, url: str) -> Target:
        """Check the text of a URL without a DNS look-up, or raise ForbiddenAddress.

        If the host is a name, `resolve` must check its addresses, too.
        """
        target = _parse_url(url)
        if target.address is not None:
            self._check(target, target.address)
        elif target.scheme == "http" and not self._networks and not self._is_listed(target):
            raise ForbiddenAddress("the URL must begin with https://")
        return target

    def resolve(self, target: Target, look_up: LookUp) -> tuple[str, ...]:
        """Return the addresses of the target, or raise ForbiddenAddress.

        `look_up` is not called if the host is an IP address. Its TimeoutError passes through.
        """
        if target.address is not None:
            self._check(target, target.address)
            return (target.host,)
        try:
            found = tuple(dict.fromkeys(look_up(target.host, target.port)))
        except TimeoutError:
            raise
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise ForbiddenAddress(_not_found(target))
        for text in found:
            self._check(target, ipaddress.ip_address(text.partition("%")[0]))
        return found

    def _is_listed(self, target: Target) -> bool:
        return target.host.rstrip(".") in self._hosts

    def _check(self, target: Target, address: IPAddress) -> None:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        in_network = any((mapped or address) in network for network in self._networks)
        if in_network or self._is_listed(target):
            return
        if not is_public(address):
            raise ForbiddenAddress(
                f"the host {target.host} is not on the public internet"
                if target.address is not None
                else _not_found(target)
            )
        if target.scheme != "https":
            raise ForbiddenAddress("the URL must begin with https://")


def _not_found(target: Target) -> str:
    """Return the error text for a host name that has no address or only a private address."""
    return f"the host {target.host} cannot be found on the public internet"


def _parse_url(url: str) -> Target:
    if len(url) > MAX_URL_CHARACTERS:
        raise ForbiddenAddress(f"the URL has more than {MAX_URL_CHARACTERS} characters")
    if not _URL.fullmatch(url):
        raise ForbiddenAddress("the URL has characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ForbiddenAddress("the URL cannot be parsed") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ForbiddenAddress("the URL must begin with https://")
    if "@" in parts.netloc:
        raise ForbiddenAddress("the URL must not have a user name or password")
    if port == 0:
        raise ForbiddenAddress("the URL's port must not be 0")
    _check_host(host, is_bracketed=parts.netloc.startswith("["))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path)


def _check_host(host: str, *, is_bracketed: bool) -> None:
    if is_bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ForbiddenAddress("the URL's host in brackets is not an IPv6 address") from None
        if "%" in host:
            raise ForbiddenAddress(
                "the IPv6 address in the URL must not have a zone (the part after %)"
            )
    elif not _HOST.fullmatch(host) or len(host) > 253 or ".." in host:
        raise ForbiddenAddress("the URL's host is not a valid host name")
    elif _is_numeric(host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ForbiddenAddress(
                "the URL's host is a number; write an IPv4 address as four decimal numbers"
            ) from None


def _is_numeric(host: str) -> bool:
    return _NUMERIC_PART.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


@lru_cache(maxsize=64)  # the worker asks for each reply, but there are few hosts
def is_loopback(host: str) -> bool:
    """Return whether a URL's host is `localhost` or an address of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def system_look_up(host: str, port: int) -> Iterable[str]:
    """Ask the operating system, for up to a minute. Raises UnicodeError for an invalid name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


# How many host names a process looks up at the same time, in total and for one share.
MAX_LOOK_UPS: Final = 64
MAX_LOOK_UPS_OF_A_SHARE: Final = 8


class Resolver:
    """Looks up host names in DNS, in a limited number of threads. Any thread may call the methods.

    A look-up of the operating system cannot be cancelled, and takes up to a minute if no DNS server
    answers. Therefore each look-up has a daemon thread of its own, which delays neither the
    shutdown of the process nor other work.

    A look-up counts until its end for the share that started it, for example for a tenant. Callers
    that need the same host name at the same time wait for one look-up.
    """

    def __init__(
        self,
        look_up: LookUp = system_look_up,
        max_count: int = MAX_LOOK_UPS,
        max_count_of_a_share: int = MAX_LOOK_UPS_OF_A_SHARE,
    ) -> None:
        self._look_up = look_up
        self._max_count = max_count
        self._max_count_of_a_share = max_count_of_a_share
        self._lock = threading.Lock()
        self._running: dict[str, Future[tuple[str, ...]]] = {}
        self._counts: Counter[str] = Counter()

    def start(self, host: str, port: int, share: str) -> Future[tuple[str, ...]]:
        """Start to look up a host name, or join the running look-up of this name.

        The result of the future raises OSError or UnicodeError if the look-up failed. The future
        cannot be cancelled, because several callers may wait for it. The port has no influence on
        the addresses. Raises TooManyLookUps.
        """
        with self._lock:
            if (running := self._running.get(host)) is not None:
                return running
            if self._counts[share] >= self._max_count_of_a_share:
                raise TooManyLookUps(self._counts[share])
            if len(self._running) >= self._max_count:
                raise TooManyLookUps(len(self._running))
            future = Future[tuple[str, ...]]()
            future.set_running_or_notify_cancel()
            self._running[host] = future
            self._counts[share] += 1
        thread = threading.Thread(
            target=self._run, args=(future, host, port, share), name="look-up", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The operating system does not allow another thread.
            self._end(host, share)
            future.set_exception(OSError("no thread could be started for the DNS look-up"))
        return future

    def look_up(self, host: str, port: int, share: str, seconds: float) -> tuple[str, ...]:
        """Return the addresses of a host name. After TimeoutError, the look-up still runs."""
        return self.start(host, port, share).result(max(0.0, seconds))

    def _run(self, future: Future[tuple[str, ...]], host: str, port: int, share: str) -> None:
        try:
            found = tuple(self._look_up(host, port))
        except Exception as error:  # noqa: BLE001  the waiting callers get the error
            self._end(host, share)
            future.set_exception(error)
        else:
            self._end(host, share)
            future.set_result(found)

    def _end(self, host: str, share: str) -> None:
        with self._lock:
            del self._running[host]
            self._counts[share] -= 1
            if not self._counts[share]:
                del self._counts[share]
