"""Test the page /ops in a real browser, on a system whose worker the tests start and kill."""

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from contract.catalogue import Priority
from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, encode_heartbeat
from contract.names import PAYLOAD_CONTAINER, heartbeat_blob
from gateway.keys import make_key, owner_of
from gateway.shares.account import Account
from gateway.shares.room import ROOMS, RoomState, encode_state
from loosely.local.environment import shared_environment
from loosely.local.parts import SystemSettings, worker_part
from loosely.local.ports import Ports
from tests import connections
from tests.browser.browser import Browser
from tests.browser.checks import check_width, check_with_axe, focused, press, tab_to
from tests.browser.conftest import open_tab
from tests.e2e import by_hand
from tests.e2e.system import ROOT, System, running, until
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(240)]

CATALOGUE = """
[noop]
task = "none"
description = "Returns the input's size."
implementation = "worker.models.noop"
media_types = ["text/plain", "application/octet-stream"]
deadline_seconds = 600
max_wait_ms = 0
lock_seconds = 5

[slow]
description = "Waits for the steps of a test."
implementation = "tests.e2e.slow_model"
media_types = ["application/octet-stream"]
deadline_seconds = 600
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5
reports_progress = true
"""
KEYS = {
    "acme": make_key("acme-app", "acme"),
    "bolt": make_key("bolt-app", "bolt"),
    "watcher": make_key("watcher", "ops", ["ops:read"]),
    "admin": make_key("night shift", "acme", ["admin", "jobs:read", "jobs:write"]),
}
LETTERS = "/v1/admin/dead-letters"
REASON = "MaxDeliveryCountExceeded"
OCTETS = "application/octet-stream"
NO_WORKER = '#verdicts [data-code="no-worker"]'


