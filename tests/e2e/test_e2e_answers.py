"""Test jobs that succeed, submitted over REST and from the command line."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.system import System, run_loosely

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]


@pytest.mark.parametrize(
    ("picture", "labels"),
    [
        ("chelsea", {"Egyptian cat", "tiger cat", "tabby"}),
        ("coffee", {"espresso"}),
        ("camera", {"tripod"}),
    ],
)
def test_picture_is_classified_in_one_request(
    system: System, pictures: Path, picture: str, labels: set[str]
) -> None:
    answer = system.submit("classifier", (pictures / f"{picture}.jpg").read_bytes(), "image/jpeg")
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["status"] == "succeeded"
    top = job["result"]["labels"]
    assert top[0]["label"] in labels
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
