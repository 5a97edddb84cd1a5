"""Process requests to the nodes `$cbs` and `$management`, and send replies.

A peer sends requests on one link and receives replies on a second link. The field `reply-to` of a
request contains the address of the second link. The correlation id of a reply is the message id of
the request.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from emulator.servicebus.amqp.codec import encode_list
from emulator.servicebus.amqp.errors import MessageFault
from emulator.servicebus.amqp.link import AttachDetails, DeliverySender
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

MAX_REQUEST_BYTES = 1024 * 1024
_MAX_WAITING_REPLIES = 100
_REPLY_TO_FIELD = 4
_NO_TAG = b"\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class AmqpRequest:
    """The application properties and the body value of a request."""

    properties: dict[Any, Any]
    value: Any

    @property
    def operation(self) -> str:
        """The name of the requested operation, or an empty string if the request names none."""
        return str(self.properties.get("operation", ""))


@dataclass(frozen=True, slots=True)
class AmqpReply:
    """The application properties and the body value of a reply."""

    properties: dict[Any, Any]
    value: Any = field(default_factory=dict)


RequestHandler = Callable[[AmqpRequest], Awaitable[AmqpReply]]


class ReplySource:
    """The source of a link on which a peer receives replies."""

    is_presettled = True
    attach_details: AttachDetails | None = None

    def __init__(self, address: str, reply_address: str | None, sender: DeliverySender) -> None:
        self.address = address
        self.reply_address = reply_address
        self._sender = sender
        self._credit = 0
        self._waiting: deque[bytes] = deque()

    @property
    def is_full(self) -> bool:
        """Whether the number of replies that wait for credit has reached the limit of 100."""
        return len(self._waiting) >= _MAX_WAITING_REPLIES

    def set_credit(self, credit: int) -> None:
        """Set the credit that the peer grants, and send stored replies while there is credit."""
        self._credit = credit
        while self._credit and self._waiting:
            self._send(self._waiting.popleft())

    def reply(self, payload: bytes) -> None:
        """Send a reply. If there is no credit, store the reply until the peer grants credit."""
        if self._credit:
            self._send(payload)
        else:
            self._waiting.append(payload)

    async def settle(self, tag: bytes, outcome: Outcome) -> None:
        """Do nothing, because a reply is settled as soon as it is sent."""

    def close(self) -> None:
        """Discard the stored replies, because the link has been detached."""
        self._waiting.clear()
        self._credit = 0

    def _send(self, payload: bytes) -> None:
        self._credit -= 1
        self._sender.send(_NO_TAG, payload)


class RequestTarget:
    """Receives the requests that a peer sends on one link, and sends the replies."""

    max_message_bytes = MAX_REQUEST_BYTES

    def __init__(self, address: str, handle: RequestHandler, replies: "ReplyLinks") -> None:
        self._address = address
        self._handle = handle
        self._replies = replies

    async def put(self, payload: bytes, message_format: int) -> None:
        """Handle a request, and send the reply on the peer's reply link.

        Raises MessageFault if it is invalid, has no reply link, or too many replies wait.
        """
        if message_format:
            raise MessageFault(
                "amqp:not-implemented", "a request must be a single message, not a batch"
            )
        sections = split(payload)
        items = list_items(sections.properties)
        reply_to = section_value(sections.properties)[_REPLY_TO_FIELD:][:1] if items else []
        source = self._replies.find(self._address, reply_to[0] if reply_to else None)
        if source.is_full:
            raise MessageFault(
                "amqp:resource-limit-exceeded",
                "too many replies are waiting for credit: grant credit on the reply link",
            )
        if len(sections.body) != 1 or sections.body[0][2] != VALUE:
            raise MessageFault(
                "amqp:invalid-field", "the body of a request must be one amqp-value section"
            )
        request = AmqpRequest(
            properties=section_value(sections.application_properties)
            if sections.application_properties
            else {},
            value=section_value(sections.body[0]),
        )
        reply = await self._handle(request)
        source.reply(_encode_reply(reply, items[0] if items else b"\x40"))


class ReplyLinks:
    """The links on which the peer of one connection receives replies."""

    def __init__(self) -> None:
        self._sources: list[ReplySource] = []

    def open(self, address: str, reply_address: str | None, sender: DeliverySender) -> ReplySource:
        """Add a link for the replies of `address`, and return the source of the link."""
        source = _TrackedReplySource(self._sources, address, reply_address, sender)
        self._sources.append(source)
        return source

    def find(self, address: str, reply_to: object) -> ReplySource:
        """Return the newest link of this address with the reply address, or else the newest.

        Raises MessageFault if no link has the address.
        """
        own = [each for each in self._sources if each.address == address]
        named = [each for each in own if reply_to and each.reply_address == reply_to]
        for source in reversed(named or own):
            return source
        raise MessageFault(
            "amqp:precondition-failed",
            f"the connection has no reply link: attach a link that receives from {address!r} first",
        )


class _TrackedReplySource(ReplySource):
    """A ReplySource that is removed from the list `open_sources` when the source is closed.

    `open_sources` is an argument of the constructor. The caller adds the source to this list.
    """

    def __init__(
        self,
        open_sources: list[ReplySource],
        address: str,
        reply_address: str | None,
        sender: DeliverySender,
    ) -> None:
        super().__init__(address, reply_address, sender)
        self._open_sources = open_sources

    def close(self) -> None:
        super().close()
        if self in self._open_sources:
            self._open_sources.remove(self)


def _encode_reply(reply: AmqpReply, message_id: bytes) -> bytes:
    # The correlation id is the request's message id, encoded with the same type.
    properties = encode_list([None] * 5 + [Raw(message_id)])
    return (
        b"\x00\x53"
        + bytes((PROPERTIES,))
        + properties
        + encode_section(APPLICATION_PROPERTIES, reply.properties)
        + encode_section(VALUE, reply.value)
    )
