"""Check the REST contract over HTTP against a whole system, and results of its models."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.contract_rows.batches import BATCHES
from tests.e2e.contract_rows.checking import check
from tests.e2e.contract_rows.jobs import JOBS
from tests.e2e.contract_rows.row import PICTURE, Row
from tests.e2e.contract_rows.submits import REFUSALS, SUBMITS, UPLOADS
from tests.e2e.contract_rows.surroundings import OTHERS, TENSORS
from tests.e2e.system import System, run_loosely

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

ONE_LINE = {"model": "noop", "items": [{"custom_id": "a", "input": {"text": "x"}}]}
TENSOR = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}


@pytest.fixture(scope="module")
def ids(system: System) -> dict[str, str]:
    failed = system.submit("classifier", PICTURE[:1000], "image/jpeg")
    return {
        "job": system.submit("noop", b"x").json()["id"],
        "failed": failed.json()["job"]["id"],
        "batch": system.http.post("/v1/batches", json=ONE_LINE).json()["id"],
        "unknown": "018f0000-0000-7000-8000-000000000000",
    }


@pytest.mark.parametrize(
    "row",
    [
        *(pytest.param(row, id=f"submit-{row.title}") for row in SUBMITS),
        *(pytest.param(row, id=f"refuse-{row.title}") for row in REFUSALS),
        *(pytest.param(row, id=f"upload-{row.title}") for row in UPLOADS),
        *(pytest.param(row, id=f"job-{row.title}") for row in JOBS),
        *(pytest.param(row, id=f"batch-{row.title}") for row in BATCHES),
        *(pytest.param(row, id=f"other-{row.title}") for row in OTHERS),
        *(pytest.param(row, id=f"tensor-{row.title}") for row in TENSORS),
    ],
)
def test_each_request_gets_the_documented_response(
    system: System, ids: dict[str, str], row: Row
) -> None:
    path = row.path.format(**ids)
    check(row, system.http.request(row.method, path, content=row.body, headers=dict(row.sent)))


def test_each_path_of_the_root_document_exists(system: System) -> None:
    for path in system.http.get("/").json().values():
        if str(path).startswith("/"):
            assert system.http.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/models/noop/jobs", {"input": {"json": 1}}, 200),
        ("/v1/uploads", {"model": "noop", "media_type": "text/plain"}, 201),
        ("/v2/models/noop/infer", TENSOR, 200),
    ],
)
def test_body_without_content_length_is_accepted(
    system: System, path: str, body: dict[str, Any], status: int
) -> None:
    pieces = iter([json.dumps(body).encode()])
    answer = system.http.post(path, content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text


def test_picture_is_classified_in_one_request(system: System, pictures: Path) -> None:
    answer = system.submit("classifier", (pictures / "chelsea.jpg").read_bytes(), "image/jpeg")
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["status"] == "succeeded"
    top = job["result"]["labels"]
    assert top[0]["label"] in {"Egyptian cat", "tiger cat", "tabby"}
    assert len(top) == 5
    assert [entry["score"] for entry in top] == sorted((e["score"] for e in top), reverse=True)
    assert job["error"] is None
    assert job["timing"]["inference_ms"] > 0
    assert system.job(job["id"]) == job


@pytest.mark.parametrize("size_bytes", [1, 64 * 1024, 64 * 1024 + 1, 1_000_000, 4_000_000])
def test_payload_of_any_size_arrives_unchanged(system: System, size_bytes: int) -> None:
    data = bytes(index % 251 for index in range(1000)) * (size_bytes // 1000 + 1)
    data = data[:size_bytes]
    job = system.submit("noop", data).json()
    assert job["status"] == "succeeded", job
    assert job["result"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_command_prints_results_and_error_codes(system: System, pictures: Path) -> None:
    def loosely(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_loosely(*arguments, "--url", system.url)

    shown = loosely("submit", str(pictures / "coffee.jpg"), "--model", "classifier")
    assert shown.returncode == 0, shown.stderr
    assert "espresso" in shown.stdout
    exact = loosely("submit", str(pictures / "coffee.jpg"), "--model", "classifier", "--json")
    job = json.loads(exact.stdout)
    assert job["result"]["labels"][0]["label"] == "espresso"
    assert "succeeded" in loosely("status", job["id"]).stdout
    assert "espresso" in loosely("result", job["id"]).stdout
    refused = loosely("submit", str(pictures / "coffee.jpg"), "--model", "clasifier")
    assert refused.returncode == 1
    assert "unknown-model" in refused.stderr + refused.stdout


def test_voice_model_finds_speech(system: System, pictures: Path) -> None:
    for media_type in ("audio/wav", "audio/x-wav", "application/octet-stream"):
        data = (pictures / "speech.wav").read_bytes()
        job = system.submit("voice-activity", data, media_type).json()
        (segment,) = job["result"]["speech"]
        assert 0.1 < segment["start_seconds"] < 0.3
        assert 0.6 < segment["end_seconds"] < 0.9
