"""`./dev conformance [NAME]`: the long suites, by foreign tests, servers and clients, and by kills.

blobs       the blob tests on our server and on Azurite, which npm installs
emulator    the wheel of emulator/, alone in a new environment, with its own tests
rest        the REST API with unmodified clients of its standards, and Schemathesis at length
servicebus  the azure-servicebus package's own live tests on our Service Bus
worker      kill -9 of the worker at random moments under load, 20 times
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
EMULATOR_TESTS = ROOT / "emulator" / "tests"


def blobs(arguments: list[str]) -> int:
    """Run the same tests on both servers."""
    with tempfile.TemporaryDirectory(prefix="loosely-azurite-") as folder:
        run("-m", "blobs_tests.sdk.blob_servers", folder)
        return run(
            "-m", "pytest", "emulator/tests/blobs_tests/sdk", "--azurite", folder, *arguments
        )


def emulator(arguments: list[str]) -> int:
    """Build and install the emulator's wheel on its own, and run its tests on it."""
    return run("-m", "tests.conformance.emulator_wheel", *arguments)


def rest(arguments: list[str]) -> int:
    """Run foreign clients and a fuzzer on a whole system."""
    return run("-m", "tests.conformance.rest.suite", *arguments)


def servicebus(arguments: list[str]) -> int:
    """Run Microsoft's tests on our server."""
    return run("-m", "servicebus_tests.sdk.upstream.run", *arguments)


def worker(arguments: list[str]) -> int:
    """Kill workers of a whole system."""
    return run("-m", "tests.e2e.worker_kills", *arguments)


SUITES = {
    "blobs": blobs,
    "emulator": emulator,
    "rest": rest,
    "servicebus": servicebus,
    "worker": worker,
}


def run(*arguments: str) -> int:
    """Run this interpreter from the root of the repository; return its exit status."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(EMULATOR_TESTS), *([inherited] if inherited else [])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    ).returncode


def main(arguments: list[str]) -> int:
    """Run the named suite, or all of them."""
    if not arguments:
        return max(suite([]) for suite in SUITES.values())
    name, *rest = arguments
    if name not in SUITES:
        sys.stderr.write(f"there is no suite {name!r}; there are {', '.join(SUITES)}\n")
        return 2
    return SUITES[name](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
