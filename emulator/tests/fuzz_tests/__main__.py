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

from fuzz_tests.campaign import FuzzResult, run_fuzz
from fuzz_tests.growth import Observer

_OBSERVED_SECONDS = 240.0


def _print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _print(result: FuzzResult) -> None:
    for name, count in result.sent.items():
        answers = ", ".join(
            f"{key.rpartition(': ')[2]} {number}"
            for key, number in sorted(result.statuses.items())
            if key.startswith(f"{name}: ")
        )
        _print_line(f"{name:<28} {count:>7}  {answers}".rstrip())
    _print_line(f"longest valid use of a service: {result.longest_seconds:.2f} s")


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
    observer = Observer(given.observe)
    result = asyncio.run(run_fuzz(given.count, given.seed, observer.sample, observer.is_complete))
    _print(result)
    lines, growing = observer.report()
    violations = [*result.violations, *growing]
    for text in (*lines, *(f"violation: {each}" for each in violations)):
        _print_line(text)
    seconds = time.monotonic() - begun_at
    _print_line(f"seed {given.seed}, {seconds:.0f} s, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
