"""Measure the local Service Bus alone (`./dev bench emulators`).

    ./dev bench emulators --messages 1000 --queued 100000

The client is azure-servicebus. It sends one message at a time, receives one message at a time in
peek-lock mode, and completes it. Each send and each completion is durable when it is acknowledged.
A round trip is a request in one queue and its reply in another queue. The program that replies runs
in a process of its own.

The broker is the process of the local Service Bus. Most of each measured time is the work of the
client. The column "broker ms" is the broker's processor time for each message or round trip.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient as AsyncServiceBusClient
from azure.servicebus.exceptions import MessageSizeExceededError
from rich.console import Console
from rich.table import Table

from lab.benchmarks.machine import Processors, describe_machine, process_seconds
from lab.benchmarks.rig import ProbedProgram
from tests.ports import free_port

BODY = "x" * 200
CLIENTS = (1, 16)
_QUEUE, _REQUESTS, _REPLIES = "messages", "requests", "replies"
_WARM_UP_MESSAGES = 50
_MIN_MESSAGES = 100
# How many receivers a queue of the round trips has.
_RECEIVERS = 4
_ENTRY = (
    '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
    '<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">'
    "<LockDuration>PT5M</LockDuration></QueueDescription></content></entry>"
)


@dataclass(frozen=True, slots=True)
class BrokerFigure:
    """The measured times of one kind of operation on the broker, the local Service Bus.

    Attributes:
        name: The name of the operation, for example "send".
        queued: The number of other messages in the queue during the measurement.
        clients: The number of clients that worked at the same time.
        seconds: The duration of each operation.
        total_seconds: The time from the start of the first operation to the end of the last one.
        broker_seconds: The broker's processor time during `total_seconds`, or None if it is
            unknown.
    """

    name: str
    queued: int
    clients: int
    seconds: Sequence[float]
    total_seconds: float
    broker_seconds: float | None

    @property
    def per_second(self) -> float:
        """The number of operations per second."""
        return len(self.seconds) / self.total_seconds

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the operations' durations in milliseconds."""
        return statistics.quantiles(self.seconds, n=100)[percent - 1] * 1000

    def cells(self) -> list[str]:
        """Return the texts of this measurement's row in the printed table, one for each column."""
        broker = self.broker_seconds
        return [
            self.name,
            f"{self.queued:,}",
            str(self.clients),
            f"{self.per_second:,.0f}",
            f"{self.percentile_ms(50):.2f}",
            f"{self.percentile_ms(95):.2f}",
            "" if broker is None else f"{broker / len(self.seconds) * 1000:.2f}",
        ]


COLUMNS = ("operation", "queued", "clients", "per second", "p50 ms", "p95 ms", "broker ms")


@dataclass(slots=True)
class BrokerRig:
    """A running Service Bus emulator, which is the broker of the benchmark."""

    program: ProbedProgram
    port: int
    admin_port: int

    @property
    def connection_string(self) -> str:
        """The connection string of the emulator."""
        return (
            f"Endpoint=sb://localhost:{self.port};SharedAccessKeyName=RootManageSharedAccessKey;"
            "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
        )

    def broker_seconds(self) -> float:
        """Return the processor time in seconds that the broker has used since its start."""
        return process_seconds(self.program.process.pid)


@contextmanager
def run_broker(folder: Path) -> Iterator[BrokerRig]:
    """Run a Service Bus emulator with three queues during the `with` block, and yield it.

    The emulator stores its data and its log in `folder`.
    """
    port, admin_port = free_port(), free_port()
    program = ProbedProgram.start(
        "emulator.servicebus",
        *("--port", str(port), "--admin-port", str(admin_port)),
        *("--data", str(folder / "data"), "--log-level", "warning"),
        probe=f"http://127.0.0.1:{admin_port}/health",
        log=folder / "servicebus.log",
    )
    try:
        for queue in (_QUEUE, _REQUESTS, _REPLIES):
            url = f"http://127.0.0.1:{admin_port}/{queue}?api-version=2021-05"
            httpx.put(url, content=_ENTRY).raise_for_status()
        yield BrokerRig(program, port, admin_port)
    finally:
        program.stop()


