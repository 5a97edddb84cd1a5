"""Test that clients see what a model emits, over kills and restarts of everything."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loosely import Client, JobCancelled, JobEvent, Retry
from tests.e2e.system import System, run_loosely, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CATALOGUE = """
[teller]
description = "Emits texts when a test says so."
implementation = "tests.e2e.stream_model"
media_types = ["application/json", "text/plain"]
result_media_type = "text/plain"
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5
reports_progress = true
deadline_seconds = 600
"""
WORDS = ["The", " capital", " is", " Paris", "."]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("loosely") / "data", CATALOGUE) as started:
        yield started


class Reader:
    """Reads the stream of a job in a thread."""

    def __init__(self, url: str, folder: Path) -> None:
        task = json.dumps({"folder": str(folder), "chunks": WORDS}).encode()
        self.client = Client(url, retry=Retry(connect_seconds=60))
        self.stream = self.client.stream(task, "teller", media_type="text/plain")
        self.events: list[JobEvent] = []
        self.error: Exception | None = None
        self._folder = folder
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self.stream:
                self.events.append(event)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    @property
    def text(self) -> str:
        """What a consumer shows that drops its text at each new attempt."""
        last = max((n for n, each in enumerate(self.events) if each.kind == "attempt"), default=-1)
        return "".join(each.data for each in self.events[last + 1 :] if each.kind == "chunk")

    def release(self, *numbers: int) -> None:
        for number in numbers:
            (self._folder / f"chunk-{number}").touch()

    def wait_for(self, text: str) -> None:
        until(lambda: self.text == text or self.error, 60, f"the text is {text!r}")
        assert self.error is None

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.client.close()

    def check_order(self) -> None:
        keys = [tuple(map(int, each.id.split("-"))) for each in self.events if each.id]
        assert keys == sorted(set(keys))


def test_chunks_come_while_the_model_runs(system: System, tmp_path: Path) -> None:
    reader = Reader(system.url, tmp_path)
    for number in range(1, len(WORDS) + 1):
        reader.release(number)
        reader.wait_for("".join(WORDS[:number]))
    reader.end()
    assert reader.stream.result == "".join(WORDS)
    reader.check_order()
    assert reader.stream.job is not None
    with Client(system.url) as client:
        again = client.follow(reader.stream.job)
        assert list(again) == reader.events
        later = client.follow(reader.stream.job, after=reader.events[1].id)
        assert list(later) == reader.events[2:]
        steps = {step.name: step for step in client.timeline(reader.stream.job.id).steps}
        assert steps["first_chunk"].duration_ms > 0


def test_gateway_restart_interrupts_no_stream(system: System, tmp_path: Path) -> None:
    reader = Reader(system.url, tmp_path)
    reader.release(1)
    reader.wait_for("The")
    system.kill_and_wait("functions")
    reader.release(2, 3, 4, 5)
    reader.end()
    assert reader.error is None
    assert {each.kind for each in reader.events} <= {"chunk", "progress"}
    assert (reader.text, reader.stream.result) == ("".join(WORDS), "".join(WORDS))
    reader.check_order()


def test_another_attempt_begins_anew(system: System, tmp_path: Path) -> None:
    reader = Reader(system.url, tmp_path)
    reader.release(1, 2)
    reader.wait_for("The capital")
    system.kill_and_wait("worker")
    reader.release(3, 4, 5)
    reader.end()
    assert reader.error is None
    assert [each.attempt for each in reader.events if each.kind == "attempt"] == [2]
    assert (reader.text, reader.stream.result) == ("".join(WORDS), "".join(WORDS))
    reader.check_order()


@pytest.mark.thorough
def test_stream_survives_a_restart_of_everything(system: System, tmp_path: Path) -> None:
    reader = Reader(system.url, tmp_path)
    reader.release(1)
    reader.wait_for("The")
    for name in ("blobs", "servicebus", "functions", "worker"):
        system.kill_and_wait(name)
    reader.release(2, 3, 4, 5)
    reader.end()
    assert reader.error is None
    assert (reader.text, reader.stream.result) == ("".join(WORDS), "".join(WORDS))
    reader.check_order()


def test_cancelled_job_ends_its_stream(system: System, tmp_path: Path) -> None:
    reader = Reader(system.url, tmp_path)
    reader.release(1)
    reader.wait_for("The")
    assert reader.stream.job is not None
    with Client(system.url) as client:
        client.cancel(reader.stream.job.id)
    reader.end()
    assert isinstance(reader.error, JobCancelled)
    assert reader.text == "The"


def test_command_prints_the_text(system: System, tmp_path: Path) -> None:
    for number in range(1, len(WORDS) + 1):
        (tmp_path / f"chunk-{number}").touch()
    task = tmp_path / "task.txt"
    task.write_text(json.dumps({"folder": str(tmp_path), "chunks": WORDS}))
    arguments = ("submit", str(task), "-m", "teller", "--type", "text/plain", "--url", system.url)
    done = run_loosely(*arguments, "--stream")
    assert (done.returncode, done.stdout) == (0, "".join(WORDS) + "\n"), done.stderr
    lines = [
        json.loads(line)
        for line in run_loosely(*arguments, "--stream", "--json").stdout.splitlines()
    ]
    assert [each["data"] for each in lines if each.get("event") == "chunk"] == WORDS
    assert lines[-1]["result"] == "".join(WORDS)
