"""Test which reply addresses are allowed."""

import pytest

from contract.catalogue import Catalogue
from contract.messages import ReplyQueue, ReplyUrl
from contract.settings import AzureEndpoint
from worker.errors import ReplyForbidden
from worker.replies import GatewayClient, ReplySenders
from worker.servicebus.sender import QueueReplies


@pytest.fixture
def senders() -> ReplySenders:
    return ReplySenders(
        GatewayClient(frozenset({"127.0.0.1:1"})),
        QueueReplies(AzureEndpoint(address="unused"), Catalogue.load()),
    )


@pytest.mark.parametrize(
    "reply_to",
    [
        ReplyUrl("http://127.0.0.1:2/v1/jobs/a/reply"),
        ReplyUrl("http://127.0.0.1:1/v1/models/noop/jobs"),
        ReplyQueue("noop"),
        ReplyQueue("NOOP"),
        ReplyQueue("noop/$DeadLetterQueue"),
    ],
)
def test_forbidden_address_is_refused(
    senders: ReplySenders, reply_to: ReplyUrl | ReplyQueue
) -> None:
    with pytest.raises(ReplyForbidden):
        senders.check_reply_address(reply_to)


def test_allowed_address_is_accepted(senders: ReplySenders) -> None:
    for reply_to in (None, ReplyQueue("replies")):
        senders.check_reply_address(reply_to)
    senders.send_reply(None, b"{}", "job", lambda seconds: False)
