"""The brokers on which the tests of both ports run, and what these tests need of each."""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from azure.servicebus import ServiceBusClient, ServiceBusSubQueue

from contract.brokers import BrokerMessage, DeadMessage
from contract.catalogue import Catalogue
from contract.settings import AzureEndpoint, BrokerEndpoint, BrokerKind
from gateway.brokers.factory import make_queues
from gateway.brokers.port import Queues
from tests.broker_servers import (
    BrokerServer,
    running_rabbitmq,
    running_redis_server,
    running_service_bus_server,
)
from worker.brokers.factory import make_broker
from worker.brokers.port import LockedMessage, MessageBroker, MessageLink
from worker.processes.lock_journal import LockJournals

Used = TypeVar("Used")

LOCK_SECONDS: Final = 5
WAIT_SECONDS: Final = 40.0
_QUEUE_COUNT: Final = 80
_DECLARED_SECONDS: Final = 4.0
_MODEL: Final = """
[q{number}]
description = "A queue for one test."
implementation = "tests.conformance.worker.worker_models"
media_types = ["application/json"]
lock_seconds = {lock_seconds}
"""


@dataclass
class BrokerCase:
    """A running broker, which gives each test a queue of its own.

    `drops_duplicates` says whether a second message with the same id is dropped. `has_lock_time`
    says whether a lock ends after its time, and not with its connection.
    """

    kind: BrokerKind
    server: BrokerServer
    folder: Path
    drops_duplicates: bool
    has_lock_time: bool
    admin_url: str | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def endpoint(self) -> BrokerEndpoint:
        if self.kind is BrokerKind.SERVICE_BUS:
            return BrokerEndpoint(self.kind, AzureEndpoint(self.server.url))
        return BrokerEndpoint(self.kind, None, self.server.url)

    def new_queue(self) -> "QueueOfTest":
        number = next(self._numbers)
        assert number <= _QUEUE_COUNT, "declare more queues"
        return QueueOfTest(self, f"q{number}", load_catalogue(self.folder, number, number))


@dataclass
class QueueOfTest:
    """The queue of one test, with the adapters of both sides."""

    case: BrokerCase
    name: str
    catalogue: Catalogue
    _links: list[MessageLink] = field(default_factory=list)

    @property
    def journals_folder(self) -> Path:
        return self.case.folder / f"locks-{self.name}"

    def queues(self) -> Queues:
        return make_queues(self.case.endpoint, self.catalogue, self.case.admin_url)

    def broker(self) -> MessageBroker:
        return make_broker(self.case.endpoint, self.catalogue)

    def link(self, *, has_journals: bool = False) -> MessageLink:
        """Return a connected link, which is closed at the end of the test."""
        journals = LockJournals(self.journals_folder) if has_journals else None
        link = self.broker().open_link(self.name, LOCK_SECONDS, journals)
        self._links.append(link)
        link.connect()
        return link

    def kill_broker(self) -> None:
        """Kill the broker's server, with its queue and messages on the disk."""
        if self.case.kind is BrokerKind.RABBITMQ:
            # RabbitMQ 4.0.5 writes the names of new queues to the disk only after three seconds.
            # If it is killed earlier, it loses the queue with its confirmed messages.
            threading.Event().wait(_DECLARED_SECONDS)
        self.case.server.kill()

    def close(self) -> None:
        for link in self._links:
            link.disconnect()

    def send(self, *ids: str) -> None:
        """Send a message for each id, one after the other, as the gateway does."""
        self.send_messages(*map(message, ids))

    def send_messages(self, *messages: BrokerMessage) -> None:
        async def send_all(queues: Queues) -> None:
            for each in messages:
                await queues.send(self.name, each)

        self.run(send_all)

    def count(self) -> tuple[int, int]:
        """Return how many messages are active, and how many are dead."""

        async def count(queues: Queues) -> tuple[int, int]:
            found = await queues.count(self.name)
            return found.active, found.dead

        return self.run(count)

    def run(self, use: Callable[[Queues], Awaitable[Used]]) -> Used:
        """Run a coroutine with the gateway's queues, and close them."""

        async def run() -> Used:
            queues = self.queues()
            try:
                return await use(queues)
            finally:
                await queues.close()
                await asyncio.sleep(0)  # the transports close in the next iteration of the loop

        return asyncio.run(run())

    def take_dead_letter(self) -> DeadMessage:
        """Remove one dead letter, and return it."""
        if self.case.kind is BrokerKind.SERVICE_BUS:
            return self._take_from_service_bus()

        async def take(queues: Queues) -> DeadMessage:
            found: asyncio.Future[DeadMessage] = asyncio.get_running_loop().create_future()

            async def handle(queue: str, letter: DeadMessage) -> None:
                assert queue == self.name
                if not found.done():
                    found.set_result(letter)

            task = asyncio.create_task(queues.watch_dead_letters([self.name], handle))
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    letter = await found
                    while (await queues.count(self.name)).dead:  # noqa: ASYNC110 - of a server
                        await asyncio.sleep(0.1)
                    return letter
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        return self.run(take)

    def _take_from_service_bus(self) -> DeadMessage:
        # In the gateway, the Functions host receives them.
        with (
            ServiceBusClient.from_connection_string(self.case.server.url) as client,
            client.get_queue_receiver(
                self.name, sub_queue=ServiceBusSubQueue.DEAD_LETTER
            ) as receiver,
        ):
            (found,) = receiver.receive_messages(1, max_wait_time=WAIT_SECONDS)
            receiver.complete_message(found)
            return DeadMessage(
                b"".join(found.body),
                found.message_id or "",
                found.correlation_id,
                found.dead_letter_reason,
                found.dead_letter_error_description,
                found.delivery_count,
            )


