"""Test the pytest plugin, with a pytest process that runs the tests of another project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local_ports import wait_until_refused

pytestmark = pytest.mark.timeout(240)

_PACKAGES = Path(__file__).parents[2]
_FUNCTION_APP = """
import os
import sys

import azure.functions as func

app = func.FunctionApp()


@app.route("colour", auth_level=func.AuthLevel.ANONYMOUS)
def colour(req: func.HttpRequest) -> func.HttpResponse:
    place = "host" if "emulator.functions" in sys.modules else "app"
    return func.HttpResponse(f"{os.environ['COLOUR']} {place}")
"""


def _run(folder: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_project.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "emulator.pytest_plugin"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(folder), str(folder)]
    command += options
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        command,
        cwd=_PACKAGES,
        env=kept,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_service_stops_after_the_last_test(tmp_path: Path) -> None:
    result = _run(
        tmp_path,
        f"""
from pathlib import Path
from urllib.request import urlopen

def test_one(servicebus):
    servicebus.create_queue("orders", LockDuration="PT5S", RequiresDuplicateDetection=True)
    with urlopen(servicebus.admin_url + "/orders") as response:
        description = response.read()
    assert b"LockDuration>PT5S<" in description
    assert b"RequiresDuplicateDetection>true<" in description
    Path({str(tmp_path / "url")!r}).write_text(servicebus.admin_url)

def test_two(servicebus):
    with urlopen(servicebus.admin_url + "/health") as response:
        assert b'"queues":1' in response.read()
""",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    wait_until_refused((tmp_path / "url").read_text(encoding="utf-8"))


def test_service_stops_when_pytest_is_killed(tmp_path: Path) -> None:
    result = _run(
        tmp_path,
        f"""
import os, signal
from pathlib import Path

def test_one(blob_storage):
    Path({str(tmp_path / "url")!r}).write_text(blob_storage.url)
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert result.returncode == -9, result.stdout + result.stderr
    wait_until_refused((tmp_path / "url").read_text(encoding="utf-8"))


def test_refused_queue_has_the_services_reason(
    tmp_path: Path,
) -> None:
    result = _run(
        tmp_path,
        """
import pytest

def test_one(servicebus):
    with pytest.raises(ValueError, match="ForwardTo"):
        servicebus.create_queue("orders", ForwardTo="other")
""",
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("options", [(), ("--functions-isolated",)], ids=["default", "isolated"])
def test_overridden_fixtures_set_app_and_settings(tmp_path: Path, options: tuple[str, ...]) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}', encoding="utf-8")
    (app / "function_app.py").write_text(_FUNCTION_APP, encoding="utf-8")
    result = _run(
        tmp_path,
        f"""
from pathlib import Path
from urllib.request import urlopen
import pytest

@pytest.fixture(scope="session")
def functions_app():
    return Path({str(app)!r})

@pytest.fixture(scope="session")
def functions_settings():
    return {{"COLOUR": "green"}}

def test_one(functions_host, functions_isolated):
    with urlopen(functions_host.url + "/api/colour") as response:
        assert response.read() == (b"green app" if functions_isolated else b"green host")
""",
        *options,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_log_of_a_failed_start_is_shown(tmp_path: Path) -> None:
    result = _run(tmp_path, "def test_one(functions_host):\n    pass\n")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "emulator.functions ended with status" in result.stdout
    assert "host.json" in result.stdout
