"""The worker's port to objects does the same on Azure Blob Storage and on S3.

What moto cannot show is said in `test_gateway_objects`.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef
from contract.settings import AzureEndpoint, S3Endpoint
from contract.streams import EventId, StreamEventType, encode_data, join_event
from gateway.storage.factory import make_storage
from tests.ports import free_port
from worker.errors import WeightsMissing, WeightsUnavailable
from worker.objects.factory import make_blob_reader, make_blob_store, make_stream_logs
from worker.objects.port import BlobStore, ObjectChanged, ObjectMissing, ObjectsUnavailable
from worker.streams.store import EMPTY, Append, Appended, WritableLogs

Endpoint = AzureEndpoint | S3Endpoint
DATA = os.urandom(9_000_000)


@pytest.fixture
def store(endpoint: Endpoint) -> BlobStore:
    return make_blob_store(endpoint)


@pytest.fixture
def logs(endpoint: Endpoint) -> Iterator[WritableLogs]:
    made = make_stream_logs(endpoint)
    yield made
    made.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a name that no other test uses."""
    return f"objects/{abs(hash(request.node.name))}/a"


@pytest.mark.parametrize("data", [b"", b"small", DATA], ids=["empty", "small", "large"])
def test_object_is_read_back(store: BlobStore, name: str, data: bytes) -> None:
    store.write(name, b"before", "a/b")
    store.write(name, data, "text/plain", 30.0)
    ref = PayloadRef("text/plain", name, len(data), hashlib.sha256(data).hexdigest())
    assert b"".join(store.read(ref)) == data
    with pytest.raises(PayloadCorrupt):
        store.read(replace(ref, size_bytes=len(data) + 1))


def test_missing_and_changed_objects_are_told_apart(store: BlobStore, name: str) -> None:
    ref = PayloadRef("text/plain", name, 1, None)
    with pytest.raises(ObjectMissing):
        b"".join(store.read(ref))
    store.write(name, b"1", "text/plain")
    with pytest.raises(ObjectChanged):
        b"".join(store.read(replace(ref, etag='"other"')))


def test_deletion_is_repeatable(store: BlobStore, name: str) -> None:
    store.write(name, b"1", "text/plain")
    for _ in range(2):
        store.delete(name, 5.0)
    with pytest.raises(ObjectMissing):
        b"".join(store.read(PayloadRef("text/plain", name, 1, None)))


async def test_log_of_the_gateway_is_read(endpoint: Endpoint, store: BlobStore, name: str) -> None:
    assert store.read_from(name, 0, 100, 5.0) == b""
    payloads, blobs, _ = make_storage(endpoint, None)
    for line in (b"one\n", b"two\n", b"three\n"):
        await blobs.append(name, line)
    await payloads.close()
    data = b"one\ntwo\nthree\n"
    for offset in range(len(data) + 1):
        assert store.read_from(name, offset, 100, 5.0) == data[offset:]
        assert store.read_from(name, offset, 5, 5.0) == data[offset : offset + 5]


def test_weights_are_read_of_another_container(endpoint: Endpoint, store: BlobStore) -> None:
    store.write("nets/a.onnx", DATA, "application/octet-stream")
    reader = make_blob_reader(endpoint)
    assert b"".join(reader.read("payloads", "nets/a.onnx").pieces) == DATA
    with pytest.raises(WeightsMissing, match="blob:weights/nets/b"):
        reader.read("weights", "nets/b.onnx")


def test_store_that_is_away_is_unavailable(endpoint: Endpoint, name: str) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    gone: Endpoint = S3Endpoint("bucket", away)
    if isinstance(endpoint, AzureEndpoint):
        text = endpoint.connection_string or ""
        head, mark, _ = text.partition("BlobEndpoint=")
        gone = AzureEndpoint(f"{head}{mark}{away}/devstoreaccount1;")
    store = make_blob_store(gone)
    for call in (
        lambda: b"".join(store.read(PayloadRef("a/b", name, 1, None))),
        lambda: store.read_from(name, 0, 1, 1.0),
        lambda: store.write(name, b"", "a/b", 1.0),
        lambda: store.delete(name, 1.0),
    ):
        with pytest.raises(ObjectsUnavailable) as raised:
            call()
        assert not isinstance(raised.value, ObjectMissing | ObjectChanged)
        assert "sig=" not in str(raised.value)
    with pytest.raises(WeightsUnavailable):
        make_blob_reader(gone).read("weights", "a")


def test_missing_bucket_is_unavailable(s3_endpoint: S3Endpoint, name: str) -> None:
    store = make_blob_store(S3Endpoint("no-such-bucket", s3_endpoint.url))
    with pytest.raises(ObjectsUnavailable) as raised:
        store.write(name, b"", "a/b")
    assert not isinstance(raised.value, ObjectMissing)


def event(attempt: int, number: int) -> tuple[EventId, bytes]:
    key = (attempt, number)
    return key, join_event(key, StreamEventType.CHUNK, encode_data({"text": f"{key}"}))


def test_stream_is_appended_where_it_ends(logs: WritableLogs) -> None:
    job_id = str(uuid.uuid4())
    assert logs.read_end(job_id) == EMPTY
    first = Append(job_id, EMPTY, [event(1, 0), event(1, 1)])
    second = Append(job_id, first.new_end, [event(1, 2)])
    # A repeated append has no effect.
    for each in (first, first, second, second):
        assert logs.append([each]) == [Appended.WRITTEN]
    assert logs.read_end(job_id) == second.new_end
    late = Append(job_id, EMPTY, [event(2, 0)])
    stale = Append(job_id, first.new_end, [event(2, 0), event(2, 1)])
    for each in (late, stale):
        assert logs.append([each]) == [Appended.REFUSED]
    assert logs.read_end(job_id) == second.new_end
