"""Run the long test suites: `./dev conformance [NAME]`.

blobs       the Blob tests on our emulator and on Azurite, which npm installs
emulator    the tests of emulator/ on its wheel, which is installed alone in a new environment
javascript  @azure/service-bus and @azure/storage-blob, which npm installs, on our emulators
rest        the REST API with unmodified third-party clients, and with the fuzzer Schemathesis
servicebus  the live tests of the package azure-servicebus on our emulator
versions    each minor version of the package azure-servicebus since 7.8 on our emulator
worker      a worker that is killed 20 times with kill -9 at random times under load
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
EMULATOR_TESTS = ROOT / "emulator" / "tests"


def blobs(arguments: list[str]) -> int:
    """Run the Blob tests on our emulator and on Azurite. Return the exit status."""
    with tempfile.TemporaryDirectory(prefix="loosely-azurite-") as folder:
        run("-m", "blobs_tests.sdk.blob_servers", folder)
        return run(
            "-m", "pytest", "emulator/tests/blobs_tests/sdk", "--azurite", folder, *arguments
        )


def emulator(arguments: list[str]) -> int:
    """Install the emulator without our other packages, and run the emulator's tests on it.

    Return the exit status.
    """
    return run("-m", "tests.conformance.emulator_wheel", *arguments)


def javascript(arguments: list[str]) -> int:
    """Test our emulators with Microsoft's SDKs for JavaScript. Return the exit status."""
    return run("-m", "javascript_sdks.conformance", *arguments)


def rest(arguments: list[str]) -> int:
    """Test the REST API of a complete local system with third-party clients and a fuzzer.

    Return the exit status.
    """
    return run("-m", "tests.conformance.rest.suite", *arguments)


def servicebus(arguments: list[str]) -> int:
    """Run Microsoft's Service Bus tests on our emulator. Return the exit status."""
    return run("-m", "servicebus_tests.sdk.upstream.run", *arguments)


def versions(arguments: list[str]) -> int:
    """Test our Service Bus emulator with each minor version of Microsoft's SDK for Python.

    Return the exit status.
    """
    return run("-m", "servicebus_tests.sdk.upstream.versions", *arguments)


def worker(arguments: list[str]) -> int:
    """Kill the worker of a complete local system repeatedly, and check each job.

    Return the exit status.
    """
    return run("-m", "tests.e2e.worker_kills", *arguments)


# Each function runs a suite with additional arguments, and returns the exit status.
SUITES = {
    "blobs": blobs,
    "emulator": emulator,
    "javascript": javascript,
    "rest": rest,
    "servicebus": servicebus,
    "versions": versions,
    "worker": worker,
}


def run(*arguments: str) -> int:
    """Run Python with these arguments in the repository's root. Return the exit status."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(EMULATOR_TESTS), *([inherited] if inherited else [])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    ).returncode


def main(arguments: list[str]) -> int:
    """Run the suite that the first argument names, or all suites. Return the exit status."""
    if not arguments:
        return max(suite([]) for suite in SUITES.values())
    name, *rest = arguments
    if name not in SUITES:
        sys.stderr.write(f"there is no suite {name!r}: choose one of {', '.join(SUITES)}\n")
        return 2
    return SUITES[name](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
