"""Test the smoke test of a deployment: run it with a local system and with faulty gateways."""

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.smoke import gateway, jobs
from infra.smoke.servicebus import CHECKS as SERVICE_BUS_CHECKS
from tests.conformance.worker.worker_services import run_services
from tests.e2e.system import ROOT, System, until
from tests.http_server import Request, Response, serve_http
from tests.infra import fake_cloud
from tests.infra.script_runner import ScriptRunner, install_scripts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KEY = "lsy_a-key-that-this-gateway-does-not-ask-for"


NO_SERVICE_BUS = (
    "Endpoint=sb://localhost:9;SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true;"
)


def scripts_for(system: System, tmp_path: Path, **values: str) -> ScriptRunner:
    """Return a runner for the deployment's scripts, which act on the local system `system`."""
    blobs = f"http://127.0.0.1:{system.part('blobs').ports['blobs']}/devstoreaccount1/"
    values = {
        "API_URL": system.url,
        "GATEWAY_BASE_URL": system.url,
        "PAYLOAD_ENDPOINT": blobs,
        "SERVICE_BUS_HOST": "127.0.0.1:9",
    } | values
    scripts = install_scripts(ROOT, tmp_path / "bin", **values)
    for name, part in (("pod", "worker"), ("host", "functions")):
        (tmp_path / name).write_text(str(system.part(part).pid), encoding="utf-8")
        scripts.update_state(**{name: str(tmp_path / name)})
    return scripts


