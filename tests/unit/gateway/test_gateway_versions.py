"""Test how a new job gets a version of its model, and what callers see of versions."""

import json
import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.catalogue import Catalogue, choose_version
from contract.errors import InvalidSetting
from contract.heartbeats import ModelHeartbeat, ModelState
from contract.messages import encode_request
from gateway.jobs.model import read_ticket
from gateway.services import Services
from gateway.submission import idempotency
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.dead_letters import LETTERS, give_up, page
from tests.unit.gateway.open_inference_caller import infer, tensor
from tests.unit.gateway.workers import beat

CATALOGUE = """
[noop]
implementation = "worker.models.noop"
description = "Version 1."
media_types = ["application/octet-stream", "application/json"]
versions = {versions}
{others}

[noop."2"]
description = "Version 2."

[noop."3"]
description = "Version 3."
"""


def write_catalogue(
    folder: Path, percentages: Mapping[str, int] | None = None, others: str = ""
) -> Path:
    pairs = ", ".join(
        f'"{version}" = {percent}' for version, percent in (percentages or {}).items()
    )
    text = CATALOGUE.replace("{versions}", f"{{{pairs}}}").replace("{others}", others)
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def deploy(gateway: RunningGateway, catalogue: Path) -> None:
    """Replace the model catalogue of a running gateway, as a new deployment does."""
    vars(gateway.services.catalogue).update(vars(Catalogue.load(catalogue)))


@pytest.fixture
async def split(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway that sends half of the jobs of the model noop to version 2."""
    path = write_catalogue(tmp_path, {"1": 50, "2": 50})
    async with open_gateway(catalogue_path=path) as opened:
        yield opened


async def accept_on(gateway: RunningGateway, version: str) -> str:
    """Submit jobs until the gateway chooses `version` for a job, and return this job's id."""
    for _ in range(100):
        job_id = await gateway.accept()
        if (await gateway.job(job_id))["version"] == version:
            return job_id
    raise AssertionError(f"no job got version {version}")


async def test_job_id_determines_version_and_queue(split: RunningGateway) -> None:
    ids = [await split.accept() for _ in range(40)]
    expected = [choose_version({"1": 50, "2": 50}, job_id) for job_id in ids]
    jobs = [await split.job(job_id) for job_id in ids]
    assert [(job["model"], job["version"]) for job in jobs] == [
        ("noop", version) for version in expected
    ]
    queues = {"1": "noop", "2": "noop-v2"}
    names = {"1": "noop", "2": "noop:2"}
    assert [queue for queue, _ in split.queues.sent] == [queues[each] for each in expected]
    requests = [split.queues.request(number) for number in range(40)]
    assert [request.model for request in requests] == [names[each] for each in expected]
    assert set(expected) == {"1", "2"}


@pytest.mark.parametrize(
    ("name", "queue", "version"),
    [("noop:1", "noop", "1"), ("noop:2", "noop-v2", "2"), ("noop%3A3", "noop-v3", "3")],
)
async def test_named_version_runs_the_job(
    split: RunningGateway, name: str, queue: str, version: str
) -> None:
    for _ in range(5):
        job_id = await split.accept(model=name, priority="low")
        job = await split.job(job_id)
        assert (job["model"], job["version"]) == ("noop", version)
    assert {each for each, _ in split.queues.sent} == {f"{queue}-low"}


async def test_unknown_version_suggests_similar_names(split: RunningGateway) -> None:
    for path in ("/v1/models/noop:4/jobs", "/v1/models/noop:2:2/jobs"):
        answer = await split.http.post(path, content=b"x")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown-model")
        assert "noop:2" in answer.json()["nearest"]


async def test_position_counts_only_the_versions_queue(split: RunningGateway) -> None:
    split.queues.lengths |= {"noop": 7, "noop-v2": 2}
    job_id = await split.accept(model="noop:2")
    assert (await split.job(job_id))["queue"]["position"] in {2, 3}


async def test_new_percentages_keep_accepted_jobs(split: RunningGateway, tmp_path: Path) -> None:
    split.queues.is_down = True  # so the orchestration sends the message after the deployment
    ids = [await split.accept() for _ in range(10)]
    versions = [(await split.job(job_id))["version"] for job_id in ids]
    assert set(versions) == {"1", "2"}
    deploy(split, write_catalogue(tmp_path, {"3": 100}))
    split.queues.is_down = False
    for job_id in ids:
        await split.services.creator.enqueue(split.durable.runs[job_id].input)
    assert [(await split.job(job_id))["version"] for job_id in ids] == versions
    sent = {request.job_id: request.model for request in map(split.queues.request, range(10))}
    assert [sent[job_id] for job_id in ids] == [
        {"1": "noop", "2": "noop:2"}[version] for version in versions
    ]


@pytest.mark.parametrize("version", ["1", "2"])
async def test_redrive_keeps_the_version(
    split: RunningGateway, tmp_path: Path, version: str
) -> None:
    job_id = await accept_on(split, version)
    request = next(
        each
        for each in map(split.queues.request, range(len(split.queues.sent)))
        if each.job_id == job_id
    )
    queue = {"1": "noop", "2": "noop-v2"}[version]
    await give_up(split, encode_request(request), job_id, queue=queue)
    (letter,) = (await page(split))["dead_letters"]
    deploy(split, write_catalogue(tmp_path, {"3": 100}))
    answer = await split.http.post(letter["links"]["redrive"])
    assert answer.status_code == 202, answer.text
    again = answer.json()["job_id"]
    assert again != job_id
    assert split.queues.sent[-1][0] == queue
    assert split.queues.request().job_id == again
    job = await split.job(again)
    assert (job["model"], job["version"]) == ("noop", version)


async def test_letters_are_listed_for_all_or_one_version(split: RunningGateway) -> None:
    for version, queue in (("1", "noop"), ("2", "noop-v2")):
        job_id = await split.accept(model=f"noop:{version}")
        await give_up(split, encode_request(split.queues.request()), job_id, queue=queue)
    for name, models in (
        ("noop", ["noop", "noop:2"]),
        ("noop:1", ["noop"]),
        ("noop:2", ["noop:2"]),
        ("noop:3", []),
    ):
        letters = (await page(split, model=name))["dead_letters"]
        assert [letter["model"] for letter in letters] == models
    purged = await split.http.delete(LETTERS, params={"model": "noop"})
    assert purged.json()["deleted"] == 2


async def test_jobs_are_listed_for_all_or_one_version(split: RunningGateway) -> None:
    ids = {version: await split.accept(model=f"noop:{version}") for version in "123"}
    for name, versions in (("noop", "123"), ("noop:1", "1"), ("noop:3", "3")):
        answer = await split.http.get("/v1/jobs", params={"model": name})
        found = {job["version"]: job["id"] for job in answer.json()["jobs"]}
        assert found == {version: ids[version] for version in versions}
    unknown = await split.http.get("/v1/jobs", params={"model": "noop:9"})
    assert unknown.status_code == 400


async def submit(gateway: RunningGateway, model: str = "noop") -> Any:
    headers = {"content-type": "application/octet-stream", "idempotency-key": "k"}
    return await gateway.submit(model, content=b"x", headers=headers)


@pytest.mark.parametrize("first", [{"1": 100}, {"2": 100}])
async def test_repeat_after_a_deployment_keeps_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, int]
) -> None:
    monkeypatch.setattr(idempotency, "WATCH_SECONDS", 0.05)
    async with open_gateway(catalogue_path=write_catalogue(tmp_path, first)) as gateway:
        gateway.durable.starts_left = 0
        assert (await submit(gateway)).status_code == 503
        gateway.durable.starts_left = math.inf
        # A worker may already run the first message, so its reply must be that of this version.
        first_request = gateway.queues.request()
        deploy(gateway, write_catalogue(tmp_path, {"3": 100}))
        again = await submit(gateway)
        assert again.status_code == 202, again.text
        assert [again.json()["version"]] == list(first)
        assert gateway.queues.request() == replace(
            first_request, deadline=gateway.queues.request().deadline
        )
        assert read_ticket(gateway.durable.runs[again.json()["id"]].input).model == (
            first_request.model
        )


