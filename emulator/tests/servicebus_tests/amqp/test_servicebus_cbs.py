"""Test which queues and operations a client may use with a CBS token or the key of a policy."""

import hmac
from base64 import b64encode
from urllib.parse import quote_plus

import pytest

from emulator.clock import WallClock
from emulator.servicebus.accepted_sessions import AcceptedSessions
from emulator.servicebus.access import DEVELOPMENT_KEY, AccessPolicies
from emulator.servicebus.amqp.errors import AmqpError, LinkFault
from emulator.servicebus.amqp.link import SourceRequest
from emulator.servicebus.broker.authorization import ALL_RIGHTS, AccessRight, AuthorizationRule
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.cbs import CbsTokens
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management import manage
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.request_response import AmqpRequest
from servicebus_tests.amqp.amqp_peer import KEYS, QUEUE, RULES


def signed(url: str) -> str:
    resource, expiry = quote_plus(url), int(WallClock().now().timestamp()) + 60
    digest = hmac.digest(KEYS["key"].encode(), f"{resource}\n{expiry}".encode(), "sha256")
    signature = quote_plus(b64encode(digest))
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn=key"


async def test_management_token_gives_no_access_to_the_queue(
    served: tuple[Namespace, Broker],
) -> None:
    namespace, _ = served
    tokens = CbsTokens(AccessPolicies(RULES), WallClock())
    url = f"sb://localhost/{QUEUE}/$management"
    request = AmqpRequest({"operation": "put-token", "name": url}, signed(url))
    assert (await tokens.handle(request)).properties["status-code"] == 202
    peer = namespace.peer(tokens)
    peer.open_target(f"{QUEUE}/$management")
    with pytest.raises(LinkFault, match="'Send' claim"):
        peer.open_target(QUEUE)
    with pytest.raises(LinkFault, match="'Listen' claim"):
        peer.open_source(SourceRequest(QUEUE, None, is_presettled=False), _Sender())


async def test_key_gives_only_the_policys_rights(
    served: tuple[Namespace, Broker],
) -> None:
    namespace, broker = served
    rule = AuthorizationRule("listener", frozenset({AccessRight.LISTEN}), "secret", "second")
    for key, is_accepted in (("secret", True), ("second", True), ("wrong", False), ("", False)):
        tokens = CbsTokens(AccessPolicies([rule], broker), WallClock())
        assert tokens.authenticate("PLAIN", f"\0listener\0{key}".encode()) == is_accepted
        peer = namespace.peer(tokens)
        with pytest.raises(LinkFault, match="'Send' claim"):
            peer.open_target(QUEUE)
        if is_accepted:
            peer.open_source(SourceRequest(QUEUE, None, is_presettled=False), _Sender())


async def test_policy_change_applies_to_connected_peers(
    served: tuple[Namespace, Broker],
) -> None:
    namespace, broker = served
    await broker.save_authorization_rule(AuthorizationRule("worker", ALL_RIGHTS, "secret"))
    tokens = CbsTokens(AccessPolicies([], broker), WallClock())
    assert tokens.authenticate("PLAIN", b"\0worker\0secret")
    peer = namespace.peer(tokens)
    peer.open_target(QUEUE)
    listen = frozenset({AccessRight.LISTEN})
    await broker.save_authorization_rule(AuthorizationRule("worker", listen, "secret"))
    with pytest.raises(LinkFault, match="'Send' claim"):
        peer.open_target(QUEUE)
    peer.open_source(SourceRequest(QUEUE, None, is_presettled=False), _Sender())
    await broker.delete_authorization_rule("worker")
    with pytest.raises(LinkFault, match="'Listen' claim"):
        peer.open_source(SourceRequest(QUEUE, None, is_presettled=False), _Sender())


async def test_public_key_is_found_in_namespace_or_queue(
    broker: Broker,
) -> None:
    policies = AccessPolicies(RULES, broker)
    assert policies.find_public() is None
    rule = AuthorizationRule("late", ALL_RIGHTS, "secret", DEVELOPMENT_KEY)
    await broker.create_queue(QueueSettings("work", authorization_rules=(rule,)))
    assert policies.find_public() == "late of the queue work"
    await broker.save_authorization_rule(rule)
    assert policies.find_public() == "late"


@pytest.mark.parametrize(
    ("operation", "required"),
    [
        ("schedule-message", AccessRight.SEND),
        ("cancel-scheduled-message", AccessRight.SEND),
        ("peek-message", AccessRight.LISTEN),
        ("renew-lock", AccessRight.LISTEN),
        ("receive-by-sequence-number", AccessRight.LISTEN),
        ("update-disposition", AccessRight.LISTEN),
    ],
)
async def test_management_operation_without_right_gets_401(
    broker: Broker, operation: str, required: AccessRight
) -> None:
    request = AmqpRequest({"operation": f"com.microsoft:{operation}"}, {})
    faults = NamespaceFaults(WallClock())
    refused = await manage(
        broker.queue(QUEUE), faults, ALL_RIGHTS - {required}, AcceptedSessions(), request
    )
    assert refused.properties["statusCode"] == 401
    assert refused.properties["errorCondition"] == "amqp:unauthorized-access"
    assert f"'{required}' claim(s) are required" in refused.properties["statusDescription"]
    # With the right, the operation finds that its body is empty.
    allowed = await manage(broker.queue(QUEUE), faults, {required}, AcceptedSessions(), request)
    assert allowed.properties["statusCode"] == 400


class _Sender:
    def send(self, tag: bytes, payload: bytes) -> None:
        raise AssertionError("no message may be sent")

    def detach(self, fault: AmqpError) -> None:
        raise AssertionError("the link may not be detached")
