"""Test that `loosely up` reports a full disk, keeps running, and later serves jobs again."""

from pathlib import Path

import httpx
import pytest

from tests.e2e.catalogues import format_catalogue
from tests.e2e.system import System, until
from tests.small_disk import fill, make_space, small_disk
from tests.suspension import suspend

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

COMPONENTS = ("blobs", "servicebus", "functions", "worker parent")


def readiness(system: System) -> tuple[int, dict[str, str]]:
    try:
        answer = system.http.get("/v1/health/ready")
        return answer.status_code, answer.json()["checks"]
    except (httpx.TransportError, ValueError, KeyError):
        return 0, {}


def restarts(system: System) -> int:
    output = system.output()
    return output.count("ready again") + output.count("died") - len(COMPONENTS)


def is_served(system: System) -> bool:
    try:
        answer = system.submit("echo", b"hello", "text/plain", prefer="wait=10")
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and answer.json()["status"] == "succeeded"


@pytest.mark.parametrize("engine", ["local", "azure-storage"])
def test_gateway_is_unready_until_space_is_free(tmp_path: Path, engine: str) -> None:
    data = tmp_path / "data"
    catalogue = format_catalogue({"echo": ("tests.e2e.crasher", "")})
    prefix, options = small_disk(data, "64m"), ("--engine", engine)
    system = System(data, catalogue, options=options, prefix=prefix)
    try:
        system.start()
        assert is_served(system)
        assert readiness(system)[0] == 200
        # This job waits in its queue while the disk is full and the components are restarted.
        suspend(system.pid("worker"))
        waiting = system.accept("echo", b"wait", content_type="text/plain")

        fill(system.visible_data)
        # No request has tried to write, so the services must find out themselves.
        until(lambda: readiness(system)[0] == 503, 10, "the gateway is not ready")
        assert set(readiness(system)[1].values()) == {"no answer"}
        until(lambda: "is full" in system.output(), 10, "`up` says that the disk is full")
        # A restart of each component needs a new state file, which cannot be written.
        for name in COMPONENTS:
            system.kill(name)
        until(lambda: restarts(system) >= 2, 30, "two components start or die on the full disk")
        assert not system.has_ended, system.output()
        assert readiness(system)[0] != 200

        make_space(system.visible_data)
        until(lambda: readiness(system)[0] == 200, 60, "the gateway is ready again")
        until(lambda: is_served(system), 60, "a job is served again")
        assert system.final(waiting)["status"] == "succeeded"
        until(lambda: "can be written again" in system.output(), 10, "`up` says so")
        until(system.is_up, 30, "the state file is up to date")
        assert not system.has_ended
    finally:
        system.stop()
    assert "Traceback" not in system.output()
