"""Requests and replies over a pair of links, as ``$cbs`` and ``$management`` are spoken to."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from emulator.servicebus.amqp.encoder import encode_list
from emulator.servicebus.amqp.node import Outlet
from emulator.servicebus.amqp.outcomes import Outcome
from emulator.servicebus.amqp.sections import (
    APPLICATION_PROPERTIES,
    PROPERTIES,
    VALUE,
    encode_section,
    list_items,
    section_value,
    split,
)
from emulator.servicebus.amqp.types import Raw
from emulator.servicebus.errors import MessageFault

MAX_REQUEST_BYTES = 1024 * 1024
_MAX_WAITING_REPLIES = 100
_REPLY_TO_FIELD = 4
_NO_TAG = b"\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its application properties and its value."""

    properties: dict[Any, Any]
    value: Any

    @property
    def operation(self) -> str:
        """What is asked for."""
        return str(self.properties.get("operation", ""))


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request."""

    properties: dict[Any, Any]
    value: Any = field(default_factory=dict)


Answer = Callable[[Request], Awaitable[Reply]]


class ReplySource:
    """The link on which a peer hears the answers."""

    presettled = True

    def __init__(self, address: str, reply_address: str | None, outlet: Outlet) -> None:
        self.address = address
        self.reply_address = reply_address
        self._outlet = outlet
        self._credit = 0
        self._waiting: deque[bytes] = deque()

    @property
    def full(self) -> bool:
        """Whether a peer that grants no credit has enough answers waiting."""
        return len(self._waiting) >= _MAX_WAITING_REPLIES

    def set_credit(self, credit: int) -> None:
        """Send what waits, as far as the credit goes."""
        self._credit = credit
        while self._credit and self._waiting:
            self._send(self._waiting.popleft())

    def reply(self, payload: bytes) -> None:
        """Send an answer, or keep it until there is credit."""
        if self._credit:
            self._send(payload)
        else:
            self._waiting.append(payload)

    async def settle(self, tag: bytes, outcome: Outcome) -> None:
        """Nothing: what becomes of an answer is the peer's own affair."""

    def close(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
        self._credit = 0

    def _send(self, payload: bytes) -> None:
        self._credit -= 1
        self._outlet.send(_NO_TAG, payload)


class RequestSink:
    """The link on which a peer asks."""

    max_message_bytes = MAX_REQUEST_BYTES

    def __init__(self, address: str, answer: Answer, replies: "Replies") -> None:
        self._address = address
        self._answer = answer
        self._replies = replies

    async def put(self, payload: bytes, message_format: int) -> None:
        """Answer a request; raises MessageFault when there is no link for the answer."""
        if message_format:
            raise MessageFault("amqp:not-implemented", "requests do not come in batches")
        sections = split(payload)
        items = list_items(sections.properties)
        reply_to = section_value(sections.properties)[_REPLY_TO_FIELD:][:1] if items else []
        source = self._replies.find(self._address, reply_to[0] if reply_to else None)
        if source.full:
            raise MessageFault("amqp:resource-limit-exceeded", "too many answers wait for credit")
        if len(sections.body) != 1 or sections.body[0][2] != VALUE:
            raise MessageFault("amqp:invalid-field", "a request's body is one amqp-value")
        request = Request(
            properties=section_value(sections.application_properties)
            if sections.application_properties
            else {},
            value=section_value(sections.body[0]),
        )
        reply = await self._answer(request)
        source.reply(_encode_reply(reply, items[0] if items else b"\x40"))


class Replies:
    """The links of one connection on which answers are awaited."""

    def __init__(self) -> None:
        self._sources: list[ReplySource] = []

    def open(self, address: str, reply_address: str | None, outlet: Outlet) -> ReplySource:
        """Add a link."""
        source = _ListedReplySource(self._sources, address, reply_address, outlet)
        self._sources.append(source)
        return source

    def find(self, address: str, reply_to: object) -> ReplySource:
        """Return the link that a request's reply-to names, else the latest of the same node.

        Raises MessageFault when there is none.
        """
        own = [each for each in self._sources if each.address == address]
        named = [each for each in own if reply_to and each.reply_address == reply_to]
        for source in reversed(named or own):
            return source
        raise MessageFault("amqp:precondition-failed", "there is no link for the answer")


class _ListedReplySource(ReplySource):
    """Leaves the list of its connection when it is closed."""

    def __init__(
        self,
        listed: list[ReplySource],
        address: str,
        reply_address: str | None,
        outlet: Outlet,
    ) -> None:
        super().__init__(address, reply_address, outlet)
        self._listed = listed

    def close(self) -> None:
        super().close()
        if self in self._listed:
            self._listed.remove(self)


def _encode_reply(reply: Reply, message_id: bytes) -> bytes:
    # The correlation id is the request's message id, of whatever type.
    properties = encode_list([None] * 5 + [Raw(message_id)])
    return (
        b"\x00\x53"
        + bytes((PROPERTIES,))
        + properties
        + encode_section(APPLICATION_PROPERTIES, reply.properties)
        + encode_section(VALUE, reply.value)
    )
