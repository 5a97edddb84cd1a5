"""Run the emulator's long test suites: `./dev conformance NAME`.

blobs       the Blob tests on the emulator and on Azurite, which npm installs
emulator    all tests of the emulator on its wheel, which is installed alone in a new environment
javascript  @azure/service-bus and @azure/storage-blob, which npm installs
servicebus  the live tests of the package azure-servicebus
versions    each minor version of the package azure-servicebus since 7.8
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_TESTS = Path(__file__).parents[1]
SUITES = {
    "emulator": "conformance.wheel",
    "javascript": "javascript_sdks.conformance",
    "servicebus": "servicebus_tests.sdk.upstream.run",
    "versions": "servicebus_tests.sdk.upstream.versions",
}
"""The module of each suite except `blobs`, by the suite's name."""


def run_blobs(arguments: list[str]) -> int:
    """Run the Blob tests on the emulator and on Azurite. Return the exit status."""
    with tempfile.TemporaryDirectory(prefix="azurite-") as folder:
        run_module("blobs_tests.sdk.blob_servers", folder)
        tests = _TESTS / "blobs_tests" / "sdk"
        return run_module("pytest", str(tests), "--azurite", folder, *arguments)


def run_module(module: str, *arguments: str) -> int:
    """Run a Python module that can import the tests. Return the exit status."""
    paths = [str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    ).returncode


def main(arguments: list[str]) -> int:
    """Run the suite that the first argument names, or all suites. Return the exit status."""
    if not arguments:
        return max(main([name]) for name in ("blobs", *SUITES))
    name, *rest = arguments
    if name == "blobs":
        return run_blobs(rest)
    if name not in SUITES:
        names = ", ".join(("blobs", *SUITES))
        sys.stderr.write(f"there is no suite {name!r}: choose one of {names}\n")
        return 2
    return run_module(SUITES[name], *rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
