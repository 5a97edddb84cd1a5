"""Test the azure-storage engine with killed host processes and with hosts that share a task hub."""

import asyncio
import contextlib
import signal
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions_tests.process.host_process import (
    RunningHost,
    copy_app,
    failed_start,
    running_host,
    start_host,
)

ENGINE = ("--engine", "azure-storage")
TIMEOUT = ("--visibility-timeout", "2")
BASE = "/runtime/webhooks/durabletask"
STARTED = r"listening on (http://\S+)"


async def start(url: str, name: str, instance_id: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        response = await client.post(f"{BASE}/orchestrators/{name}/{instance_id}")
        assert response.status_code == 202


async def status(url: str, instance_id: str) -> str:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        response = await client.get(f"{BASE}/instances/{instance_id}")
        return str(response.json()["runtimeStatus"])


async def approve(url: str, instance_id: str) -> int:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        response = await client.post(
            f"{BASE}/instances/{instance_id}/raiseEvent/approval", json=True
        )
        return response.status_code


async def reaches(url: str, instance_id: str, wanted: str) -> None:
    async with asyncio.timeout(30):
        while await status(url, instance_id) != wanted:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.05)


def read_task_hub(data: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(data / "task-hub.db")) as task_hub:
        return task_hub.execute(query).fetchall()


async def killed(host: RunningHost) -> None:
    async with asyncio.timeout(30):
        assert await host.process.wait() == -signal.SIGKILL


async def test_event_before_the_first_save_is_lost_with_the_host(
    tmp_path: Path,
) -> None:
    folder, data = copy_app("durable", tmp_path / "app"), tmp_path / "data"
    # The timeout is long, so that the next host finds the event before the start message.
    timeout = ("--visibility-timeout", "10")
    options = (*ENGINE, *timeout, "--crash-at", "before-save-after-event:approval")
    host = await start_host(folder, data, *options, environment={"HUB": "TestHub"})
    url = (await host.logged(STARTED))[1]
    await start(url, "approval", "a")
    async with asyncio.timeout(30):
        while not read_task_hub(data, "SELECT 1 FROM awaited_events"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await approve(url, "a") == 202
    await killed(host)
    assert read_task_hub(data, "SELECT status FROM instances") == [("Pending",)]
    lines = host.lines
    async with running_host(folder, data, *options, environment={"HUB": "TestHub"}) as host:
        await reaches(host.url, "a", "Running")
        # Either the killed host or the next host has dequeued the event.
        lost = "a: Discarding 1 dequeued history event(s): No such instance"
        assert any(line.endswith(lost) for line in [*lines, *host.lines])
        assert await approve(host.url, "a") == 202
        await reaches(host.url, "a", "Completed")
        assert await approve(host.url, "a") == 410
    assert (data / "task-hub.db").exists()
    assert not (data / "durable.db").exists()


async def test_killed_hosts_instances_are_completed_by_another(
    tmp_path: Path,
) -> None:
    folder, hub = copy_app("durable", tmp_path / "app"), str(tmp_path / "hub.db")
    options: Any = (*ENGINE, *TIMEOUT, "--task-hub", hub)
    environment = {"HUB": "TestHub"}
    async with running_host(folder, tmp_path / "1", *options, environment=environment) as one:
        two = await start_host(folder, tmp_path / "2", *options, environment=environment)
        url = (await two.logged(STARTED))[1]
        await one.logged(r"this host no longer owns the partitions \[2, 3\]")
        names = [f"n{number}" for number in range(8)]
        for name in names:
            await start(url, "approval", name)
        for name in names:
            await reaches(one.url, name, "Running")
        two.process.kill()
        await killed(two)
        for name in names:
            assert await approve(one.url, name) == 202
        for name in names:
            await reaches(one.url, name, "Completed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crash-at", "before-save"), "--crash-at needs --engine azure-storage"),
        ((*ENGINE, "--crash-at", "lunch"), "'lunch' is not a crash point: use one of before-start"),
        (
            (*ENGINE, "--visibility-timeout", "0.1"),
            "expected a number of seconds from 0.5 to 604800.0, got 0.1",
        ),
        ((*ENGINE, "--crash-rate", "2"), "expected a probability from 0 to 1, got 2"),
        (("--storage-delay", "5"), "--storage-delay needs --engine azure-storage"),
        (
            (*ENGINE, "--storage-delay", "-1"),
            "expected a number of milliseconds from 0 to 1000, got -1",
        ),
    ],
)
async def test_invalid_engine_options_are_refused(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    folder = copy_app("durable", tmp_path / "app")
    code, line = await failed_start(folder, tmp_path / "data", *options)
    assert (code, message in line) == (2, True), line


async def test_environment_has_further_options(tmp_path: Path) -> None:
    folder = copy_app("durable", tmp_path / "app")
    environment = {"LOCAL_FUNCTIONS_OPTIONS": "--engine azure-storage --crash-at lunch"}
    code, line = await failed_start(folder, tmp_path / "data", environment=environment)
    assert (code, "'lunch' is not a crash point" in line) == (2, True), line
