"""Test which reply addresses are allowed, and after which responses a reply is not sent again."""

import pytest

from contract.catalogue import Catalogue
from contract.guard import AddressGuard, Resolver
from contract.messages import ReplyQueue, ReplyUrl, ReplyWebhook
from tests.unit.worker.test_worker_urls import answering, http
from worker.errors import ReplyForbidden, ReplyUndelivered
from worker.net.guarded_http import GuardedHttp
from worker.replies import GatewayClient, QueueReplies, ReplySenders, WebhookReplies
from worker.settings import AzureEndpoint


@pytest.fixture
def senders() -> ReplySenders:
    return ReplySenders(
        GatewayClient(frozenset({"127.0.0.1:1"})),
        QueueReplies(AzureEndpoint(address="unused"), Catalogue.load()),
        WebhookReplies(GuardedHttp(AddressGuard("127.0.0.1"), Resolver()), (bytes(32),)),
    )


@pytest.mark.parametrize(
    "reply_to",
    [
        ReplyUrl("http://127.0.0.1:2/v1/jobs/a/reply"),
        ReplyUrl("http://127.0.0.1:1/v1/models/noop/jobs"),
        ReplyQueue("noop"),
        ReplyQueue("NOOP"),
        ReplyQueue("noop/$DeadLetterQueue"),
        ReplyWebhook("https://10.0.0.1/"),
        ReplyWebhook("nonsense"),
    ],
)
def test_a_forbidden_reply_address_is_refused(
    senders: ReplySenders, reply_to: ReplyUrl | ReplyQueue | ReplyWebhook
) -> None:
    with pytest.raises(ReplyForbidden):
        senders.check(reply_to)


def test_an_allowed_reply_address_is_accepted(senders: ReplySenders) -> None:
    for reply_to in (None, ReplyQueue("replies"), ReplyWebhook("https://8.8.8.8/hook")):
        senders.check(reply_to)
    senders.send(None, b"{}", "job", lambda seconds: False)


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "410 Gone"])
def test_a_reply_counts_as_delivered_if_the_webhook_receiver_responds_with_status_2xx_or_410(
    senders: ReplySenders, status: str
) -> None:
    with answering(http(b"", status=status)) as url:
        senders.send(ReplyWebhook(url), b"{}", "job", lambda seconds: False)


def test_a_reply_counts_as_delivered_if_the_webhook_receiver_responds_before_reading_the_body(
    senders: ReplySenders,
) -> None:
    body = bytes(8 * 1024 * 1024)
    with answering(http(b"", status="410 Gone")) as url:
        senders.send(ReplyWebhook(url), body, "job", lambda seconds: False)


@pytest.mark.parametrize("answer", [http(b"", status="500 Oops"), b""])
def test_a_reply_counts_as_undelivered_if_the_webhook_receiver_responds_with_500_or_not_at_all(
    senders: ReplySenders, answer: bytes
) -> None:
    with answering(answer) as url, pytest.raises(ReplyUndelivered):
        senders.send(ReplyWebhook(url), b"{}", "job", lambda seconds: False)
