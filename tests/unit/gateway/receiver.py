"""A receiver of webhooks in memory, in the place of the internet."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.errors import WebhookUndelivered
from gateway.webhooks.sending import Answer


@dataclass
class MemoryReceiver:
    """Answers as told, at last with 200, and keeps what it was sent."""

    answers: list[Answer | str] = field(default_factory=list)
    posts: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.posts.append((url, headers, body))
        answer = self.answers.pop(0) if self.answers else Answer(200, None)
        if isinstance(answer, str):
            raise WebhookUndelivered(answer)
        return answer
