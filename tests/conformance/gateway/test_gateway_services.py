"""Test the gateway's queues and payloads, with the real SDKs and our emulators."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from azure.core.exceptions import ResourceNotFoundError

from contract.brokers import BrokerMessage
from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef, reference
from gateway.brokers.servicebus import PEEK_SECONDS, ServiceBusQueues
from gateway.clock import utc_now
from gateway.errors import MissingPayload, Unavailable, UnknownQueue
from gateway.queues.ages import log_oldest
from gateway.storage.azure import AzurePayloads, PayloadContainer
from gateway.storage.payloads import PIECE_BYTES
from tests.conformance.gateway.emulated_services import (
    message,
    received,
    running_service_bus,
    service_bus,
    storage,
)
from tests.connections import ACCOUNT_KEY
from tests.ports import free_port
from tests.suspension import suspend

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def payloads(blob_port: int, request: pytest.FixtureRequest) -> AsyncIterator[AzurePayloads]:
    name = f"payloads-{abs(hash(request.node.name))}"
    opened = AzurePayloads(PayloadContainer(storage(blob_port), name))
    yield opened
    await opened.close()


# aiohttp warns that bodies of more than 1 MiB block the event loop.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("size_bytes", [0, 1, 100_000, 5_000_000])
async def test_payload_is_read_back_unchanged(payloads: AzurePayloads, size_bytes: int) -> None:
    data = bytes(size_bytes)
    ref = await payloads.put("inputs/a", data, "image/png")
    assert (ref.media_type, ref.blob, ref.size_bytes) == ("image/png", "inputs/a", size_bytes)
    assert await payloads.get(ref) == data


async def test_first_write_creates_the_container(payloads: AzurePayloads) -> None:
    await payloads.check()
    refs = await asyncio.gather(
        *(payloads.put(f"inputs/{n}", b"%d" % n, "text/plain") for n in range(8))
    )
    assert [await payloads.get(ref) for ref in refs] == [b"%d" % n for n in range(8)]


async def test_second_payload_replaces_the_first(payloads: AzurePayloads) -> None:
    old = await payloads.put("inputs/a", b"old", "text/plain")
    new = await payloads.put("inputs/a", b"new", "text/plain")
    assert await payloads.get(new) == b"new"
    with pytest.raises(PayloadCorrupt):
        await payloads.get(old)


async def in_pieces(count: int, error: Exception | None = None) -> AsyncIterator[bytes]:
    """Yield pieces of 512 KiB, and then raise the error unless it is None."""
    for number in range(count):
        yield bytes([number]) * 524_288
    if error is not None:
        raise error


@pytest.mark.parametrize("count", [1, 9])
async def test_payload_in_pieces_is_read_back(payloads: AzurePayloads, count: int) -> None:
    ref = await payloads.put_pieces("inputs/a", in_pieces(count), "image/png")
    whole = b"".join([piece async for piece in in_pieces(count)])
    assert ref == reference("image/png", "inputs/a", whole)
    assert await payloads.get(ref) == whole


async def test_payload_is_read_in_pieces(payloads: AzurePayloads) -> None:
    data = bytes(PIECE_BYTES) + b"rest"
    ref = await payloads.put("inputs/a", data, "text/plain")
    assert [piece async for piece in payloads.get_pieces(ref)] == [bytes(PIECE_BYTES), b"rest"]
    pieces = payloads.get_pieces(replace(ref, sha256="0" * 64))
    assert await anext(pieces) == bytes(PIECE_BYTES)
    with pytest.raises(PayloadCorrupt):
        await anext(pieces)
    with pytest.raises(MissingPayload):
        await anext(payloads.get_pieces(replace(ref, blob="inputs/b")))


@pytest.mark.parametrize("count", [0, 1, 9])
async def test_broken_pieces_leave_no_blob_or_block(payloads: AzurePayloads, count: int) -> None:
    kept = await payloads.put("inputs/b", b"data", "text/plain")
    with pytest.raises(ValueError, match="gone"):
        await payloads.put_pieces("inputs/a", in_pieces(count, ValueError("gone")), "text/plain")
    with pytest.raises(MissingPayload):
        await payloads.get(replace(kept, blob="inputs/a"))
    client = payloads._container.client.get_blob_client("inputs/a")
    with pytest.raises(ResourceNotFoundError):
        await client.get_block_list("all")


async def test_blocks_make_a_blob_in_the_given_order(payloads: AzurePayloads) -> None:
    for block in ("a" * 16, "b" * 16):
        await payloads.put_block("files/a", block, block[:1].encode())
    assert not await payloads.commit_blocks("files/a", ["c" * 16], "text/plain")
    for order in ("ba", "ba"):  # again, as after a lost response
        blocks = [each * 16 for each in order]
        assert await payloads.commit_blocks("files/a", blocks, "text/plain")
        assert await payloads.get(PayloadRef("text/plain", "files/a", 2, None)) == b"ba"


async def test_missing_or_changed_payload_is_an_error(payloads: AzurePayloads) -> None:
    ref = await payloads.put("inputs/a", b"data", "text/plain")
    with pytest.raises(MissingPayload):
        await payloads.get(PayloadRef(ref.media_type, "inputs/b", 4, ref.sha256))
    with pytest.raises(PayloadCorrupt):
        await payloads.get(PayloadRef(ref.media_type, ref.blob, 5, ref.sha256))


async def test_silent_storage_is_unavailable() -> None:
    payloads = AzurePayloads(PayloadContainer(storage(free_port())))
    try:
        with pytest.raises(Unavailable) as caught:
            await payloads.put("inputs/a", b"x", "text/plain")
        assert caught.value.service == "blobs"
        assert ACCOUNT_KEY not in str(caught.value)
    finally:
        await payloads.close()


@asynccontextmanager
async def connected(
    folder: Path, queues: Sequence[str] = ()
) -> AsyncIterator[tuple[ServiceBusQueues, int]]:
    """Run a Service Bus, and yield the gateway's queues on it and its port."""
    port = free_port()
    with running_service_bus(port, folder, queues=queues):
        opened = ServiceBusQueues(service_bus(port))
        try:
            yield opened, port
        finally:
            await opened.close()


