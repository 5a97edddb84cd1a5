"""Test that a storm's report names each job for which a promise was broken, and no other job."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.messages import INPUT_INLINE_LIMIT_BYTES
from lab.storm.jobs import BrokenPromises, JobKind, KnownState, StormJob, plan_jobs
from lab.storm.killers import plan_killers
from lab.storm.kills import plan_kills
from lab.storm.rig import StormEngine
from lab.storm.run import Storm, describe_silences


def accepted(kind: JobKind = JobKind.ASYNC) -> StormJob:
    job = StormJob(number=3, kind=kind, model_ms=5)
    job.accept("id", "3.1")
    return job


def resource(status: str, **more: Any) -> dict[str, Any]:
    is_final = status not in {"queued", "running", "cancelling"}
    result = {"number": "3.1"} if status == "succeeded" else None
    finished_at = "2026-01-01T00:00:00Z" if is_final else None
    found = {"status": status, "result": result, "finished_at": finished_at, "error": None}
    return found | more


def see(job: StormJob, *answers: dict[str, Any]) -> StormJob:
    for answer in answers:
        job.see(answer, job.known)
    return job


def find_broken(job: StormJob) -> list[str]:
    broken = BrokenPromises.find([job])
    return [name for name in BrokenPromises.__annotations__ if getattr(broken, name)]


def test_succeeded_job_is_not_listed() -> None:
    job = see(accepted(), resource("queued"), resource("succeeded"), resource("succeeded"))
    assert find_broken(job) == []
    assert not BrokenPromises.find([job])


def test_refused_job_is_ignored() -> None:
    assert find_broken(StormJob(number=3, kind=JobKind.ASYNC, model_ms=5)) == []


def test_queued_job_is_lost() -> None:
    assert find_broken(see(accepted(), resource("queued"))) == ["lost"]


def test_unknown_job_is_lost() -> None:
    job = accepted()
    job.see_unknown(job.known)
    assert find_broken(job) == ["lost"]


@pytest.mark.parametrize(
    "answer",
    [
        resource("succeeded") | {"result": {"number": "4.1"}},
        resource("failed"),
        resource("cancelled"),
    ],
)
def test_unexpected_end_is_wrong(answer: dict[str, Any]) -> None:
    assert find_broken(see(accepted(), answer)) == ["wrong"]


@pytest.mark.parametrize(
    ("death", "code", "broken"),
    [
        (None, "dead-lettered", ["wrong"]),
        (9, "dead-lettered", []),
        (9, "inference-failed", ["wrong"]),
    ],
)
def test_only_killer_may_be_dead_lettered(death: int | None, code: str, broken: list[str]) -> None:
    job = accepted()
    job.death = death
    assert find_broken(see(job, resource("failed", error={"code": code}))) == broken


def test_expired_job_is_listed() -> None:
    assert find_broken(see(accepted(), resource("expired"))) == ["expired"]


def test_second_job_of_key_is_doubled() -> None:
    job = see(accepted(JobKind.KEYED), resource("succeeded"))
    job.accept("another id", "3.1")
    assert find_broken(job) == ["doubled"]


@pytest.mark.parametrize("later", [resource("succeeded", attempt=2), resource("queued")])
def test_change_after_end_is_doubled(later: dict[str, Any]) -> None:
    assert find_broken(see(accepted(), resource("succeeded"), later)) == ["doubled"]


def test_unknown_after_end_is_doubled() -> None:
    job = see(accepted(), resource("succeeded"))
    job.see_unknown(job.known)
    assert find_broken(job) == ["doubled"]


def test_late_response_is_ignored() -> None:
    job = see(accepted(), resource("succeeded"))
    job.see(resource("queued"), KnownState(is_final=False, is_cancelled=False))
    assert find_broken(job) == []


def test_cancelled_job_queued_again_is_requeued() -> None:
    job = accepted(JobKind.CANCEL)
    job.cancel_answered = True
    see(job, resource("cancelling"), resource("queued"), resource("cancelled"))
    assert find_broken(job) == ["requeued"]


@pytest.mark.parametrize("status", ["cancelled", "succeeded"])
def test_cancelled_job_may_succeed(status: str) -> None:
    job = accepted(JobKind.CANCEL)
    job.cancel_answered = True
    assert find_broken(see(job, resource("cancelling"), resource(status))) == []


def test_same_seed_plans_same_storm() -> None:
    assert plan_jobs(100, 7, 0.1) == plan_jobs(100, 7, 0.1) != plan_jobs(100, 8, 0.1)
    assert plan_killers(40, 4, 7) == plan_killers(40, 4, 7) != plan_killers(40, 4, 8)
    hosts = ("gateway-1", "gateway-2")
    plans = [plan_kills(20, seed, hosts, is_isolated=True) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]


def test_only_an_isolated_app_is_killed_alone() -> None:
    alone = [
        {
            kill.part
            for kill in plan_kills(99, 7, ("gateway",), is_isolated=isolated)
            if kill.is_child
        }
        for isolated in (False, True)
    ]
    assert alone == [{"worker"}, {"worker", "gateway"}]


def test_every_fifth_input_is_large() -> None:
    sizes = [len(StormJob(n, JobKind.ASYNC, 5).input(Path("/ran"), 1)[1]) for n in range(10)]
    assert [size > INPUT_INLINE_LIMIT_BYTES for size in sizes] == [n % 5 == 0 for n in range(10)]


def ended_between(begin: float, end: float) -> StormJob:
    created_at, finished_at = (datetime.fromtimestamp(at, UTC).isoformat() for at in (begin, end))
    return see(accepted(), resource("succeeded", created_at=created_at, finished_at=finished_at))


def test_silence_counts_only_while_a_job_is_open() -> None:
    run = Storm(Namespace(), StormEngine(), [ended_between(95, 101), ended_between(106, 107.5)])
    run.jobs += [ended_between(95, 100.5), accepted()]
    assert describe_silences(run) == []
    run.silences += [(100, 107), (102, 105), (106, 107.5)]
    (line,) = describe_silences(run)
    assert "of the worker: p50 1.5 s, at most 2.0 s, of 3 (seconds with an open job" in line
