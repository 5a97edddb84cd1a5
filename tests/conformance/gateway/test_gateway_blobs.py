"""Test conditional writes and signed links, with the real SDK and our blob storage emulator."""

import asyncio
import gzip
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from azure.storage.blob import ContentSettings

from gateway.clock import utc_now
from gateway.errors import MissingPayload, Unavailable
from gateway.jobs.ends import EndsLog, JobEnd
from gateway.jobs.model import JobOutcome
from gateway.storage import azure as storage_azure
from gateway.storage.azure import (
    ANSWER_SECONDS,
    MAX_CONNECTIONS,
    AzureBlobs,
    AzureLinks,
    AzurePayloads,
    PayloadContainer,
    transfer_seconds,
)
from tests.conformance.gateway.emulated_services import running, storage
from tests.ports import free_port
from tests.suspension import suspend


@pytest.fixture
async def container(
    blob_port: int, request: pytest.FixtureRequest
) -> AsyncIterator[PayloadContainer]:
    opened = PayloadContainer(storage(blob_port), f"c-{abs(hash(request.node.name))}")
    yield opened
    await opened.close()


async def test_only_one_of_many_creations_succeeds(container: PayloadContainer) -> None:
    blobs = AzureBlobs(container)
    etags = await asyncio.gather(*(blobs.create("claims/a", b"%d" % n) for n in range(16)))
    (winner,) = [etag for etag in etags if etag]
    note = await blobs.read("claims/a")
    assert note is not None
    assert (note.etag, note.data) == (winner, b"%d" % etags.index(winner))


async def test_200_reads_use_at_most_32_connections(
    container: PayloadContainer, blob_port: int
) -> None:
    blobs = AzureBlobs(container)
    await blobs.create("claims/a", b"1")
    reads = await asyncio.gather(*(blobs.read("claims/a") for _ in range(200)))
    assert all(reads)
    opened = [
        each
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == blob_port and each.status == psutil.CONN_ESTABLISHED
    ]
    # The SDK has created the container by a connection of its own.
    assert 1 < len(opened) <= MAX_CONNECTIONS + 1


async def test_change_needs_the_current_etag(container: PayloadContainer) -> None:
    blobs = AzureBlobs(container)
    first = await blobs.create("claims/a", b"1")
    assert first is not None
    second = await blobs.replace("claims/a", b"1", first)
    # The same bytes get a different ETag when they are written again.
    assert second not in {None, first}
    assert await blobs.replace("claims/a", b"3", first) is None
    await blobs.delete("claims/a", first)
    assert await blobs.read("claims/a") is not None
    await blobs.delete("claims/a", second)
    assert await blobs.read("claims/a") is None
    assert await blobs.replace("claims/a", b"4", str(second)) is None
    await blobs.delete("claims/a")


async def test_append_creates_the_container_and_the_log(container: PayloadContainer) -> None:
    blobs = AzureBlobs(container)
    assert await blobs.read_from("ends/a", 0, 100) == b""
    await asyncio.gather(*(blobs.append("ends/a", b"%03d\n" % number) for number in range(16)))
    whole = await blobs.read_from("ends/a", 0, 1000)
    assert sorted(whole.splitlines()) == [b"%03d" % number for number in range(16)]
    assert await blobs.read_from("ends/a", 60, 1000) == whole[60:]
    assert await blobs.read_from("ends/a", 4, 4) == whole[4:8]
    assert await blobs.read_from("ends/a", 64, 1000) == b""
    assert await blobs.read_from("ends/missing", 0, 1000) == b""


async def test_end_is_read_by_another_instance(container: PayloadContainer) -> None:
    here, elsewhere = (EndsLog(AzureBlobs(container), utc_now) for _ in range(2))
    assert await here.read({"a"}) == []
    outcome = JobOutcome.cancelled(datetime(2026, 3, 1, tzinfo=UTC))
    await elsewhere.append("a", outcome)
    assert await here.read({"a"}) == [JobEnd("a", outcome)]
    assert await here.read({"a"}) == []


