"""The gateway's port to objects does the same on Azure Blob Storage and on S3.

Moto keeps objects in one process, and each request is atomic there. So these tests do not show what
a store does that has many servers: that a list shows an object at once, and that of two creations
at the same time exactly one succeeds. A link of moto is not checked for its signature or its age.
"""

import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef
from contract.settings import AzureEndpoint, S3Endpoint
from gateway.errors import MissingPayload, Unavailable
from gateway.storage.blobs import Blobs
from gateway.storage.factory import make_storage
from gateway.storage.logs import LogTail, LogWriter
from gateway.storage.payloads import PayloadLinks, PayloadStore
from tests.conformance.objects.objects_process import text_of
from tests.ports import free_port

Endpoint = AzureEndpoint | S3Endpoint
ROOT = Path(__file__).parents[3]
PATH = f"{ROOT}{os.pathsep}{ROOT / 'functions'}"


class Storage(NamedTuple):
    payloads: PayloadStore
    blobs: Blobs
    links: PayloadLinks


@pytest.fixture
async def storage(endpoint: Endpoint) -> AsyncIterator[Storage]:
    made = Storage(*make_storage(endpoint, None))
    yield made
    await made.payloads.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a folder that no other test uses."""
    return f"objects/{abs(hash(request.node.name))}/a"


def start(endpoint: Endpoint, action: str, name: str) -> subprocess.Popen[bytes]:
    module = "tests.conformance.objects.objects_process"
    command = [sys.executable, "-m", module, text_of(endpoint), action, name]
    environment = {**os.environ, "PYTHONPATH": PATH}
    return subprocess.Popen(command, stdin=-1, stdout=-1, cwd=ROOT, env=environment)


async def test_object_is_created_once(storage: Storage, name: str) -> None:
    made = await asyncio.gather(*(storage.blobs.create(name, b"%d" % i) for i in range(8)))
    (etag,) = [each for each in made if each is not None]
    found = await storage.blobs.read(name)
    assert found is not None
    assert (found.etag, found.data) == (etag, b"%d" % made.index(etag))


def test_one_of_two_processes_creates_an_object(endpoint: Endpoint, name: str) -> None:
    for number in range(3):
        processes = [start(endpoint, "create", f"{name}{number}") for _ in range(2)]
        for each in processes:
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n"
        answers = [each.communicate(b"\n", timeout=60)[0] for each in processes]
        assert sorted(answers) == [b"False\n", b"True\n"]


async def test_replacing_needs_the_current_etag(storage: Storage, name: str) -> None:
    first = await storage.blobs.create(name, b"1")
    assert first is not None
    second = await storage.blobs.replace(name, b"2", first)
    assert second is not None
    assert await storage.blobs.replace(name, b"3", first) is None
    assert await storage.blobs.replace(f"{name}-missing", b"3", first) is None
    found = await storage.blobs.read(name)
    assert found is not None
    assert (found.data, found.etag) == (b"2", second)


async def test_missing_object_is_nothing(storage: Storage, name: str) -> None:
    blobs = storage.blobs
    assert await blobs.read(name) is None
    assert await blobs.look(name, 10) is None
    assert await blobs.read_from(name, 0, 10) == b""
    assert await blobs.list_names(name) == []
    await blobs.delete(name)
    with pytest.raises(MissingPayload):
        await blobs.read_version(name, 0, 10, '"1"')
    with pytest.raises(MissingPayload):
        await storage.payloads.get(PayloadRef("text/plain", name, 1, None))


async def test_range_is_read_of_one_version(storage: Storage, name: str) -> None:
    etag = await storage.blobs.create(name, b"0123456789")
    assert etag is not None
    assert await storage.blobs.read_from(name, 3, 4) == b"3456"
    assert await storage.blobs.read_from(name, 8, 100) == b"89"
    assert await storage.blobs.read_from(name, 10, 100) == b""
    assert await storage.blobs.read_version(name, 3, 4, etag) == b"3456"
    await storage.blobs.replace(name, b"abc", etag)
    with pytest.raises(MissingPayload):
        await storage.blobs.read_version(name, 0, 4, etag)


@pytest.mark.parametrize("data", [b"", b"0123456789"], ids=["empty", "full"])
async def test_properties_and_head(storage: Storage, name: str, data: bytes) -> None:
    await storage.payloads.put(name, data, "text/csv")
    found = await storage.blobs.look(name, 4)
    assert found is not None
    assert (found.media_type, found.size_bytes, found.head) == ("text/csv", len(data), data[:4])
    again = await storage.blobs.look(name)
    assert again is not None
    assert (again.etag, again.head) == (found.etag, b"")


async def test_list_has_each_name_once_in_order(storage: Storage, name: str) -> None:
    names = [f"{name}-{each}" for each in ("b", "a.c", "a", "a/d")]
    for each in names:
        await storage.blobs.create(each, b"{}")
    for number in range(3):
        await storage.blobs.append(f"{name}-log", b"%d\n" % number)
    expected = sorted([*names, f"{name}-log"])
    assert await storage.blobs.list_names(f"{name}-") == expected
    listed = [each async for each in storage.blobs.list(f"{name}-")]
    assert [each.name for each in listed] == expected
    assert all(datetime.now(UTC) - each.modified_at < timedelta(minutes=5) for each in listed)
    assert await storage.blobs.list_names(f"{name}-a") == sorted(names[1:])


async def test_deletion_spares_another_version(storage: Storage, name: str) -> None:
    await storage.blobs.create(name, b"{}")
    await storage.blobs.delete(name, '"other"')
    (listed,) = [each async for each in storage.blobs.list(name)]
    await storage.blobs.delete(name, listed.etag)
    assert await storage.blobs.read(name) is None


async def test_deletion_of_a_log_deletes_all_of_it(storage: Storage, name: str) -> None:
    for _ in range(3):
        await storage.blobs.append(name, b"line\n")
    await storage.blobs.create(f"{name}b", b"{}")
    (listed, _) = [each async for each in storage.blobs.list(name)]
    await storage.blobs.delete(name, listed.etag)
    assert await storage.blobs.list_names(name) == [f"{name}b"]
    assert await storage.blobs.append(name, b"new\n") == 0


async def test_log_is_read_from_any_offset(endpoint: Endpoint, storage: Storage, name: str) -> None:
    lines = [b"a" * size + b"\n" for size in (3, 0, 9)]
    offsets = [await storage.blobs.append(name, line) for line in lines]
    assert offsets == [0, 4, 5]
    data = b"".join(lines)
    payloads, fresh, _ = make_storage(endpoint, None)
    for blobs in (storage.blobs, fresh):
        for offset in range(len(data) + 1):
            assert await blobs.read_from(name, offset, 100) == data[offset:]
            assert await blobs.read_from(name, offset, 6) == data[offset : offset + 6]
    await payloads.close()
    about = await storage.blobs.look(name)
    assert about is not None
    assert about.size_bytes == len(data)


async def test_two_writers_of_a_log_lose_no_line(
    endpoint: Endpoint, storage: Storage, name: str
) -> None:
    other_payloads, other, _ = make_storage(endpoint, None)
    writers = LogWriter(storage.blobs), LogWriter(other)
    lines = [b"%d" % number for number in range(60)]
    calls = (writers[number % 2].append(name, line) for number, line in enumerate(lines))
    offsets = await asyncio.gather(*calls)
    tail = LogTail(storage.blobs, name)
    assert sorted(await tail.read()) == sorted(lines)
    assert await tail.read() == []
    for line, offset in zip(lines, offsets, strict=True):
        assert await other.read_from(name, offset, len(line) + 1) == line + b"\n"
    await other_payloads.close()


async def test_append_at_needs_the_end(endpoint: Endpoint, storage: Storage, name: str) -> None:
    payloads, other, _ = make_storage(endpoint, None)
    assert not await other.append_at(name, 5, b"x\n")
    assert await storage.blobs.append_at(name, 0, b"one\n")
    assert not await other.append_at(name, 0, b"two\n")
    assert not await other.append_at(name, 2, b"two\n")
    assert not await other.append_at(name, 9, b"two\n")
    assert await other.append_at(name, 4, b"two\n")
    assert not await storage.blobs.append_at(name, 4, b"three\n")
    assert await storage.blobs.read_from(name, 0, 100) == b"one\ntwo\n"
    await payloads.close()


async def test_kill_during_appends_leaves_whole_lines(
    endpoint: Endpoint, storage: Storage, name: str
) -> None:
    with start(endpoint, "append", name) as process:
        assert process.stdout is not None
        last = [int(process.stdout.readline()) for _ in range(20)][-1]
        process.kill()
        rest = process.stdout.read().split()
        begun = int(rest[-1]) if rest else last
    data = await storage.blobs.read_from(name, 0, 100_000)
    lines = [int(line) for line in data.splitlines()]
    assert lines == list(range(len(lines)))
    assert len(lines) in {begun, begun + 1}
    assert await storage.blobs.append(name, b"next\n") == len(data)
    assert await storage.blobs.read_from(name, len(data), 100) == b"next\n"


async def pieces(*parts: bytes, fails: bool = False) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if fails:
        raise ValueError("stopped")


async def test_payload_arrives_and_leaves_in_pieces(storage: Storage, name: str) -> None:
    parts = [bytes([number]) * 900_000 for number in range(12)]
    ref = await storage.payloads.put_pieces(name, pieces(*parts), "text/plain")
    assert await storage.payloads.get(ref) == b"".join(parts)
    read = [piece async for piece in storage.payloads.get_pieces(ref)]
    assert b"".join(read) == b"".join(parts)
    with pytest.raises(PayloadCorrupt):
        await storage.payloads.get(PayloadRef("text/plain", name, 1, None))


async def test_failed_pieces_leave_no_object(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="stopped"):
        await storage.payloads.put_pieces(name, pieces(*[b"a" * 900_000] * 7, fails=True), "a/b")
    assert await storage.blobs.list_names(name) == []


async def test_blocks_make_an_object_in_the_given_order(storage: Storage, name: str) -> None:
    for block, data in (("b1", b"world"), ("b2", b"hello "), ("b3", b"unused")):
        await storage.payloads.put_block(name, block, data)
    assert not await storage.payloads.commit_blocks(name, ["b2", "b9"], "text/plain")
    assert await storage.payloads.commit_blocks(name, ["b2", "b1"], "text/plain")
    found = await storage.blobs.read(name)
    assert found is not None
    assert found.data == b"hello world"
    await storage.payloads.put_block(f"{name}-2", "b1", b"x")
    await storage.payloads.discard_blocks(f"{name}-2")
    assert await storage.blobs.list_names(name) == [name]


def send(url: str, method: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(url, data, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


async def test_link_creates_one_object_once(storage: Storage, name: str) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    url = await storage.links.to_write(name, soon)
    assert url.startswith(f"{storage.links.origin}/")
    headers = {"content-type": "text/csv", **storage.links.upload_headers}
    status, _ = await asyncio.to_thread(send, url, "PUT", b"1,2", **headers)
    assert status in {200, 201}
    status, _ = await asyncio.to_thread(send, url, "PUT", b"3,4", **headers)
    assert status in {403, 409, 412}
    found = await storage.blobs.look(name, 10)
    assert found is not None
    assert (found.media_type, found.head) == ("text/csv", b"1,2")


async def test_link_reads_one_object(storage: Storage, name: str) -> None:
    await storage.payloads.put(name, b"1,2", "text/csv")
    soon = datetime.now(UTC) + timedelta(minutes=5)
    url = await storage.links.to_read(name, "text/csv", "a.csv", soon)
    assert await asyncio.to_thread(send, url, "GET") == (200, b"1,2")


async def test_missing_bucket_is_unavailable(s3_endpoint: S3Endpoint, name: str) -> None:
    endpoint = S3Endpoint("no-such-bucket", s3_endpoint.url)
    payloads, blobs, _ = make_storage(endpoint, None)
    for call in (blobs.create(name, b""), blobs.append(name, b"")):
        with pytest.raises(Unavailable):
            await call
    for checked in (payloads.check(), payloads.put_block(name, "b1", b"")):
        with pytest.raises(Unavailable):
            await checked
    for put in (payloads.put(name, b"", "a/b"), payloads.put_pieces(name, pieces(b"a"), "a/b")):
        with pytest.raises(Unavailable):
            await put


async def test_store_that_is_away_is_unavailable(endpoint: Endpoint, name: str) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    gone: Endpoint = S3Endpoint("bucket", away)
    if isinstance(endpoint, AzureEndpoint):
        text = endpoint.connection_string or ""
        head, mark, _ = text.partition("BlobEndpoint=")
        gone = AzureEndpoint(f"{head}{mark}{away}/devstoreaccount1;")
    payloads, blobs, _ = make_storage(gone, None)
    for call in (blobs.create(name, b""), blobs.append(name, b""), blobs.delete(name)):
        with pytest.raises(Unavailable):
            await call
    for checked in (payloads.check(), payloads.put(name, b"", "a/b")):
        with pytest.raises(Unavailable):
            await checked
    await payloads.close()
