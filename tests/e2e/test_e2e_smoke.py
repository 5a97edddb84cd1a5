"""Run the smoke test of a deployment against a local system and against faulty gateways."""

import json
import re
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra import smoke
from tests.e2e.system import ROOT, System, until
from tests.infra import fake_cloud
from tests.infra.script_runner import ScriptRunner, install_scripts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEY = "lsy_a-key-that-this-gateway-does-not-ask-for"


def scripts_for(system: System, tmp_path: Path, **values: str) -> ScriptRunner:
    """Return the deployment's scripts, with a fake kubectl and a fake az that act on `system`.

    The fake kubectl kills the system's worker. The fake az kills the Functions host.
    """
    # No server listens at this Service Bus host, so the script leaves out the checks that use it.
    blobs = f"http://127.0.0.1:{system.part('blobs').ports['blobs']}/devstoreaccount1/"
    values = {"API_URL": system.url, "PAYLOAD_ENDPOINT": blobs} | values
    scripts = install_scripts(ROOT, tmp_path / "bin", SERVICE_BUS_HOST="127.0.0.1:9", **values)
    for name, part in (("pod", "worker"), ("host", "functions")):
        (tmp_path / name).write_text(str(system.part(part).pid), encoding="utf-8")
        scripts.update_state(**{name: str(tmp_path / name)})
    return scripts


def read_report(path: Path) -> dict[str, str]:
    """Return the result of each check in the report of the smoke test, by the name of the check."""
    lines = path.read_text("utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")][1:]
    return {claim.strip(): result.strip() for claim, result, _ in rows}


def wait_until_replaced(system: System, name: str, before: int) -> None:
    """Wait until a killed component has been restarted and is ready.

    `before` is the process id of the killed component.
    """
    until(lambda: system.part(name).pid != before, 60, f"{name} was killed")
    until(lambda: system.part(name).ready, 60, f"the next {name} is ready")


def test_a_working_system_passes_every_check_of_the_smoke_test(
    system: System, tmp_path: Path
) -> None:
    scripts = scripts_for(system, tmp_path)
    worker, host = system.part("worker").pid, system.part("functions").pid
    report = tmp_path / "reports" / "smoke-test.md"
    options = {"JOBS": "6", "GROUP": "10", "REPORT": str(report)}
    ended = scripts.run("smoke-test.sh", LOOSELY_API_KEY=KEY, **options)
    assert ended.returncode == 0, ended.stderr
    assert read_report(report) == {
        "the gateway reaches its services": "held",
        "pages may use links to blobs": "held",
        "workers start from zero": "held",
        "one request gets the result": "held",
        "jobs survive the death of a worker": "held",
        "a cancelled job stays cancelled": "held",
        "jobs survive a restart of the gateway": "held",
        "Service Bus completes ranges of messages": "not applicable",
        "an unreadable message becomes a dead letter": "not applicable",
    }
    names = (KEY, system.url, "sb-trial", "rg-trial", "func-trial", str(tmp_path))
    assert not [name for name in names if name in report.read_text("utf-8")]
    passed = re.findall(r"passed: (.*)", ended.stderr)
    assert len(passed) == 7, ended.stderr
    assert passed[1] == f"pages of {system.url} may use links to blobs"
    assert "'label'" in passed[3]
    assert passed[4].startswith("6 of 6 jobs succeeded")
    assert passed[5].startswith("10 of 10 jobs accepted, 10 cancelled right after: ")
    assert passed[5].endswith("; 0 seen queued or running after that")
    ends = re.findall(r"(\d+) (cancelled|succeeded)\b(?! right after)", passed[5])
    assert sum(int(count) for count, _ in ends) == 10, passed[5]
    assert passed[6].startswith("10 of 10 jobs accepted: 10 succeeded; ")
    assert not re.search(r" 0 ended after the restart began", passed[6]), passed[6]
    assert "left out: dead letter" in ended.stderr
    assert len(scripts.calls("az", "functionapp", "restart")) == 1
    wait_until_replaced(system, "worker", worker)
    wait_until_replaced(system, "functions", host)
    assert KEY not in str(fake_cloud.calls(scripts.bin))


def test_each_check_of_the_smoke_test_that_submits_jobs_fails_if_the_model_is_unknown(
    system: System, tmp_path: Path
) -> None:
    scripts = scripts_for(system, tmp_path, WORKER_HOST="aca")
    report = tmp_path / "smoke-test.md"
    options = {"MODEL": "nowhere", "GROUP": "2", "RESTART_COMMAND": "none", "REPORT": str(report)}
    ended = scripts.run("smoke-test.sh", LOOSELY_API_KEY=KEY, **options)
    assert ended.returncode == 1
    results = read_report(report)
    for claim in (
        "workers start from zero",
        "one request gets the result",
        "a cancelled job stays cancelled",
    ):
        assert results[claim] == "failed", claim
    assert "the first job ended as not accepted" in ended.stderr
    assert "0 of 2 jobs accepted" in ended.stderr
    assert "a job was not cancelled: the gateway responded with 404" in ended.stderr
    assert "left out: jobs during a restart" in ended.stderr
    assert "3 checks failed" in ended.stderr