# The queues of 50 models.
HUNDRED = [f"m{number}" for number in range(100)]


async def test_100_queues_are_peeked_together(tmp_path: Path) -> None:
    async with connected(tmp_path, queues=HUNDRED) as (queues, port):
        assert set((await log_oldest(queues, HUNDRED, utc_now)).values()) == {None}
        for name in ("m3", "m97"):
            await queues.send(name, message(1))
            await queues.send(name, message(2))
        seconds = []
        for _ in range(10):  # on a busy machine, a peek may end at its time limit
            begun_at = time.monotonic()
            found = await log_oldest(queues, HUNDRED, utc_now)
            seconds.append(time.monotonic() - begun_at)
            if (filled := [name for name, at in found.items() if at]) == ["m3", "m97"]:
                break
        assert filled == ["m3", "m97"]
        # One after another, on new links, they take longer.
        assert min(seconds) < 3.0
        await received(port, "m3", 2)
        assert (await queues.oldest("m3")) is None


# If the opening of a link is cancelled, the SDK leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_silent_service_bus_fails_within_seconds(tmp_path: Path) -> None:
    port, admin_port = free_port(), free_port()
    with running_service_bus(port, tmp_path, admin_port) as process:
        queues = ServiceBusQueues(service_bus(port), f"http://localhost:{admin_port}")
        try:
            await queues.check("noop")
            suspend(process.pid)
            # One open link, one new link, and the management API.
            calls = (queues.check("noop"), queues.oldest("classifier"), queues.count("noop"))
            begun_at = time.monotonic()
            answers = await asyncio.gather(*map(refusal, calls))
            assert time.monotonic() - begun_at < PEEK_SECONDS + 15
            assert {service for service, _ in answers} == {"queue"}
            os.kill(process.pid, signal.SIGCONT)
            await queues.check("noop")
        finally:
            await queues.close()
            gc.collect()


