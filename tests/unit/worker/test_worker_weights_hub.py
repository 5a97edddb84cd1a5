"""Test weights from the Hugging Face Hub, with an HTTP server on loopback in place of the Hub."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from contract.catalogue import Catalogue, ModelEntry
from contract.guard import AddressGuard
from contract.weights import hub_blob
from tests.hub_server import COMMIT, FakeHub, respond, run_hub
from tests.unit.worker.managed_models import until
from worker.errors import WeightsMismatch, WeightsMissing, WeightsUnavailable, WorkerError
from worker.objects.port import BlobReader
from worker.settings import HubSettings
from worker.weights.cache import Download
from worker.weights.hub import Hub
from worker.weights.store import WeightsStore

NOOP = Catalogue.load()["noop"]
DATA = b"0123456789" * 100_000
TOKEN = "hf_ThisMustStaySecret"
Serve = Callable[[BaseHTTPRequestHandler, bytes], None] | None


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with run_hub() as hub:
        yield hub


@pytest.fixture
def model(server: FakeHub) -> ModelEntry:
    return model_of(server.add("acme/net", "a.bin", DATA))


def answer_all(server: FakeHub, status: int, headers: dict[str, str]) -> None:
    """Answer each request to the fake Hub with this status and these headers."""

    def answer(hub: FakeHub, handler: BaseHTTPRequestHandler) -> bool:
        respond(handler, status, headers)
        return True

    server.answer = answer


def begin_response(handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class CopiedBlobs(BlobReader):
    """Blob storage to which a deployment has copied files from the Hugging Face Hub."""

    def __init__(self, *files: bytes) -> None:
        self.files = {hub_blob(sha256(data)): data for data in files}

    def read(self, container: str, blob: str) -> Download:
        if container != "weights" or blob not in self.files:
            raise WeightsMissing(f"blob:{container}/{blob}: this blob does not exist")
        return Download(iter([self.files[blob]]))


def make_hub(server: FakeHub, token: str = "", allowed: str = "127.0.0.1") -> Hub:
    return Hub(HubSettings(server.endpoint, token), AddressGuard(allowed))


def make_store(server: FakeHub, cache: Path, token: str = "") -> WeightsStore:
    return WeightsStore(cache, CopiedBlobs(), make_hub(server, token))


def model_of(weights: str, data: bytes = DATA) -> ModelEntry:
    return replace(NOOP, weights=weights, weights_sha256=sha256(data))


def load(store: WeightsStore, model: ModelEntry) -> bytes:
    weights = store.get(model)
    assert weights is not None
    return weights.path.read_bytes()


def error_of(kind: type[WorkerError], store: WeightsStore, model: ModelEntry) -> str:
    with pytest.raises(kind) as raised:
        store.get(model)
    return str(raised.value)


def test_download_happens_once_and_follows_the_redirect(server: FakeHub, tmp_path: Path) -> None:
    model = model_of(server.add("acme/tiny-net", "onnx/a ü#?.bin", DATA))
    assert load(make_store(server, tmp_path), model) == DATA
    assert load(make_store(server, tmp_path), model) == DATA
    [request] = server.hub_requests
    assert request.path == f"/acme/tiny-net/resolve/{COMMIT}/onnx/a%20%C3%BC%23%3F.bin"
    assert os.listdir(tmp_path) == [sha256(DATA)]  # noqa: PTH208  hidden files, too


def test_token_goes_to_the_hub_only(
    server: FakeHub, model: ModelEntry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.token = TOKEN
    with caplog.at_level(logging.INFO):
        assert load(make_store(server, tmp_path, TOKEN), model) == DATA
    assert server.hub_requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    [stored] = server.storage_requests
    assert "authorization" not in {name.lower() for name in stored.headers}
    assert TOKEN not in f"{caplog.text}{HubSettings(server.endpoint, TOKEN)!r}"
    assert "fetched 1000000 bytes" in caplog.text


def test_token_is_sent_again_within_the_hub(server: FakeHub, tmp_path: Path) -> None:
    def rename(hub: FakeHub, handler: BaseHTTPRequestHandler) -> bool:
        if not handler.path.startswith("/old/"):
            return False
        respond(handler, 307, {"Location": handler.path.replace("/old/", "/acme/")})
        return True

    server.answer, server.token = rename, TOKEN
    server.add("acme/net", "a.bin", DATA)
    model = model_of(f"hf:old/net@{COMMIT}/a.bin")
    assert load(make_store(server, tmp_path, TOKEN), model) == DATA


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://169.254.169.254/a", "is not on the public internet"),
        ("http://example.org/a", "must begin with https://"),
        ("https://user:password@example.org/a", "must not have a user name"),
        ("ftp://example.org/a", "must begin with https://"),
        ("http://[", "redirects to an invalid URL"),
        ("https://example.org:99999/a", "redirects to an invalid URL"),
    ],
)
def test_redirect_to_a_forbidden_address_is_refused(
    server: FakeHub, model: ModelEntry, tmp_path: Path, location: str, said: str
) -> None:
    answer_all(server, 302, {"Location": location})
    store = WeightsStore(tmp_path, CopiedBlobs(), make_hub(server, allowed=""))
    assert said in error_of(WeightsUnavailable, store, model)


def test_endless_redirects_fail(server: FakeHub, model: ModelEntry, tmp_path: Path) -> None:
    answer_all(server, 302, {"Location": "/again"})
    said = error_of(WeightsUnavailable, make_store(server, tmp_path), model)
    assert "redirects more than 5 times" in said
    assert len(server.hub_requests) == 6


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "EntryNotFound", "does not exist (status 404, EntryNotFound)"),
        (401, "RepoNotFound", "needs a token, but HF_TOKEN is not set (status 401"),
        (403, "GatedRepo", "cannot be read with HF_TOKEN (status 403"),
        (429, "", "has answered with status 429; expected 200"),
        (503, "a\x7f", "has answered with status 503; expected 200"),
        (206, "", "has answered with status 206; expected 200"),
    ],
)
def test_unexpected_response_is_shown_with_its_status(
    server: FakeHub, tmp_path: Path, status: int, code: str, said: str
) -> None:
    model = model_of(server.add("acme/net", "a.bin", DATA))
    answer_all(server, status, {"X-Error-Code": code} if code else {})
    kind = WeightsMissing if status in {401, 403, 404} else WeightsUnavailable
    store = make_store(server, tmp_path, TOKEN if status == 403 else "")
    found = error_of(kind, store, model)
    assert said in found
    assert found.startswith(f"hf:acme/net@{COMMIT}/a.bin: ")
    assert TOKEN not in found
    assert list(tmp_path.iterdir()) == []


def test_interrupted_download_leaves_no_file(
    server: FakeHub, model: ModelEntry, tmp_path: Path
) -> None:
    def break_off(handler: BaseHTTPRequestHandler, data: bytes) -> None:
        begin_response(handler, {"Content-Length": str(len(data))})
        handler.wfile.write(data[:-1])

    server.serve = break_off
    said = error_of(WeightsUnavailable, make_store(server, tmp_path), model)
    assert "the download was interrupted: RemoteProtocolError" in said
    assert list(tmp_path.iterdir()) == []
    server.serve = None
    assert load(make_store(server, tmp_path), model) == DATA


def test_unreachable_hub_is_named(tmp_path: Path) -> None:
    with run_hub() as server:
        model = model_of(server.add("acme/net", "a.bin", DATA))
    said = error_of(WeightsUnavailable, make_store(server, tmp_path), model)
    assert f"{server.endpoint} cannot be reached: ConnectError" in said


def test_too_slow_download_fails(server: FakeHub, model: ModelEntry, tmp_path: Path) -> None:
    seconds = iter(range(0, 10_000, 30))
    hub = Hub(HubSettings(server.endpoint), AddressGuard("127.0.0.1"), lambda: next(seconds))
    said = error_of(WeightsUnavailable, WeightsStore(tmp_path, CopiedBlobs(), hub), model)
    assert "the download is too slow" in said
    assert list(tmp_path.iterdir()) == []


def serve_without_size(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    begin_response(handler, {"Connection": "close"})
    handler.wfile.write(data)


@pytest.mark.parametrize(
    ("serve", "limit_bytes", "said"),
    [(None, 999_999, "at least 1000000 bytes"), (serve_without_size, 500_000, "at least ")],
)
def test_file_beyond_the_free_space_is_not_kept(
    server: FakeHub, tmp_path: Path, serve: Serve, limit_bytes: int, said: str
) -> None:
    model, server.serve = model_of(server.add("acme/net", "a.bin", DATA)), serve
    store = WeightsStore(tmp_path, CopiedBlobs(), make_hub(server), limit_bytes)
    found = error_of(WeightsUnavailable, store, model)
    assert said in found
    assert f"has space for only {limit_bytes} bytes: delete files there" in found
    assert "raise WORKER_WEIGHTS_CACHE_SIZE" in found
    assert list(tmp_path.iterdir()) == []
    store = WeightsStore(tmp_path, CopiedBlobs(), make_hub(server), cache_limit_bytes=1_000_000)
    assert load(store, model) == DATA


def test_least_recently_used_weights_make_space(server: FakeHub, tmp_path: Path) -> None:
    def fetch(number: int) -> Path:
        data = bytes([number]) * 300_000
        model = model_of(server.add("acme/net", f"{number}.bin", data), data)
        store = WeightsStore(tmp_path, CopiedBlobs(), make_hub(server), 1_000_000)
        weights = store.get(model)
        assert weights is not None
        return weights.path

    first, second, third = fetch(1), fetch(2), fetch(3)
    with pytest.raises(WeightsUnavailable, match="has space for only 100000 bytes"):
        fetch(4)
    for file, hours in ((first, 3), (second, 4), (third, 0)):
        os.utime(file, (time.time() - hours * 3600 - 1,) * 2)
    fetch(1)  # used again
    fourth = fetch(4)
    assert {each.name for each in tmp_path.iterdir()} == {first.name, third.name, fourth.name}


def test_offline_worker_reads_blob_storage_only(
    server: FakeHub, model: ModelEntry, tmp_path: Path
) -> None:
    assert load(WeightsStore(tmp_path, CopiedBlobs(DATA)), model) == DATA
    assert server.hub_requests == []
    missing = model_of(model.weights, b"other")
    said = error_of(WeightsMissing, WeightsStore(tmp_path, CopiedBlobs(DATA)), missing)
    assert "HF_HUB_OFFLINE is set" in said
    assert f"weights/sha256/{sha256(b'other')}: run infra/scripts/fetch-weights.sh" in said


@pytest.mark.parametrize("data", [DATA, b""])
def test_digest_is_that_of_the_downloaded_bytes(
    server: FakeHub, tmp_path: Path, data: bytes
) -> None:
    location = server.add("acme/net", "a.bin", data)
    assert make_store(server, tmp_path).compute_digest(location) == sha256(data)
    assert load(make_store(server, tmp_path), model_of(location, data)) == data
    assert len(server.storage_requests) == 1


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from contract.catalogue import Catalogue
from contract.guard import AddressGuard
from worker.settings import HubSettings
from worker.weights.hub import Hub
from worker.weights.store import WeightsStore
endpoint, cache, weights, sha256 = sys.argv[1:]
hub = Hub(HubSettings(endpoint), AddressGuard("127.0.0.1"))
model = replace(Catalogue.load()["noop"], weights=weights, weights_sha256=sha256)
print(WeightsStore(Path(cache), None, hub).get(model).path.stat().st_size)
"""