async def test_repeat_gets_the_job_despite_new_percentages(
    split: RunningGateway, tmp_path: Path
) -> None:
    accepted = await submit(split)
    deploy(split, write_catalogue(tmp_path, {"3": 100}))
    assert (await submit(split)).json() == accepted.json()


async def test_repeat_for_another_version_is_refused(split: RunningGateway) -> None:
    assert (await submit(split, "noop:1")).status_code == 202
    assert (await submit(split, "noop:1")).status_code == 202
    for name in ("noop", "noop:2"):
        assert (await submit(split, name)).json()["code"] == "idempotency-mismatch"


def test_claim_without_a_version_means_version_1() -> None:
    text = '{"job_id": "a", "fingerprint": "b", "created_at": "2026-03-01T12:00:00+00:00"}'
    claim = idempotency.decode_claim(text.encode())
    assert claim is not None
    assert claim.version == "1"
    # Earlier gateways read the claims of models with one version.
    assert json.loads(claim.encode()) == json.loads(text)
    second = replace(claim, version="2")
    assert idempotency.decode_claim(second.encode()) == second


async def test_models_list_versions_with_percentages(split: RunningGateway) -> None:
    split.queues.lengths |= {"noop": 7, "noop-v2": 2}
    models = (await split.http.get("/v1/models")).json()["models"]
    assert [(model["name"], model["version"], model["queue_length"]) for model in models] == [
        ("noop", "1", 7),
        ("noop:2", "2", 2),
        ("noop:3", "3", 0),
    ]
    assert {json.dumps(model["versions"]) for model in models} == {'{"1": 50, "2": 50, "3": 0}'}
    second = (await split.http.get("/v1/models/noop:2")).json()
    assert second["links"] == {"self": "/v1/models/noop:2", "jobs": "/v1/models/noop:2/jobs"}
    assert second["description"] == "Version 2."
    assert (await split.http.get("/v1/models/noop:1")).json()["name"] == "noop"