def measure_queue(rig: BrokerRig, messages: int, queued: int) -> list[BrokerFigure]:
    """Measure sends, receives and completions while `queued` other messages are in the queue.

    Return one figure for each kind of operation. `messages` is the number of messages to send.
    """
    with ServiceBusClient.from_connection_string(rig.connection_string) as client:
        sender, receiver = client.get_queue_sender(_QUEUE), client.get_queue_receiver(_QUEUE)
        with sender, receiver:
            _fill(client, queued)
            for _ in range(_WARM_UP_MESSAGES):
                sender.send_messages(ServiceBusMessage(BODY))
                receiver.complete_message(receiver.receive_messages(1)[0])
            sends, begun_at, broker = [], time.perf_counter(), rig.broker_seconds()
            for _ in range(messages):
                before = time.perf_counter()
                sender.send_messages(ServiceBusMessage(BODY))
                sends.append(time.perf_counter() - before)
            sent = BrokerFigure(
                "send",
                queued,
                1,
                sends,
                time.perf_counter() - begun_at,
                rig.broker_seconds() - broker,
            )
            receives, completions, both = [], [], []
            begun_at, broker = time.perf_counter(), rig.broker_seconds()
            for _ in range(messages):
                before = time.perf_counter()
                (message,) = receiver.receive_messages(1)
                received_at = time.perf_counter()
                receiver.complete_message(message)
                completed_at = time.perf_counter()
                receives.append(received_at - before)
                completions.append(completed_at - received_at)
                both.append(completed_at - before)
            total_seconds = time.perf_counter() - begun_at
            used_seconds = rig.broker_seconds() - broker
    pair = BrokerFigure("receive and complete", queued, 1, both, total_seconds, used_seconds)
    # The broker's processor time is only known for both together.
    return [
        sent,
        pair,
        BrokerFigure("  of which receive", queued, 1, receives, sum(receives), None),
        BrokerFigure("  of which complete", queued, 1, completions, sum(completions), None),
    ]


def _fill(client: ServiceBusClient, count: int) -> None:
    """Send `count` messages to the queue `messages`, in batches that are as large as possible."""
    with client.get_queue_sender(_QUEUE) as sender:
        left = count
        while left:
            batch = sender.create_message_batch()
            with suppress(MessageSizeExceededError, ValueError):
                while len(batch) < left:
                    batch.add_message(ServiceBusMessage(BODY))
            sender.send_messages(batch)
            left -= len(batch)


async def measure_round_trips(rig: BrokerRig, messages: int, clients: int) -> BrokerFigure:
    """Measure round trips: a request in one queue, and its reply in another queue.

    `messages` is the number of requests. Each of the `clients` concurrent clients waits for a reply
    before it sends its next request.
    """
    waiting: dict[str, asyncio.Future[None]] = {}
    seconds: list[float] = []
    loop = asyncio.get_running_loop()
    # All clients begin at the same time, after they have connected and made some round trips.
    ready = asyncio.Barrier(clients + 1)
    warm_up = _WARM_UP_MESSAGES // clients
    count = messages // clients
    # The time, and the processor time of the broker, after the last round trip.
    ended_at = ended_broker = 0.0

    def connect() -> AsyncServiceBusClient:
        return AsyncServiceBusClient.from_connection_string(rig.connection_string)

    async def listen() -> None:
        async with connect() as client, client.get_queue_receiver(_REPLIES) as receiver:
            while True:
                # For more than one message, the client would wait 0.2 s for further messages.
                for reply in await receiver.receive_messages(1, max_wait_time=60):
                    waiting.pop(str(reply.correlation_id)).set_result(None)
                    await receiver.complete_message(reply)

    async def request() -> None:
        """Send one client's requests on a new connection, and wait for the reply to each request.

        The first `warm_up` round trips are not measured.
        """
        nonlocal ended_at, ended_broker
        async with connect() as client, client.get_queue_sender(_REQUESTS) as sender:
            for number in range(warm_up + count):
                if number == warm_up:
                    await ready.wait()
                message_id = uuid.uuid4().hex
                reply = waiting[message_id] = loop.create_future()
                before = time.perf_counter()
                await sender.send_messages(ServiceBusMessage(BODY, message_id=message_id))
                await reply
                if number >= warm_up:
                    ended_at = time.perf_counter()
                    seconds.append(ended_at - before)
                    if len(seconds) == count * clients:
                        ended_broker = rig.broker_seconds()

    # If a task fails, the group cancels the others.
    async with asyncio.TaskGroup() as group:
        listeners = [group.create_task(listen()) for _ in range(min(clients, _RECEIVERS))]
        requesters = [group.create_task(request()) for _ in range(clients)]
        await ready.wait()
        begun_at, begun_broker = time.perf_counter(), rig.broker_seconds()
        await asyncio.gather(*requesters)
        for listener in listeners:
            listener.cancel()
    return BrokerFigure(
        "round trip", 0, clients, seconds, ended_at - begun_at, ended_broker - begun_broker
    )