async def test_missing_container_counts_as_empty(container: PayloadContainer) -> None:
    blobs = AzureBlobs(container)
    assert await blobs.read("a") is None
    assert await blobs.look("a", 10) is None
    assert [found async for found in blobs.list("")] == []
    await blobs.delete("a")


@pytest.mark.parametrize(
    ("size_bytes", "head_bytes"), [(0, 0), (0, 4), (3, 0), (3, 4), (4, 4), (9, 4)]
)
async def test_properties_come_with_the_head(
    container: PayloadContainer, size_bytes: int, head_bytes: int
) -> None:
    blobs, data = AzureBlobs(container), bytes(range(size_bytes))
    await AzurePayloads(container).put("a", data, "text/plain")
    found = await blobs.look("a", head_bytes)
    assert found is not None
    assert (found.media_type, found.size_bytes, found.head) == (
        "text/plain",
        size_bytes,
        data[:head_bytes],
    )
    assert await blobs.read_version("a", 1, 2, found.etag) == data[1:3]


async def test_compressed_blob_is_not_decompressed(container: PayloadContainer) -> None:
    await container.ensure()
    data = gzip.compress(b"text")
    about = ContentSettings(content_type="text/plain", content_encoding="gzip")
    await container.client.upload_blob("a", data, content_settings=about)
    found = await AzureBlobs(container).look("a", 100)
    assert found is not None
    assert (found.content_encoding, found.head) == ("gzip", data)


async def test_changed_blob_is_not_read(container: PayloadContainer) -> None:
    blobs = AzureBlobs(container)
    etag = await blobs.create("a", b"1")
    assert etag is not None
    await blobs.replace("a", b"2", etag)
    for blob in ("a", "missing"):
        with pytest.raises(MissingPayload):
            await blobs.read_version(blob, 0, 1, etag)


async def test_list_is_in_the_order_of_names(container: PayloadContainer) -> None:
    blobs = AzureBlobs(container)
    for name in ("b/2", "a/1", "b/1"):
        await blobs.create(name, b"")
    assert [found.name async for found in blobs.list("b/")] == ["b/1", "b/2"]


async def test_names_are_listed_in_pages(
    container: PayloadContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_azure, "NAMES_AT_ONCE", 2)
    blobs = AzureBlobs(container)
    assert await blobs.list_names("b/") == []
    for name in ("b/2", "a/1", "b/1", "b/3", "b/4", "b/5"):
        await blobs.create(name, b"")
    assert await blobs.list_names("b/") == ["b/1", "b/2", "b/3", "b/4", "b/5"]


async def test_signed_link_only_creates_its_blob(container: PayloadContainer) -> None:
    links, blobs = AzureLinks(container), AzureBlobs(container)
    soon = datetime.now(UTC) + timedelta(minutes=5)
    url = await links.to_write("uploads/a", soon)
    headers = {"x-ms-blob-type": "BlockBlob", "content-type": "text/plain"}
    async with httpx.AsyncClient() as http:
        assert (await http.put(url, content=b"hello", headers=headers)).status_code == 201
        assert (await http.get(url)).status_code == 403
        assert (await http.delete(url)).status_code == 403
        other = url.replace("uploads/a", "uploads/b")
        assert (await http.put(other, content=b"x", headers=headers)).status_code == 403
        assert (await http.put(url, content=b"again", headers=headers)).status_code == 403
        lease = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
        assert (await http.put(f"{url}&comp=lease", headers=lease)).status_code == 403
        late = await links.to_write("uploads/a", datetime.now(UTC) - timedelta(seconds=5))
        assert (await http.put(late, content=b"x", headers=headers)).status_code == 403
    look = await blobs.look("uploads/a", 4)
    assert look is not None
    assert (look.media_type, look.size_bytes, look.head) == ("text/plain", 5, b"hell")
    headers["x-ms-blob-content-encoding"] = "gzip"
    url = await links.to_write("uploads/b", soon)
    async with httpx.AsyncClient() as http:
        assert (await http.put(url, content=b"hello", headers=headers)).status_code == 201
    look = await blobs.look("uploads/b", 4)
    assert look is not None
    assert (look.content_encoding, look.head) == ("gzip", b"hell")


