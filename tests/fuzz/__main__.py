"""Send malformed frames and requests to the emulator (`./dev fuzz`).

    ./dev fuzz emulators --count 200000 --seed 7

Half of the input consists of AMQP frames: frames of each performative with changed fields or bytes,
malformed messages, requests to `$management`, and random bytes. The other half consists of HTTP
requests to the management API of Service Bus, the Blob service, the Functions host and the
management API of Durable Functions. After every 1000 frames and requests, each service must answer
a valid request within 30 s. The command runs for at least the time `--observe`, by default four
minutes, so that it can measure whether the memory and the open files of the processes grow.

The exit code is 0 if no log contains an unhandled exception, each service answered all valid
requests, and neither memory nor open files grew. Otherwise it is 1.
"""

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import Mapping

import psutil

from fuzz_tests.campaign import FuzzResult, run_fuzz
from lab.storm.footprint import MIB, MIN_WARM_UP_SECONDS, Footprint
from lab.storm.run import print_line

# The soak uses the same limits.
_MAX_GROWTH_BYTES, _MAX_FILES_GROWTH = 2.0 * MIB, 1.0
_OBSERVED_SECONDS = 240.0


class _Observer:
    """Measures the memory and the open files of the services' processes and child processes."""

    def __init__(self, seconds: float) -> None:
        self.footprint = Footprint()
        self._seconds = seconds

    def sample(self, seconds: float, pids: Mapping[str, int]) -> None:
        """Record the current memory and open files of each service and of its child processes.

        `seconds` is the time since the start of the fuzz test. `pids` contains the process id of
        each service, by the service's name.
        """
        processes: dict[str, list[psutil.Process]] = {}
        for name, pid in pids.items():
            process = psutil.Process(pid)
            processes[name] = [process]
            if children := process.children():
                processes[f"child of {name}"] = children
        self.footprint.sample(seconds, processes)

    def is_complete(self, seconds: float) -> bool:
        """Return whether `seconds`, the time since the start, is enough for the measurement."""
        return seconds >= self._seconds

    def report(self) -> list[str]:
        """Print how fast the memory and the open files of each process grow.

        Return a sentence for each process that grows faster than permitted.
        """
        growing = []
        for role in self.footprint.roles(MIN_WARM_UP_SECONDS):
            memory, files = role.memory, role.files
            if memory is None or files is None:
                print_line(
                    f"{role.role}: peak {role.peak_bytes / MIB:.0f} MiB, growth not measured"
                )
                continue
            text = (
                f"{role.role}: peak {role.peak_bytes / MIB:.0f} MiB, memory "
                f"{memory.per_minute / MIB:+.2f} ± {memory.error_per_minute / MIB:.2f} MiB a "
                f"minute, open files {files.per_minute:+.2f} a minute"
            )
            print_line(text)
            if memory.grows(_MAX_GROWTH_BYTES) or files.grows(_MAX_FILES_GROWTH):
                growing.append(f"memory or open files grow: {text}")
        return growing


def _print(result: FuzzResult) -> None:
    for name, count in result.sent.items():
        answers = ", ".join(
            f"{key.rpartition(': ')[2]} {number}"
            for key, number in sorted(result.statuses.items())
            if key.startswith(f"{name}: ")
        )
        print_line(f"{name:<28} {count:>7}  {answers}".rstrip())
    print_line(f"longest valid use of a service: {result.longest_seconds:.2f} s")


def main(arguments: list[str]) -> int:
    """Send malformed input, print a report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description="Send malformed input.")
    parser.add_argument("target", choices=["emulators"], help="what the input is sent to")
    parser.add_argument("--count", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument(
        "--observe",
        type=float,
        default=_OBSERVED_SECONDS,
        metavar="SECONDS",
        help="continue for at least this time, to measure the memory (default: %(default)g)",
    )
    given = parser.parse_args(arguments)
    logging.getLogger("azure").addHandler(logging.NullHandler())
    begun_at = time.monotonic()
    observer = _Observer(given.observe)
    result = asyncio.run(run_fuzz(given.count, given.seed, observer.sample, observer.is_complete))
    _print(result)
    violations = [*result.violations, *observer.report()]
    for text in violations:
        print_line(f"violation: {text}")
    seconds = time.monotonic() - begun_at
    print_line(f"seed {given.seed}, {seconds:.0f} s, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
