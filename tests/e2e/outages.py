"""What a caller and an operator see while a broker stores no messages, and afterwards."""

from typing import Any

import httpx

from tests.e2e.system import System, until


def first_verdict(system: System) -> dict[str, Any]:
    verdict: dict[str, Any] = system.http.get("/v1/ops/overview").json()["verdicts"][0]
    return verdict


def readiness(system: System) -> tuple[int, dict[str, str]]:
    answer = system.http.get("/v1/health/ready")
    return answer.status_code, answer.json()["checks"]


def assert_jobs_end_and_all_is_well(system: System, answers: list[httpx.Response]) -> None:
    """All jobs succeed, each once, and the operations page is content again."""
    for number, answer in enumerate(answers):
        job = system.final(answer.json()["id"])
        assert (job["status"], job["result"]) == ("succeeded", {"echo": f"job {number}"})
    until(lambda: first_verdict(system)["code"] != "service-unavailable", 20, "the broker is well")
    until(lambda: readiness(system)[0] == 200, 20, "the gateway is ready")
    assert system.submit("crasher", b"after").json()["status"] == "succeeded"


def submit_both_ways(system: System) -> list[httpx.Response]:
    """Submit a job and wait for its result, then one that is answered later."""
    waited = system.submit("crasher", b"job 0", prefer="wait=6")
    later = system.submit("crasher", b"job 1", prefer="respond-async")
    for answer in (waited, later):
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] == "queued"
        assert answer.headers["location"].endswith(answer.json()["id"])
        assert int(answer.headers["retry-after"]) >= 1
    return [waited, later]