@pytest.mark.parametrize("seconds", [-1, 60])
async def test_blob_with_lease_and_snapshots_is_deleted(
    container: PayloadContainer, seconds: int
) -> None:
    blobs = AzureBlobs(container)
    await blobs.create("uploads/a", b"1")
    client = container.client.get_blob_client("uploads/a")
    await client.create_snapshot()
    await client.acquire_lease(seconds)
    (listed,) = [each async for each in blobs.list("uploads/")]
    await blobs.delete("uploads/a", "an older ETag")
    assert await blobs.read("uploads/a") is not None
    await blobs.delete("uploads/a", listed.etag)
    assert [each async for each in container.client.list_blobs(include=["snapshots"])] == []


async def test_signed_link_only_reads_its_blob(container: PayloadContainer, blob_port: int) -> None:
    await AzureBlobs(container).create("results/a", b"{}")
    soon = datetime.now(UTC) + timedelta(minutes=5)
    public = f"http://localhost:{blob_port}/devstoreaccount1"
    url = await AzureLinks(container, public).to_read("results/a", "image/png", "a.png", soon)
    assert url.startswith(f"{public}/{container.name}/results/a?")
    async with httpx.AsyncClient() as http:
        answer = await http.get(url)
        assert (answer.status_code, answer.content) == (200, b"{}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"] == 'attachment; filename="a.png"'
        assert (await http.put(url, content=b"x")).status_code == 403


async def seconds_until_unavailable(call: Awaitable[object]) -> float:
    begun_at = time.monotonic()
    with pytest.raises(Unavailable):
        await call
    return time.monotonic() - begun_at


# Without a time limit, a request to a silent storage would last for minutes.
SLOW_MACHINE_SECONDS = 15.0
# More bytes than the socket buffers hold, so that sending stops half-way.
LARGE = bytes(8_000_000)


async def one_piece() -> AsyncIterator[bytes]:
    yield b"x" * 100_000


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_silent_storage_fails_within_seconds(tmp_path: Path) -> None:
    port = free_port()
    with running("emulator.blobs", port, "--data", str(tmp_path)) as process:
        container, fresh = PayloadContainer(storage(port)), PayloadContainer(storage(port), "fresh")
        blobs, payloads = AzureBlobs(container), AzurePayloads(container)
        try:
            ref = await payloads.put("results/a", b"x" * 100_000, "text/plain")
            suspend(process.pid)
            calls = (
                payloads.get(ref),
                payloads.put("inputs/a", b"x" * 100_000, "text/plain"),
                payloads.put_pieces("inputs/c", one_piece(), "text/plain"),
                blobs.create("claims/a", b""),
                blobs.read("claims/a"),
                blobs.look("results/a", 100),
                blobs.delete("results/b"),
                anext(blobs.list("results/")),
                AzureLinks(fresh).to_write("uploads/a", datetime.now(UTC)),
            )
            large = seconds_until_unavailable(payloads.put("inputs/b", LARGE, "text/plain"))
            small = (seconds_until_unavailable(call) for call in calls)
            large_seconds, *small_seconds = await asyncio.gather(large, *small)
            assert max(small_seconds) < ANSWER_SECONDS + SLOW_MACHINE_SECONDS
            limit_seconds = ANSWER_SECONDS + transfer_seconds(len(LARGE))
            assert large_seconds < limit_seconds + SLOW_MACHINE_SECONDS
            os.kill(process.pid, signal.SIGCONT)
            assert await payloads.get(ref) == b"x" * 100_000
            assert (await payloads.put("inputs/b", LARGE, "text/plain")).size_bytes == len(LARGE)
        finally:
            await container.close()
            await fresh.close()
