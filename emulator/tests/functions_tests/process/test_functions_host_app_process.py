"""Test the form in which the app has a process of its own, which dies without its host."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import emulator
from functions_tests.process.host_process import (
    ISOLATED_FORM,
    RunningHost,
    copy_app,
    failed_start,
    finished,
    running_host,
    start_host,
    write_app,
)

pytestmark = ISOLATED_FORM


def emulator_is_installed() -> bool:
    """Return whether a package `emulator` outside this checkout is installed."""
    command = [sys.executable, "-P", "-c", "import emulator; print(emulator.__file__)"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env=environment
    ).stdout.strip()
    return bool(found) and ("site-packages" in found or found != emulator.__file__)


async def ended(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    has_ended = asyncio.Event()
    loop.add_reader(pidfd, has_ended.set)
    try:
        async with asyncio.timeout(30):
            await has_ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


@pytest.fixture
async def host(tmp_path: Path, form: str) -> AsyncIterator[RunningHost]:
    folder = copy_app("web", tmp_path / "app")
    async with running_host(folder, tmp_path / "data") as host:
        yield host


@pytest.fixture(params=["local", "azure-storage"])
async def durable(
    tmp_path: Path, request: pytest.FixtureRequest, form: str
) -> AsyncIterator[RunningHost]:
    folder = copy_app("durable", tmp_path / "app")
    options = ("--engine", request.param)
    async with running_host(
        folder, tmp_path / "data", *options, environment={"HUB": "TestHub"}
    ) as host:
        yield host


async def test_killed_app_process_is_restarted(host: RunningHost) -> None:
    async with httpx.AsyncClient(base_url=host.url, timeout=30) as client:
        hanging = asyncio.create_task(client.get("/api/hang"))
        await host.logged(r"\[Functions.hang\] hanging")
        os.kill(host.app_pid(), signal.SIGKILL)
        response = await hanging
        assert (response.status_code, response.content) == (502, b"")
        assert (await client.get("/api/noop")).text == "ok"  # the request waits for the restart
    await host.logged("was killed by SIGKILL; the host starts it again")


async def test_timeout_of_a_thread_restarts_the_process(tmp_path: Path) -> None:
    folder, gate = copy_app("web", tmp_path / "app"), tmp_path / "gate"
    os.mkfifo(gate)
    (folder / "host.json").write_text('{"version": "2.0", "functionTimeout": "00:00:01"}')
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        response = await client.get("/api/block", params={"until": str(gate)})
        assert (response.status_code, response.content) == (500, b"")
        await host.logged("was killed by SIGKILL; the host starts it again")
        await host.logged("the app process is running again")
        assert (await client.get("/api/noop")).text == "ok"


async def test_app_has_no_modules_of_the_host(host: RunningHost) -> None:
    async with httpx.AsyncClient(base_url=host.url, timeout=30) as client:
        got = (await client.get("/api/environment", params={"names": "HOME"})).json()
        assert not [name for name in got["modules"] if name.split(".")[0] == "emulator"]
        for name in ("frames", "serving"):
            assert (await client.get("/api/imports", params={"name": name})).status_code == 404


@pytest.mark.skipif(
    emulator_is_installed(),
    reason="the app may import an emulator that is installed for its interpreter",
)
async def test_app_cannot_import_the_emulator(host: RunningHost) -> None:
    async with httpx.AsyncClient(base_url=host.url) as client:
        assert (await client.get("/api/imports", params={"name": "emulator"})).status_code == 404


async def test_activity_runs_again_after_a_dead_process(
    durable: RunningHost, tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=durable.url, timeout=30) as client:
        response = await client.post("/api/start/crashing", json=str(tmp_path / "marker"))
        status = await finished(client, response.json())
    assert status["output"] == "survived"


async def test_kill_of_the_process_loses_no_instance(durable: RunningHost) -> None:
    async with httpx.AsyncClient(base_url=durable.url, timeout=30) as client:

        async def start() -> httpx.Response:
            return await client.post("/api/start/chaining", json="Kyiv")

        starts = [asyncio.create_task(start()) for _ in range(20)]
        await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
        os.kill(durable.app_pid(), signal.SIGKILL)
        responses = await asyncio.gather(*starts)
        accepted = [response.json() for response in responses if response.status_code == 202]
        assert accepted
        assert {response.status_code for response in responses} <= {202, 502, 503}
        for links in accepted:
            assert (await finished(client, links))["output"][0] == "Hello Kyiv!"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "import os; os.kill(os.getpid(), 9)",
            "the app process was killed by SIGKILL while it loaded the app",
        ),
        ("import no_such_module", "ModuleNotFoundError"),
        ("import sys; sys.exit(4)", "SystemExit: 4"),
    ],
    ids=["a crash", "an import that fails", "an exit"],
)
async def test_failure_at_import_ends_the_host(source: str, expected: str, tmp_path: Path) -> None:
    status, line = await failed_start(write_app(tmp_path / "app", source), tmp_path / "data")
    assert status == 1
    assert expected in line


async def test_sigterm_during_the_load_ends_both_processes(tmp_path: Path) -> None:
    source = "print('loading', flush=True)\nimport threading\nthreading.Event().wait()"
    folder = write_app(tmp_path / "app", source)
    host = await start_host(folder, tmp_path / "data")
    await host.logged("loading")
    app_pid = host.app_pid()
    assert await host.stop() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(app_pid, 0)


async def test_app_process_ends_with_a_killed_host(host: RunningHost) -> None:
    app_end = os.pidfd_open(host.app_pid())
    host.process.send_signal(signal.SIGKILL)
    await host.process.wait()
    await ended(app_end)