async def reply_until_stopped(connection_string: str) -> None:
    """Reply to each request of a queue by four receivers, until cancelled."""
    await asyncio.gather(*(_reply_to_requests(connection_string) for _ in range(_RECEIVERS)))


async def _reply_to_requests(connection_string: str) -> None:
    async with (
        AsyncServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_receiver(_REQUESTS) as receiver,
        client.get_queue_sender(_REPLIES) as sender,
    ):
        while True:
            for message in await receiver.receive_messages(1, max_wait_time=60):
                reply = ServiceBusMessage(BODY, correlation_id=message.message_id)
                await sender.send_messages(reply)
                await receiver.complete_message(message)


@contextmanager
def _running_replier(connection_string: str) -> Iterator[None]:
    """Run `reply_until_stopped` in another process during the `with` block."""
    process = multiprocessing.get_context("spawn").Process(
        target=_reply, args=(connection_string,), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _reply(connection_string: str) -> None:
    asyncio.run(reply_until_stopped(connection_string))


def main(arguments: Sequence[str] = ()) -> int:
    """Measure the local Service Bus, and print a table. Return 0."""
    parser = argparse.ArgumentParser(prog="./dev bench emulators")
    parser.add_argument(
        "--messages",
        type=_message_count,
        default=1000,
        help=f"messages of each row, {_MIN_MESSAGES} at least (default: %(default)s)",
    )
    parser.add_argument(
        "--queued",
        type=int,
        default=100_000,
        help="messages in the queue of the second measurement (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    figures: list[BrokerFigure] = []
    before = Processors.now()
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder,
        run_broker(Path(folder)) as rig,
    ):
        own_before = rig.broker_seconds() + time.process_time()
        for queued in (0, given.queued):
            figures += measure_queue(rig, given.messages, queued)
        with _running_replier(rig.connection_string):
            for clients in CLIENTS:
                figures.append(asyncio.run(measure_round_trips(rig, given.messages, clients)))
        own_seconds = rig.broker_seconds() + time.process_time() - own_before
    used = Processors.now() - before
    others_share = max(0.0, used.used_seconds - own_seconds) / used.all_seconds
    print_figures(figures, others_share, used.stolen_share)
    return 0


def _message_count(text: str) -> int:
    """Parse the number of messages in a command-line argument.

    Raises argparse.ArgumentTypeError if the number is too small to compute percentiles from the
    messages of each client.
    """
    count = int(text)
    if count < _MIN_MESSAGES:
        raise argparse.ArgumentTypeError(
            f"expected at least {_MIN_MESSAGES} messages, found {count}"
        )
    return count


def print_figures(
    figures: Sequence[BrokerFigure], others_share: float, stolen_share: float
) -> None:
    """Print the table, a description of the machine, and how much other programs used it.

    `others_share` is the fraction of the processor time that other programs used during the
    benchmark. `stolen_share` is the fraction that other virtual machines used.
    """
    table = Table(title="the local Service Bus")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for figure in figures:
        table.add_row(*figure.cells())
    Console(width=100).print(table)
    for name, value in describe_machine().items():
        print(f"{name}: {value}")
    print(
        f"during the benchmark, other programs used {others_share:.0%} of the processor time, "
        f"and other virtual machines used {stolen_share:.0%}"
    )
