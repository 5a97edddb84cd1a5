"""Test `loosely up --broker` with the RabbitMQ and the Redis of this machine."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from contract.brokers import BrokerMessage
from contract.catalogue import Catalogue
from contract.messages import InlineBytes, JobRequest, encode_request
from contract.settings import BrokerEndpoint, BrokerKind
from gateway.brokers.factory import make_queues
from loosely.local.broker_server import USER, find_server
from loosely.local.errors import ServerMissing
from tests.e2e.catalogues import format_catalogue
from tests.e2e.outages import (
    assert_jobs_end_and_all_is_well,
    first_verdict,
    readiness,
    submit_both_ways,
)
from tests.e2e.system import System, broker_options, run_loosely, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CATALOGUE = format_catalogue({"crasher": ("tests.e2e.crasher", "")})
BROKERS = ("rabbitmq", "redis")


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def system(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    data = tmp_path_factory.mktemp(broker) / "data"
    with running(data, CATALOGUE, options=broker_options(broker)) as started:
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


def letters(system: System) -> list[dict[str, Any]]:
    page = system.http.get("/v1/admin/dead-letters", params={"model": "crasher"}).json()
    found: list[dict[str, Any]] = page["dead_letters"]
    return found


def produce(system: System, broker: str, job_id: str) -> None:
    """Send a request to the queue without the gateway. A worker dead-letters it at once."""
    now = datetime.now(UTC)
    deadline = now + timedelta(minutes=5)
    request = JobRequest(job_id, "other", InlineBytes("text/plain", b"hello"), now, deadline)
    message = BrokerMessage(encode_request(request), job_id, job_id)
    url = broker_url(system, broker)
    endpoint = BrokerEndpoint(BrokerKind(broker), url=url)

    async def send() -> None:
        queues = make_queues(endpoint, Catalogue.load(system.data.parent / "models.toml"), None)
        try:
            await queues.send("crasher", message)
        finally:
            await queues.close()

    asyncio.run(send())


def broker_url(system: System, broker: str) -> str:
    password = (system.data / "broker-password.key").read_text().strip()
    port = system.part(broker).ports[broker]
    if broker == "redis":
        return f"redis://:{password}@127.0.0.1:{port}/0"
    return f"amqp://{USER}:{password}@127.0.0.1:{port}/%2F"


@contextmanager
def storing_nothing(system: System, broker: str, full: str = "memory") -> Iterator[None]:
    """Let the broker refuse messages: Redis at its `maxmemory`, RabbitMQ by one of its alarms."""
    if broker == "redis":
        with redis.Redis.from_url(broker_url(system, broker)) as client:
            client.config_set("maxmemory", 1)
            try:
                yield
            finally:
                client.config_set("maxmemory", 0)
        return
    (server,) = (
        each
        for each in psutil.Process(system.part(broker).pid).children(recursive=True)
        if each.name().startswith("beam")
    )
    program = Path(find_server(broker)).with_name("rabbitmqctl")
    begin, end = {
        "memory": (
            ("set_vm_memory_high_watermark", "absolute", "1MB"),
            ("set_vm_memory_high_watermark", "0.6"),
        ),
        "disk": (("set_disk_free_limit", "90000000000000"), ("set_disk_free_limit", "50MB")),
    }[full]
    control = [str(program), "-n", "loosely@localhost"]
    subprocess.run([*control, *begin], env=server.environ(), check=True)
    try:
        yield
    finally:
        subprocess.run([*control, *end], env=server.environ(), check=True)


def test_jobs_wait_while_the_disk_of_rabbitmq_is_full(system: System, broker: str) -> None:
    if broker != "rabbitmq":
        pytest.skip("test_e2e_redis.py fills the disk of Redis")
    with storing_nothing(system, broker, "disk"):
        answers = submit_both_ways(system)
        verdict = first_verdict(system)
        assert (verdict["severity"], verdict["code"]) == ("critical", "service-unavailable")
        assert verdict["text"] == (
            "RabbitMQ stores no new messages: an alarm of its memory or its disk is on."
        )
        assert readiness(system) == (503, {"durable": "ok", "queue": "no answer", "blobs": "ok"})
    assert_jobs_end_and_all_is_well(system, answers)


def test_dead_letter_is_redriven_while_the_broker_stores_nothing(
    system: System, broker: str
) -> None:
    job_id = system.accept("crasher", b"exit 3")
    produce(system, broker, "order-7")
    job = system.final(job_id)
    assert job["error"]["code"] == "dead-lettered", job
    until(lambda: len(letters(system)) == 2, 30, "both dead letters are stored")
    links = {each["job_id"]: each["links"]["redrive"] for each in letters(system)}
    with storing_nothing(system, broker):
        # RabbitMQ says only to a process that sends that it stores nothing.
        waiting = system.accept("crasher", b"waiting")
        ready = "/v1/health/ready"
        until(lambda: system.http.get(ready).status_code == 503, 20, "the alarm is seen")
        # A job's request is in the input of its orchestration, which sends it later.
        redriven = system.http.post(links[job_id])
        assert redriven.status_code == 202, redriven.text
        refused = [system.http.post(links["order-7"]) for _ in range(2)]
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"] == "2"
        action = {"action": "redrive", "count": 1}
        answer = system.http.post("/v1/admin/dead-letters/actions", json=action)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    answer = until(
        lambda: next(iter(a for a in [system.http.post(links["order-7"])] if a.is_success), None),
        20,
        "the producer's message is sent",
    )
    assert (answer.status_code, answer.json()["job_id"]) == (202, "order-7")
    new_id = redriven.json()["job_id"]
    assert system.final(new_id)["error"]["code"] == "dead-lettered"
    assert system.final(waiting)["status"] == "succeeded"
    until(lambda: len(letters(system)) == 4, 30, "each was redriven once")
    assert system.http.post(links[job_id]).json()["is_repeat"] is True
    assert system.submit("crasher", b"after").json()["status"] == "succeeded"
    ids = sorted(each["job_id"] for each in letters(system))
    assert ids == sorted([job_id, new_id, "order-7", "order-7"])


def test_killed_broker_starts_again_with_its_messages(system: System, broker: str) -> None:
    jobs = [system.accept("crasher", b"before %d" % number) for number in range(10)]
    system.kill_and_wait(broker)
    jobs += [system.accept_at_last("crasher", b"after %d" % number) for number in range(10)]
    assert {system.final(job_id, 120)["status"] for job_id in jobs} == {"succeeded"}


def test_waiting_jobs_run_after_a_stop_and_start(broker: str, tmp_path: Path) -> None:
    data, chosen = tmp_path / "data", broker_options(broker)
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
