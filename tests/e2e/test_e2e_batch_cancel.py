"""Cancel a batch while it runs: nothing starts two seconds later, and what has ended is there."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch_calls import create_batch, encode_lines, read_output, upload, wait_for_batch
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LINES = 1000
MODEL_MS = 20
STARTS_FOR_SECONDS = 2.0
"""How long after the cancellation lines may still start."""

CATALOGUE = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
max_batch_size = 4
lock_seconds = 30
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("cancel") / "data", CATALOGUE) as started:
        yield started


def started(ran: Path) -> list[str]:
    return ran.read_text("utf-8").split() if ran.exists() else []


def test_cancelled_batch_stops_and_keeps_its_results(system: System, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    lines = (
        {"custom_id": f"line-{number}", "input": {"text": f"{ran} {number} {MODEL_MS}"}}
        for number in range(LINES)
    )
    file = {"upload": upload(system.http, encode_lines(lines))}
    batch_id = create_batch(system.http, "counting", file=file)
    until(lambda: len(started(ran)) > 100, 60, "a hundred lines have started")
    answer = system.http.delete(f"/v1/batches/{batch_id}")
    assert answer.status_code in {200, 202}, answer.text
    time.sleep(STARTS_FOR_SECONDS)
    count = len(started(ran))
    batch = wait_for_batch(system.http, batch_id, 60)
    system.wait_until_empty()
    time.sleep(1.0)
    ended = len(started(ran))
    assert ended == count < LINES, f"{ended - count} lines started after two seconds"
    assert batch["status"] == "cancelled"
    results = list(read_output(system.http, batch_id, "results"))
    errors = list(read_output(system.http, batch_id, "errors"))
    numbers = [int(line["custom_id"].removeprefix("line-")) for line in results]
    others = [int(line["custom_id"].removeprefix("line-")) for line in errors]
    assert (numbers, others) == (sorted(numbers), sorted(others))
    assert sorted(numbers + others) == list(range(LINES))
    assert {line["status"] for line in errors} == {"cancelled"}
    assert {str(number) for number in numbers} <= set(started(ran))
    # What the worker had in hand at the cancellation may have no result.
    assert ended - len(numbers) <= 100
    counts = batch["counts"]
    assert (counts["succeeded"], counts["cancelled"]) == (len(numbers), len(others))
