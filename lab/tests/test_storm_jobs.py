"""Test that a storm's report names each job for which a promise was broken, and no other job."""

from pathlib import Path
from typing import Any

import pytest

from contract.messages import INPUT_INLINE_LIMIT_BYTES
from lab.storm.jobs import BrokenPromises, JobKind, KnownState, StormJob, plan_jobs
from lab.storm.killers import plan_killers
from lab.storm.kills import plan_kills


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


def test_the_storm_report_does_not_list_a_job_that_succeeded() -> None:
    job = see(accepted(), resource("queued"), resource("succeeded"), resource("succeeded"))
    assert find_broken(job) == []
    assert not BrokenPromises.find([job])


def test_the_storm_report_ignores_a_job_that_was_not_accepted() -> None:
    assert find_broken(StormJob(number=3, kind=JobKind.ASYNC, model_ms=5)) == []


def test_the_storm_report_counts_a_job_as_lost_if_the_job_stays_queued() -> None:
    assert find_broken(see(accepted(), resource("queued"))) == ["lost"]


def test_the_storm_report_counts_a_job_as_lost_if_each_request_for_the_job_gets_status_404() -> (
    None
):
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
def test_the_storm_report_counts_an_unexpected_result_or_final_status_as_wrong(
    answer: dict[str, Any],
) -> None:
    assert find_broken(see(accepted(), answer)) == ["wrong"]


@pytest.mark.parametrize(
    ("death", "code", "broken"),
    [
        (None, "dead-lettered", ["wrong"]),
        (9, "dead-lettered", []),
        (9, "inference-failed", ["wrong"]),
    ],
)
def test_only_a_killer_may_be_dead_lettered(
    death: int | None, code: str, broken: list[str]
) -> None:
    job = accepted()
    job.death = death
    assert find_broken(see(job, resource("failed", error={"code": code}))) == broken


def test_the_storm_report_lists_a_job_that_expired() -> None:
    assert find_broken(see(accepted(), resource("expired"))) == ["expired"]


def test_a_second_job_with_the_same_idempotency_key_counts_as_doubled_in_the_storm_report() -> None:
    job = see(accepted(JobKind.KEYED), resource("succeeded"))
    job.accept("another id", "3.1")
    assert find_broken(job) == ["doubled"]


@pytest.mark.parametrize("later", [resource("succeeded", attempt=2), resource("queued")])
def test_a_job_that_changes_after_its_end_counts_as_doubled_in_the_storm_report(
    later: dict[str, Any],
) -> None:
    assert find_broken(see(accepted(), resource("succeeded"), later)) == ["doubled"]


def test_a_job_that_is_unknown_after_its_end_counts_as_doubled_in_the_storm_report() -> None:
    job = see(accepted(), resource("succeeded"))
    job.see_unknown(job.known)
    assert find_broken(job) == ["doubled"]


def test_the_storm_report_ignores_a_late_response_to_a_request_sent_before_the_job_ended() -> None:
    job = see(accepted(), resource("succeeded"))
    job.see(resource("queued"), KnownState(is_final=False, is_cancelled=False))
    assert find_broken(job) == []


def test_the_storm_report_counts_a_cancelled_job_as_requeued_if_the_job_is_queued_again() -> None:
    job = accepted(JobKind.CANCEL)
    job.cancel_answered = True
    see(job, resource("cancelling"), resource("queued"), resource("cancelled"))
    assert find_broken(job) == ["requeued"]


@pytest.mark.parametrize("status", ["cancelled", "succeeded"])
def test_the_storm_report_permits_a_cancelled_job_to_end_as_cancelled_or_succeeded(
    status: str,
) -> None:
    job = accepted(JobKind.CANCEL)
    job.cancel_answered = True
    assert find_broken(see(job, resource("cancelling"), resource(status))) == []


def test_two_storms_with_the_same_seed_have_the_same_jobs_and_kills() -> None:
    assert plan_jobs(100, 7, 0.1) == plan_jobs(100, 7, 0.1) != plan_jobs(100, 8, 0.1)
    assert plan_killers(40, 4, 7) == plan_killers(40, 4, 7) != plan_killers(40, 4, 8)
    hosts = ("gateway-1", "gateway-2")
    assert plan_kills(20, 7, hosts) == plan_kills(20, 7, hosts) != plan_kills(20, 8, hosts)


def test_every_fifth_input_of_a_storm_is_larger_than_the_inline_limit() -> None:
    sizes = [len(StormJob(n, JobKind.ASYNC, 5).input(Path("/ran"), 1)[1]) for n in range(10)]
    assert [size > INPUT_INLINE_LIMIT_BYTES for size in sizes] == [n % 5 == 0 for n in range(10)]
