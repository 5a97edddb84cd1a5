"""The storm's own judgement: each broken promise is found, and nothing else is."""

from pathlib import Path
from typing import Any

import pytest

from tests.storm.jobs import Faults, Job, Kind, Told, plan_jobs
from tests.storm.kills import plan_kills


def accepted(kind: Kind = Kind.ASYNC) -> Job:
    job = Job(number=3, kind=kind, model_ms=5)
    job.accept("id", "3.1")
    return job


def resource(status: str, **more: Any) -> dict[str, Any]:
    is_final = status not in {"queued", "running", "cancelling"}
    result = {"number": "3.1"} if status == "succeeded" else None
    finished_at = "2026-01-01T00:00:00Z" if is_final else None
    return {"status": status, "result": result, "finished_at": finished_at, **more}


def see(job: Job, *answers: dict[str, Any]) -> Job:
    for answer in answers:
        job.see(answer, job.told)
    return job


def faults(job: Job) -> list[str]:
    found = Faults.of([job])
    return [name for name in Faults.__annotations__ if getattr(found, name)]


def test_a_job_that_was_answered_is_no_fault() -> None:
    job = see(accepted(), resource("queued"), resource("succeeded"), resource("succeeded"))
    assert faults(job) == []
    assert not Faults.of([job])


def test_a_submit_without_a_2xx_promised_nothing() -> None:
    assert faults(Job(number=3, kind=Kind.ASYNC, model_ms=5)) == []


def test_a_job_that_stays_queued_is_lost() -> None:
    assert faults(see(accepted(), resource("queued"))) == ["lost"]


def test_an_unknown_job_is_lost() -> None:
    job = accepted()
    job.see_unknown(job.told)
    assert faults(job) == ["lost"]


@pytest.mark.parametrize(
    "answer",
    [
        resource("succeeded") | {"result": {"number": "4.1"}},
        resource("failed"),
        resource("cancelled"),
    ],
)
def test_an_end_that_nobody_asked_for_is_wrong(answer: dict[str, Any]) -> None:
    assert faults(see(accepted(), answer)) == ["wrong"]


def test_an_expired_job_expired_by_a_crash() -> None:
    assert faults(see(accepted(), resource("expired"))) == ["expired"]


def test_two_jobs_of_one_key_are_doubled() -> None:
    job = see(accepted(Kind.KEYED), resource("succeeded"))
    job.accept("another id", "3.1")
    assert faults(job) == ["doubled"]


@pytest.mark.parametrize("later", [resource("succeeded", attempt=2), resource("queued")])
def test_a_final_answer_that_changes_is_doubled(later: dict[str, Any]) -> None:
    assert faults(see(accepted(), resource("succeeded"), later)) == ["doubled"]


def test_a_final_job_that_is_unknown_later_is_doubled() -> None:
    job = see(accepted(), resource("succeeded"))
    job.see_unknown(job.told)
    assert faults(job) == ["doubled"]


def test_an_answer_that_was_overtaken_contradicts_nothing() -> None:
    job = see(accepted(), resource("succeeded"))
    job.see(resource("queued"), Told(is_final=False, is_cancelled=False))
    assert faults(job) == []


def test_a_cancelled_job_must_not_be_queued_again() -> None:
    job = accepted(Kind.CANCEL)
    job.cancel_answered = True
    see(job, resource("cancelling"), resource("queued"), resource("cancelled"))
    assert faults(job) == ["requeued"]


@pytest.mark.parametrize("status", ["cancelled", "succeeded"])
def test_a_cancelled_job_ends_cancelled_or_succeeded(status: str) -> None:
    job = accepted(Kind.CANCEL)
    job.cancel_answered = True
    assert faults(see(job, resource("cancelling"), resource(status))) == []


def test_a_seed_decides_jobs_and_kills() -> None:
    assert plan_jobs(100, 7, 0.1) == plan_jobs(100, 7, 0.1) != plan_jobs(100, 8, 0.1)
    hosts = ("gateway-1", "gateway-2")
    assert plan_kills(20, 7, hosts) == plan_kills(20, 7, hosts) != plan_kills(20, 8, hosts)


def test_every_fifth_input_is_over_the_inline_limit() -> None:
    sizes = [len(Job(n, Kind.ASYNC, 5).input(Path("/ran"), 1)[1]) for n in range(10)]
    assert [size > 24 * 1024 for size in sizes] == [n % 5 == 0 for n in range(10)]