class Gate:
    """A server's handler that sends half of each file, and the rest when `opened` is set."""

    def __init__(self) -> None:
        self.has_sent_half = threading.Semaphore(0)
        self.opened = threading.Event()

    def serve(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        begin_response(handler, {"Content-Length": str(len(data))})
        handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        self.has_sent_half.release()
        self.opened.wait(60)
        handler.wfile.write(data[len(data) // 2 :])


def start_process(server: FakeHub, cache: Path, model: ModelEntry) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", PROGRAM, server.endpoint, str(cache)),
            *(model.weights, model.weights_sha256),
        ],
        env={**os.environ, "PYTHONPATH": "functions:."},
        stdout=subprocess.PIPE,
        text=True,
    )


def has_waiting_lock(process: subprocess.Popen[str]) -> bool:
    """Return whether the process waits for a file lock that another process holds."""
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("->" in line and f" {process.pid} " in line for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/locks")
@pytest.mark.parametrize("is_killed", [False, True])
def test_second_worker_waits_for_the_first_download(
    server: FakeHub, model: ModelEntry, tmp_path: Path, *, is_killed: bool
) -> None:
    gate = Gate()
    server.serve = gate.serve
    with start_process(server, tmp_path, model) as first:
        assert gate.has_sent_half.acquire(timeout=30)
        with start_process(server, tmp_path, model) as second:
            until(lambda: has_waiting_lock(second), seconds=30)
            if is_killed:
                first.send_signal(signal.SIGKILL)
            else:
                gate.opened.set()
            first_output = first.communicate(timeout=30)[0]
            gate.opened.set()
            second_output = second.communicate(timeout=30)[0]
    assert second_output == "1000000\n"
    assert first_output == ("" if is_killed else "1000000\n")
    assert len(server.storage_requests) == (2 if is_killed else 1)
    files = [each for each in tmp_path.iterdir() if each.suffix != ".part"]
    assert [each.name for each in files] == [sha256(DATA)]


def test_relative_path_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "a.bin").write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    store = WeightsStore(tmp_path / "cache", CopiedBlobs())
    assert load(store, model_of("file:nets/a.bin")) == DATA
    assert load(store, replace(model_of("file:nets/a.bin"), weights_sha256="")) == DATA
    assert "the SHA-256 digest is" in error_of(
        WeightsMismatch, store, model_of("file:nets/a.bin", b"other")
    )
    said = error_of(WeightsMissing, store, model_of("file:nets/b.bin"))
    assert said.startswith(f"file:nets/b.bin: there is no file {tmp_path}/nets/b.bin: check")
    assert not (tmp_path / "cache").exists()
