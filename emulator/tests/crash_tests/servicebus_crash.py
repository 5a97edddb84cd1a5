"""Kill the Service Bus emulator while clients of Microsoft's SDK use it; check each message."""

import asyncio
import contextlib
import random
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from azure.core.exceptions import AzureError
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from crash_tests.crash_report import CrashOptions, CrashReport, plan_pauses
from crash_tests.message_ledger import (
    ABANDON,
    COMPLETE,
    DEAD_LETTER,
    DEAD_LETTERS,
    DEFER,
    QUEUE,
    FoundMessage,
    MessageLedger,
)
from crash_tests.restarts import kill_under_load
from local_ports import free_port
from servicebus_tests.sdk.servicebus_process import Server

QUEUE_NAME = "crash"
_QUEUE_PROPERTIES: dict[str, str | int] = {
    "LockDuration": "PT5S",
    "MaxDeliveryCount": 1000,
    "RequiresDuplicateDetection": "true",
    "DuplicateDetectionHistoryTimeWindow": "PT1H",
}
_SENDERS, _RECEIVERS = 3, 4
_MAX_BATCH = 5
_MAX_SCHEDULE_SECONDS = 3.0
# A producer waits while this many messages are not settled.
_MAX_OPEN = 300
_DRAIN_SECONDS = 90.0
_SETTLEMENT_WEIGHTS = {COMPLETE: 12, ABANDON: 3, DEAD_LETTER: 1, DEFER: 1, None: 1}
_FAST_RETRIES: dict[str, Any] = {
    "retry_total": 5,
    "retry_backoff_factor": 0.05,
    "retry_backoff_max": 0.5,
}
# What the client raises while the emulator is down.
_OUTAGES = (AzureError, OSError, TimeoutError)


class RestartedServer:
    """A Service Bus emulator that is killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder / "data", free_port(), free_port())

    async def start(self) -> None:
        """Start the emulator, and wait until it is ready."""
        await asyncio.to_thread(self.server.start)

    def create_queue(self) -> None:
        """Create the queue of the crash test."""
        self.server.create_queue_named(QUEUE_NAME, **_QUEUE_PROPERTIES)

    async def kill(self) -> None:
        """Kill the emulator, and wait until it has ended."""
        await asyncio.to_thread(self.server.kill)

    async def count_messages(self) -> dict[str, int]:
        """Return the number of messages in the queue by state, such as `Active`.

        The numbers come from the management API.
        """
        url = f"http://127.0.0.1:{self.server.admin_port}/{QUEUE_NAME}?api-version=2021-05"
        async with httpx.AsyncClient(timeout=30) as client:
            text = (await client.get(url)).text
        found = re.findall(r":(\w+)MessageCount>(\d+)<", text)
        return {name: int(count) for name, count in found}

    async def wait_until_drained(self) -> bool:
        """Wait until the queue has no active or scheduled messages, and return True.

        Return False if the queue still has such messages after `_DRAIN_SECONDS`.
        """
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end:
            counts = await self.count_messages()
            if counts["Active"] == counts["Scheduled"] == 0:
                return True
            await asyncio.sleep(0.2)
        return False

    async def find_messages(self) -> list[FoundMessage]:
        """Return all messages of the queue and of its dead-letter queue."""
        async with ServiceBusClient.from_connection_string(self.server.connection_string) as client:
            return [
                *await _peek_all(client.get_queue_receiver(QUEUE_NAME), QUEUE),
                *await _peek_all(
                    client.get_queue_receiver(QUEUE_NAME, sub_queue=ServiceBusSubQueue.DEAD_LETTER),
                    DEAD_LETTERS,
                ),
            ]


async def _peek_all(receiver: ServiceBusReceiver, place: str) -> list[FoundMessage]:
    found: list[FoundMessage] = []
    async with receiver:
        while page := await receiver.peek_messages(
            100, sequence_number=found[-1].sequence_number + 1 if found else 1
        ):
            for each in page:
                assert each.message_id is not None
                assert each.sequence_number is not None
                found.append(
                    FoundMessage(
                        each.message_id,
                        place,
                        int(each.state),
                        each.sequence_number,
                        each.delivery_count or 0,
                    )
                )
    return found


@dataclass
class _Load:
    """Senders and receivers of one queue, which record their operations in a ledger."""

    client: ServiceBusClient
    ledger: MessageLedger
    seed: int
    is_sending: bool = True
    is_receiving: bool = True
    errors: int = 0
    _open: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the senders and receivers during the `with` block."""
        async with asyncio.TaskGroup() as group:
            for number in range(_SENDERS):
                group.create_task(self._send_until_stopped(number))
            for number in range(_RECEIVERS):
                group.create_task(self._receive_until_stopped(number))
            try:
                yield
            finally:
                self.is_sending = self.is_receiving = False

    # Sending

    async def _send_until_stopped(self, number: int) -> None:
        chance = random.Random(f"sender {number} {self.seed}")
        count = 0
        while self.is_sending:
            try:
                async with self.client.get_queue_sender(QUEUE_NAME) as sender:
                    while self.is_sending:
                        if self._open > _MAX_OPEN:
                            await asyncio.sleep(0.05)
                            continue
                        size = chance.randint(1, _MAX_BATCH)
                        keys = [f"{number}-{count + each}" for each in range(size)]
                        count += size
                        padding = " " * chance.choice((10, 500, 20_000))
                        messages = [
                            ServiceBusMessage(key + padding, message_id=key) for key in keys
                        ]
                        if chance.random() < 0.15:
                            await self._schedule(sender, keys[0], messages[0], chance)
                            continue
                        for key in keys:
                            self.ledger.begin_send(key)
                        await sender.send_messages(messages)
                        self._open += size
                        for key in keys:
                            self.ledger.confirm_send(key)
            except _OUTAGES:
                self.errors += 1
                await asyncio.sleep(0.05)

    async def _schedule(
        self, sender: ServiceBusSender, key: str, message: ServiceBusMessage, chance: random.Random
    ) -> None:
        due = datetime.now(UTC) + timedelta(seconds=chance.uniform(0.1, _MAX_SCHEDULE_SECONDS))
        self.ledger.begin_send(key)
        (sequence_number,) = await sender.schedule_messages(message, due)
        self.ledger.confirm_schedule(key, sequence_number)
        if chance.random() < 0.3:
            self.ledger.begin_cancel(key)
            try:
                await sender.cancel_scheduled_messages(sequence_number)
            except _OUTAGES:
                self.errors += 1
            else:
                self.ledger.confirm_cancel(key)

    # Receiving

    async def _receive_until_stopped(self, number: int) -> None:
        chance = random.Random(f"receiver {number} {self.seed}")
        while self.is_receiving:
            try:
                async with self.client.get_queue_receiver(
                    QUEUE_NAME, receive_mode=ServiceBusReceiveMode.PEEK_LOCK
                ) as receiver:
                    while self.is_receiving:
                        messages = await receiver.receive_messages(
                            chance.randint(1, 10), max_wait_time=0.5
                        )
                        received_at = time.time()
                        for message in messages:
                            self._deliver(message, received_at)
                        for message in messages:
                            await self._settle(receiver, message, chance)
            except _OUTAGES:
                self.errors += 1
                await asyncio.sleep(0.05)

    def _deliver(self, message: ServiceBusReceivedMessage, received_at: float) -> None:
        key, until = message.message_id, message.locked_until_utc
        assert key is not None
        assert until is not None
        assert message.sequence_number is not None
        if str(message).split()[0] != key:
            self.ledger.violations.append(f"message {key} has another content: {message!s:.50}")
        self.ledger.deliver(
            key,
            sequence_number=message.sequence_number,
            delivery_count=message.delivery_count or 0,
            received_at=received_at,
            locked_until=until.timestamp(),
        )

    async def _settle(
        self,
        receiver: ServiceBusReceiver,
        message: ServiceBusReceivedMessage,
        chance: random.Random,
    ) -> None:
        key = str(message.message_id)
        if chance.random() < 0.1:
            until = await receiver.renew_message_lock(message)
            self.ledger.confirm_renewal(key, until.timestamp())
        weights = _SETTLEMENT_WEIGHTS if self.is_sending else {COMPLETE: 1}
        (settlement,) = chance.choices(list(weights), list(weights.values()))
        if settlement is None:
            # The lock ends by itself, and the message is delivered again.
            return
        settle: dict[str, Callable[[], object]] = {
            COMPLETE: lambda: receiver.complete_message(message),
            ABANDON: lambda: receiver.abandon_message(message),
            DEFER: lambda: receiver.defer_message(message),
            DEAD_LETTER: lambda: receiver.dead_letter_message(message, reason="crash"),
        }
        self.ledger.begin_settlement(key, settlement)
        await settle[settlement]()  # type: ignore[misc]
        self.ledger.confirm_settlement(key, settlement)
        if settlement != ABANDON:
            self._open -= 1


