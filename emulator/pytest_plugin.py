"""A pytest plugin with the fixtures `servicebus`, `blob_storage` and `functions_host`.

pytest finds the plugin by its entry point. When the first test uses a fixture, the fixture starts
its service as a process on free ports of the loopback interface, with an empty data directory. The
service runs until the last test has ended. With pytest-xdist, each worker process of pytest-xdist
has its own services.
"""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest

_CHILD = Path(__file__).with_name("service_child.py")
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_REQUEST_SECONDS = 30.0

# These are the public keys of Microsoft's emulators, to which the services' defaults are equal.
_SERVICE_BUS_KEY = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE"
_ACCOUNT_NAME = "devstoreaccount1"
_ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_QUEUE = (
    '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
    '<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">'
    "{}</QueueDescription></content></entry>"
)


@dataclass(frozen=True, slots=True)
class LocalServiceBus:
    """A running Service Bus namespace.

    `connection_string` is for each SDK's `ServiceBusClient`. `admin_url`, the management API, has
    no trailing slash.
    """

    connection_string: str
    admin_url: str

    def create_queue(self, name: str, **properties: str | int | bool) -> None:
        """Create a queue with properties as in `Config.json`, such as `LockDuration="PT5S"`.

        Raises ValueError with the service's response if it refuses the queue.
        """
        elements = "".join(
            f"<{key}>{escape(_format(value))}</{key}>" for key, value in properties.items()
        )
        request = urllib.request.Request(  # noqa: S310  the scheme is always http
            f"{self.admin_url}/{quote(name)}", _QUEUE.format(elements).encode(), method="PUT"
        )
        try:
            with _OPENER.open(request, timeout=_REQUEST_SECONDS):
                pass
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read().decode("utf-8", "replace")
            raise ValueError(f"the queue {name!r} was not created: {reason}") from None


@dataclass(frozen=True, slots=True)
class LocalBlobStorage:
    """A running storage account, which has only the Blob service.

    `connection_string` is for each SDK's `BlobServiceClient`. The key is in Base64.
    """

    connection_string: str
    url: str
    account_name: str
    account_key: str


@dataclass(frozen=True, slots=True)
class LocalFunctionsHost:
    """A running Functions host with an app, whose HTTP triggers are below `/api` by default."""

    url: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--functions-isolated`."""
    parser.getgroup("azure-local-emulator").addoption(
        "--functions-isolated",
        action="store_true",
        help="run the app of functions_host in a process of its own, beside its host",
    )


@pytest.fixture(scope="session")
def servicebus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServiceBus]:
    """Start the emulator of Service Bus, with a namespace that has no queues yet."""
    patterns = [r"listening on amqp://\S+:(\d+)\n", r"listening on (http://\S+)\n"]
    folder = tmp_path_factory.mktemp("servicebus")
    with _running("emulator.servicebus", ["--admin-port", "0"], folder, patterns) as found:
        port, admin_url = found
        yield LocalServiceBus(
            f"Endpoint=sb://localhost:{port};{_SERVICE_BUS_KEY};UseDevelopmentEmulator=true;",
            admin_url,
        )


@pytest.fixture(scope="session")
def blob_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBlobStorage]:
    """Start the emulator of Blob storage, with an account that has no blob containers yet."""
    folder = tmp_path_factory.mktemp("blob_storage")
    with _running("emulator.blobs", [], folder, [r"listening on (http://\S+), data in"]) as found:
        (url,) = found
        yield LocalBlobStorage(
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT_NAME};"
            f"AccountKey={_ACCOUNT_KEY};BlobEndpoint={url};",
            url,
            _ACCOUNT_NAME,
            _ACCOUNT_KEY,
        )


@pytest.fixture(scope="session")
def functions_app(pytestconfig: pytest.Config) -> Path:
    """Return the app's folder: pytest's root, unless `conftest.py` overrides this fixture."""
    return pytestconfig.rootpath


@pytest.fixture(scope="session")
def functions_settings() -> Mapping[str, str]:
    """Return further app settings: none, unless `conftest.py` overrides this fixture."""
    return {}


@pytest.fixture(scope="session")
def functions_isolated(pytestconfig: pytest.Config) -> bool:
    """Return whether the app has a process of its own: only with `--functions-isolated`."""
    return bool(pytestconfig.getoption("functions_isolated"))


@pytest.fixture(scope="session")
def functions_host(
    functions_app: Path,
    functions_settings: Mapping[str, str],
    functions_isolated: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalFunctionsHost]:
    """Start a Functions host that runs the app in the folder `functions_app`."""
    folder = tmp_path_factory.mktemp("functions_host")
    options = ["--app", str(functions_app), "--no-reload"]
    options += ["--isolated"] if functions_isolated else []
    patterns = [r"listening on (http://\S+)\n"]
    with _running("emulator.functions", options, folder, patterns, functions_settings) as found:
        (url,) = found
        yield LocalFunctionsHost(url)


# A proxy cannot reach the services.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _format(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _running(
    module: str,
    options: Sequence[str],
    folder: Path,
    patterns: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[str]]:
    """Run a service in the empty `folder`, and yield values from its log, such as its URL.

    The service is ready when its log matches all `patterns`, whose groups are yielded.
    """
    log = folder / "service.log"
    command = [sys.executable, "-P", str(_CHILD), module, *options]
    command += ["--port", "0", "--data", str(folder / "data")]
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603  our own module, without a shell
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            yield _wait_until_ready(process, module, log, patterns)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            finally:
                process.kill()


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", module: str, log: Path, patterns: Sequence[str]
) -> list[str]:
    """Return the groups of all patterns as soon as the log matches; otherwise fail the test."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        text = log.read_text("utf-8", "replace")
        found = [re.search(pattern, text) for pattern in patterns]
        if not has_ended and all(found):
            return [match[1] for match in found if match is not None]
        if has_ended:
            pytest.fail(f"{module} ended with status {process.returncode}:\n{text}", pytrace=False)
        time.sleep(_POLL_SECONDS)
    text = log.read_text("utf-8", "replace")
    pytest.fail(f"{module} was not ready after {_START_SECONDS:.0f} s:\n{text}", pytrace=False)
