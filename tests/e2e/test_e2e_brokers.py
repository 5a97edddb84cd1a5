"""Test `loosely up --broker` with the RabbitMQ and the Redis of this machine."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loosely.local.broker_server import find_server
from loosely.local.errors import ServerMissing
from tests.e2e.catalogues import format_catalogue
from tests.e2e.system import System, run_loosely, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CATALOGUE = format_catalogue({"crasher": ("tests.e2e.crasher", "")})
BROKERS = ("rabbitmq", "redis")


def options(broker: str) -> tuple[str, ...]:
    try:
        find_server(broker)
    except ServerMissing as error:
        pytest.skip(str(error))
    return "--broker", broker


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def system(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    data = tmp_path_factory.mktemp(broker) / "data"
    with running(data, CATALOGUE, options=options(broker)) as started:
        yield started


def test_up_names_the_broker(system: System, broker: str) -> None:
    running_system = system.part(broker)
    assert running_system.ready
    assert broker in system.output()
    with pytest.raises(KeyError):
        system.part("servicebus")


def test_password_is_in_no_log_or_command(system: System, broker: str) -> None:
    password = (system.data / "broker-password.key").read_text().strip()
    assert len(password) >= 24
    logs = "".join(path.read_text() for path in (system.data / "logs").glob("*.log"))
    assert password not in logs + system.output()


def test_caller_waits_for_a_result(system: System) -> None:
    job = system.submit("crasher", b"hello").json()
    assert (job["status"], job["result"]) == ("succeeded", {"echo": "hello"})


def test_jobs_are_answered_later(system: System) -> None:
    jobs = [system.accept("crasher", b"job %d" % number) for number in range(30)]
    for number, job_id in enumerate(jobs):
        assert system.final(job_id)["result"] == {"echo": f"job {number}"}


def test_failing_job_has_an_error(system: System) -> None:
    job = system.final(system.accept("crasher", b"\xff"))
    assert (job["status"], job["error"]["code"]) == ("failed", "inference-failed")


def test_dead_letter_is_redriven(system: System) -> None:
    job_id = system.accept("crasher", b"exit 3")
    job = system.final(job_id)
    assert job["error"]["code"] == "dead-lettered", job

    def stored() -> dict[str, Any] | None:
        page = system.http.get("/v1/admin/dead-letters", params={"model": "crasher"}).json()
        return next((each for each in page["dead_letters"] if each["job_id"] == job_id), None)

    letter = until(stored, 30, "the dead letter is stored")
    redriven = system.http.post(letter["links"]["redrive"]).json()["job_id"]
    assert system.final(redriven)["error"]["code"] == "dead-lettered"
    assert system.submit("crasher", b"after").json()["status"] == "succeeded"


def test_killed_broker_starts_again_with_its_messages(system: System, broker: str) -> None:
    jobs = [system.accept("crasher", b"before %d" % number) for number in range(10)]
    system.kill_and_wait(broker)
    jobs += [system.accept_at_last("crasher", b"after %d" % number) for number in range(10)]
    assert {system.final(job_id, 120)["status"] for job_id in jobs} == {"succeeded"}


def test_waiting_jobs_run_after_a_stop_and_start(broker: str, tmp_path: Path) -> None:
    data, chosen = tmp_path / "data", options(broker)
    with running(data, CATALOGUE, ("worker",), options=chosen) as first:
        jobs = [first.accept("crasher", b"job %d" % number) for number in range(5)]
        until(lambda: waiting(first) == 5, 20, "the messages are in the queue")
        port = first.port
    with running(data, tmp_path / "models.toml", (), port, options=chosen) as second:
        assert {second.final(job_id, 90)["status"] for job_id in jobs} == {"succeeded"}


def waiting(system: System) -> int | None:
    try:
        (model,) = system.http.get("/v1/models").json()["models"]
    except (httpx.TransportError, ValueError):
        return None
    length: int | None = model["queue_length"]
    return length


def test_missing_server_is_named(broker: str, tmp_path: Path) -> None:
    try:
        found = Path(find_server(broker))
    except ServerMissing:
        found = None
    if found is not None and shutil.which(found.name, path="/usr/lib/rabbitmq/bin:/usr/sbin"):
        pytest.skip("the server is in a folder that is always searched")
    ended = run_loosely(
        *("up", "--broker", broker, "--data", str(tmp_path / "data")), PATH=str(tmp_path)
    )
    assert ended.returncode == 2
    assert f"{broker}-server, which is not installed" in ended.stdout + ended.stderr
