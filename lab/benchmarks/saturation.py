"""Compare a busy worker with a bare loop that runs the same model (`./dev bench worker`).

The bare loop is a process that runs only the model, without messages, locks or replies. The worker
and the loop run alternately. Both process the same JPEGs with the same code, the same batch size
and the same number of threads. The worker is suspended until all jobs of a run are in the queue.
The worker's throughput is computed from the times in its replies: from the start of the first batch
to the end of the last batch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from contract.catalogue import Catalogue
from contract.messages import InlineBytes, JobError, JobReply
from lab.benchmarks.figures import Figure, print_report
from lab.benchmarks.loop import LoopThroughput
from lab.benchmarks.machine import Processors, process_seconds
from lab.benchmarks.rig import ROOT, WorkerRig, run_rig
from worker.tools.check_load import measure_batches

CATALOGUE = ROOT / "lab" / "benchmarks" / "models.toml"
PICTURES = [ROOT / "examples" / name for name in ("chelsea.jpg", "coffee.jpg")]
RATIO_TARGET = 0.97
BUSY_TARGET = 0.95

_WARM_BATCHES = 8
# A run counts only if other programs and machines used less than this share of the processors. On
# busy processors the worker's overhead would not be visible.
_QUIET_SHARE = 0.08
_MAX_TRIES = 4
_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class SaturationRun:
    """The throughput and the processor times of one run of the worker or of the bare loop.

    `process_seconds` is the processor time of the worker or of the loop. `broker_seconds` is the
    processor time of the Service Bus emulator. `machine` contains the processor times of the whole
    machine.
    """

    throughput: LoopThroughput
    process_seconds: float
    broker_seconds: float
    machine: Processors

    @property
    def others_share(self) -> float:
        """The fraction of the machine's processor time that other programs used, from 0 to 1."""
        ours = self.process_seconds + self.broker_seconds
        return max(0.0, self.machine.used_seconds - ours) / self.machine.all_seconds

    def per_image_ms(self, seconds: float) -> float:
        """Convert the processor time `seconds` of this run to milliseconds per processed image."""
        return seconds / self.throughput.images * 1000


@dataclass(frozen=True, slots=True)
class Round:
    """A run of the worker, and the runs of the bare loop before and after it.

    The bare loop is a process that runs only the model, without messages.
    """

    before: SaturationRun
    worker: SaturationRun
    after: SaturationRun

    @property
    def ratio(self) -> float:
        """The worker's throughput divided by the mean throughput of the two bare loops."""
        loop = (self.before.throughput.per_second + self.after.throughput.per_second) / 2
        return self.worker.throughput.per_second / loop

    @property
    def is_quiet(self) -> bool:
        """Whether other programs and machines used little processor time during all three runs."""
        runs = (self.before, self.worker, self.after)
        return all(run.others_share + run.machine.stolen_share < _QUIET_SHARE for run in runs)

    def __str__(self) -> str:
        runs = (self.before, self.worker, self.after)
        rates = ", ".join(f"{run.throughput.per_second:.1f}" for run in runs)
        others = max(run.others_share + run.machine.stolen_share for run in runs)
        return f"loop, worker, loop {rates} images/s: {self.ratio:.3f}; others {others:.0%}"


class BareLoop:
    """A process that runs the program `lab.benchmarks.loop`: only the model, without messages."""

    def __init__(self, catalogue: Path, model: str) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "lab.benchmarks.loop",
                str(catalogue),
                model,
                *map(str, PICTURES),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def run(self, images: int) -> SaturationRun:
        before, used = Processors.now(), process_seconds(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{images}\n")
        self._process.stdin.flush()
        throughput = LoopThroughput(**json.loads(self._read()))
        used = process_seconds(self._process.pid) - used
        return SaturationRun(throughput, used, 0.0, Processors.now() - before)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                "the process of the module lab.benchmarks.loop ended unexpectedly with exit code "
                f"{self._process.wait()}"
            )
        return line


def worker_run(
    rig: WorkerRig, model: str, images: int, seconds: float, expected_seconds: float = 0.0
) -> SaturationRun:
    """Send `images` jobs to the model's queue, and wait until all have replies.

    Return the throughput, and the processor times of worker, broker and machine. The replies are
    first checked after the expected time, because earlier checks would disturb the measurement.
    """
    ids = rig.fill(
        model, [InlineBytes("image/jpeg", path.read_bytes()) for path in PICTURES], images
    )
    pids = rig.worker.process.pid, rig.broker.process.pid
    before, used = Processors.now(), [process_seconds(pid) for pid in pids]
    rig.wait_for_replies(model, images, seconds, expected_seconds)
    worker, broker = (process_seconds(pid) - at for pid, at in zip(pids, used, strict=True))
    machine = Processors.now() - before
    return SaturationRun(measure_replies(rig.take_replies(), ids), worker, broker, machine)


def measure_replies(replies: Sequence[JobReply], ids: set[str]) -> LoopThroughput:
    """Compute the worker's throughput from the times in its replies.

    `ids` contains the ids of all jobs that were sent.

    Raises:
        RuntimeError: if a job failed, or does not have exactly one reply.
    """
    failed = [reply.outcome for reply in replies if isinstance(reply.outcome, JobError)]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(ids)} jobs failed; first error: {failed[0]}")
    if len(replies) != len(ids) or {reply.job_id for reply in replies} != ids:
        raise RuntimeError(
            f"expected one reply to each job, found {len(replies)} replies to {len(ids)} jobs"
        )
    found = measure_batches(replies)
    return LoopThroughput(found.items, found.seconds, found.busy_seconds)


