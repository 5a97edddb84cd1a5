"""Test the management API with malformed and malicious requests and tokens."""

import hmac
import time
from base64 import b64encode
from collections.abc import AsyncIterator, MutableMapping
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.administration import create_admin_app, read_rules, settings_from
from emulator.servicebus.atom import AtomError, parse_entry, read_description
from emulator.servicebus.broker.authorization import ALL_RIGHTS, AuthorizationRule
from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.sas import SasError, verify_sas
from manual_clock import START
from servicebus_tests.broker.broker_harness import RunningBroker

POLICIES = AccessPolicies([AuthorizationRule("root", ALL_RIGHTS, "key")])
NAMESPACES = (
    'xmlns="http://www.w3.org/2005/Atom"'
    ' xmlns:sb="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"'
)
BOMB = (
    "<!DOCTYPE b ["
    '<!ENTITY a0 "boom">'
    + "".join(f'<!ENTITY a{at} "{f"&a{at - 1};" * 10}">' for at in range(1, 12))
    + "]>"
)


def entry(properties: str = "", prologue: str = "") -> str:
    return (
        f"{prologue}<entry {NAMESPACES}><content>"
        f"<sb:QueueDescription>{properties}</sb:QueueDescription></content></entry>"
    )


def admin_app(servicebus: RunningBroker) -> Starlette:
    namespace = Namespace(servicebus.broker, POLICIES, servicebus.clock)
    return create_admin_app(servicebus.broker, namespace, POLICIES, needs_token=False)


@pytest.fixture
async def client(servicebus: RunningBroker) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=admin_app(servicebus))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_expanding_xml_entities_are_refused(
    client: httpx.AsyncClient,
) -> None:
    started = time.process_time()
    response = await client.put(
        "/made", content=entry("<sb:LockDuration>&a11;</sb:LockDuration>", BOMB)
    )
    assert response.status_code == 400
    assert "must not contain a document type declaration" in response.text
    assert time.process_time() - started < 1


async def test_external_xml_entity_is_refused(client: httpx.AsyncClient) -> None:
    prologue = '<!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    response = await client.put(
        "/made", content=entry("<sb:LockDuration>&x;</sb:LockDuration>", prologue)
    )
    assert response.status_code == 400


async def test_body_over_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.put("/made", content=b"<" * 70_000)
    assert response.status_code == 400
    assert "the request body exceeds 65536 bytes" in response.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/$Resources/secrets", 404),
        ("/$Resources/queues?$skip=-1", 400),
        ("/$Resources/queues?$skip=x", 400),
        ("/$Resources/queues?$top=0", 200),
        ("/$Resources/queues?$skip=999999999&$top=999999999", 200),
        ("/q", 200),
        ("/q/$DeadLetterQueue", 200),
        ("/a/b/c", 200),
    ],
)
async def test_get_fails_for_unknown_type_or_invalid_skip(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    assert (await client.get(path)).status_code == status


async def test_invalid_queue_name_is_refused(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/", "/$made", "/q/$DeadLetterQueue", "/" + "x" * 300):
        assert (await client.put(path, content=entry())).status_code == 400
    assert (await client.delete("/q/$DeadLetterQueue")).status_code == 404


async def test_error_has_no_control_characters(
    client: httpx.AsyncClient,
) -> None:
    response = await client.put("/a%01b", content=entry())
    assert response.status_code == 400
    assert "\x01" not in response.text


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: entry(text).encode()))
def test_any_body_is_parsed_or_refused(
    body: bytes,
) -> None:
    try:
        description = parse_entry(body, "QueueDescription")
        rules = read_rules(description)
        settings_from("q", read_description(description), rules or ())
    except (AtomError, ArgumentError):
        pass


@given(
    st.dictionaries(
        st.sampled_from(
            ["LockDuration", "MaxDeliveryCount", "RequiresSession", "MaxSizeInMegabytes", "Status"]
        ),
        st.text(max_size=20),
        min_size=1,
    )
)
def test_error_names_the_invalid_property(
    properties: dict[str, str],
) -> None:
    complaint = ""
    try:
        settings_from("q", properties)
    except ArgumentError as error:
        complaint = str(error)
    assert not complaint or any(name in complaint for name in properties)


def signed(resource: str, *, key: str = "key", name: str = "root", seconds: int = 60) -> str:

    expiry = int(START.timestamp()) + seconds
    digest = hmac.digest(key.encode(), f"{quote_plus(resource)}\n{expiry}".encode(), "sha256")
    signature = quote_plus(b64encode(digest))
    sr = quote_plus(resource)
    return f"SharedAccessSignature sr={sr}&sig={signature}&se={expiry}&skn={name}"


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        ("https://localhost:5300", "/q"),
        ("https://localhost:5300/", "/q/sub"),
        ("sb://localhost/Q", "/q"),
        ("sb://localhost/q", "/q/sub"),
    ],
)
def test_token_covers_its_path_and_subpaths(resource: str, path: str) -> None:
    verify_sas(signed(resource), POLICIES, path, START)


@pytest.mark.parametrize(
    ("token", "complaint"),
    [
        ("", "the token must start with"),
        ("Bearer abc", "the token must start with"),
        ("SharedAccessSignature ", "malformed"),
        ("SharedAccessSignature sr=a&sig=b&se=soon&skn=root", "malformed"),
        ("SharedAccessSignature sr=a&sig=b&se=1", "malformed"),
        ("SharedAccessSignature sr=http://[&sig=b&se=1&skn=root", "malformed"),
        ("SharedAccessSignature " + "a=b&" * 1000, "malformed"),
        (signed("https://localhost", key="other"), "invalid signature"),
        (signed("https://localhost", name="nobody"), "invalid signature"),
        (signed("https://localhost", name="nobody", key=""), "invalid signature"),
        (signed("https://localhost", seconds=0), "expired"),
        (signed("https://localhost/quite"), "invalid audience"),
        (signed("https://localhost/q/deeper"), "invalid audience"),
    ],
)
def test_refused_token_has_a_reason(token: str, complaint: str) -> None:
    with pytest.raises(SasError, match=complaint):
        verify_sas(token, POLICIES, "/q", START)


@given(st.text())
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(SasError):
        verify_sas(f"SharedAccessSignature {text}", POLICIES, "/q", START)


@pytest.mark.parametrize(("method", "path"), [("PUT", "/made"), ("PUT", "/$emulator/faults")])
async def test_disconnect_during_the_body_is_no_error(
    servicebus: RunningBroker, method: str, path: str
) -> None:
    events = iter(
        (
            {"type": "http.request", "body": b"<entry", "more_body": True},
            {"type": "http.disconnect"},
        )
    )

    async def receive() -> MutableMapping[str, Any]:
        return next(events)

    async def send(_: MutableMapping[str, Any]) -> None:
        """Discard the response, which the client does not read."""

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    await admin_app(servicebus)(scope, receive, send)
    assert len(servicebus.broker.queues()) == 1
