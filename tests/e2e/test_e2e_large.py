"""Test that 200 MB can be uploaded and 20 MB downloaded by signed URLs with little memory."""

import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lab.benchmarks.peaks import peaks_mb
from loosely.local.data_directory import RunningSystem
from tests.e2e.catalogues import LARGE_MODELS
from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PIECE = bytes(range(256)) * 4096
PIECES = 200
RESULT_BYTES = 20 * 1024 * 1024


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run a separate system for these tests, with models that do not import torch.

    The tests check that the peak memory of the system's processes is small. Other tests or torch
    would increase this peak.
    """
    data = tmp_path_factory.mktemp("large") / "data"
    with running(data, LARGE_MODELS) as started:
        yield started


def slot_of(system: System) -> dict[str, Any]:
    asked = {"model": "noop", "media_type": "application/octet-stream"}
    answer = system.http.post("/v1/uploads", json=asked)
    assert answer.status_code == 201, answer.text
    slot: dict[str, Any] = answer.json()
    return slot


def upload(system: System, content: bytes | Iterator[bytes], size_bytes: int) -> str:
    slot = slot_of(system)
    headers = {**slot["headers"], "content-length": str(size_bytes)}
    sent = httpx.put(slot["url"], content=content, headers=headers, timeout=100)
    assert sent.status_code == 201, sent.text
    # The link permits writing only.
    assert httpx.get(slot["url"]).status_code == 403
    return str(slot["upload"])


def peaks(system: System) -> dict[str, float]:
    found = RunningSystem.read(system.data)
    assert found is not None
    return peaks_mb(found)


def pieces() -> Iterator[bytes]:
    for _ in range(PIECES):
        yield PIECE


def test_peak_memory_stays_within_limits(large: System, capsys: pytest.CaptureFixture[str]) -> None:
    # Send one small input and one small result first, so that modules loaded at first use do not
    # count.
    small = upload(large, b"x", 1)
    assert large.http.post(f"/v1/models/noop/jobs?upload={small}").status_code == 200
    assert large.submit("big", b"100000", "text/plain").status_code == 200
    before = peaks(large)

    body = {"input": {"upload": upload(large, pieces(), PIECES * len(PIECE))}}
    answer = large.http.post("/v1/models/noop/jobs", json=body, headers={"prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    digest = hashlib.sha256()
    for piece in pieces():
        digest.update(piece)
    size_bytes = PIECES * len(PIECE)
    assert answer.json()["result"] == {"size_bytes": size_bytes, "sha256": digest.hexdigest()}
    after_input = peaks(large)

    job = large.submit("big", str(RESULT_BYTES).encode(), "text/plain", prefer="wait=60").json()
    assert (job["status"], job["result"]) == ("succeeded", None)
    answer = large.http.get(job["links"]["result"])
    assert answer.status_code == 303
    result = httpx.get(answer.headers["location"], timeout=60)
    assert result.headers["content-type"] == "application/json"
    assert result.headers["content-disposition"] == f'attachment; filename="{job["id"]}.json"'
    assert len(result.json()["text"]) == RESULT_BYTES
    assert httpx.put(answer.headers["location"], content=b"x").status_code == 403
    after = peaks(large)

    with capsys.disabled():
        for name in ("functions", "worker app", "blobs"):
            sys.stdout.write(
                f"\n{name}: peak {before[name]:.0f} MB, {after_input[name]:.0f} MB after 200 MB in,"
                f" {after[name]:.0f} MB after 20 MB out"
            )
    # The worker reads the input in chunks of 4 MiB. It holds the result as a text and as JSON.
    assert after["functions"] - before["functions"] < 16
    assert after_input["worker app"] - before["worker app"] < 32
    assert after["worker app"] - before["worker app"] < 4 * RESULT_BYTES / 2**20 + 32
