"""Test that a running system distributes the jobs of a model over the model's versions."""

from collections.abc import Iterator

import pytest

from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CATALOGUE = """
[split]
implementation = "tests.e2e.versioned_model"
description = "Half of its jobs run on version 2."
media_types = ["application/octet-stream"]
options = {answer = "one"}
max_delivery_count = 1
versions = {"1" = 50, "2" = 50}

[split."2"]
options = {answer = "two"}

[falling]
implementation = "tests.e2e.versioned_model"
description = "Its version 2 cannot be loaded."
media_types = ["application/octet-stream"]
options = {answer = "one"}
versions = {"2" = 100}
fallback = "1"

[falling."2"]
options = {answer = "broken"}
"""
ANSWERS = {"1": "one", "2": "two"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("versions") / "data", CATALOGUE) as started:
        yield started


def test_job_shows_the_version_that_ran_it(system: System) -> None:
    seen = set()
    for _ in range(20):
        job = system.submit("split", b"x").json()
        assert (job["model"], job["status"]) == ("split", "succeeded")
        assert job["result"] == {"answer": ANSWERS[job["version"]]}
        seen.add(job["version"])
    assert seen == {"1", "2"}
    for version, answer in ANSWERS.items():
        job = system.submit(f"split:{version}", b"x").json()
        assert (job["version"], job["result"]) == (version, {"answer": answer})


def test_fallback_runs_while_a_version_cannot_load(system: System) -> None:
    job = system.submit("falling", b"x", prefer="wait=60").json()
    assert (job["version"], job["status"]) == ("1", "succeeded")
    assert job["result"] == {"answer": "one"}


def test_redriven_job_runs_on_the_same_version(system: System) -> None:
    job_id = system.accept("split:2", b"die")
    job = system.final(job_id)
    assert (job["version"], job["error"]["code"]) == ("2", "dead-lettered")
    letters = until(
        lambda: system.http.get("/v1/admin/dead-letters", params={"model": "split"}).json()[
            "dead_letters"
        ],
        30,
        "the dead letter is stored",
    )
    [letter] = letters
    assert (letter["model"], letter["queue"]) == ("split:2", "split-v2")
    redriven = system.http.post(letter["links"]["redrive"]).json()["job_id"]
    again = system.final(redriven)
    assert (again["version"], again["error"]["code"]) == ("2", "dead-lettered")