@contextmanager
def bare_loop(catalogue: Path, model: str) -> Iterator[BareLoop]:
    loop = BareLoop(catalogue, model)
    try:
        yield loop
    finally:
        loop.close()


def measure(catalogue: Path, model: str, rounds: int, seconds: float) -> list[Figure]:
    """Compare a worker with a bare loop, both with the same model. Return the rows of the report.

    A bare loop is a process that runs only the model. A round runs the loop, the worker, and the
    loop again. The function ends after `rounds` quiet rounds, in which other programs used little
    processor time, and at the latest after `rounds * _MAX_TRIES` rounds. Each run processes as many
    images as the loop processes in about `seconds`. `catalogue` is the file that contains the
    settings of the model.
    """
    batch_size = Catalogue.load(catalogue).model(model).max_batch_size
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder,
        bare_loop(catalogue, model) as loop,
        run_rig(Path(folder), catalogue, model) as rig,
    ):
        with rig.paused():
            rate = loop.run(batch_size * _WARM_BATCHES).throughput.per_second
        images = max(_WARM_BATCHES, round(rate * seconds / batch_size)) * batch_size
        worker_run(rig, model, batch_size * _WARM_BATCHES, _TIMEOUT_SECONDS)
        found = list[Round]()
        while sum(each.is_quiet for each in found) < rounds and len(found) < rounds * _MAX_TRIES:
            with rig.paused():
                before = loop.run(images)
            worker = worker_run(
                rig, model, images, _TIMEOUT_SECONDS, before.throughput.seconds * 0.9
            )
            with rig.paused():
                found.append(Round(before, worker, loop.run(images)))
            sys.stderr.write(f"{model}: {found[-1]}\n")
    return make_figures(model, found)


def make_figures(model: str, rounds: Sequence[Round]) -> list[Figure]:
    """Compute the rows of the report from the rounds that other programs did not disturb.

    If other programs disturbed all rounds, compute the rows from all rounds.
    """
    quiet = [each for each in rounds if each.is_quiet]
    counted = quiet or rounds
    workers = [each.worker for each in counted]
    loops = [loop for each in counted for loop in (each.before, each.after)]
    ratio, each_ratio = median(each.ratio for each in counted), [each.ratio for each in counted]
    busy = median_of(workers, lambda run: run.throughput.busy_share)
    loop_busy = median_of(loops, lambda run: run.throughput.busy_share)
    worker_ms = median_of(workers, lambda run: run.per_image_ms(run.process_seconds))
    broker_ms = median_of(workers, lambda run: run.per_image_ms(run.broker_seconds))
    loop_ms = median_of(loops, lambda run: run.per_image_ms(run.process_seconds))
    return [
        Figure(
            f"{model}: worker compared with bare loop",
            f"{median_of(workers, lambda run: run.throughput.per_second):.1f} of "
            f"{median_of(loops, lambda run: run.throughput.per_second):.1f} images/s: {ratio:.3f} "
            f"({', '.join(f'{value:.2f}' for value in sorted(each_ratio))})",
            f"{RATIO_TARGET} or more",
            ratio >= RATIO_TARGET,
        ),
        Figure(
            f"{model}: device busy, first to last job",
            f"{busy:.1%}; in the loop {loop_busy:.1%}",
            f"{BUSY_TARGET:.0%} or more",
            busy >= BUSY_TARGET,
        ),
        Figure(
            f"{model}: time per image on the device",
            f"worker {median_of(workers, lambda run: run.throughput.busy_ms):.1f} ms, "
            f"loop {median_of(loops, lambda run: run.throughput.busy_ms):.1f} ms",
        ),
        Figure(
            f"{model}: processor time per image",
            f"worker {worker_ms:.1f} ms and broker {broker_ms:.1f} ms, loop {loop_ms:.1f} ms",
        ),
        Figure(
            f"{model}: the machine during the runs",
            f"other programs {median_of([*workers, *loops], lambda run: run.others_share):.0%}, "
            f"steal {median_of([*workers, *loops], lambda run: run.machine.stolen_share):.1%}; "
            + (
                f"{len(quiet)} of {len(rounds)} rounds were quiet and are included"
                if quiet
                else f"0 of {len(rounds)} rounds were quiet: do not trust these figures"
            ),
        ),
    ]


def median_of(runs: Sequence[SaturationRun], figure: Callable[[SaturationRun], float]) -> float:
    """Call `figure` for each run, and return the median of the returned values."""
    return median(map(figure, runs))


def main(arguments: Sequence[str]) -> int:
    """Compare a worker with a bare loop for each requested model, and print the report.

    Return 1 if a target was missed, otherwise 0.
    """
    parser = argparse.ArgumentParser(
        prog="./dev bench worker", description="Compare the worker at saturation with a bare loop."
    )
    parser.add_argument(
        "models", nargs="*", help="models to measure (default: all models of the catalogue)"
    )
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE)
    parser.add_argument("--rounds", type=int, default=7, help="quiet rounds per model (default: 7)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="length of one run in seconds (default: 4)"
    )
    options = parser.parse_args(arguments)
    found = [
        figure
        for model in options.models or Catalogue.load(options.catalogue)
        for figure in measure(options.catalogue, model, options.rounds, options.seconds)
    ]
    return print_report("The worker compared with a bare loop, run in turn", found)
