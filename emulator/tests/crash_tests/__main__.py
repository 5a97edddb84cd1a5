"""Kill each service of the emulator at random moments under load (`./dev crash`).

    ./dev crash
    ./dev crash servicebus --kills 40 --seed 7

servicebus  the Service Bus emulator, under the load of azure-servicebus
functions   the Functions host, with a durable app
blobs       the Blob emulator, under the load of azure-storage-blob
javascript  Service Bus and blobs, under the load of Microsoft's SDKs for JavaScript; needs Node.js

A service is killed with SIGKILL and started again on the same data. Afterwards, the stored data is
compared with everything that the service has acknowledged. The seed determines the load and the
pauses between the kills. The exact times of the kills depend on the machine.

The exit code is 0 if all acknowledged operations are in the stored data, otherwise 1.
"""

import argparse
import asyncio
import logging
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from crash_tests.blobs_crash import run_blobs_crash
from crash_tests.crash_report import CrashOptions, CrashReport, print_crash_report
from crash_tests.functions_crash import run_functions_crash
from crash_tests.javascript_crash import run_javascript_crash
from crash_tests.servicebus_crash import run_servicebus_crash

CRASH_TESTS: dict[str, Callable[[CrashOptions], Coroutine[Any, Any, CrashReport]]] = {
    "servicebus": run_servicebus_crash,
    "functions": run_functions_crash,
    "blobs": run_blobs_crash,
    "javascript": run_javascript_crash,
}


def main(arguments: list[str]) -> int:
    """Run the crash tests in `arguments`, or all if there are none. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="./dev crash",
        description="Kill each service of the emulator at random moments under load.",
    )
    parser.add_argument(
        "service", nargs="*", metavar="SERVICE", help=f"{', '.join(CRASH_TESTS)} (default: all)"
    )
    parser.add_argument(
        "--kills", type=int, default=40, help="kills of each service (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument(
        "--engine",
        choices=["local", "azure-storage"],
        default="local",
        help="the durable engine of the Functions host (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.service if name not in CRASH_TESTS]:
        parser.error(f"unknown service {unknown[0]}: choose from {', '.join(CRASH_TESTS)}")
    # The SDKs log each failed attempt to reach a service that is down.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    options = CrashOptions(given.kills, given.seed, given.engine)
    is_good = True
    for name in given.service or CRASH_TESTS:
        report = asyncio.run(CRASH_TESTS[name](options))
        print_crash_report(report)
        is_good = is_good and not report.violations
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
