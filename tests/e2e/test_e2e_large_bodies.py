"""Test that hostile request bodies do not delay other callers' jobs, and use limited memory."""

import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MIB = 1024**2
JSON = "application/json"
FORM = "multipart/form-data; boundary=b"
JOBS, INFER = "/v1/models/noop/jobs", "/v2/models/noop/infer"
TEN_MEGABYTES = 10_000_000
EXTRA_SECONDS = 2.0
"""How many seconds longer a small job may take during an attack than without an attack."""

ATTACKERS = 3
BODY_MEMORY_BYTES = 64 * MIB


def repeat(unit: bytes) -> bytes:
    return unit * (TEN_MEGABYTES // len(unit))


def in_envelope(value: bytes) -> bytes:
    return b'{"input": {"json": ' + value + b"}}"


FORM_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
FLOATS = b"[" + b"1.2345678901234567," * 290_000 + b"0]"
TENSOR = b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [290001], "data": '
ATTACKS: dict[str, tuple[str, str, bytes, int]] = {
    "brackets": (JOBS, JSON, in_envelope(b"[" + repeat(b"[],") + b"[]]"), 400),
    "numbers": (JOBS, JSON, in_envelope(b"[" + repeat(b"0,") + b"0]"), 400),
    "strings": (JOBS, JSON, in_envelope(b"[" + repeat(b'"",') + b'""]'), 400),
    "nesting": (JOBS, JSON, in_envelope(repeat(b"[")), 400),
    "long numbers": (JOBS, JSON, in_envelope(b"[" + repeat(b"9" * 4299 + b",") + b"0]"), 400),
    "floats": (JOBS, JSON, in_envelope(FLOATS), 200),
    "markers": (JOBS, "image/jpeg", b"\xff\xd8" + repeat(b"\xff\xd0"), 200),
    "form": (JOBS, FORM, FORM_HEAD + b"\r\n" + repeat(b"\r\n--") + b"\r\n--b--", 200),
    "tensor": (INFER, JSON, TENSOR + FLOATS + b"}]}", 200),
}


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


@dataclass
class SmallJobWaits:
    """The waits of a caller that submits small jobs, and the HTTP statuses of its responses."""

    seconds: list[float] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)


@contextmanager
def calling(system: System, jobs: int = 0) -> Iterator[SmallJobWaits]:
    """Submit small jobs one after another, from a thread, during the `with` block."""
    waits, has_ended = SmallJobWaits(), threading.Event()

    def call() -> None:
        with httpx.Client(base_url=system.url, timeout=60) as http:
            while not has_ended.is_set() or len(waits.seconds) < jobs:
                begin = time.monotonic()
                answer = http.post(JOBS, content=b"x", headers={"content-type": "text/plain"})
                waits.seconds.append(time.monotonic() - begin)
                waits.statuses.add(answer.status_code)

    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(call)
        try:
            yield waits
        finally:
            has_ended.set()
            called.result()


@pytest.fixture(scope="module")
def usual_seconds(busy: System) -> float:
    """Return the longest wait for a small job, in seconds, while nobody sends other requests."""
    with calling(busy, jobs=40) as waits:
        pass
    return max(waits.seconds)


@pytest.mark.parametrize("name", ATTACKS)
def test_small_jobs_are_in_time_during_an_attack(
    busy: System, usual_seconds: float, name: str, record_property: Any
) -> None:
    path, media_type, body, status = ATTACKS[name]

    def attack(_: int) -> int:
        headers = {"content-type": media_type}
        return httpx.post(busy.url + path, content=body, headers=headers, timeout=60).status_code

    with calling(busy) as waits, ThreadPoolExecutor(ATTACKERS) as pool:
        answered = list(pool.map(attack, range(ATTACKERS)))
    assert set(answered) == {status}
    assert waits.statuses == {200}
    record_property("longest_seconds", (usual_seconds, max(waits.seconds)))
    assert max(waits.seconds) < usual_seconds + EXTRA_SECONDS


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
    command = 'head -c 1000000000 /dev/zero | curl -sS -T - -X POST -w "%{time_total}" "$0"'
    answer = subprocess.run(
        ["sh", "-c", command, busy.url + JOBS], capture_output=True, text=True, check=False
    )
    assert '"code":"payload-too-large"' in answer.stdout
    assert float(answer.stdout.rpartition("}")[2]) < 5


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
