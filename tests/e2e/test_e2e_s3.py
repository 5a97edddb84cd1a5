"""Test whole jobs whose payloads, logs and outcomes are in S3: moto's server, with each broker.

`loosely up` has no option for it: gateway and worker read the settings of its environment.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loosely import Client
from tests.conformance.objects.object_servers import BUCKET, CREDENTIALS, running_s3
from tests.e2e.catalogues import LARGE_MODELS
from tests.e2e.system import System, broker_options, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

STREAMING = """
[teller]
description = "Emits texts."
implementation = "tests.e2e.stream_model"
media_types = ["application/json", "text/plain"]
result_media_type = "text/plain"
max_batch_size = 1
max_wait_ms = 0
reports_progress = true
"""
CATALOGUE = LARGE_MODELS + STREAMING
LARGE = bytes(range(256)) * 20_000
RESULT_CHARACTERS = 5_000_000


OTHER_BROKERS = [
    pytest.param(broker, marks=pytest.mark.thorough) for broker in ("redis", "servicebus")
]


@pytest.fixture(scope="module", params=["rabbitmq", *OTHER_BROKERS])
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    options = () if request.param == "servicebus" else broker_options(request.param)
    data = tmp_path_factory.mktemp("s3") / "data"
    with running_s3() as store:
        environment = {
            "OBJECT_STORE_URL": f"s3://{store.bucket}",
            "OBJECT_STORE_ENDPOINT": str(store.url),
            **CREDENTIALS,
        }
        with running(data, CATALOGUE, environment=environment, options=options) as started:
            yield started


def digest_of(content: bytes) -> dict[str, object]:
    return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def check_upload(system: System, content: bytes) -> None:
    asked = {"model": "noop", "media_type": "application/octet-stream"}
    slot = system.http.post("/v1/uploads", json=asked).json()
    store = httpx.URL(slot["url"])
    assert store.path.startswith(f"/{BUCKET}/")
    sent = httpx.put(store, content=content, headers=slot["headers"], timeout=60)
    assert sent.is_success, sent.text
    answer = system.http.post(
        "/v1/models/noop/jobs",
        json={"input": {"upload": slot["upload"]}},
        headers={"prefer": "wait=30"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"] == digest_of(content)


def test_inputs_of_all_sizes_reach_the_worker(system: System) -> None:
    assert system.submit("noop", b"small").json()["result"] == digest_of(b"small")
    body = LARGE[:500_000]
    answer = system.submit("noop", body, prefer="wait=30")
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"] == digest_of(body)
    check_upload(system, LARGE)


def test_large_result_is_fetched_by_a_link(system: System) -> None:
    size = str(RESULT_CHARACTERS).encode()
    job = system.submit("big", size, "text/plain", prefer="wait=30").json()
    assert (job["status"], job["result"]) == ("succeeded", None)
    answer = system.http.get(job["links"]["result"])
    assert answer.status_code == 303
    result = httpx.get(answer.headers["location"], timeout=60)
    assert result.headers["content-type"] == "application/json"
    assert len(result.json()["text"]) == RESULT_CHARACTERS


def test_stream_and_outcomes_outlive_killed_processes(system: System, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"chunk-{number}").touch()
    task = f'{{"folder": "{tmp_path}", "chunks": ["a", "b"]}}'.encode()
    with Client(system.url) as client:
        events = list(client.stream(task, "teller", media_type="text/plain"))
    assert "".join(each.data for each in events if each.kind == "chunk") == "ab"
    jobs = [system.accept("noop", b"before %d" % number) for number in range(10)]
    system.kill("worker")
    system.kill("app")
    for number, job_id in enumerate(jobs):
        job = system.final(job_id)
        assert (job["status"], job["result"]) == ("succeeded", digest_of(b"before %d" % number))
    until(system.is_up, 30, "all components are ready")


def test_local_blob_storage_has_no_payload(system: System) -> None:
    body = LARGE[:500_000]
    assert system.submit("noop", body, prefer="wait=30").status_code == 200
    sizes = [path.stat().st_size for path in (system.data / "blobs").rglob("*") if path.is_file()]
    assert max(sizes, default=0) < len(body)