async def test_simultaneous_messages_arrive_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (queues, port):
        await queues.check("noop")
        await asyncio.gather(*(queues.send("noop", message(n)) for n in range(40)))
        # A repeated activity sends the same message id, so the queue drops the message.
        await asyncio.gather(*(queues.send("noop", message(n)) for n in range(40)))
        await queues.send("classifier", message(0))
        found = await received(port, "noop", 40)
        assert sorted(str(one.message_id) for one in found) == sorted(f"job-{n}" for n in range(40))
        assert len(await received(port, "classifier", 1)) == 1


async def test_messages_too_large_for_one_batch_arrive(tmp_path: Path) -> None:
    async with connected(tmp_path) as (queues, port):
        large = [BrokerMessage(bytes(90_000), f"job-{n}", f"job-{n}") for n in range(12)]
        await asyncio.gather(*(queues.send("noop", one) for one in large))
        assert len(await received(port, "noop", 12)) == 12


async def test_cancelled_sends_leave_the_rest_of_a_batch(tmp_path: Path) -> None:
    async with connected(tmp_path) as (queues, port):
        sends = [asyncio.create_task(queues.send("noop", message(n))) for n in range(10)]
        await asyncio.sleep(0)  # one iteration of the loop: the first batch is on its way
        for cancelled in (sends[0], sends[5]):
            cancelled.cancel()
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert [result for result in results if result is None] == [None] * 8
        ids = {str(one.message_id) for one in await received(port, "noop", 8)}
        assert ids >= {f"job-{n}" for n in range(10)} - {"job-0", "job-5"}


async def test_first_check_opens_the_senders(tmp_path: Path) -> None:
    port = free_port()

    def connection_count() -> int:
        return sum(
            bool(each.raddr) and each.raddr.port == port
            for each in psutil.Process().net_connections("tcp")
            if each.status == psutil.CONN_ESTABLISHED
        )

    with running_service_bus(port, tmp_path):
        early_queues = ("noop", "missing", "classifier")
        queues = ServiceBusQueues(service_bus(port), early_queues=early_queues)
        try:
            await queues.check("noop")
            checked = connection_count()
            async with asyncio.timeout(30):
                while connection_count() < checked + 2:  # noqa: ASYNC110 - sockets have no event
                    await asyncio.sleep(0)
            await asyncio.gather(
                *(queues.send(name, message(1)) for name in ("noop", "classifier"))
            )
            with pytest.raises(UnknownQueue):
                await queues.send("missing", message(1))
            for name in ("noop", "classifier"):
                assert len(await received(port, name, 1)) == 1
        finally:
            await queues.close()


async def test_missing_queue_is_unknown(tmp_path: Path) -> None:
    async with connected(tmp_path) as (queues, _):
        with pytest.raises(UnknownQueue):
            await queues.send("answers-of-nobody", message(0))
        await queues.send("noop", message(1))


async def refusal(call: Awaitable[object]) -> tuple[str, str]:
    """Await a call that raises `Unavailable`. Return the service and the message of the error.

    The error itself is not returned, because its traceback would keep sockets open.
    """
    try:
        await call
    except Unavailable as error:
        return error.service, str(error)
    raise AssertionError("the call succeeded")


# The SDK does not close the socket of a broken connection; the garbage collector does.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_sending_succeeds_after_a_restart(tmp_path: Path) -> None:
    port = free_port()
    queues = ServiceBusQueues(service_bus(port))
    try:
        with ExitStack() as stack:
            stack.enter_context(running_service_bus(port, tmp_path))
            await queues.send("noop", message(1))
        for call in (queues.send("noop", message(2)), queues.check("noop")):
            service, text = await refusal(call)
            assert service == "queue"
            assert "SAS_KEY_VALUE" not in text
        gc.collect()
        with running_service_bus(port, tmp_path):
            await queues.send("noop", message(2))
            await queues.check("noop")
            bodies = [b"".join(one.body) for one in await received(port, "noop", 2)]
            assert bodies == [b"1", b"2"]
    finally:
        await queues.close()
