"""Test the guard against SSRF, which checks the URLs that callers give."""

import ipaddress
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ForbiddenAddress, TooManyLookUps
from contract.guard import AddressGuard, Resolver, Target, is_public, system_look_up

GUARD = AddressGuard()


def resolving(*addresses: str) -> Sequence[str]:
    """Let the guard check a host name that resolves to `addresses`.

    Return the addresses to which the guard allows a connection.

    Raises:
        ForbiddenAddress: if the guard refuses the host name.
    """
    return GUARD.resolve(GUARD.check_form("https://name.test/x"), lambda host, port: addresses)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1"),
        *("172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255"),
        *("192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "192.88.99.1"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd12:3456::1]", "[ff02::1]", "[fec0::1]"),
        *("[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
        *("[64:ff9b::7f00:1]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::1]", "[2002:7f00:1::]"),
        *("[2002:808:808::1]", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[2001:db8::1]"),
        *("[100::1]", "[3fff::1]", "[5f00::1]", "[::ffff:0:127.0.0.1]"),
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(ForbiddenAddress, match="not on the public internet"):
        GUARD.check_form(f"https://{host}/hook")
    address = host.strip("[]")
    with pytest.raises(ForbiddenAddress, match="cannot be found on the public internet"):
        resolving(address)
    with pytest.raises(ForbiddenAddress):
        resolving("93.184.215.14", address)


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0X7F000001", "017700000001", "127.1", "127.0.1"),
        *("0177.0.0.1", "0x7f.0.0.1", "127.0.0.0x1", "127.0.0.1.", "0", "1", "3232235521"),
        *("127.000.000.001", "01.02.03.04", "256.1.1.1", "1.2.3.4.5", "0x", "8.8.8.010"),
    ],
)
def test_unusual_spellings_of_addresses_are_refused(host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        GUARD.check_form(f"https://{host}/hook")
    with pytest.raises(ForbiddenAddress):
        AddressGuard("127.0.0.0/8").check_form(f"http://{host}/hook")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/", "must begin with https"),
        ("http://93.184.215.14/", "must begin with https"),
        ("ftp://example.com/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("gopher://example.com/", "must begin with https"),
        ("//example.com/", "must begin with https"),
        ("example.com", "must begin with https"),
        ("", "percent-encoded"),
        ("https://", "not a valid host name"),
        ("https:///path", "not a valid host name"),
        ("https://user@example.com/", "user name"),
        ("https://user:word@example.com/", "user name"),
        ("https://example.com@127.0.0.1/", "user name"),
        ("https://example.com\\@127.0.0.1/", "percent-encoded"),
        ("https://exa mple.com/", "percent-encoded"),
        ("https://example.com/\r\nx: y", "percent-encoded"),
        ("https://example.com/\n", "percent-encoded"),
        ("https://\uff11\uff12\uff17.0.0.1/", "percent-encoded"),
        ("https://b\u00fccher.example/", "percent-encoded"),
        ("https://127%2e0.0.1/", "not a valid host name"),
        ("https://-x.example/", "not a valid host name"),
        ("https://a..b/", "not a valid host name"),
        ("https://a,b/", "not a valid host name"),
        ("https://example.com:0/", "port"),
        ("https://example.com:99999/", "the URL cannot be parsed"),
        ("https://example.com:x/", "the URL cannot be parsed"),
        ("https://[::1/", "the URL cannot be parsed"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://[example.com]/", "the URL cannot be parsed|not an IPv6"),
        ("https://example.com/" + "x" * 2048, "more than 2048"),
    ],
)
def test_malformed_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(ForbiddenAddress, match=said):
        GUARD.check_form(url)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://Example.com", Target("https", "example.com", 443, "/")),
        ("https://example.com:8443/a?b=%20#c", Target("https", "example.com", 8443, "/a?b=%20")),
        ("HTTPS://8.8.8.8/", Target("https", "8.8.8.8", 443, "/")),
        ("https://[2606:4700::1111]/", Target("https", "2606:4700::1111", 443, "/")),
        ("https://xn--bcher-kva.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
        ("https://a_b.example./", Target("https", "a_b.example.", 443, "/")),
    ],
)
def test_public_url_is_split_into_its_parts(url: str, target: Target) -> None:
    assert GUARD.check_form(url) == target


def test_private_and_missing_addresses_are_refused() -> None:
    assert resolving("93.184.215.14", "2606:4700::1111") == ("93.184.215.14", "2606:4700::1111")
    with pytest.raises(ForbiddenAddress, match="public"):
        resolving("93.184.215.14", "10.0.0.1")
    with pytest.raises(ForbiddenAddress, match="public"):
        resolving("fe80::1%eth0")
    with pytest.raises(ForbiddenAddress, match="cannot be found"):
        resolving()


def test_unknown_host_is_refused() -> None:
    def nothing(host: str, port: int) -> Sequence[str]:
        raise OSError(host)

    with pytest.raises(ForbiddenAddress, match=r"name\.test cannot be found"):
        GUARD.resolve(GUARD.check_form("https://name.test/"), nothing)


def test_refusal_does_not_reveal_private_names() -> None:
    target = GUARD.check_form("https://db.internal/")

    def look_up(host: str, port: int) -> Sequence[str]:
        raise OSError(host)

    texts = set()
    for addresses in (look_up, lambda host, port: [], lambda host, port: ["10.0.0.7"]):
        with pytest.raises(ForbiddenAddress) as refused:
            GUARD.resolve(target, addresses)
        texts.add(str(refused.value))
    assert texts == {"the host db.internal cannot be found on the public internet"}


