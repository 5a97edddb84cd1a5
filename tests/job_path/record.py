"""Record the path of a job: which of our modules run, in the order in which they are entered.

`./dev path` prints the path. A test checks that the reading tour in DESIGN.md names the same
modules.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import loads
from pathlib import Path

from tests.e2e.system import System, running, until

HOOK = Path(__file__).parent / "hook"
JOBS = 3
"""How many jobs are recorded. A module counts only if every recorded job runs through it."""

_WITHIN_SECONDS = 20.0
# On a slow machine, a probe of the worker falls into the time of each job.
_NOT_OF_A_JOB = frozenset({"worker.telemetry.health", "worker.telemetry.health_server"})
# The worker waits for a second job. Otherwise the number of modules would depend on the speed of
# the machine: a request that waits for long enough reads the log of ends.
_CATALOGUE = """
[noop]
description = "Waits for a second job."
implementation = "worker.models.noop"
media_types = ["application/octet-stream"]
max_batch_size = 2
max_wait_ms = 200
"""


@dataclass(frozen=True)
class JobPath:
    """The modules of the gateway and of the worker that run during a job of the model `noop`.

    The modules are in the order in which a function of each module is first called.
    """

    gateway: tuple[str, ...]
    worker: tuple[str, ...]


def record_path() -> JobPath:
    """Run several jobs, one by one, on a new system. Return the modules that run in all jobs."""
    with tempfile.TemporaryDirectory(prefix="loosely-path-") as name:
        folder = Path(name)
        paths = [str(HOOK), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "JOB_PATH_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join(paths),
            "WORKER_MODELS": "noop",
            # On a slow machine, a heartbeat would fall into the time of each recorded job.
            "WORKER_HEARTBEAT_SECONDS": "0",
        }
        with running(folder / "data", _CATALOGUE, environment=environment) as system:
            _submit(system)
            recorded = [_record(system, folder) for _ in range(JOBS)]
    first, *others = recorded
    return JobPath(
        gateway=_common(first.gateway, [path.gateway for path in others]),
        worker=_common(first.worker, [path.worker for path in others]),
    )


def _record(system: System, folder: Path) -> JobPath:
    with _recording(folder, count=2):
        _submit(system)
    found: dict[str, tuple[str, ...]] = {}
    for path in folder.glob("*.json"):
        entered = loads(path.read_text(encoding="utf-8"))
        modules = tuple(name for name in entered if name not in _NOT_OF_A_JOB)
        path.unlink()
        side = "worker" if any(name.startswith("worker") for name in modules) else "gateway"
        if modules:
            found[side] = modules
    return JobPath(found["gateway"], found["worker"])


@contextmanager
def _recording(folder: Path, count: int) -> Iterator[None]:
    """Record which modules run in the gateway and in the worker during the `with` block.

    `count` is the number of processes that record. The block is entered when all of them record. At
    the end of the block, wait until each process has written its modules to a file in `folder`.
    """
    recording = folder / "recording"
    recording.touch()
    until(
        lambda: len(list(folder.glob("*.ready"))) >= count, _WITHIN_SECONDS, "all processes record"
    )
    yield
    recording.unlink()
    until(
        lambda: len(list(folder.glob("*.json"))) >= count,
        _WITHIN_SECONDS,
        "all processes have written their files",
    )
    for path in folder.glob("*.ready"):
        path.unlink()


def _submit(system: System) -> None:
    """Submit a job, and wait until it succeeds, its queue is empty and its orchestration ends."""
    answer = system.submit("noop", b"a tiny body")
    assert answer.status_code == 200, answer.text
    system.wait_until_empty()
    instance = f"/runtime/webhooks/durabletask/instances/{answer.json()['id']}"
    until(
        lambda: system.http.get(instance).json()["runtimeStatus"] == "Completed",
        _WITHIN_SECONDS,
        "the orchestration has ended",
    )


def _common(first: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for name in first if all(name in other for other in others))


def main() -> int:
    """Record and print the path of a job."""
    path = record_path()
    for side, modules in (("gateway", path.gateway), ("worker", path.worker)):
        sys.stdout.write(f"{side}: {len(modules)} modules\n")
        sys.stdout.writelines(f"  {number:2} {name}\n" for number, name in enumerate(modules, 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
