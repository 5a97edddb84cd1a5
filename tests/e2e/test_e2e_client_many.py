"""Kill the gateway and the client while many inputs run: each input gets exactly one result."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loosely import Client, Retry
from tests.e2e.system import ROOT, System, run_loosely, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

COUNT = 600


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    data = tmp_path_factory.mktemp("many") / "data"
    with running(data, environment={"WORKER_MODELS": "noop"}) as started:
        yield started


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_map_survives_a_kill_of_the_gateway(fragile: System) -> None:
    found: dict[int, str] = {}
    with Client(fragile.url, retry=Retry(total_seconds=120)) as client:
        inputs = (str(number).encode() for number in range(COUNT))
        for outcome in client.map("noop", inputs, media_type="text/plain"):
            assert outcome.index not in found
            found[outcome.index] = outcome.result["sha256"]
            if len(found) == 50:
                fragile.kill("functions")
    assert found == {number: digest(str(number)) for number in range(COUNT)}


def test_batch_command_goes_on_after_kills(fragile: System, tmp_path: Path) -> None:
    lines = [{"custom_id": f"c{n}", "input": {"text": f"line {n}"}} for n in range(2 * COUNT)]
    (tmp_path / "lines.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    out = tmp_path / "out.jsonl"
    command = ("batch", "submit", "lines.jsonl", "-m", "noop", "--out", str(out))
    with subprocess.Popen(
        [sys.executable, "-m", "loosely", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LOOSELY_URL": fragile.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stderr is not None
        batch_id = killed.stderr.readline().split()[1]
        until(lambda: out.exists() and out.stat().st_size, 60, "the first results are written")
        fragile.kill("functions")
        killed.kill()
    # As if the client had been killed while it wrote a line.
    with out.open("r+b") as file:
        file.truncate(out.stat().st_size - 10)
    done = run_loosely(*("batch", "results", batch_id, "--out", str(out)), LOOSELY_URL=fragile.url)
    assert done.returncode == 0, done.stderr
    assert f"{2 * COUNT} in all, {2 * COUNT} succeeded" in done.stdout
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["custom_id"] for line in found] == [line["custom_id"] for line in lines]
    assert [line["result"]["sha256"] for line in found] == [
        digest(f"line {n}") for n in range(2 * COUNT)
    ]