def test_the_smoke_test_fails_if_the_gateway_and_the_storage_do_not_respond(
    system: System, tmp_path: Path
) -> None:
    scripts = scripts_for(
        system,
        tmp_path,
        WORKER_HOST="aca",
        API_URL="http://127.0.0.1:9",
        PAYLOAD_ENDPOINT="http://127.0.0.1:9/",
    )
    report = tmp_path / "smoke-test.md"
    options = {"GROUP": "1", "GROUP_SECONDS": "1", "RETRY_COUNT": "1", "RESTART_COMMAND": "none"}
    options["REPORT"] = str(report)
    ended = scripts.run("smoke-test.sh", LOOSELY_API_KEY=KEY, **options)
    assert ended.returncode == 1
    results = read_report(report)
    assert results["the gateway reaches its services"] == "failed"
    assert results["pages may use links to blobs"] == "failed"
    assert results["jobs survive the death of a worker"] == "not applicable"


def run_during_restart(
    system: System, command: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run the jobs of the group `restarted` of infra/smoke.py, while the gateway is restarted.

    `command` restarts the gateway. Return the exit code and the report of infra/smoke.py.
    """
    options = ["--url", system.url, "--model", "classifier", "--file"]
    options += [str(ROOT / "examples" / "chelsea.jpg"), "--count", "4", "--seconds", "90"]
    return smoke.main(["restarted", *options, "--restart", command]), capsys.readouterr().out


def test_jobs_of_the_smoke_test_succeed_although_the_restart_command_kills_the_host(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    before = system.part("functions").pid
    code, report = run_during_restart(system, f"kill -9 {before}", capsys)
    assert code == 0, report
    assert report.startswith("4 of 4 jobs accepted: 4 succeeded; ")
    wait_until_replaced(system, "functions", before)


def test_the_smoke_test_submits_half_of_the_jobs_just_before_the_restart_command() -> None:
    intervals = [
        smoke.submit_after_seconds(number, 8) / smoke.SUBMIT_INTERVAL_SECONDS for number in range(8)
    ]
    assert intervals == pytest.approx([0, 1, 2, 2, 2, 2, 4, 6])
    assert smoke.submit_after_seconds(0, 1) >= 0


def test_the_smoke_test_fails_if_the_restart_command_fails(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run_during_restart(system, "echo not authorized >&2; exit 3", capsys)
    assert code == 1
    assert "4 of 4 jobs accepted: 4 succeeded" in report
    assert "the restart command failed with 3: not authorized" in report


class TestFaultyGateway:
    """Test that the smoke test fails if a gateway loses jobs or cancellations."""

    def test_the_smoke_test_fails_if_a_cancelled_job_is_queued_again(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with run_faulty_gateway(statuses=["cancelling", "queued", "succeeded"]) as url:
            code, report = run_smoke_group(url, ["cancelled"], capsys)
        assert code == 1
        assert "2 jobs accepted, 2 cancelled right after: 2 succeeded; 2 seen queued" in report
        assert "was cancelled, and then queued" in report

    def test_the_smoke_test_fails_if_a_job_never_ends(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with run_faulty_gateway(statuses=["cancelling"]) as url:
            code, report = run_smoke_group(url, ["cancelled"], capsys)
        assert code == 1
        assert "2 still cancelling; 0 seen queued" in report

    def test_the_smoke_test_fails_if_a_job_expires_during_the_restart(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with run_faulty_gateway(statuses=["queued", "expired"]) as url:
            code, report = run_smoke_group(url, ["restarted", "--restart", "true"], capsys)
        assert code == 1
        assert "2 jobs accepted: 2 expired (expired); " in report


def run_smoke_group(
    url: str, group: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    options = ["--url", url, "--model", "classifier", "--file", str(ROOT / "README.md")]
    code = smoke.main([*group, *options, "--count", "2", "--seconds", "3"])
    return code, capsys.readouterr().out


@contextmanager
def run_faulty_gateway(statuses: list[str]) -> Iterator[str]:
    """Run a gateway that never runs a job, and yield its URL.

    Requests for a job return the elements of `statuses` in order, and then the last element again
    and again.
    """
    read_counts: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(202, {"id": str(uuid.uuid4()), "status": "queued"})

        def do_DELETE(self) -> None:
            self._answer(202, {"status": "cancelling"})

        def do_GET(self) -> None:
            status = statuses[min(read_counts[self.path], len(statuses) - 1)]
            read_counts[self.path] += 1
            error = {"code": status} if status == "expired" else None
            self._answer(200, {"status": status, "error": error})

        def _answer(self, status: int, job: dict[str, Any]) -> None:
            data = json.dumps(job).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def test_the_smoke_test_script_requires_an_api_key(tmp_path: Path) -> None:
    ended = install_scripts(ROOT, tmp_path / "bin").run("smoke-test.sh")
    assert ended.returncode != 0
    assert "keys.sh printed" in ended.stderr
