"""A pytest plugin with the fixture `loosely_client`: a client of a local system.

The system serves the models of the model folder, which is pytest's root directory.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# pytest imports the plugin also for tests that do not use it, so other imports are in the fixture.
if TYPE_CHECKING:
    from loosely import Client

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.1


@pytest.fixture(scope="session")
def loosely_client(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Client"]:
    """Start the system of the model folder on free ports, and return a client of its gateway."""
    from loosely import Client  # noqa: PLC0415
    from loosely.local import child  # noqa: PLC0415
    from loosely.local.ports import free_base  # noqa: PLC0415

    data = tmp_path_factory.mktemp("loosely") / "data"
    output = data.with_name("up.log")
    port = free_base(20000 + os.getpid() % 100 * 100)
    # The kernel kills the system if this process dies.
    command = [sys.executable, "-I", "-S", child.__file__, str(os.getpid())]
    command += [sys.executable, "-m", "loosely", "up", "--port", str(port), "--data", str(data)]
    with (
        output.open("wb") as file,
        subprocess.Popen(  # noqa: S603  our own module, without a shell
            command, cwd=pytestconfig.rootpath, stdout=file, stderr=file
        ) as process,
    ):
        try:
            url = _wait_until_ready(process, data, output)
            with Client(url) as client:
                yield client
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_SECONDS)
            finally:
                process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", data: Path, output: Path) -> str:
    """Wait until all components are ready, and return the gateway's URL, or fail the test."""
    from loosely.local.data_directory import RunningSystem  # noqa: PLC0415

    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"`loosely up` ended: {output.read_text('utf-8', 'replace')}")
        system = RunningSystem.read(data)
        if system is not None and all(part.ready for part in system.parts.values()):
            return system.url
        time.sleep(_POLL_SECONDS)
    pytest.fail(
        f"the system was not ready after {_START_SECONDS:.0f} s: "
        f"{output.read_text('utf-8', 'replace')}\nThe components' logs are in {data / 'logs'}"
    )
