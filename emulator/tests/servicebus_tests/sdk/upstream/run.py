"""Runs the azure-servicebus package's own live queue tests against our Service Bus.

`python -m servicebus_tests.sdk.upstream.run [PYTEST ARGUMENT…]`

The tests are those of the source package, unchanged. They take about ten minutes, since they
mostly wait for locks and messages to expire. The client dials port 5671 whenever it uses TLS, and
443 for WebSocket, so both ports of this machine must be free, and open to whoever runs this.
Packages and tests are kept in the folder that CONFORMANCE_FOLDER names, or are fetched again
every time.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from servicebus_tests.sdk.certificate import make_certificate
from servicebus_tests.sdk.servicebus_process import KEY_NAME, run_server

VERSION = "7.15.0"
KEY = "b25seS1mb3ItbG9jYWwtdGVzdHM="
_PACKAGES = (
    f"azure-servicebus=={VERSION}",
    "aiohttp",
    "azure-common",
    "certifi",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "websocket-client",
)
_STANDINS = Path(__file__).with_name("standins")
# Over the longest test, which waits for five minutes.
_TEST_SECONDS = 420
_DESELECTED = {
    "test_queue_operation_negative": "replaces a method that the client no longer calls",
}


def main(arguments: list[str]) -> int:
    """Fetch the tests and run them; returns pytest's exit status."""
    kept = os.environ.get("CONFORMANCE_FOLDER")
    if kept:
        folder = Path(kept)
        folder.mkdir(parents=True, exist_ok=True)
        return run(folder, arguments)
    with tempfile.TemporaryDirectory(prefix="servicebus-conformance-") as temporary:
        return run(Path(temporary), arguments)


def run(folder: Path, arguments: list[str]) -> int:
    """Run the tests with packages in a folder."""
    python = install(folder)
    tests = fetch_tests(folder)
    certificate, key = make_certificate(folder)
    options = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    options += ["--tls-port", "5671", "--tls-port", "443", "--key", f"{KEY_NAME}={KEY}"]
    with (
        tempfile.TemporaryDirectory(prefix="servicebus-data-") as data,
        run_server(Path(data), options) as server,
    ):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (_STANDINS, tests, tests / "async_tests"))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SERVICEBUS_ENDPOINT_SUFFIX": "",
            "AZURE_TEST_RUN_LIVE": "true",
            "EMULATOR_ADMIN_PORT": str(server.admin_port),
            "EMULATOR_CERTIFICATE": str(certificate),
            "EMULATOR_KEY_NAME": KEY_NAME,
            "EMULATOR_KEY": KEY,
        }
        command = [str(python), "-m", "pytest", "-p", "local_azure", "-p", "no:cacheprovider"]
        command += ["-o", "asyncio_mode=auto", "-q", "--timeout", str(_TEST_SECONDS)]
        command += ["-k", " and ".join(f"not {name}" for name in _DESELECTED), "-n", "6"]
        command += arguments or ["test_queues.py"]
        return subprocess.run(command, cwd=tests, env=environment, check=False).returncode


def install(folder: Path) -> Path:
    """Make an environment for the tests, apart from ours; returns its interpreter."""
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", folder / "environment")
        _run(python, "-m", "pip", "install", "--quiet", *_PACKAGES)
    return python


def fetch_tests(folder: Path) -> Path:
    """Fetch and unpack the source package; returns the folder of its tests."""
    name = f"azure_servicebus-{VERSION}"
    tests = folder / name / "tests"
    if not tests.exists():
        download = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
        source = ("--no-binary", ":all:", "--dest", folder, f"azure-servicebus=={VERSION}")
        _run(*download, *source)
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return tests


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
