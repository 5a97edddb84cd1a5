"""The address guard: where a URL that a stranger gave may lead us.

    check_form   the text alone: scheme, no credentials, a host that every parser reads alike
    resolve      one DNS look-up, each address public or listed; connect to these and no others

Who connects must use the addresses that `resolve` returned: a second look-up may be answered
otherwise (DNS rebinding). A redirect is a new URL, to be checked like the first.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from contract.addresses import IPAddress, IPNetwork, is_listed, is_public
from contract.errors import ForbiddenAddress

MAX_URL_CHARACTERS: Final = 2048

# What RFC 3986 leaves in a URL. Without backslashes, blanks and controls no two parsers differ.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
# The last part of a host decides whether it is a number, also in octal or hexadecimal (WHATWG).
_NUMERIC_PART = re.compile(r"\d+|0[xX][0-9A-Fa-f]*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

LookUp = Callable[[str, int], Iterable[str]]
"""The addresses of a host as texts; raises OSError where it has none."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in parts. `host` is a name or an address, in lower case and without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def address(self) -> IPAddress | None:
        """The address, where the host is one."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """What a Host header says; also all that a log may say of a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class AddressGuard:
    """Lets public https addresses pass, and what is listed, that also over plain http."""

    def __init__(self, allowed: str = "") -> None:
        """`allowed` are hosts and networks in CIDR form, separated by commas.

        ValueError names an entry that is neither.
        """
        self._hosts: set[str] = set()
        self._networks: list[IPNetwork] = []
        for entry in filter(None, (part.strip().lower() for part in allowed.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or _is_numeric(entry) or not _HOST.fullmatch(entry):
                    raise ValueError(f"{entry!r} is neither a host nor a network") from None
                self._hosts.add(entry.rstrip("."))

    def check_form(self, url: str) -> Target:
        """The URL in parts. ForbiddenAddress where the text alone says that we must not go there.

        A name still has to be resolved.
        """
        target = _parsed(url)
        if target.address is not None:
            self._check(target, target.address)
        elif target.scheme == "http" and not self._networks and not self._is_listed(target):
            raise ForbiddenAddress("the URL must be https")
        return target

    def resolve(self, target: Target, look_up: LookUp | None = None) -> tuple[str, ...]:
        """The addresses to connect to; ForbiddenAddress where one of them is out of bounds.

        Blocks for a DNS look-up unless another `look_up` is given.
        """
        if target.address is not None:
            self._check(target, target.address)
            return (target.host,)
        try:
            found = tuple(dict.fromkeys((look_up or _system_look_up)(target.host, target.port)))
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise ForbiddenAddress(f"the host {target.host} cannot be found")
        for text in found:
            self._check(target, ipaddress.ip_address(text.partition("%")[0]))
        return found

    def _is_listed(self, target: Target) -> bool:
        return target.host.rstrip(".") in self._hosts

    def _check(self, target: Target, address: IPAddress) -> None:
        if self._is_listed(target) or is_listed(address, self._networks):
            return
        if not is_public(address):
            raise ForbiddenAddress(f"the host {target.host} is not on the public internet")
        if target.scheme != "https":
            raise ForbiddenAddress("the URL must be https")


def _parsed(url: str) -> Target:
    if len(url) > MAX_URL_CHARACTERS:
        raise ForbiddenAddress(f"the URL has more than {MAX_URL_CHARACTERS} characters")
    if not _URL.fullmatch(url):
        raise ForbiddenAddress("the URL has characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ForbiddenAddress("the URL cannot be read") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ForbiddenAddress("the URL must be https")
    if "@" in parts.netloc:
        raise ForbiddenAddress("the URL must not have a user name or password")
    if port == 0:
        raise ForbiddenAddress("the URL's port cannot be 0")
    _check_host(host, is_bracketed=parts.netloc.startswith("["))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path)


def _check_host(host: str, *, is_bracketed: bool) -> None:
    if is_bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ForbiddenAddress("the URL's host is no IPv6 address") from None
        if "%" in host:
            raise ForbiddenAddress("the URL's host must not name a network interface")
    elif not _HOST.fullmatch(host) or len(host) > 253 or ".." in host:
        raise ForbiddenAddress("the URL's host is no host name")
    elif _is_numeric(host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ForbiddenAddress(
                "the URL's host is a number; write an address as four decimal numbers"
            ) from None


def _is_numeric(host: str) -> bool:
    return _NUMERIC_PART.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def _system_look_up(host: str, port: int) -> Iterable[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
