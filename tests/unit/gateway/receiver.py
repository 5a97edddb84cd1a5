"""A receiver of webhooks in memory, for tests."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.errors import WebhookUndelivered
from gateway.webhooks.sender import WebhookResponse
from tests.unit.gateway.memory import set_event


@dataclass
class MemoryReceiver:
    """Implements `WebhookSender`: stores each request, and gives it the next answer in `answers`.

    An answer is a response, or a string. For a string, the call raises WebhookUndelivered with this
    string. If `answers` is empty, the response has the status 200.
    """

    answers: list[WebhookResponse | str] = field(default_factory=list)
    posts: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    shares: list[str] = field(default_factory=list)
    """The share of DNS look-ups that each request would use."""
    seconds: list[float] = field(default_factory=list)
    """How long each request may take."""
    may_answer: asyncio.Event = field(default_factory=set_event)
    """While this event is not set, no request is answered."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, share: str, seconds: float
    ) -> WebhookResponse:
        self.posts.append((url, headers, body))
        self.shares.append(share)
        self.seconds.append(seconds)
        await self.may_answer.wait()
        answer = self.answers.pop(0) if self.answers else WebhookResponse(200, None)
        if isinstance(answer, str):
            raise WebhookUndelivered(answer)
        return answer
