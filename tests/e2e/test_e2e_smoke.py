"""The smoke test for a live deployment, run against a local one: its own checks are right."""

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
from tests.infra.scripted import Place, place_in

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEY = "lsy_a-key-that-this-gateway-does-not-ask-for"


def place_of(system: System, tmp_path: Path, **values: str) -> Place:
    """The script among stand-ins that name this system.

    Its worker is the pod that is killed, its Functions host the app that az restarts.
    """
    # Nobody listens there: what needs the queue's own HTTP API is left out.
    place = place_in(
        ROOT, tmp_path / "bin", API_URL=system.url, SERVICE_BUS_HOST="127.0.0.1:9", **values
    )
    for name, part in (("pod", "worker"), ("host", "functions")):
        (tmp_path / name).write_text(str(system.part(part).pid), encoding="utf-8")
        place.change(**{name: str(tmp_path / name)})
    return place


def until_replaced(system: System, name: str, before: int) -> None:
    """Wait until a part that was killed has a successor that is ready."""
    until(lambda: system.part(name).pid != before, 60, f"{name} was killed")
    until(lambda: system.part(name).ready, 60, f"the next {name} is ready")


def test_a_system_that_works_passes(system: System, tmp_path: Path) -> None:
    place = place_of(system, tmp_path)
    worker, host = system.part("worker").pid, system.part("functions").pid
    ended = place.run("smoke-test.sh", LOOSELY_API_KEY=KEY, JOBS="6", GROUP="10")
    assert ended.returncode == 0, ended.stderr
    told = re.findall(r"passed: (.*)", ended.stderr)
    assert len(told) == 6, ended.stderr
    assert "'label'" in told[2]
    assert told[3].startswith("6 of 6 answered")
    assert told[4].startswith("10 of 10 jobs accepted, 10 cancelled right after: ")
    assert told[4].endswith("; 0 seen queued or running after that")
    ends = re.findall(r"(\d+) (cancelled|succeeded)\b(?! right after)", told[4])
    assert sum(int(count) for count, _ in ends) == 10, told[4]
    assert told[5].startswith("10 of 10 jobs accepted: 10 succeeded; ")
    assert not re.search(r" 0 ended after the restart began", told[5]), told[5]
    assert "left out: dead letter" in ended.stderr
    assert len(place.called("az", "functionapp", "restart")) == 1
    until_replaced(system, "worker", worker)
    until_replaced(system, "functions", host)
    assert KEY not in str(fake_cloud.calls(place.bin))


def test_a_system_that_does_not_fails(system: System, tmp_path: Path) -> None:
    place = place_of(system, tmp_path, WORKER_HOST="aca")
    ended = place.run(
        "smoke-test.sh", LOOSELY_API_KEY=KEY, MODEL="nowhere", GROUP="2", RESTART_COMMAND="none"
    )
    assert ended.returncode == 1
    assert "the first job ended as nothing" in ended.stderr
    assert "0 of 2 jobs accepted" in ended.stderr
    assert "a job was not cancelled: the gateway answered 404" in ended.stderr
    assert "left out: jobs during a restart" in ended.stderr
    assert "3 checks failed" in ended.stderr


def restarted(system: System, command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and report of a group of jobs during this way to restart the gateway."""
    options = ["--url", system.url, "--model", "classifier", "--file"]
    options += [str(ROOT / "examples" / "chelsea.jpg"), "--count", "4", "--seconds", "90"]
    return smoke.main(["restarted", *options, "--restart", command]), capsys.readouterr().out


def test_a_host_may_be_killed_by_a_command(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    before = system.part("functions").pid
    code, report = restarted(system, f"kill -9 {before}", capsys)
    assert code == 0, report
    assert report.startswith("4 of 4 jobs accepted: 4 succeeded; ")
    until_replaced(system, "functions", before)


def test_half_of_the_jobs_are_submitted_just_before_the_restart() -> None:
    """And the others one by one, on both sides of it."""
    at = [smoke.submit_after_seconds(number, 8) / smoke.PACE_SECONDS for number in range(8)]
    assert at == pytest.approx([0, 1, 2, 2, 2, 2, 4, 6])
    assert smoke.submit_after_seconds(0, 1) >= 0


def test_a_restart_that_fails_is_no_passed_check(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = restarted(system, "echo not authorized >&2; exit 3", capsys)
    assert code == 1
    assert "4 of 4 jobs accepted: 4 succeeded" in report
    assert "the restart failed with 3: not authorized" in report


class TestJobsThatDoNotHold:
    """The checks find what they are for: a gateway that loses what it was told."""

    def test_a_job_that_is_queued_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        with forgetful_gateway(statuses=["cancelling", "queued", "succeeded"]) as url:
            code, report = run_against(url, ["cancelled"], capsys)
        assert code == 1
        assert "2 jobs accepted, 2 cancelled right after: 2 succeeded; 2 seen queued" in report
        assert "was cancelled, and then queued" in report

    def test_a_job_that_never_ends(self, capsys: pytest.CaptureFixture[str]) -> None:
        with forgetful_gateway(statuses=["cancelling"]) as url:
            code, report = run_against(url, ["cancelled"], capsys)
        assert code == 1
        assert "2 still cancelling; 0 seen queued" in report

    def test_a_job_that_expires(self, capsys: pytest.CaptureFixture[str]) -> None:
        with forgetful_gateway(statuses=["queued", "expired"]) as url:
            code, report = run_against(url, ["restarted", "--restart", "true"], capsys)
        assert code == 1
        assert "2 jobs accepted: 2 expired (expired); " in report


def run_against(url: str, group: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    options = ["--url", url, "--model", "classifier", "--file", str(ROOT / "README.md")]
    code = smoke.main([*group, *options, "--count", "2", "--seconds", "3"])
    return code, capsys.readouterr().out


@contextmanager
def forgetful_gateway(statuses: list[str]) -> Iterator[str]:
    """A gateway whose jobs show these statuses one after another, and then the last one."""
    looks: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(202, {"id": str(uuid.uuid4()), "status": "queued"})

        def do_DELETE(self) -> None:
            self._answer(202, {"status": "cancelling"})

        def do_GET(self) -> None:
            status = statuses[min(looks[self.path], len(statuses) - 1)]
            looks[self.path] += 1
            error = {"code": status} if status == "expired" else None
            self._answer(200, {"status": status, "error": error})

        def _answer(self, status: int, job: dict[str, Any]) -> None:
            data = json.dumps(job).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def test_it_wants_a_key(tmp_path: Path) -> None:
    ended = place_in(ROOT, tmp_path / "bin").run("smoke-test.sh")
    assert ended.returncode != 0
    assert "keys.sh has shown" in ended.stderr