def load_catalogue(folder: Path, first: int, last: int) -> Catalogue:
    """Return a catalogue with the queues of these numbers."""
    path = folder / f"models-{first}-{last}.toml"
    numbers = range(first, last + 1)
    text = "".join(_MODEL.format(number=each, lock_seconds=LOCK_SECONDS) for each in numbers)
    path.write_text(text, encoding="utf-8")
    return Catalogue.load(path)


@contextmanager
def running_case(kind: BrokerKind, folder: Path) -> Iterator[BrokerCase]:
    """Run a broker's server for the tests of a session."""
    data = folder / "server"
    match kind:
        case BrokerKind.SERVICE_BUS:
            catalogue = load_catalogue(folder, 1, _QUEUE_COUNT)
            with running_service_bus_server(data, catalogue) as server:
                yield BrokerCase(
                    kind,
                    server,
                    folder,
                    drops_duplicates=True,
                    has_lock_time=True,
                    admin_url=server.admin_url,
                )
        case BrokerKind.RABBITMQ:
            with running_rabbitmq(data) as node:
                yield BrokerCase(kind, node, folder, drops_duplicates=False, has_lock_time=False)
        case BrokerKind.REDIS:
            with running_redis_server(data) as redis:
                yield BrokerCase(kind, redis, folder, drops_duplicates=True, has_lock_time=True)


def message(identity: str) -> BrokerMessage:
    return BrokerMessage(
        f"body of {identity}".encode(), identity, f"for {identity}", {"traceparent": "00-ab-cd-01"}
    )


def receive(link: MessageLink, count: int) -> list[LockedMessage]:
    """Receive `count` messages, and no more, and let the link receive nothing after them."""
    found: list[LockedMessage] = []
    ends_at = time.monotonic() + WAIT_SECONDS
    while len(found) < count:
        assert time.monotonic() < ends_at, f"only {len(found)} of {count} messages arrived"
        link.connect()
        found += link.receive_messages(count - len(found), 0.5, count - len(found))
    if link.has_credit:
        link.stop_receiving()
    return found


def ids(messages: list[LockedMessage]) -> list[str]:
    return [each.message_id for each in messages]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    pause, ends_at = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, f"not within {seconds:g} s: {what}"
        pause.wait(0.1)