class Dns:
    """A resolver that resolves each host name to one public address.

    For a name that contains `dead`, the resolver first waits until the test calls `answer`.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answered = threading.Event()

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if "dead" in host and not self._answered.wait(30):
            raise OSError(host)
        return ["93.184.215.14"]

    def answer(self) -> None:
        self._answered.set()


@pytest.fixture
def dns() -> Iterator[Dns]:
    made = Dns()
    yield made
    made.answer()


def test_requests_for_one_name_share_a_look_up(dns: Dns) -> None:
    resolver = Resolver(dns)
    waiting = [resolver.start("dead.test", 443, f"tenant {n}") for n in range(200)]
    assert not waiting[0].cancel(), (
        "a caller that gives up must not cancel the look-up of the others"
    )
    dns.answer()
    assert {future.result(10) for future in waiting} == {("93.184.215.14",)}
    assert dns.asked == ["dead.test"]
    assert resolver.look_up("dead.test", 443, "tenant 0", 10) == ("93.184.215.14",)
    assert dns.asked == ["dead.test"] * 2, "answers are not cached"


def test_share_of_one_tenant_leaves_room_for_another(dns: Dns) -> None:
    resolver = Resolver(dns, max_count=64, max_count_of_a_share=8)
    for n in range(8):
        with pytest.raises(TimeoutError):
            resolver.look_up(f"{n}.dead.test", 443, "a", 0)
    with pytest.raises(TooManyLookUps, match="8 host names"):
        resolver.start("good.test", 443, "a")
    assert resolver.look_up("good.test", 443, "b", 10) == ("93.184.215.14",)


def test_look_ups_of_a_process_are_limited(dns: Dns) -> None:
    before = threading.active_count()
    resolver = Resolver(dns, max_count=64, max_count_of_a_share=8)
    started: list[Future[tuple[str, ...]]] = []
    for n in range(200):
        try:
            started.append(resolver.start(f"{n}.dead.test", 443, f"tenant {n % 20}"))
        except TooManyLookUps:
            continue
    assert len(started) == 64
    assert threading.active_count() <= before + 64
    dns.answer()
    assert {future.result(10) for future in started} == {("93.184.215.14",)}
    assert resolver.look_up("good.test", 443, "tenant 0", 10) == ("93.184.215.14",)


def test_failed_look_up_no_longer_counts() -> None:
    def look_up(host: str, port: int) -> Sequence[str]:
        raise UnicodeError if host == "odd.test" else OSError(host)

    resolver = Resolver(look_up, max_count=1, max_count_of_a_share=1)
    for host, error in (("a.test", OSError), ("odd.test", UnicodeError)) * 3:
        with pytest.raises(error):
            resolver.look_up(host, 443, "a", 10)


def test_localhost_of_the_system_is_refused() -> None:
    with pytest.raises(ForbiddenAddress, match="public"):
        GUARD.resolve(GUARD.check_form("https://localhost/"), system_look_up)


@pytest.mark.parametrize(
    ("allowed", "url", "addresses"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/", []),
        ("127.0.0.0/8", "https://127.9.9.9/", []),
        ("10.0.0.0/8, fd00::/8", "https://[fd00::7]/", []),
        ("10.0.0.0/8", "http://inside.test/", ["10.1.2.3"]),
        ("hooks.internal", "http://hooks.internal/", ["192.168.0.9"]),
        ("Hooks.Internal", "http://hooks.internal./", ["192.168.0.9"]),
        ("127.0.0.1", "http://inside.test/", ["::ffff:127.0.0.1"]),
    ],
)
def test_listed_addresses_are_allowed_over_http(
    allowed: str, url: str, addresses: list[str]
) -> None:
    guard = AddressGuard(allowed)
    target = guard.check_form(url)
    assert guard.resolve(target, lambda host, port: addresses) == tuple(addresses or [target.host])


def test_unlisted_urls_need_https_and_a_public_address() -> None:
    guard = AddressGuard("hooks.internal,127.0.0.1")
    for url, address in [
        ("http://example.com/", "93.184.215.14"),
        ("https://other.internal/", "192.168.0.9"),
        ("https://sub.hooks.internal/", "127.0.0.2"),
    ]:
        with pytest.raises(ForbiddenAddress):
            guard.resolve(guard.check_form(url), lambda host, port, found=address: [found])  # type: ignore[misc]


@pytest.mark.parametrize("allowed", ["10.0.0.1/8", "a/b", "-", "127.1", "1.2.3", "a b"])
def test_invalid_allow_list_is_refused(allowed: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor a network"):
        AddressGuard(allowed)


@given(st.ip_addresses())
def test_special_addresses_are_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    special = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )
    assert not (special and is_public(address))


@given(st.text(max_size=60) | st.text(max_size=60).map("https://{}".format))
def test_any_text_is_a_public_target_or_refused(text: str) -> None:
    try:
        target = GUARD.check_form(text)
    except ForbiddenAddress:
        return
    assert target.scheme == "https"
    assert target.address is None or is_public(target.address)


@given(st.integers(0, 2**32 - 1))
def test_numeric_spelling_is_no_host_name(number: int) -> None:
    octets = ipaddress.IPv4Address(number).packed
    spellings = [
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(f"0{octet:o}" for octet in octets),
        ".".join(hex(octet) for octet in octets),
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{number & 0xFFFF}",
    ]
    for spelling in spellings:
        try:
            target = GUARD.check_form(f"https://{spelling}/")
        except ForbiddenAddress:
            continue
        assert target.address is not None
        assert is_public(target.address)
