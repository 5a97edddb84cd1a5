"""Which addresses a stranger may make us connect to: public ones, and none else unless listed.

Sources: the special-purpose address registries of RFC 6890 as IANA keeps them. A network that
embeds an IPv4 address (mapped, NAT64, 6to4, Teredo) is refused as a whole: what lies behind such
an address depends on who translates it.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

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
# All unicast that IANA has given out. Outside lie loopback, mapped, NAT64, unique-local,
# link-local, site-local and multicast.
_GLOBAL_IPV6: Final = ipaddress.IPv6Network("2000::/3")


def is_public(address: IPAddress) -> bool:
    """Whether the address is one of the open internet."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_IPV6:
        return False
    return not any(address in network for network in _REFUSED)


def is_listed(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    """Whether one of the networks holds the address; a mapped address is the IPv4 one in it."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)