async def run_servicebus_crash(options: CrashOptions) -> CrashReport:
    """Kill the Service Bus emulator under load several times; return the counts and violations."""
    ledger = MessageLedger()
    begun_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-servicebus-") as folder:
        restarted = RestartedServer(Path(folder))
        try:
            await restarted.start()
            restarted.create_queue()
            async with ServiceBusClient.from_connection_string(
                restarted.server.connection_string, **_FAST_RETRIES
            ) as client:
                load = _Load(client, ledger, options.seed)
                async with load.running():
                    ledger.violations += await kill_under_load(
                        restarted, plan_pauses(options), ledger.progress
                    )
                    load.is_sending = False
                    if not await restarted.wait_until_drained():
                        counts = await restarted.count_messages()
                        ledger.violations.append(f"the queue is not empty at the end: {counts}")
            await judge_messages(restarted, ledger)
        finally:
            restarted.server.kill()
    figures = {
        "seed": options.seed,
        "kills": options.kills,
        **ledger.counts,
        "outages seen by clients": load.errors,
        "seconds": round(time.monotonic() - begun_at),
    }
    return CrashReport("servicebus", figures, ledger.violations)


async def judge_messages(restarted: RestartedServer, ledger: MessageLedger) -> None:
    """Kill and restart the emulator, and compare all stored messages with the ledger.

    Differences are added to the ledger's violations.
    """
    await restarted.kill()
    await restarted.start()
    found = await restarted.find_messages()
    counts = await restarted.count_messages()
    dead = sum(each.place == DEAD_LETTERS for each in found)
    if counts["DeadLetter"] != dead:
        ledger.violations.append(
            f"the dead-letter queue has {dead} messages, but its count is {counts['DeadLetter']}"
        )
    ledger.judge(found)
