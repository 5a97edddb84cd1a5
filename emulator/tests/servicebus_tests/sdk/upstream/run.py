"""Run the live tests of queues and sessions from azure-servicebus against the emulator.

`python -m servicebus_tests.sdk.upstream.run [PYTEST ARGUMENT…]`

The tests are unchanged, from the source package of azure-servicebus. They take about 15 minutes,
because they mostly wait until locks and messages expire. With TLS the client always uses port 5671,
and port 443 for WebSocket. Both ports must be free on this machine, and the user must be allowed to
use them. Packages and tests are kept in the folder that the environment variable CONFORMANCE_FOLDER
names. If the variable is not set, they are downloaded again for each run.
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
# The longest test waits five minutes.
_TEST_SECONDS = 420
_TESTS = (
    "test_queues.py",
    "test_sessions.py",
    "test_list_sessions.py",
    "async_tests/test_sessions_async.py",
    "async_tests/test_list_sessions_async.py",
)
# Parts of the names of tests that are not run, and the reasons.
_DESELECTED = {
    "test_queue_operation_negative": "it replaces a method that the client no longer calls",
    "next_available_session_timeout_value": "it expects that receive_messages(max_wait_time=5)"
    " waits 65 seconds for a session, but since 7.15 the client itself stops after 5 seconds",
    "session_by_queue_client_conn_str_receive_handler_receiveanddelete": "it waits for messages as"
    " long as the lock on the session lasts, so the emulator detaches the link with the error"
    " session-lock-lost at the moment when the wait ends",
}


def main(arguments: list[str]) -> int:
    """Download the tests of azure-servicebus, run them, and return pytest's exit status."""
    kept = os.environ.get("CONFORMANCE_FOLDER")
    if kept:
        folder = Path(kept)
        folder.mkdir(parents=True, exist_ok=True)
        return run(folder, arguments)
    with tempfile.TemporaryDirectory(prefix="servicebus-conformance-") as temporary:
        return run(Path(temporary), arguments)


def run(folder: Path, arguments: list[str]) -> int:
    """Run the tests of azure-servicebus against an emulator, and return pytest's exit status.

    What they need is first stored in `folder`. Without `arguments`, those of queues and sessions
    run.
    """
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
        command += arguments or _TESTS
        return subprocess.run(command, cwd=tests, env=environment, check=False).returncode


def install(folder: Path) -> Path:
    """Create a virtual environment for the tests, and return the path of its interpreter.

    An environment that `folder` already contains is used again.
    """
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", folder / "environment")
        _run(python, "-m", "pip", "install", "--quiet", *_PACKAGES)
    return python


def fetch_tests(folder: Path) -> Path:
    """Unpack the source package of azure-servicebus in `folder`; return the folder of its tests.

    The package is downloaded first, unless `folder` already contains it.
    """
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
