"""The smoke test for a live deployment, run against a local one: its own checks are right."""

import re
from pathlib import Path

import pytest

from tests.e2e.system import ROOT, System, until
from tests.infra import fake_cloud
from tests.infra.scripted import Place, place_in

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEY = "lsy_a-key-that-this-gateway-does-not-ask-for"


def place_of(system: System, tmp_path: Path, **values: str) -> Place:
    """The script among stand-ins that name this system; its worker is the pod that is killed."""
    # Nobody listens there: what needs the queue's own HTTP API is left out.
    place = place_in(
        ROOT, tmp_path / "bin", API_URL=system.url, SERVICE_BUS_HOST="127.0.0.1:9", **values
    )
    (tmp_path / "pod").write_text(str(system.part("worker").pid), encoding="utf-8")
    place.change(pod=str(tmp_path / "pod"))
    return place


def test_a_system_that_works_passes(system: System, tmp_path: Path) -> None:
    place = place_of(system, tmp_path)
    before = system.part("worker").pid
    ended = place.run("smoke-test.sh", LOOSELY_API_KEY=KEY, JOBS="6")
    assert ended.returncode == 0, ended.stderr
    told = re.findall(r"passed: (.*)", ended.stderr)
    assert len(told) == 4, ended.stderr
    assert "'label'" in told[2]
    assert told[3].startswith("6 of 6 answered")
    assert "left out: dead letter" in ended.stderr
    until(lambda: system.part("worker").pid != before, 60, "the worker was killed")
    until(lambda: system.part("worker").ready, 60, "the next one is ready")
    assert KEY not in str(fake_cloud.calls(place.bin))


def test_a_system_that_does_not_fails(system: System, tmp_path: Path) -> None:
    place = place_of(system, tmp_path, WORKER_HOST="aca")
    ended = place.run("smoke-test.sh", LOOSELY_API_KEY=KEY, MODEL="nowhere")
    assert ended.returncode == 1
    assert "the first job ended as nothing" in ended.stderr
    assert "2 checks failed" in ended.stderr


def test_it_wants_a_key(tmp_path: Path) -> None:
    ended = place_in(ROOT, tmp_path / "bin").run("smoke-test.sh")
    assert ended.returncode != 0
    assert "keys.sh has shown" in ended.stderr