@pytest.fixture(scope="module")
def idle(chromium: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environment = {"API_KEYS": json.dumps([entry for _, entry in KEYS.values()])}
    data = tmp_path_factory.mktemp("ops") / "data"
    with running(data, CATALOGUE, without=("worker",), environment=environment) as system:
        yield system


@pytest.fixture
def tab(chromium: Chrome, idle: System) -> Iterator[Browser]:
    """Delete all dead letters of the system `idle`, and open a new tab for this system."""
    for model in ("noop", "slow"):
        query = {"model": model}
        idle.http.delete(LETTERS, params=query, headers=bearer("admin")).raise_for_status()
    with open_tab(chromium, idle.url) as browser:
        yield browser


@contextmanager
def worker(system: System) -> Iterator[psutil.Process]:
    ports = Ports(
        functions=system.port,
        blobs=system.part("blobs").ports["blobs"],
        servicebus=system.part("servicebus").ports["servicebus"],
        servicebus_admin=system.part("servicebus").ports["servicebus admin"],
    )
    catalogue = system.data.parent / "models.toml"
    settings = SystemSettings(ROOT, system.data, ports, "", "info", catalogue)
    part = worker_part(settings, 1, free_ports(1))
    with (
        (system.data.parent / "worker.log").open("ab") as log,
        subprocess.Popen(
            part.command,
            cwd=ROOT,
            env={**shared_environment(ROOT, os.environ), **part.environment},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            until(lambda: is_ready(part.ports["worker health"]), 60, "the worker is ready")
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.TransportError:
        return False


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name][0]}"}


def ask(system: System, name: str, path: str, **query: str) -> Any:
    answer = system.http.get(path, params=query, headers=bearer(name))
    assert answer.status_code == 200, answer.text
    return answer.json()


def accept(system: System, name: str, label: str, model: str = "noop", data: str = "") -> str:
    media_type = "application/octet-stream" if data else "text/plain"
    content = (data or label).encode()
    return system.accept(model, content, media_type, f"?label={label}", **bearer(name))


def final(system: System, name: str, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = ask(system, name, f"/v1/jobs/{job_id}")
        return job if job["finished_at"] else None

    return dict(until(ended, 60, f"job {job_id} has ended"))


def enter_key(tab: Browser, key: str) -> None:
    tab.find("header summary").click()
    tab.find("#api-key").send_keys(key, Keys.ENTER)
    tab.find("header summary").click()


def open_ops(tab: Browser, name: str, fragment: str = "") -> None:
    """Open /ops, enter the key `KEYS[name]`, and wait for the table of queues."""
    tab.open(f"/ops{fragment}")
    enter_key(tab, KEYS[name][0])
    tab.find("#queue-rows table")


def unexpected_messages(tab: Browser) -> list[str]:
    """Return the console's messages, except those about responses with status 401."""
    return [message for message in tab.messages if "status of 401" not in message]


def count_polls(tab: Browser) -> int:
    return sum(request.url.endswith("/v1/ops/overview") for request in tab.requests)


def make_dead_letters(system: System, label: str, count: int) -> dict[str, str]:
    before = ask(system, "watcher", f"{LETTERS}/count")["count"]
    tenants = {}
    for number in range(count):
        tenant = "bolt" if number % 3 == 0 else "acme"
        tenants[accept(system, tenant, f"{label} {number}")] = tenant
        by_hand.dead_letter_first(system, "noop")
    until(
        lambda: ask(system, "watcher", f"{LETTERS}/count")["count"] == before + count,
        30,
        "the dead letters are stored",
    )
    return tenants


def test_warning_about_workers_comes_and_goes(tab: Browser, idle: System) -> None:
    open_ops(tab, "watcher")
    accepted = time.monotonic()
    job_id = accept(idle, "acme", "waits for a worker")
    tab.wait_for_text(f"{NO_WORKER} .text", "noop")
    assert time.monotonic() - accepted < 15
    assert "no worker" in tab.text_of(f"{NO_WORKER} .text")
    assert "no worker" in tab.text_of("#queue-rows tr[data-key=noop]")
    assert tab.text_of(f"{NO_WORKER} .badge").endswith("Critical")
    with worker(idle):
        tab.wait(lambda: not tab.find_all(NO_WORKER), "the verdict has not changed")
        card = tab.text_of("#worker-cards article")
        assert "last sign of life" in card
        assert "noop" in card
        assert final(idle, "acme", job_id)["status"] == "succeeded"
    assert unexpected_messages(tab) == []


@contextmanager
def seen_worker(system: System, *models: ModelHeartbeat) -> Iterator[None]:
    """Show the heartbeat of a worker that serves these models during the `with` block."""
    heartbeat = Heartbeat("pod-7", "1", datetime.now(UTC), 60.0, models=models)
    with stored_blob(system, heartbeat_blob(heartbeat.worker), encode_heartbeat(heartbeat)):
        yield


@contextmanager
def stored_blob(system: System, name: str, data: bytes) -> Iterator[None]:
    """Store a blob, and delete it after the `with` block."""
    port = system.part("blobs").ports["blobs"]
    with BlobServiceClient.from_connection_string(connections.blob_storage(port)) as service:
        with suppress(ResourceExistsError):
            service.create_container(PAYLOAD_CONTAINER)
        blob = service.get_blob_client(PAYLOAD_CONTAINER, name)
        blob.upload_blob(data, overwrite=True)
        yield
        blob.delete_blob()


def test_places_and_streams_are_shown(tab: Browser, idle: System) -> None:
    slow = ModelHeartbeat("slow", ModelState.LOADED, concurrent_jobs=3, max_concurrent_jobs=16)
    noop = ModelHeartbeat("noop", ModelState.LOADED, streams=0)
    with seen_worker(idle, noop, replace(slow, streams=2)):
        open_ops(tab, "watcher")
        tab.wait_for_text("#worker-cards", "pod-7")
        heads, first, second = (
            [cell.text for cell in row.find_elements("css selector", "th, td")]
            for row in tab.find_all("#worker-cards table tr")
        )
    assert heads[-2:] == ["Places used", "Streams"]
    assert first[-1] == "0"
    assert second[-2:] == ["3 of 16", "2"]
    assert unexpected_messages(tab) == []


def test_tenants_have_shares_and_limits(tab: Browser, idle: System) -> None:
    account = Account()
    for tenant, count in (("acme", 5), ("bolt", 1)):
        for _ in range(count):
            account.hold(owner_of(tenant), Priority.NORMAL)
    state = RoomState("pod-7", 1, is_open=True, account=account.to_json())
    settings = {"weight": 3, "max_queued": 100, "gpu_seconds_a_day": 3600}
    path = "/v1/admin/tenants/acme"
    idle.http.put(path, json=settings, headers=bearer("admin")).raise_for_status()
    with stored_blob(idle, f"{ROOMS}slow/state", encode_state(state)):
        open_ops(tab, "watcher")
        tab.wait_for_text("#tenant-rows", "75 %")  # the figures before may be a second old
        row = tab.find("#tenant-rows tr[data-key='tenant acme']")
        assert [cell.text for cell in row.find_elements("css selector", "th, td")] == [
            *("acme", "3", "75 %", "5", "5", "0", "0", "0"),
            "100 jobs, 3,600 GPU s a day",
        ]
        verdict = '#verdicts [data-code="jobs-held"]'
        assert "slow: 6 of the jobs wait for the shares" in tab.text_of(verdict)
        assert tab.find(f"{verdict} a").text == "Show the tenants"
        assert tab.find("#queue-rows tr[data-key=slow] [data-title=Held]").text == "6"
    idle.http.delete(path, headers=bearer("admin")).raise_for_status()
    assert unexpected_messages(tab) == []


@pytest.mark.thorough
def test_second_delivery_after_a_kill_is_shown(tab: Browser, idle: System, tmp_path: Path) -> None:
    with worker(idle) as parent:
        order = json.dumps({"folder": str(tmp_path), "steps": 1})
        job_id = accept(idle, "acme", "killed", "slow", order)
        until((tmp_path / "running").exists, 30, "the worker runs the job")
        open_ops(tab, "admin", f"#job={job_id}")
        tab.wait_for_text("#story-status", "running")
        (child,) = parent.children()
        os.kill(child.pid, signal.SIGKILL)
        tab.wait_for_text("#story .deliveries", "lost")
        rows = tab.find_all("#story .deliveries tbody tr")
        assert ["lost" in row.text for row in rows] == [True, False]
        (tmp_path / "step-1").touch()
        tab.wait_for_text("#story-status", "succeeded")
        assert "answered" in tab.text_of("#story .deliveries")


@pytest.mark.thorough
def test_dead_letters_are_filtered_and_redriven(tab: Browser, idle: System) -> None:
    tenants = make_dead_letters(idle, "night", 12)
    by_hand.put_request(idle, "slow")
    by_hand.dead_letter_first(idle, "slow")
    open_ops(tab, "admin")
    until(
        lambda: len(tab.find_all("#letter-rows tbody tr")) == 13, 30, "all dead letters are shown"
    )
    tab.run("document.querySelector('#letter-model').value = 'noop'")
    tab.find("#letter-reason").send_keys(REASON, Keys.ENTER)
    tab.wait(lambda: len(tab.find_all("#letter-rows tbody tr")) == 12, "the filter has no effect")
    tab.find("[data-do=redrive-all]").click()
    tab.find("#confirm[open]")
    assert tab.text_of("#confirm-title") == "Redrive 12 dead letters?"
    assert f"of noop, with the reason {REASON}" in tab.text_of("#confirm-text")
    tab.find("#confirm button[value=no]").click()
    assert ask(idle, "watcher", f"{LETTERS}/count")["not_redriven"] == 13
    tab.find("[data-do=redrive-all]").click()
    tab.find("#confirm-yes").click()
    tab.wait_for_text("#letter-result", "12 dead letters were redriven")
    tab.find("#letter-result summary").click()
    new = [link.get_dom_attribute("title") for link in tab.find_all("#letter-result a")]
    assert len(set(new)) == 12
    assert not set(new) & set(tenants)
    with worker(idle):
        for job_id in new:
            found = ask(idle, "watcher", f"/v1/jobs/{job_id}")
            assert found["tenant"] in {"acme", "bolt"}
            assert found["label"].startswith("night ")
            final(idle, found["tenant"], str(job_id))
        tab.find("#job-label").send_keys("night*", Keys.ENTER)
        tab.wait_for_text("#job-result", "24 jobs found")
        assert "Looked back to" in tab.text_of("#job-result")
        statuses = [cell.text for cell in tab.find_all("#job-rows td:nth-of-type(2)")]
        assert sorted(text.split()[-1] for text in statuses) == ["failed"] * 12 + ["succeeded"] * 12


@pytest.mark.thorough
def test_purge_needs_a_confirmation(tab: Browser, idle: System) -> None:
    make_dead_letters(idle, "single", 1)
    open_ops(tab, "admin")
    tab.run("document.querySelector('#letter-model').value = 'noop'")
    tab.find("#letter-form button[type=submit]").click()
    tab.wait(lambda: len(tab.find_all("#letter-rows tbody tr")) == 1, "the letter is not shown")
    tab.find("#letter-rows [data-do=purge]").click()
    assert "Purge 1 dead letter?" in tab.text_of("#confirm")
    tab.find("#confirm-yes").click()
    tab.wait_for_text("#letter-result", "1 dead letter was purged")
    tab.wait_for_text("#letter-rows", "No dead letter matches")
    assert ask(idle, "watcher", f"{LETTERS}/count", model="noop")["count"] == 0


def test_named_inputs_of_a_dead_letter_are_shown(tab: Browser, idle: System) -> None:
    mask = {"media_type": "image/png", "base64": "iVBORw=="}
    by_hand.put_request(idle, "noop", schema=2, inputs={"mask": mask})
    by_hand.dead_letter_first(idle, "noop")
    open_ops(tab, "watcher")
    tab.wait_for_text("#letter-rows", "mask: image/png, 4 bytes")
    assert "application/json, 1 bytes" in tab.text_of("#letter-rows")
    assert unexpected_messages(tab) == []


def test_read_only_key_permits_no_changes(tab: Browser, idle: System) -> None:
    tenants = make_dead_letters(idle, "safe", 2)
    open_ops(tab, "watcher")
    tab.wait(lambda: bool(tab.find_all("#letter-rows tbody tr")), "no dead letter is shown")
    assert "scope admin" in tab.text_of(".read-only")
    assert tab.find_all("#letter-rows button") == []
    assert not tab.find("[data-do=redrive-all]").is_enabled()
    assert not tab.find("[data-do=purge-all]").is_enabled()
    # The gateway refuses the change even if somebody enables the button.
    for action in ("redrive", "purge"):
        tab.run(f"document.querySelector('[data-do={action}-all]').disabled = false")
        tab.find(f"[data-do={action}-all]").click()
        tab.find("#confirm-yes").click()
        tab.wait_for_text("#letter-result", "Nothing was changed")
        tab.run("document.querySelector('#letter-result').replaceChildren()")
    assert ask(idle, "watcher", f"{LETTERS}/count", model="noop")["not_redriven"] == len(tenants)


def test_refused_key_hides_all_data(tab: Browser, idle: System) -> None:
    open_ops(tab, "admin")
    enter_key(tab, "lsy_" + "expired" * 6)
    tab.wait_for_text("#notice", "The gateway refuses this API key")
    assert not tab.find_all("#figures")[0].is_displayed()
    assert not tab.find_all("#jobs")[0].is_displayed()
    assert tab.find_all("#letter-rows *") == tab.find_all("#job-rows *") == []
    polls = count_polls(tab)
    tab.run("Date.now = (now => () => now() + 60000)(Date.now)")
    enter_key(tab, KEYS["admin"][0])
    tab.find("#queue-rows table")
    assert count_polls(tab) == polls + 1


def test_operators_key_shows_other_tenants_jobs(tab: Browser, idle: System) -> None:
    hidden = accept(idle, "acme", "two tenants")
    own = accept(idle, "bolt", "two tenants")
    tab.open(f"/ops#job={hidden}")
    enter_key(tab, KEYS["bolt"][0])
    tab.wait_for_text("#notice", "This key may not see the whole system")
    assert not tab.find_all("#figures")[0].is_displayed()
    tab.wait_for_text("#story", "The job could not be read")
    tab.find("#job-label").send_keys("two tenants", Keys.ENTER)
    tab.wait_for_text("#job-result", "1 job found")
    assert own in tab.text_of("#job-rows")
    assert hidden not in tab.text_of("#job-rows")
    enter_key(tab, KEYS["watcher"][0])
    tab.wait_for_text("#job-result", "2 jobs found")
    assert hidden in tab.text_of("#job-rows")


def test_named_results_are_shown_without_values(tab: Browser, idle: System) -> None:
    # The message stays in the queue. A worker drops it, because the job has ended.
    job_id = accept(idle, "acme", "parts", "slow", "parts")
    boxes = {"media_type": "application/json", "json": ["secret"]}
    mask = {"media_type": "image/png", "base64": "AA=="}
    results = {"schema": 2, "result": {"json": 1}, "results": {"mask": mask, "boxes": boxes}}
    by_hand.send_reply(by_hand.wait_for_request(idle, "slow", "parts"), results)
    open_ops(tab, "watcher", f"#job={job_id}")
    tab.wait_for_text("#story .facts", "mask (image/png), boxes (application/json)")
    assert "secret" not in tab.text_of("#story")
    assert ask(idle, "acme", f"/v1/jobs/{job_id}")["results"]["boxes"]["json"] == ["secret"]


def test_job_of_an_older_gateway_is_shown(tab: Browser, idle: System) -> None:
    job_id = accept(idle, "acme", "old")
    tab.omit_members("results")
    open_ops(tab, "watcher", f"#job={job_id}")
    tab.wait_for_text("#story-status", "queued")
    assert "Named results" not in tab.text_of("#story")
    assert unexpected_messages(tab) == []


@pytest.mark.thorough
def test_only_an_admin_key_can_cancel(tab: Browser, idle: System) -> None:
    job_id = accept(idle, "bolt", "cancel")
    open_ops(tab, "watcher", f"#job={job_id}")
    tab.wait_for_text("#story", "Read only")
    assert tab.find_all("[data-do=cancel]") == []
    enter_key(tab, KEYS["admin"][0])
    tab.find("[data-do=cancel]").click()
    tab.wait_for_text("#story-status", "cancelled")
    tab.find("[data-do=close-story]").click()
    tab.wait(lambda: not tab.find_all("#story *"), "the story is still shown")
    assert ask(idle, "bolt", f"/v1/jobs/{job_id}")["status"] == "cancelled"


@pytest.mark.thorough
def test_hidden_paused_or_idle_page_sends_nothing(tab: Browser, idle: System) -> None:
    open_ops(tab, "watcher")
    for stop, text in (
        ("Date.now = (now => () => now() + 15 * 60000)(Date.now)", "not used for 15 minutes"),
        ("document.querySelector('#pause').click()", "The page is paused"),
    ):
        tab.run(stop)
        tab.wait_for_text("#notice", text)
        polls = count_polls(tab)
        # Nothing asks any more, not even the timer of the last answer.
        assert tab.driver.execute_async_script("setTimeout(arguments[0], 5500, true)")
        assert count_polls(tab) == polls
        tab.find("[data-do=go-on]").click()
        tab.wait(lambda polls=polls: count_polls(tab) > polls, "the page does not go on")  # type: ignore[misc]
        tab.wait_for_text("#freshness", "Live")
    set_hidden = (
        "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    tab.run(set_hidden, True)
    polls = count_polls(tab)
    assert tab.driver.execute_async_script("setTimeout(arguments[0], 5500, true)")
    assert count_polls(tab) == polls
    tab.run(set_hidden, False)
    tab.wait(lambda: count_polls(tab) > polls, "the page does not go on")


@pytest.mark.thorough
def test_each_chart_has_a_table_and_arrow_keys(tab: Browser, idle: System) -> None:
    open_ops(tab, "watcher")
    tab.find("#chart-places .plot")
    assert len(tab.find_all("#chart-places figure")) == 4
    tab.run("document.querySelector('[data-key=jobs] summary').click()")
    tab.find("[data-key=jobs] tbody tr")
    rows = tab.find_all("[data-key=jobs] tbody tr")
    assert len(rows) == 60
    plot = tab.find("[data-key=jobs] .plot")
    tab.run("arguments[0].focus()", plot)
    press(tab, Keys.HOME)
    oldest = rows[-1].find_element("css selector", "th").text
    assert plot.get_dom_attribute("aria-valuenow") == "0"
    assert str(plot.get_dom_attribute("aria-valuetext")).startswith(f"{oldest}: ")
    press(tab, Keys.ARROW_RIGHT)
    assert plot.get_dom_attribute("aria-valuenow") == "1"


def submit_batch(system: System, name: str, label: str, *texts: str, model: str = "noop") -> str:
    """Submit a batch with a line for each text, and return its id."""
    inputs = [{"base64": base64.b64encode(text.encode()).decode()} for text in texts]
    lines = [
        {"custom_id": f"{label} {number}", "input": {**each, "media_type": OCTETS}}
        for number, each in enumerate(inputs)
    ]
    body = {"model": model, "label": label, "items": lines}
    answer = system.http.post("/v1/batches", json=body, headers=bearer(name))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def row_of(batch_id: str) -> str:
    return f"#batch-rows tr[data-key='{batch_id}']"


def test_batch_shows_progress_and_lines(tab: Browser, idle: System) -> None:
    label = "<img src=/v1/jobs> night"
    batch_id = submit_batch(idle, "acme", label, *"abc")
    open_ops(tab, "watcher")
    tab.wait_for_text(row_of(batch_id), "0 of 3")
    for shown in ("acme", "noop", "running", label):
        tab.wait_for_text(row_of(batch_id), shown)
    assert tab.find_all("#batch-rows img, #batch-rows [data-do=cancel-batch]") == []
    with worker(idle):
        tab.wait_for_text(row_of(batch_id), "3 of 3")
        tab.wait_for_text(row_of(batch_id), "succeeded")
    tab.find(f"{row_of(batch_id)} [data-do=find]").click()
    tab.wait_for_text("#job-result", "3 jobs found")
    names = [cell.text for cell in tab.find_all("#job-rows td:nth-of-type(4)")]
    assert names == [f"{label} {number}" for number in range(3)]
    tab.find("#job-rows a").click()
    tab.wait_for_text("#story .facts", batch_id)
    assert unexpected_messages(tab) == []


def test_codes_of_a_batch_find_its_lines(tab: Browser, idle: System, tmp_path: Path) -> None:
    order = json.dumps({"folder": str(tmp_path), "steps": 0})
    batch_id = submit_batch(idle, "bolt", "codes", "not JSON", order, model="slow")
    with worker(idle):
        open_ops(tab, "watcher", f"#batch={batch_id}")
        tab.wait_for_text("#batch-status", "succeeded")
    tab.wait_for_text("#batch-story", "2 of 2, 1 failed")
    tab.find("#batch-story .codes button").click()
    tab.wait_for_text("#job-result", "1 job found")
    tab.wait_for_text("#job-rows", "codes 0")


def test_refused_batch_names_its_lines(tab: Browser, idle: System) -> None:
    slot = idle.http.post("/v1/uploads", json={"purpose": "batch"}, headers=bearer("acme")).json()
    line = {"custom_id": "<b>bold</b>", "input": 1}
    httpx.put(slot["url"], content=json.dumps(line), headers=slot["headers"]).raise_for_status()
    body = {"model": "noop", "file": {"upload": slot["upload"]}}
    batch = idle.http.post("/v1/batches", json=body, headers=bearer("acme")).json()
    open_ops(tab, "watcher", f"#batch={batch['id']}")
    tab.wait_for_text("#batch-status", "failed")
    tab.wait_for_text("#batch-story .refused", "Line 1 (<b>bold</b>): malformed-request")
    tab.wait_for_text(row_of(batch["id"]), "why it was refused")
    assert tab.find_all("#batch-story b") == []


def test_admin_cancels_a_batch_of_any_tenant(tab: Browser, idle: System) -> None:
    batch_id = submit_batch(idle, "bolt", "too many", *"abc")
    open_ops(tab, "admin")
    tab.find(f"{row_of(batch_id)} [data-do=cancel-batch]").click()
    tab.wait_for_text("#confirm-text", "3 lines of it have not ended")
    tab.find("#confirm-yes").click()
    tab.wait_for_text(row_of(batch_id), "3 of 3, 3 cancelled")
    assert ask(idle, "bolt", f"/v1/batches/{batch_id}")["status"] == "cancelled"


def test_tenant_finds_only_its_own_batches(tab: Browser, idle: System) -> None:
    hidden = submit_batch(idle, "acme", "of acme", "x")
    own = submit_batch(idle, "bolt", "of bolt", "x")
    tab.open(f"/ops#batch={hidden}")
    enter_key(tab, KEYS["bolt"][0])
    tab.wait_for_text("#batch-rows", "of bolt")
    assert tab.find_all(row_of(hidden)) == []
    tab.wait_for_text("#batch-story", "The batch could not be read")
    tab.find("#batch-label").send_keys("of b*", Keys.ENTER)
    tab.wait(lambda: len(tab.find_all("#batch-rows tbody tr")) == 1, "the filter has no effect")
    assert tab.find_all(row_of(own))


def test_page_passes_axe_and_fits_320_pixels(tab: Browser, idle: System) -> None:
    make_dead_letters(idle, "axe", 2)
    job_id = accept(idle, "acme", "axe")
    batch_id = submit_batch(idle, "acme", "axe", "x")
    with worker(idle):
        final(idle, "acme", job_id)
        open_ops(tab, "admin", f"#job={job_id}")
        tab.find("#worker-cards article")
        tab.find("#letter-rows table")
        tab.find("#story .steps")
        tab.run("location.hash = arguments[0]", f"#batch={batch_id}")
        tab.find("#batch-story .lines")
        tab.run("document.querySelector('#chart-places summary').click()")
        tab.find("#chart-places tbody tr")
        check_with_axe(tab)
        tab.emulate(forced_colors="active")
        assert tab.find_barriers() == []
        check_width(tab)
    assert unexpected_messages(tab) == []


@pytest.mark.thorough
def test_dead_letter_is_redriven_without_a_mouse(tab: Browser, idle: System) -> None:
    make_dead_letters(idle, "keys", 1)
    open_ops(tab, "admin")
    tab.find("#letter-rows table")
    tab.run("document.querySelector('#letters').focus()")
    tab_to(tab, "[data-do=redrive][data-model=noop]")
    press(tab, Keys.ENTER)
    assert tab.find("#confirm").is_displayed()
    press(tab, Keys.ESCAPE)
    tab.wait(lambda: not tab.find_all("#confirm[open]"), "Escape does not close the dialog")
    press(tab, Keys.ENTER)
    tab.find("#confirm[open]")
    ActionChains(tab.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert focused(tab, "id") == "confirm-yes"
    press(tab, Keys.ENTER)
    tab.wait_for_text("#letter-result", "1 dead letter was redriven")


def test_story_of_a_held_job_has_its_place(tab: Browser, idle: System) -> None:
    path = "/v1/admin/tenants/bolt"
    idle.http.put(path, json={"max_running": 1}, headers=bearer("admin")).raise_for_status()
    jobs = [accept(idle, "bolt", f"held {number}", "slow", "x") for number in range(3)]
    open_ops(tab, "watcher", f"#job={jobs[2]}")
    tab.wait_for_text("#story", "position 2 among the tenant's jobs")
    tab.wait_for_text("#tenant-rows tr[data-key='tenant bolt'] [data-title=Held]", "2")
    for job_id in jobs:
        idle.http.delete(f"/v1/jobs/{job_id}", headers=bearer("bolt")).raise_for_status()
    tab.wait_for_text("#story-status", "cancelled")
    tab.wait_for_text("#tenant-rows tr[data-key='tenant bolt'] [data-title=Held]", "0")
    idle.http.delete(path, headers=bearer("admin")).raise_for_status()
    assert unexpected_messages(tab) == []
