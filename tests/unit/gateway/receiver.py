"""A receiver of webhooks in memory, for tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.errors import WebhookUndelivered
from gateway.webhooks.sender import WebhookResponse


@dataclass
class MemoryReceiver:
    """Implements `WebhookSender`. Stores requests, and returns `answers` in order, then 200.

    A text in `answers` is raised as the reason of a WebhookUndelivered.
    """

    answers: list[WebhookResponse | str] = field(default_factory=list)
    posts: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    shares: list[str] = field(default_factory=list)
    """For whom the host name of each request would be looked up in DNS."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, share: str
    ) -> WebhookResponse:
        self.posts.append((url, headers, body))
        self.shares.append(share)
        answer = self.answers.pop(0) if self.answers else WebhookResponse(200, None)
        if isinstance(answer, str):
            raise WebhookUndelivered(answer)
        return answer
