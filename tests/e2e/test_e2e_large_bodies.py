"""Test that large request bodies use limited memory."""

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MIB = 1024**2
JOBS = "/v1/models/noop/jobs"
TEN_MEGABYTES = 10_000_000
BODY_MEMORY_BYTES = 64 * MIB


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run a system whose gateway permits 64 MiB for all large request bodies together."""
    environment = {"BODY_MEMORY_BYTES": str(BODY_MEMORY_BYTES)}
    catalogue = (
        '[noop]\nimplementation = "worker.models.noop"\ndescription = "For tests."\n'
        'media_types = ["application/octet-stream", "application/json", "text/plain", '
        '"image/jpeg"]\nmax_input_bytes = 10_485_760\nmax_batch_size = 16\nmax_wait_ms = 0\n'
    )
    data = tmp_path_factory.mktemp("bodies") / "data"
    with running(data, catalogue, environment=environment) as started:
        yield started


@pytest.mark.parametrize("is_chunked", [False, True])
def test_large_inputs_pass_in_little_memory(
    busy: System, is_chunked: bool, record_property: Any
) -> None:
    app = psutil.Process(busy.pid("app"))
    before_bytes = app.memory_info().rss
    peaks_bytes, has_ended = [before_bytes], threading.Event()
    body = bytes(TEN_MEGABYTES)

    def watch() -> None:
        while not has_ended.wait(0.01):
            peaks_bytes.append(app.memory_info().rss)

    def send(_: int) -> int:
        headers = {"content-type": "application/octet-stream", "prefer": "wait=20"}
        pieces = (body[at : at + 65536] for at in range(0, len(body), 65536))
        content = pieces if is_chunked else body
        return httpx.post(busy.url + JOBS, content=content, headers=headers, timeout=60).status_code

    # While the worker rests, the jobs wait: 16 bodies have 160 MB.
    with ThreadPoolExecutor(17) as pool:
        pool.submit(watch)
        with busy.paused("worker"):
            sent = [pool.submit(send, number) for number in range(16)]
            small = busy.submit("noop", b"x", prefer="respond-async")
            assert small.status_code == 202
        answers = [one.result() for one in sent]
        has_ended.set()
    assert answers == [200] * 16
    record_property("mebibytes", (before_bytes // MIB, max(peaks_bytes) // MIB))
    assert max(peaks_bytes) - before_bytes < BODY_MEMORY_BYTES


def test_endless_body_is_refused_at_the_limit(busy: System) -> None:
    # Curl sends what it reads from a pipe as a chunked body.
    command = 'head -c 1000000000 /dev/zero | curl -sS -T - -X POST -w "%{size_upload}" "$0"'
    answer = subprocess.run(
        ["sh", "-c", command, busy.url + JOBS], capture_output=True, text=True, check=False
    )
    assert '"code":"payload-too-large"' in answer.stdout
    assert int(answer.stdout.rpartition("}")[2]) < 100_000_000


def test_bodies_over_the_hosts_limit_stay_unread(busy: System) -> None:
    host = psutil.Process(busy.pid("functions"))
    before_bytes = host.memory_info().rss
    body = bytes(50_000_000)
    headers = {"content-type": "application/octet-stream"}
    peaks_bytes, has_ended = [before_bytes], threading.Event()

    def watch() -> None:
        while not has_ended.wait(0.01):
            peaks_bytes.append(host.memory_info().rss)

    def send(_: int) -> tuple[int, bytes]:
        answer = httpx.post(busy.url + JOBS, content=body, headers=headers, timeout=60)
        return answer.status_code, answer.content

    with ThreadPoolExecutor(9) as pool:
        pool.submit(watch)
        try:
            assert set(pool.map(send, range(8))) == {(500, b"")}
        finally:
            has_ended.set()
    assert max(peaks_bytes) - before_bytes < 50 * MIB
    assert busy.submit("noop", b"x").status_code == 200