def read_report(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")][1:]
    return {claim.strip(): result.strip() for claim, result, _ in rows}


def find_private_texts(report: Path, *more: str) -> list[str]:
    names = [KEY, "sb-trial", "rg-trial", "func-trial", "someone@", "5555-5555", "6666-6666"]
    names += [str(ROOT), *more]
    return [name for name in names if name in report.read_text("utf-8")]


def wait_until_replaced(system: System, name: str, before: int) -> None:
    until(lambda: system.part(name).pid != before, 60, f"{name} was killed")
    until(lambda: system.part(name).ready, 60, f"the next {name} is ready")


def test_working_system_passes(system: System, tmp_path: Path) -> None:
    scripts = scripts_for(system, tmp_path)
    admin = system.part("servicebus").ports["servicebus admin"]
    scripts.update_state(
        service_bus_admin=f"http://127.0.0.1:{admin}",
        pods=0,
        log=str(system.data / "logs" / "worker.log"),
    )
    worker, host = system.part("worker").pid, system.part("functions").pid
    report = tmp_path / "reports" / "smoke-test.md"
    options = {"JOBS": "6", "GROUP": "10", "REPORT": str(report)}
    options |= {"SERVICE_BUS_CONNECTION": system.service_bus, "COUNT_SECONDS": "5"}
    ended = scripts.run("smoke-test.sh", LOOSELY_API_KEY=KEY, **options)
    assert ended.returncode == 0, ended.stderr
    results = read_report(report)
    assert set(results) == documented_claims()
    assert results == {
        "the gateway reaches its services": "held",
        "pages may use links to blobs": "held",
        "workers start from zero": "held",
        "one request gets the result": "held",
        "jobs survive the death of a worker": "held",
        "a cancelled job stays cancelled": "held",
        "jobs survive a restart of the gateway": "held",
        "no busy worker is refused when it completes messages together": "held",
        "pods cannot reach the metadata service": "held",
        "KEDA reads the length of the queue": "held",
        "a worker for the GPU uses the GPU": "not applicable",
        "an input travels by a signed link": "held",
        "the Durable management API needs a key": "not applicable",
        "the timer runs": "held",
        "an unreadable message becomes a dead letter": "held",
        **{check.claim: "held" for check in SERVICE_BUS_CHECKS},
        "telemetry arrives in Application Insights": "held",
    }
    assert find_private_texts(report, system.url) == []
    passed = re.findall(r"passed: (.*)", ended.stderr)
    assert len(passed) == 14 + len(SERVICE_BUS_CHECKS), ended.stderr
    assert passed[1] == f"pages of {system.url} may use links to blobs"
    assert "'label'" in passed[3]
    assert passed[4].startswith("6 of 6 jobs succeeded")
    assert passed[5].startswith("10 of 10 jobs accepted, 10 cancelled right after: ")
    assert passed[5].endswith("; 0 seen queued or running after that")
    ends = re.findall(r"(\d+) (cancelled|succeeded)\b(?! right after)", passed[5])
    assert sum(int(count) for count, _ in ends) == 10, passed[5]
    assert passed[6].startswith("10 of 10 jobs accepted: 10 succeeded; ")
    assert not re.search(r" 0 ended after the restart began", passed[6]), passed[6]
    assert len(scripts.calls("az", "functionapp", "restart")) == 1
    wait_until_replaced(system, "worker", worker)
    wait_until_replaced(system, "functions", host)
    assert KEY not in str(fake_cloud.calls(scripts.bin))


def test_unknown_model_fails_each_check_with_jobs(system: System, tmp_path: Path) -> None:
    scripts = scripts_for(system, tmp_path, WORKER_HOST="aca")
    report = tmp_path / "smoke-test.md"
    options = {"MODEL": "nowhere", "GROUP": "2", "RESTART_COMMAND": "none", "REPORT": str(report)}
    options |= {"SERVICE_BUS_CONNECTION": NO_SERVICE_BUS}
    ended = scripts.run("smoke-test.sh", LOOSELY_API_KEY=KEY, **options)
    assert ended.returncode == 1
    results = read_report(report)
    for claim in (
        "workers start from zero",
        "one request gets the result",
        "a cancelled job stays cancelled",
        "an input travels by a signed link",
    ):
        assert results[claim] == "failed", claim
    assert "the first job ended as not accepted" in ended.stderr
    assert "0 of 2 jobs accepted" in ended.stderr
    assert "a job was not cancelled: the gateway responded with 404" in ended.stderr
    assert "left out: jobs during a restart" in ended.stderr
    assert "the gateway gave no link: 404" in ended.stderr
    assert "4 checks failed" in ended.stderr


def test_unreachable_services_fail(system: System, tmp_path: Path) -> None:
    scripts = scripts_for(
        system,
        tmp_path,
        WORKER_HOST="aca",
        API_URL="http://127.0.0.1:9",
        PAYLOAD_ENDPOINT="http://127.0.0.1:9/",
    )
    report = tmp_path / "smoke-test.md"
    options = {"GROUP": "1", "GROUP_SECONDS": "1", "RETRY_COUNT": "1", "RESTART_COMMAND": "none"}
    options |= {"SERVICE_BUS_CONNECTION": NO_SERVICE_BUS, "REPORT": str(report)}
    ended = scripts.run("smoke-test.sh", LOOSELY_API_KEY=KEY, **options)
    assert ended.returncode == 1
    results = read_report(report)
    assert results["the gateway reaches its services"] == "failed"
    assert results["pages may use links to blobs"] == "failed"
    assert results["jobs survive the death of a worker"] == "not applicable"
    assert results["an unreadable message becomes a dead letter"] == "not applicable"
    assert "(AuthorizationFailed) The client 'USER'" in report.read_text("utf-8")
    assert find_private_texts(report) == []


@pytest.mark.thorough
def test_each_unmet_expectation_is_reported(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("the next 100 times, the worker completes them one by one\n", encoding="utf-8")
    module = "tests.conformance.worker.servicebus_with_faults"
    ended_badly = {"/v1/jobs/job-1": (200, {"status": "failed"})}
    with (
        run_services(tmp_path, service_bus_module=module) as services,
        run_broken_gateway(ended_badly) as url,
    ):
        scripts = install_scripts(
            ROOT, tmp_path / "bin", API_URL=url, GATEWAY_BASE_URL=url, PAYLOAD_ENDPOINT=f"{url}/"
        )
        scripts.update_state(
            service_bus_admin=services.service_bus.probe.removesuffix("/health"),
            detects_duplicates="false",
            counts="0",
            log=str(log),
            open_network=True,
            keda="False",
            gpus="1",
            telemetry_rows=0,
            failing={"az functionapp restart": 1},
        )
        report = tmp_path / "smoke-test.md"
        options = {"JOBS": "2", "GROUP": "2", "GROUP_SECONDS": "3", "RETRY_COUNT": "1"}
        options |= {"REPORT": str(report), "SERVICE_BUS_CONNECTION": services.service_bus_url}
        options |= {"LETTER_SECONDS": "0", "COUNT_SECONDS": "1"}
        ended = scripts.run("smoke-test.sh", LOOSELY_API_KEY=KEY, **options)
    assert ended.returncode == 1
    results = read_report(report)
    assert set(results) == documented_claims()
    assert {claim for claim, result in results.items() if result == "does not hold"} == {
        "no busy worker is refused when it completes messages together",
        "Service Bus completes ranges of messages",
        "a released message counts no delivery",
        "a lock token is enough to abandon a message",
        (
            "an abandon over the management link changes properties of a message that another "
            "connection has received"
        ),
    }
    others = {claim: result for claim, result in results.items() if result != "does not hold"}
    assert set(others.values()) == {"failed"}, others
    assert "only 0 of 2 jobs succeeded after the pod was killed" in ended.stderr
    assert "the restart command failed with 1" in ended.stderr
    assert find_private_texts(report, url) == []
    assert "the workers of the model use cpu" in ended.stderr


def documented_claims() -> set[str]:
    page = (ROOT / "docs/explanation/fidelity.md").read_text("utf-8")
    section = page.partition("## What the smoke test checks\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    return set(rows[1:])


def test_half_of_the_jobs_come_before_the_restart() -> None:
    intervals = [
        jobs.submit_after_seconds(number, 8) / jobs.SUBMIT_INTERVAL_SECONDS for number in range(8)
    ]
    assert intervals == pytest.approx([0, 1, 2, 2, 2, 2, 4, 6])
    assert jobs.submit_after_seconds(0, 1) >= 0


class TestFaultyGateway:
    """Test that the smoke test fails if a gateway loses jobs or cancellations."""

    def test_cancelled_job_queued_again_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        with run_faulty_gateway(statuses=["cancelling", "queued", "succeeded"]) as url:
            code, report = run_smoke_group(url, ["cancelled"], capsys)
        assert code == 1
        assert "2 jobs accepted, 2 cancelled right after: 2 succeeded; 2 seen queued" in report
        assert "was cancelled, and then queued" in report

    def test_job_that_never_ends_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        with run_faulty_gateway(statuses=["cancelling"]) as url:
            code, report = run_smoke_group(url, ["cancelled"], capsys)
        assert code == 1
        assert "2 still cancelling; 0 seen queued" in report

    def test_failing_restart_command_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        command = "echo not authorized >&2; exit 3"
        with run_faulty_gateway(statuses=["queued", "succeeded"]) as url:
            code, report = run_smoke_group(url, ["restarted", "--restart", command], capsys)
        assert code == 1
        assert "2 of 2 jobs accepted: 2 succeeded" in report
        assert "the restart command failed with 3: not authorized" in report

    def test_job_that_expires_in_a_restart_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        with run_faulty_gateway(statuses=["queued", "expired"]) as url:
            code, report = run_smoke_group(url, ["restarted", "--restart", "true"], capsys)
        assert code == 1
        assert "2 jobs accepted: 2 expired (expired); " in report


@pytest.mark.parametrize(
    ("check", "answers", "text"),
    [
        ("upload", {"/v1/uploads": (503, {})}, "the gateway gave no link: 503"),
        ("upload", {"/blob": (403, {})}, "the storage refused the upload: 403"),
        ("upload", {"/v1/models/classifier/jobs": (422, {})}, "a job with the upload: 422"),
        ("upload", {"/v1/jobs/job-1": (200, {"status": "failed"})}, "ended as failed"),
        ("management", {}, "without a key got 200"),
        ("letter", {}, "there is no such dead letter"),
        (
            "letter",
            {
                "/v1/admin/dead-letters": (
                    200,
                    {"dead_letters": [{"message_id": "stray", "links": {"self": "/letter"}}]},
                )
            },
            "with the reason None",
        ),
        ("device", {"/v1/ops/overview": (503, {})}, "/v1/ops/overview responded with 503"),
        (
            "device",
            {
                "/v1/ops/overview": (
                    200,
                    {"workers": [{"models": [{"name": "classifier"}], "devices": []}]},
                )
            },
            "use no device",
        ),
    ],
)
def test_each_check_fails_for_a_faulty_gateway(
    check: str,
    answers: dict[str, tuple[int, dict[str, Any]]],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = "1" if check == "upload" else "0"
    with run_broken_gateway(answers) as url:
        options = ["--url", url, "--model", "classifier", "--file", str(ROOT / "README.md")]
        assert gateway.main([check, *options, "--id", "stray", "--seconds", seconds]) == 0
    claim, _ = gateway.CHECKS[check]
    result, found, observed = capsys.readouterr().out.strip().split("\t")
    assert (result, found) == ("failed", claim)
    assert text in observed


@contextmanager
def run_broken_gateway(answers: dict[str, tuple[int, dict[str, Any]]]) -> Iterator[str]:
    worker = {"models": [{"name": "classifier"}], "devices": [{"name": "cpu"}]}
    every: dict[str, tuple[int, dict[str, Any]]] = {
        "/v1/models/classifier/jobs": (202, {"id": "job-1", "status": "queued"}),
        "/v1/jobs/job-1": (200, {"status": "succeeded"}),
        "/blob": (201, {}),
        "/runtime/webhooks/durabletask/instances": (200, {}),
        "/v1/admin/dead-letters": (200, {"dead_letters": []}),
        "/v1/ops/overview": (200, {"workers": [worker]}),
        **answers,
    }

    def answer(request: Request) -> Response:
        link = {"url": f"http://{request.headers['host']}/blob", "upload": "u", "headers": {}}
        path = request.path.partition("?")[0]
        status, document = ({"/v1/uploads": (201, link)} | every).get(path, (404, {}))
        return respond(status, document)

    with serve_http(answer, host="127.0.0.2") as url:
        yield url


def respond(status: int, document: dict[str, Any]) -> Response:
    return Response(status, json.dumps(document).encode())


def run_smoke_group(
    url: str, group: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    options = ["--url", url, "--model", "classifier", "--file", str(ROOT / "README.md")]
    code = jobs.main([*group, *options, "--count", "2", "--seconds", "3"])
    return code, capsys.readouterr().out


@contextmanager
def run_faulty_gateway(statuses: list[str]) -> Iterator[str]:
    """Run a simulated gateway that accepts jobs but never runs them, and yield its URL."""
    read_counts: Counter[str] = Counter()

    def answer(request: Request) -> Response:
        if request.method == "POST":
            return respond(202, {"id": str(uuid.uuid4()), "status": "queued"})
        if request.method == "DELETE":
            return respond(202, {"status": "cancelling"})
        status = statuses[min(read_counts[request.path], len(statuses) - 1)]
        read_counts[request.path] += 1
        error = {"code": status} if status == "expired" else None
        return respond(200, {"status": status, "error": error})

    with serve_http(answer) as url:
        yield url


def test_script_requires_an_api_key(tmp_path: Path) -> None:
    ended = install_scripts(ROOT, tmp_path / "bin").run("smoke-test.sh")
    assert ended.returncode != 0
    assert "keys.sh printed" in ended.stderr
