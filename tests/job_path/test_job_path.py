"""Test that the reading tour in DESIGN.md names the modules that run during a job."""

import re
from pathlib import Path

import pytest

from tests.job_path.record import JobPath, record_path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

DESIGN = Path(__file__).parents[2] / "DESIGN.md"
MOST_GATEWAY_MODULES = 35
MOST_WORKER_MODULES = 18
WORKER_STEPS = ["receive", "prepare", "infer", "reply"]


@pytest.fixture(scope="module")
def path() -> JobPath:
    return record_path()


def read_tour(heading: str) -> list[str]:
    """Return the modules in the table below `heading` in DESIGN.md, in the order of the table."""
    section = DESIGN.read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n#")[0]
    return re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)


def test_number_of_modules_stays_within_limits(path: JobPath) -> None:
    assert len(path.gateway) <= MOST_GATEWAY_MODULES, path.gateway
    assert len(path.worker) <= MOST_WORKER_MODULES, path.worker


def test_modules_run_in_the_order_of_the_steps(path: JobPath) -> None:
    entered = [name.removeprefix("worker.pipeline.") for name in path.worker]
    assert [name for name in entered if name in WORKER_STEPS] == WORKER_STEPS


def test_tour_in_design_md_names_these_modules(path: JobPath) -> None:
    assert set(read_tour("The gateway's side")) == set(path.gateway)
    assert set(read_tour("The worker's side")) == set(path.worker)