async def test_open_inference_lists_and_runs_versions(split: RunningGateway) -> None:
    metadata = (await split.http.get("/v2/models/noop/versions/2")).json()
    assert (metadata["name"], metadata["versions"]) == ("noop", ["1", "2", "3"])
    ready = await split.http.get("/v2/models/noop/versions/3/ready")
    assert ready.json() == {"name": "noop", "ready": True}
    answer = await infer(
        split, "noop/versions/2", {"inputs": [tensor("eA==")]}, [{"result": {"json": {}}}]
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["model_name"], answer.json()["model_version"]) == ("noop", "2")
    assert split.queues.sent[-1][0] == "noop-v2"


async def test_inference_names_the_versions_that_ran(split: RunningGateway) -> None:
    replies: list[dict[str, Any]] = [{"result": {"json": {}}}] * 20
    answer = await infer(split, "noop", {"inputs": [tensor(*["eA=="] * 20)]}, replies)
    assert answer.json()["model_version"] == "1,2"
    assert {queue for queue, _ in split.queues.sent} == {"noop", "noop-v2"}


async def test_metric_counts_each_version(split: RunningGateway) -> None:
    for name in ("noop:1", "noop:2", "noop:2"):
        await split.accept(model=name)
    text = (await split.http.get("/metrics")).text
    counted = re.findall(r'jobs_accepted_total{model="(noop.*?)".*} (.*)', text)
    assert {name: float(count) for name, count in counted} == {"noop": 1, "noop:2": 2, "noop:3": 0}


@pytest.fixture
async def falling_back(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway that sends all jobs of the model noop to version 2, with a fallback."""
    path = write_catalogue(tmp_path, {"2": 100}, 'fallback = "1"')
    async with open_gateway(catalogue_path=path) as opened:
        yield opened


LOADED = ModelHeartbeat("noop:2", ModelState.LOADED, load_seconds=1)


@pytest.mark.parametrize(
    ("models", "changes", "version"),
    [
        ([LOADED], {}, "2"),
        ([replace(LOADED, state=ModelState.UNLOADED, load_seconds=None)], {}, "2"),
        ([replace(LOADED, state=ModelState.LOADING)], {}, "2"),
        ([replace(LOADED, state=ModelState.LOADING, load_seconds=None)], {}, "1"),
        ([replace(LOADED, state=ModelState.BROKEN)], {}, "1"),
        ([LOADED], {"is_draining": True}, "1"),
        ([replace(LOADED, name="noop")], {}, "1"),
    ],
)
async def test_fallback_runs_if_no_worker_is_ready(
    falling_back: RunningGateway,
    models: list[ModelHeartbeat],
    changes: dict[str, Any],
    version: str,
) -> None:
    beat(falling_back, models=tuple(models), **changes)
    job = await falling_back.job(await falling_back.accept())
    assert job["version"] == version
    # A caller that names the version waits for its worker.
    named = await falling_back.accept(model="noop:2")
    assert (await falling_back.job(named))["version"] == "2"


async def test_fallback_runs_while_there_are_no_heartbeats(falling_back: RunningGateway) -> None:
    versions = []
    for worker_lives in (False, True, False):
        if worker_lives:
            beat(falling_back, models=(LOADED,))
        falling_back.clock.now += timedelta(seconds=2 if worker_lives else 60)
        versions.append((await falling_back.job(await falling_back.accept()))["version"])
    assert versions == ["1", "2", "1"]


async def test_without_fallback_jobs_stay_queued(tmp_path: Path) -> None:
    async with open_gateway(catalogue_path=write_catalogue(tmp_path, {"2": 100})) as gateway:
        assert (await gateway.job(await gateway.accept()))["version"] == "2"
        assert gateway.queues.sent[-1][0] == "noop-v2"


async def test_unreadable_heartbeats_use_no_fallback(
    falling_back: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    falling_back.blobs.is_unlistable = True
    assert (await submit(falling_back)).json()["version"] == "2"
    assert "no job gets a fallback" in caplog.text


async def test_fallback_without_heartbeats_is_refused(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path, {"2": 100}, 'fallback = "1"')
    async with open_gateway() as gateway:
        settings = replace(gateway.services.settings, catalogue_path=path, has_heartbeats=False)
        with pytest.raises(InvalidSetting, match=r"HEARTBEATS.*noop has a fallback"):
            Services.of(settings)
