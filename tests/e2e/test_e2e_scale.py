"""Test that `loosely up --scale` starts and stops workers as the number of messages changes."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from loosely.local.data_directory import RunningSystem
from tests.e2e.catalogues import COUNTING
from tests.e2e.system import System, until

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

SCALE = ("--scale", "0:4", "--scale-target", "5", "--scale-poll", "0.5", "--scale-cooldown", "3")


class WorkerMonitor:
    """Polls the number of running workers, and stores the highest number in `most`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._stop = threading.Event()
        self.most = 0

    def now(self) -> list[str]:
        running = RunningSystem.read(self._system.data)
        assert running is not None
        return [name for name in running.parts if name.startswith("worker-")]

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            self.most = max(self.most, len(self.now()))

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("scale") / "data", COUNTING, options=SCALE)
    try:
        yield system.start()
    finally:
        system.stop()


def accept(system: System, file: Path, milliseconds: int) -> str:
    data = f"{file} {milliseconds} {milliseconds}".encode()
    return system.accept("counting", data, "text/plain")


def test_zero_to_four_workers_and_back(scaled: System, tmp_path: Path) -> None:
    workers = WorkerMonitor(scaled)
    assert workers.now() == []
    with workers.watched():
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda n: accept(scaled, tmp_path / "ran", 50 + n), range(100)))
        assert {scaled.final(job_id)["status"] for job_id in ids} == {"succeeded"}
        until(lambda: workers.now() == [], 30, "all workers have stopped")
    assert workers.most == 4
    # Each job ran once, so every worker finished the running job before the worker stopped.
    ran = (tmp_path / "ran").read_text("utf-8").split()
    assert sorted(ran) == sorted(str(50 + n) for n in range(100))
    output = scaled.output()
    assert "killed after" not in output
    sizes = [int(size) for size in re.findall(r"  worker +\d+ → (\d+)", output)]
    assert sizes[0] == 1
    assert max(sizes) == 4
    assert sizes[-1] == 0
