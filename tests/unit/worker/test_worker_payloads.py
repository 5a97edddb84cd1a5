"""Test how inputs are read from messages and blobs, as bytes or as files."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from contract.catalogue import Catalogue
from contract.messages import InlineBytes, InlineJson, PayloadRef
from tests.small_disk import no_space
from worker.errors import InvalidInput, PayloadsUnavailable, PayloadUnusable
from worker.inputs.payloads import BlobPayloads
from worker.objects.port import BlobStore, ObjectChanged, ObjectsUnavailable
from worker.pipeline.prepare import read_inline

DATA = b"0123456789" * 100
REF = PayloadRef("text/plain", "inputs/a", len(DATA), hashlib.sha256(DATA).hexdigest())
UPLOAD = PayloadRef("text/plain", "uploads/a", len(DATA), None, '"1"')
NOOP = Catalogue.load()["noop"]
SMALL = replace(NOOP, max_input_bytes=100, max_upload_bytes=999)


@dataclass
class ScriptedStore(BlobStore):
    """A blob store whose reads return `data` in chunks.

    The first `failures_left` reads raise `failure` after the first chunk.
    """

    data: bytes = DATA
    failure: ObjectsUnavailable | OSError | None = None
    failures_left: int = 0
    reads: int = 0

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        self.reads += 1
        for start in range(0, len(self.data), 64):
            yield self.data[start : start + 64]
            # Fail in the middle, after a part was read.
            if self.failure and self.failures_left:
                self.failures_left -= 1
                raise self.failure

    def write(
        self, blob: str, data: bytes, media_type: str, timeout_seconds: float | None = None
    ) -> None:
        raise AssertionError("nothing is written here")


def patient(_: float) -> bool:
    return True


def hasty(_: float) -> bool:
    return False


def read(payloads: BlobPayloads, ref: PayloadRef) -> bytes:
    with payloads.fetch_file(ref, NOOP, patient) as file:
        return file.read()


@pytest.mark.parametrize("ref", [REF, UPLOAD])
def test_blob_is_read_as_bytes_or_as_a_file(ref: PayloadRef) -> None:
    payloads = BlobPayloads(ScriptedStore())
    assert payloads.fetch_input(ref, NOOP, patient) == DATA
    assert read(payloads, ref) == DATA


def test_inline_input_is_read_from_the_message() -> None:
    assert read_inline(InlineBytes("text/plain", b"abc"), NOOP) == b"abc"
    assert read_inline(InlineJson({"a": 1}), NOOP) == b'{"a":1}'


CHANGED = ObjectChanged("changed")


@pytest.mark.parametrize("failure", [ObjectsUnavailable("away"), ConnectionError(), CHANGED])
def test_interrupted_read_starts_again(failure: ObjectsUnavailable | OSError) -> None:
    store = ScriptedStore(failure=failure, failures_left=2)
    assert read(BlobPayloads(store), REF) == DATA
    assert store.reads == 3


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ObjectsUnavailable("ServiceRequestError: away"), "ServiceRequestError: away"),
        (ConnectionError("https://storage.test/inputs/a?sig=secret"), "ConnectionError"),
    ],
)
def test_outage_is_described_without_its_url(
    failure: ObjectsUnavailable | OSError, said: str
) -> None:
    store = ScriptedStore(failure=failure, failures_left=9)
    with pytest.raises(PayloadsUnavailable) as raised:
        BlobPayloads(store).fetch_file(REF, NOOP, hasty)
    assert (str(raised.value), store.reads) == (said, 1)


def test_full_disk_raises_payloads_unavailable() -> None:
    with (
        no_space(len(DATA) // 2),
        pytest.raises(PayloadsUnavailable, match="OSError: File too large"),
    ):
        BlobPayloads(ScriptedStore()).fetch_file(REF, NOOP, hasty)


def test_wrong_digest_is_refused() -> None:
    payloads = BlobPayloads(ScriptedStore(data=DATA[:-1] + b"x"))
    with pytest.raises(PayloadUnusable, match="digest"):
        payloads.fetch_file(REF, NOOP, patient)
    with pytest.raises(PayloadUnusable, match="digest"):
        payloads.fetch_input(REF, NOOP, patient)


def test_replaced_upload_is_refused_without_a_retry() -> None:
    store = ScriptedStore(failure=CHANGED, failures_left=9)
    with pytest.raises(PayloadUnusable, match="changed"):
        BlobPayloads(store).fetch_file(UPLOAD, NOOP, patient)
    assert store.reads == 1


def test_inline_and_blob_inputs_have_separate_limits() -> None:
    payloads = BlobPayloads(ScriptedStore())
    with pytest.raises(InvalidInput, match="at most 999"):
        payloads.fetch_file(REF, SMALL, patient)
    with pytest.raises(InvalidInput, match="at most 100"):
        read_inline(InlineBytes("text/plain", b"x" * 101), SMALL)
