"""Kill the gateway while it runs a batch: each line is in the output once, in order."""

import contextlib
from pathlib import Path

import httpx
import pytest

from gateway.batches.ids import line_id
from tests.batch_calls import (
    batch_of,
    create_batch,
    encode_lines,
    read_output,
    upload,
    wait_for_batch,
)
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LINES = 700


def count_ended(system: System, batch_id: str) -> int:
    """Return how many lines have ended; 0 while the gateway does not answer."""
    with contextlib.suppress(httpx.HTTPError, RuntimeError):
        return int(batch_of(system.http, batch_id)["counts"]["succeeded"])
    return 0


def kill_gateway(system: System, batch_id: str) -> None:
    """Kill the gateway, and wait until more lines have ended."""
    ended = count_ended(system, batch_id)
    system.kill("functions")
    until(
        lambda: count_ended(system, batch_id) > ended or ended >= LINES - 1,
        150,  # a step of a killed host of azure-storage runs again after 60 s
        "more lines have ended",
    )


@pytest.mark.parametrize(
    ("engine", "kills"),
    [("local", 3), pytest.param("azure-storage", 1, marks=pytest.mark.thorough)],
)
def test_each_line_ends_once(engine: str, kills: int, tmp_path: Path) -> None:
    with running(tmp_path / "data", options=("--engine", engine)) as system:
        names = [f"line {number}" for number in range(1, LINES + 1)]
        lines = ({"custom_id": name, "input": {"json": name}} for name in names)
        file = {"upload": upload(system.http, encode_lines(lines))}
        batch_id = create_batch(system.http, "noop", file=file)
        until(lambda: count_ended(system, batch_id), 60, "the first lines have ended")
        cancelled = line_id(batch_id, LINES)
        assert system.http.delete(f"/v1/jobs/{cancelled}").status_code == 202
        for _ in range(kills):
            kill_gateway(system, batch_id)
        until(system.is_up, 60, "the gateway is up")
        batch = wait_for_batch(system.http, batch_id, 120)
        results = list(read_output(system.http, batch_id, "results"))
        (error,) = read_output(system.http, batch_id, "errors")
        assert [line["custom_id"] for line in results] == names[:-1]
        assert (error["custom_id"], error["status"]) == (names[-1], "cancelled")
        assert (batch["counts"]["succeeded"], batch["counts"]["cancelled"]) == (LINES - 1, 1)
