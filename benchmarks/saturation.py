"""`./dev bench worker`: the real worker at saturation beside a bare loop, run by run in turn.

Both take the same JPEGs through the same code in the same batches with the same number of threads;
the loop leaves out messages, locks and replies. The jobs lie on the queue beforehand, and the
worker's pace is told by its replies: from the start of the first batch to the end of the last.
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

from benchmarks.figures import Figure, report
from benchmarks.loop import Pace
from benchmarks.machine import Processors, process_seconds
from benchmarks.rig import ROOT, Rig, running
from contract.catalogue import Catalogue
from contract.messages import InlineBytes, JobError, JobReply

CATALOGUE = ROOT / "benchmarks" / "models.toml"
PICTURES = [ROOT / "examples" / name for name in ("chelsea.jpg", "coffee.jpg")]
RATIO_TARGET = 0.97
BUSY_TARGET = 0.95

_WARM_BATCHES = 8
# A run counts where other programs and other machines had less of the processors. On processors
# that are busy anyway the worker's own work beside the device would cost nothing.
_QUIET_SHARE = 0.08
_MOST_TRIES = 4
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its pace, the processor time of those that took part, what the machine did."""

    pace: Pace
    process_seconds: float
    broker_seconds: float
    machine: Processors

    @property
    def others_share(self) -> float:
        """The share of the processors that went to neither: other programs of this machine."""
        ours = self.process_seconds + self.broker_seconds
        return max(0.0, self.machine.used_seconds - ours) / self.machine.all_seconds

    def ms(self, seconds: float) -> float:
        """Milliseconds for one image."""
        return seconds / self.pace.images * 1000


@dataclass(frozen=True, slots=True)
class Round:
    """The worker between two runs of the loop."""

    before: Run
    worker: Run
    after: Run

    @property
    def ratio(self) -> float:
        """The worker's pace in that of the loop around it."""
        loop = (self.before.pace.per_second + self.after.pace.per_second) / 2
        return self.worker.pace.per_second / loop

    @property
    def is_quiet(self) -> bool:
        """Whether nobody else took much of the machine in any of the runs."""
        runs = (self.before, self.worker, self.after)
        return all(run.others_share + run.machine.stolen_share < _QUIET_SHARE for run in runs)

    def __str__(self) -> str:
        runs = (self.before, self.worker, self.after)
        rates = ", ".join(f"{run.pace.per_second:.1f}" for run in runs)
        others = max(run.others_share + run.machine.stolen_share for run in runs)
        return f"loop, worker, loop {rates} images/s: {self.ratio:.3f}; others {others:.0%}"


class BareLoop:
    """`benchmarks.loop` as a process."""

    def __init__(self, catalogue: Path, model: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loop", str(catalogue), model, *map(str, PICTURES)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def run(self, images: int) -> Run:
        before, used = Processors.now(), process_seconds(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{images}\n")
        self._process.stdin.flush()
        pace = Pace(**json.loads(self._read()))
        used = process_seconds(self._process.pid) - used
        return Run(pace, used, 0.0, Processors.now() - before)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the bare loop ended")
        return line


def worker_run(
    rig: Rig, model: str, images: int, seconds: float, expected_seconds: float = 0.0
) -> Run:
    """Let the worker empty a queue of so many jobs."""
    ids = rig.fill(
        model, [InlineBytes("image/jpeg", path.read_bytes()) for path in PICTURES], images
    )
    pids = rig.worker.process.pid, rig.broker.process.pid
    before, used = Processors.now(), [process_seconds(pid) for pid in pids]
    rig.wait_for(model, images, seconds, expected_seconds)
    worker, broker = (process_seconds(pid) - at for pid, at in zip(pids, used, strict=True))
    machine = Processors.now() - before
    return Run(pace_of(rig.replies(), ids), worker, broker, machine)


def pace_of(replies: Sequence[JobReply], ids: set[str]) -> Pace:
    """The pace that replies tell; RuntimeError where they are not one good one for each job."""
    failed = [reply.outcome for reply in replies if isinstance(reply.outcome, JobError)]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(ids)} jobs failed, the first with {failed[0]}")
    if len(replies) != len(ids) or {reply.job_id for reply in replies} != ids:
        raise RuntimeError(f"{len(replies)} replies to {len(ids)} jobs")
    # The jobs of one batch began together and took as long.
    batches = {(reply.started_at.timestamp(), reply.timing.inference_ms) for reply in replies}
    begin = min(started for started, _ in batches)
    end = max(started + took_ms / 1000 for started, took_ms in batches)
    return Pace(len(ids), end - begin, sum(took_ms for _, took_ms in batches) / 1000)


@contextmanager
def bare_loop(catalogue: Path, model: str) -> Iterator[BareLoop]:
    loop = BareLoop(catalogue, model)
    try:
        yield loop
    finally:
        loop.close()


def measure(catalogue: Path, model: str, rounds: int, seconds: float) -> list[Figure]:
    """Loop and worker in turn, until enough rounds were undisturbed."""
    batch_size = Catalogue.load(catalogue).model(model).max_batch_size
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder,
        bare_loop(catalogue, model) as loop,
        running(Path(folder), catalogue, model) as rig,
    ):
        with rig.at_rest():
            rate = loop.run(batch_size * _WARM_BATCHES).pace.per_second
        images = max(_WARM_BATCHES, round(rate * seconds / batch_size)) * batch_size
        worker_run(rig, model, batch_size * _WARM_BATCHES, _PATIENCE_SECONDS)
        found = list[Round]()
        while sum(each.is_quiet for each in found) < rounds and len(found) < rounds * _MOST_TRIES:
            with rig.at_rest():
                before = loop.run(images)
            worker = worker_run(rig, model, images, _PATIENCE_SECONDS, before.pace.seconds * 0.9)
            with rig.at_rest():
                found.append(Round(before, worker, loop.run(images)))
            sys.stderr.write(f"{model}: {found[-1]}\n")
    return figures(model, found)


