"""A test client that exchanges single AMQP frames with the emulator in memory, without a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from emulator.clock import WallClock
from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.amqp.connection import AMQP_HEADER, IDLE_SECONDS, SASL_HEADER
from emulator.servicebus.amqp.frames import SASL_FRAME, AmqpFrameReader, encode_frame
from emulator.servicebus.amqp.performatives import (
    Attach,
    Begin,
    Close,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    Transfer,
    read_performative,
)
from emulator.servicebus.amqp.sections import DATA, encode_section
from emulator.servicebus.amqp.types import Described, Symbol, UByte, UInt, ULong
from emulator.servicebus.broker.authorization import ALL_RIGHTS, AuthorizationRule
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.messages import read_message
from emulator.servicebus.namespace import Namespace

KEYS = {"key": "value"}
RULES = [AuthorizationRule(name, ALL_RIGHTS, key) for name, key in KEYS.items()]
QUEUE = "queue"
BODY = encode_section(DATA, b"body")
P = TypeVar("P", bound=Performative)


class MemoryTransport(asyncio.Transport):
    """A transport that records the written bytes and whether it is closed or paused."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = asyncio.Event()
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing, because this transport has no buffer."""


class Peer:
    """The client's side of one AMQP connection."""

    def __init__(self, namespace: Namespace) -> None:
        self.transport = MemoryTransport()
        self.namespace = namespace
        self.connection: Any = namespace.connect()
        self.connection.connection_made(self.transport)
        self._reader = AmqpFrameReader(1 << 20)

    def write(self, data: bytes) -> None:
        self.connection.data_received(data)

    def send(self, *performatives: Performative, payload: bytes = b"", channel: int = 0) -> None:
        for performative in performatives:
            self.write(encode_frame(performative.encode() + payload, channel))

    async def read(self) -> bytes:
        """Return the bytes that the server has written since the last call.

        First wait until the server stops writing.
        """
        length = -1
        while length != len(self.transport.written):
            length = len(self.transport.written)
            for _ in range(8):
                await asyncio.sleep(0)
        written, self.transport.written = self.transport.written, b""
        return written

    async def received(self) -> list[tuple[Performative, bytes]]:
        """Return the performatives, with payloads, that the server sent since the last call."""
        self._reader.feed(await self.read())
        found = []
        while (frame := self._reader.frame()) is not None:
            if frame.body:
                performative, at = read_performative(frame.body)
                found.append((performative, frame.body[at:]))
        return found

    async def received_of(self, kind: type[P]) -> list[P]:
        """Return the performatives of type `kind` that the server sent since the last call."""
        return [each for each, _ in await self.received() if isinstance(each, kind)]

    async def open(self, max_frame_size: int = 65536, window: int = 1000, **fields: Any) -> None:
        """Authenticate with a valid key, open the connection and begin a session."""
        init = SaslInit(Symbol("PLAIN"), b"\x00key\x00value")
        self.write(SASL_HEADER + encode_frame(init.encode(), frame_type=SASL_FRAME) + AMQP_HEADER)
        self.send(
            Open("peer", max_frame_size=UInt(max_frame_size), **fields),
            Begin(incoming_window=UInt(window), outgoing_window=UInt(1000)),
        )
        assert (await self.read()).startswith(SASL_HEADER)

    def attach_sender(self, address: str = QUEUE, handle: int = 0) -> None:
        self.send(
            Attach(
                f"sender-{handle}",
                UInt(handle),
                role=False,
                source=Described(ULong(0x28), ["here"]),
                target=Described(ULong(0x29), [address]),
                initial_delivery_count=UInt(0),
            )
        )

    def attach_receiver(self, handle: int = 1, credit: int = 0, address: str = QUEUE) -> None:
        self.send(
            Attach(
                f"receiver-{handle}",
                UInt(handle),
                role=True,
                snd_settle_mode=UByte(0),
                rcv_settle_mode=UByte(1),
                source=Described(ULong(0x28), [address]),
                target=Described(ULong(0x29), ["here"]),
            )
        )
        if credit:
            self.grant(handle, credit)

    def grant(self, handle: int, credit: int, seen: int = 0, **fields: Any) -> None:
        self.send(
            Flow(
                next_incoming_id=fields.pop("next_incoming_id", UInt(0)),
                incoming_window=UInt(fields.pop("window", 1000)),
                handle=UInt(handle),
                delivery_count=UInt(seen),
                link_credit=UInt(credit),
                **fields,
            )
        )

    def transfer(self, delivery_id: int, payload: bytes, handle: int = 0, **fields: Any) -> None:
        self.send(
            Transfer(
                UInt(handle),
                delivery_id=UInt(delivery_id),
                delivery_tag=b"tag",
                message_format=UInt(0),
                **fields,
            ),
            payload=payload,
        )


@asynccontextmanager
async def serving(
    folder: Path, *, idle_seconds: float = IDLE_SECONDS
) -> AsyncIterator[tuple[Namespace, Broker]]:
    """Yield a namespace that has one queue, and the namespace's broker.

    The namespace closes a connection on which it receives nothing for `idle_seconds`.
    """
    clock = WallClock()
    broker = await Broker.open(folder / "broker.sqlite3", [QueueSettings(QUEUE)], clock)
    namespace = Namespace(broker, AccessPolicies(RULES, broker), clock, idle_seconds)
    try:
        yield namespace, broker
    finally:
        namespace.close()
        await broker.close()


def condition(error: Described | None) -> str:
    assert error is not None
    assert len(error.value) == 3
    return str(error.value[0])


async def closed_for(peer: Peer) -> str:
    (close,) = await peer.received_of(Close)
    assert peer.transport.is_closing()
    return condition(close.error)


async def ended_for(peer: Peer) -> str:
    (end,) = await peer.received_of(End)
    assert not peer.transport.is_closing()
    return condition(end.error)


async def fill(broker: Broker, count: int, payload: bytes = BODY) -> None:
    await broker.queue(QUEUE).send([read_message(payload)] * count)
