"""Test that jobs with small inputs are not delayed by large inputs or slow downloads."""

import io
import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psutil
import pytest
from PIL import Image

from contract.catalogue import Catalogue
from infra.manifests import make_container
from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.torch, pytest.mark.timeout(240)]

MODEL = """
[{name}]
uses_gpu = false
description = "For tests."
implementation = "tests.e2e.{name}_model"
media_types = {media_types}
max_input_bytes = 10_485_760
max_upload_bytes = 134_217_728
max_pixels = 50_000_000
deadline_seconds = 120
max_batch_size = 4
max_wait_ms = 0
"""
SIDE = 7071
_log = logging.getLogger(__name__)
ADDED_SECONDS = 2.0
GIB = 1024**3


def large_png() -> bytes:
    """Return a PNG file of about 0.2 MB with 7071 x 7071 transparent pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    rows = zlib.compressobj(9)
    line = bytes(SIDE * 4 + 1)
    pixels = b"".join(rows.compress(line) for _ in range(SIDE)) + rows.flush()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg_with_scans(picture: Image.Image, count: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", progressive=True)
    whole = data.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def wav(rate: int, bits: int, size_bytes: int) -> bytes:
    frame = bits // 8
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * frame, frame, bits)
    body = struct.pack("<4sI", b"data", size_bytes) + bytes(size_bytes)
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(body)) + b"WAVE" + head + body


def png(side: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (side, side)).save(data, "PNG")
    return data.getvalue()


SMALL_PICTURE = png(300)
SMALL_SOUND = wav(16_000, 16, 16_000)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    data = tmp_path_factory.mktemp("inputs") / "data"
    catalogue = MODEL.format(
        name="picture", media_types='["image/png", "image/jpeg"]'
    ) + MODEL.format(name="sound", media_types='["audio/wav"]')
    environment = {
        "GUARD_ALLOW": "127.0.0.0/8",
        "ACCEPT_WHEN_SATURATED": "true",
        "URL_INPUT_RATE": "32/3600",
    }
    with running(data, catalogue, environment=environment) as started:
        yield started


class SmallJobCaller:
    """A caller that submits small jobs one after another, and measures how long each job takes."""

    def __init__(self, system: System, model: str, data: bytes, media_type: str) -> None:
        self._send = partial(system.submit, model, data, media_type, prefer="wait=60")
        self._system = system
        self.peak_bytes = 0

    def longest_seconds(self, until: Callable[[], bool], least: int) -> float:
        longest, count = 0.0, 0
        while count < least or not until():
            started = time.monotonic()
            answer = self._send()
            longest = max(longest, time.monotonic() - started)
            assert answer.status_code == 200, answer.text
            self.peak_bytes = max(self.peak_bytes, worker_memory_bytes(self._system))
            count += 1
        return longest


def worker_memory_bytes(system: System) -> int:
    worker = psutil.Process(system.pid("worker"))
    total = 0
    for process in (worker, *worker.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def memory_limit_bytes() -> int:
    model = Catalogue.load().model("noop")
    limit: str = make_container(model, 60)["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    return int(limit.removesuffix("Gi")) * GIB


def upload(system: System, data: bytes, media_type: str) -> str:
    asked = {"model": "sound", "media_type": media_type}
    slot = system.http.post("/v1/uploads", json=asked).json()
    answer = httpx.put(slot["url"], content=data, headers=slot["headers"], timeout=60)
    assert answer.status_code == 201, answer.text
    return str(slot["upload"])


def statuses_of_attack(
    system: System, small_jobs: SmallJobCaller, attack: Sequence[Callable[[], httpx.Response]]
) -> list[int]:
    """Send all requests of `attack` at once, and return the statuses of their responses."""
    alone = small_jobs.longest_seconds(lambda: True, 10)
    with ThreadPoolExecutor(len(attack)) as threads:
        sent = [threads.submit(request) for request in attack]
        beside = small_jobs.longest_seconds(lambda: all(each.done() for each in sent), 10)
    _log.info(
        "longest wait alone %.2f s, beside the attack %.2f s; peak %.0f MiB",
        *(alone, beside, small_jobs.peak_bytes / 2**20),
    )
    assert beside < alone + ADDED_SECONDS
    assert small_jobs.peak_bytes < memory_limit_bytes()
    return [each.result().status_code for each in sent]


def test_large_pictures_do_not_delay_small_ones(system: System) -> None:
    data = large_png()
    small_jobs = SmallJobCaller(system, "picture", SMALL_PICTURE, "image/png")
    attack = [partial(system.submit, "picture", data, "image/png", prefer="wait=120")] * 8
    assert statuses_of_attack(system, small_jobs, attack) == [200] * 8


def test_scans_of_jpegs_do_not_delay_small_pictures(system: System) -> None:
    many = jpeg_with_scans(Image.new("RGB", (2000, 2000)), 20_000)
    slow = jpeg_with_scans(Image.effect_noise((2000, 2000), 90).convert("RGB"), 80)
    small_jobs = SmallJobCaller(system, "picture", SMALL_PICTURE, "image/png")
    attack = [
        partial(system.submit, "picture", data, "image/jpeg", prefer="wait=120")
        for data in (many, many, many, slow, slow, slow)
    ]
    statuses = statuses_of_attack(system, small_jobs, attack)
    assert statuses[:3] == [422] * 3


def test_long_recordings_do_not_delay_short_ones(system: System) -> None:
    large = [wav(48_000, 16, 58_000_000)] * 3 + [wav(384_000, 8, 134_000_000)]
    uploads = [upload(system, data, "audio/wav") for data in large]
    small_jobs = SmallJobCaller(system, "sound", SMALL_SOUND, "audio/wav")
    attack = [
        partial(
            system.http.post, f"/v1/models/sound/jobs?upload={sent}", headers={"prefer": "wait=120"}
        )
        for sent in uploads
    ]
    assert statuses_of_attack(system, small_jobs, attack) == [200] * 4


class SilentServer:
    """A server that accepts connections but never sends a response."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/picture.png"
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                self._connections.append(self._listening.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()


def test_slow_servers_do_not_delay_small_pictures(system: System) -> None:
    server = SilentServer()
    small_jobs = SmallJobCaller(system, "picture", SMALL_PICTURE, "image/png")
    alone = small_jobs.longest_seconds(lambda: True, 10)
    submit = partial(
        system.http.post,
        "/v1/models/picture/jobs",
        json={"input": {"url": server.url}},
        headers={"prefer": "respond-async"},
    )
    answers = [submit() for _ in range(32)]
    assert {answer.status_code for answer in answers} == {202}
    refused = submit()
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
    assert int(refused.headers["retry-after"]) > 0
    beside = small_jobs.longest_seconds(lambda: server.connection_count == 32, 30)
    _log.info("longest wait alone %.2f s, beside the attack %.2f s", alone, beside)
    assert beside < alone + ADDED_SECONDS
    server.close()
    ids = [answer.json()["id"] for answer in answers]
    assert {system.final(job_id)["status"] for job_id in ids} == {"failed"}


def test_worker_survives_all_hostile_inputs(system: System) -> None:
    """Check that the hostile inputs of the previous tests have not killed the worker."""
    assert system.submit("picture", SMALL_PICTURE, "image/png", prefer="wait=60").status_code == 200
    assert "was killed" not in system.output()