def figures(model: str, rounds: Sequence[Round]) -> list[Figure]:
    """What the rounds come to: those that were quiet, or all where none was."""
    quiet = [each for each in rounds if each.is_quiet]
    counted = quiet or rounds
    workers = [each.worker for each in counted]
    loops = [loop for each in counted for loop in (each.before, each.after)]
    ratio, each_ratio = median(each.ratio for each in counted), [each.ratio for each in counted]
    busy = middle(workers, lambda run: run.pace.busy_share)
    return [
        Figure(
            f"{model}: worker beside bare loop",
            f"{middle(workers, lambda run: run.pace.per_second):.1f} of "
            f"{middle(loops, lambda run: run.pace.per_second):.1f} images/s: {ratio:.3f} "
            f"({', '.join(f'{value:.2f}' for value in sorted(each_ratio))})",
            f"{RATIO_TARGET} or more",
            ratio >= RATIO_TARGET,
        ),
        Figure(
            f"{model}: device busy, first to last job",
            f"{busy:.1%}; in the loop {middle(loops, lambda run: run.pace.busy_share):.1%}",
            f"{BUSY_TARGET:.0%} or more",
            busy >= BUSY_TARGET,
        ),
        Figure(
            f"{model}: time of an image on the device",
            f"worker {middle(workers, lambda run: run.pace.busy_ms):.1f} ms, "
            f"loop {middle(loops, lambda run: run.pace.busy_ms):.1f} ms",
        ),
        Figure(
            f"{model}: processor time of an image",
            f"worker {middle(workers, lambda run: run.ms(run.process_seconds)):.1f} ms "
            f"and broker {middle(workers, lambda run: run.ms(run.broker_seconds)):.1f} ms, "
            f"loop {middle(loops, lambda run: run.ms(run.process_seconds)):.1f} ms",
        ),
        Figure(
            f"{model}: the machine meanwhile",
            f"other programs {middle([*workers, *loops], lambda run: run.others_share):.0%}, "
            f"steal {middle([*workers, *loops], lambda run: run.machine.stolen_share):.1%}; "
            + (
                f"{len(quiet)} of {len(rounds)} rounds were quiet and count"
                if quiet
                else f"NONE of {len(rounds)} rounds was quiet: trust no figure here"
            ),
        ),
    ]


def middle(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    """The median of a figure."""
    return median(map(figure, runs))


def main(arguments: Sequence[str]) -> int:
    """Measure the models of a catalogue, and print one table."""
    parser = argparse.ArgumentParser(
        prog="./dev bench worker", description="The worker at saturation beside a bare loop."
    )
    parser.add_argument("models", nargs="*", help="all of the catalogue unless named")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE)
    parser.add_argument("--rounds", type=int, default=7, help="that count (default: 7)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run (default: 4)")
    options = parser.parse_args(arguments)
    found = [
        figure
        for model in options.models or Catalogue.load(options.catalogue)
        for figure in measure(options.catalogue, model, options.rounds, options.seconds)
    ]
    return report("The worker beside a bare loop, run in turn", found)
