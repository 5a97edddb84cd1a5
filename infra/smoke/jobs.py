"""Run one group of jobs of the smoke test.

    LOOSELY_API_KEY=… python -m infra.smoke.jobs cancelled --url URL --model NAME --file PICTURE
    LOOSELY_API_KEY=… python -m infra.smoke.jobs restarted … --restart COMMAND

The exit code is 0 if every job ended as expected.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

FINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})
CANCELLATIONS_IN_PARALLEL: Final = 8
"""The number of jobs of the group `cancelled` that are submitted and cancelled at the same time."""

SUBMIT_INTERVAL_SECONDS: Final = 0.6
"""Seconds between two successive submits of the group `restarted`, before the gateway's restart.
After the restart, this time is twice as long."""

RESTART_DELAY_SECONDS: Final = 0.2
"""Half of the jobs of the group `restarted` are submitted together. The gateway is restarted this
many seconds later, when it has accepted some of these jobs."""

DEADLINE_SECONDS: Final = 1800
REQUEST_SECONDS: Final = 30.0
LONGEST_PAUSE_SECONDS: Final = 2.0
MOST_NAMED: Final = 10


class TimeLimit:
    """The time limit of a group of jobs."""

    def __init__(self, seconds: float) -> None:
        self._begun = time.monotonic()
        self._end = self._begun + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time limit has passed."""
        return time.monotonic() >= self._end

    @property
    def left_seconds(self) -> float:
        """The remaining time in seconds; 0 if the time limit has passed."""
        return max(0.0, self._end - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Sleep for this number of seconds, or until the time limit, if that is earlier."""
        time.sleep(min(seconds, self.left_seconds))

    def pause_until(self, seconds: float) -> None:
        """Sleep until `seconds` after the start of the group, or until the time limit."""
        self.pause(max(0.0, self._begun + seconds - time.monotonic()))


@dataclass(frozen=True)
class Api:
    """A client of the gateway's API."""

    url: str
    model: str
    picture: bytes = field(repr=False)
    key: str = field(repr=False)
    http: httpx.Client = field(default_factory=httpx.Client, repr=False)

    def call(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Send a request, and return the HTTP status and the JSON object of the response.

        The object is {} after an error. Without a response, the status is 0. In the names of
        `headers`, `_` stands for `-`.
        """
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key:
            given["authorization"] = f"Bearer {self.key}"
        try:
            response = self.http.request(
                *(method, f"{self.url}{path}"),
                content=body,
                headers=given,
                timeout=REQUEST_SECONDS,
            )
        except httpx.HTTPError:
            return 0, {}
        return response.status_code, _parse_object(response.content) if response.is_success else {}

    def submit(self, key: str) -> tuple[int, str]:
        """Submit a job; return the HTTP status and the id, which is empty if it was refused."""
        status, job = self.call(
            "POST",
            f"/v1/models/{self.model}/jobs?deadline_seconds={DEADLINE_SECONDS}",
            self.picture,
            content_type="image/jpeg",
            prefer="respond-async",
            idempotency_key=f'"{key}"',
        )
        return status, str(job.get("id", ""))


def make_api(url: str, model: str, file: Path) -> Api:
    """Return a client with the API key in the environment variable LOOSELY_API_KEY."""
    key = os.environ.get("LOOSELY_API_KEY", "")
    return Api(url.rstrip("/"), model, file.read_bytes(), key)


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def is_temporary(status: int) -> bool:
    """Return whether to repeat a request after this HTTP status. 0 means no response."""
    return status in {0, 429} or status >= 500


@dataclass
class JobReport:
    """What the smoke test has observed of one job."""

    job_id: str = ""
    refused_by: int = 0
    repeats: int = 0
    is_cancelled: bool = False
    status_after_cancel: str = ""
    status: str = ""
    code: str = ""
    accepted_at: float = 0.0
    ended_at: float = 0.0

    @property
    def ended_as(self) -> str:
        """The job's last known status as text, with the error code if the job has one."""
        shown = self.status or "not accepted"
        shown = shown if not self.status or self.status in FINAL else f"still {shown}"
        return f"{shown} ({self.code})" if self.code else shown


def accept(api: Api, limit: TimeLimit) -> JobReport:
    """Submit one job, repeatedly with one Idempotency-Key, until it is accepted or refused."""
    job, key = JobReport(), str(uuid.uuid4())
    while not limit.is_over:
        status, job_id = api.submit(key)
        if status in {200, 202} and job_id:
            job.job_id, job.status, job.accepted_at = job_id, "queued", time.monotonic()
            break
        job.refused_by = status
        if not is_temporary(status):
            break
        job.repeats += 1
        limit.pause(1.0)
    return job


def read_status(api: Api, job: JobReport) -> None:
    """Read the status of a job once, and store it in `job`."""
    status, body = api.call("GET", f"/v1/jobs/{job.job_id}")
    if status != 200 or not body.get("status"):
        return
    job.status = str(body["status"])
    if job.is_cancelled and job.status in {"queued", "running"}:
        job.status_after_cancel = job.status
    if job.status in FINAL:
        job.ended_at = time.monotonic()
        job.code = str((body.get("error") or {}).get("code") or "")


def watch(api: Api, job: JobReport, limit: TimeLimit) -> None:
    """Read the job's status repeatedly until the job has ended or the time limit has passed."""
    pause = 0.1
    while job.status not in FINAL and not limit.is_over:
        limit.pause(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        read_status(api, job)


def cancel(api: Api, job: JobReport, limit: TimeLimit) -> None:
    """Cancel a job, repeatedly until the gateway accepts or refuses, and read its status once."""
    while not limit.is_over:
        status, _ = api.call("DELETE", f"/v1/jobs/{job.job_id}")
        if status in {200, 202}:
            job.is_cancelled = True
            read_status(api, job)
            return
        job.refused_by = status
        if not is_temporary(status):
            return
        job.repeats += 1
        limit.pause(0.5)


def run_cancelled(api: Api, count: int, seconds: float) -> tuple[bool, list[str]]:
    """Cancel each job right after its acceptance; return whether all is well, and the report."""
    limit = TimeLimit(seconds)
    slots = threading.Semaphore(CANCELLATIONS_IN_PARALLEL)

    def run_one(_: int) -> JobReport:
        with slots:
            job = accept(api, limit)
            if job.job_id:
                cancel(api, job, limit)
        if job.job_id:
            watch(api, job, limit)
        return job

    reports = _run_in_threads(run_one, count)
    accepted = [job for job in reports if job.job_id]
    cancelled = [job for job in accepted if job.is_cancelled]
    returned = [job for job in cancelled if job.status_after_cancel]
    wrong = [job for job in cancelled if job.status not in {"cancelled", "succeeded"}]
    summary = (
        f"{len(accepted)} of {count} jobs accepted, {len(cancelled)} cancelled right after: "
        f"{_count_by_end(cancelled)}; {len(returned)} seen queued or running after that"
    )
    report = [
        summary,
        *_list_jobs("was cancelled, and then", returned, lambda job: job.status_after_cancel),
    ]
    report += _list_jobs("was cancelled, and ended as", wrong, lambda job: job.ended_as)
    not_cancelled = [job for job in reports if not job.is_cancelled]
    report += _list_jobs(
        "was not cancelled: the gateway responded with", not_cancelled, _describe_refusal
    )
    return bool(cancelled) and not (returned or wrong or not_cancelled), report


def run_restarted(
    api: Api, count: int, seconds: float, restart_command: str
) -> tuple[bool, list[str]]:
    """Restart the gateway while jobs run; return whether all succeeded, and the report."""
    limit = TimeLimit(seconds)
    restart = Restart(restart_command)
    first_accepted = threading.Event()

    def run_one(number: int) -> JobReport:
        limit.pause_until(submit_after_seconds(number, count))
        job = accept(api, limit)
        if job.job_id:
            first_accepted.set()
            watch(api, job, limit)
        return job

    def start_restart() -> None:
        limit.pause_until(count // 4 * SUBMIT_INTERVAL_SECONDS + RESTART_DELAY_SECONDS)
        # Do not restart the gateway unless it has accepted a job.
        if first_accepted.wait(min(10.0, limit.left_seconds)):
            restart.begin()

    beginning = threading.Thread(target=start_restart)
    beginning.start()
    reports = _run_in_threads(run_one, count)
    beginning.join()
    failure = restart.end(limit.left_seconds)
    accepted = [job for job in reports if job.job_id]
    wrong = [job for job in accepted if job.status != "succeeded"]
    after = [job for job in accepted if job.ended_at > restart.begun_at > 0]
    slowest = max((f.ended_at - f.accepted_at for f in accepted if f.ended_at), default=0.0)
    summary = (
        f"{len(accepted)} of {count} jobs accepted: {_count_by_end(accepted)}; "
        f"{len(after)} ended after the restart began, the slowest took {slowest:.1f} s, "
        f"{sum(job.repeats for job in reports)} submits were repeated"
    )
    report = [summary, failure] if failure else [summary]
    report += _list_jobs("was accepted, and ended as", wrong, lambda job: job.ended_as)
    lost = [job for job in reports if not job.job_id]
    report += _list_jobs("was not accepted: the gateway responded with", lost, _describe_refusal)
    return bool(accepted) and not (wrong or failure), report


def submit_after_seconds(number: int, count: int) -> float:
    """Return when to submit job `number` of `count`, in seconds after the start of the group.

    A quarter of the jobs come one by one, half of them together just before the restart, and a
    quarter one by one at longer intervals, so that some meet the restart.
    """
    before, together = count // 4, count // 2
    after = number - before - together + 1
    return (min(number, before) + 2 * max(0, after)) * SUBMIT_INTERVAL_SECONDS


class Restart:
    """The command that restarts the gateway while the jobs run."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self.begun_at = 0.0

    def begin(self) -> None:
        """Start the restart command."""
        self._process = subprocess.Popen(  # noqa: S603  the operator's own command
            ["/bin/sh", "-c", self._command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.begun_at = time.monotonic()

    def end(self, seconds: float) -> str:
        """Wait for the restart command; return an error message, empty if it succeeded."""
        if self._process is None:
            return "the gateway was not restarted, because it had not accepted a job"
        try:
            _, errors = self._process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return "the restart command did not end in time"
        code = self._process.returncode
        return f"the restart command failed with {code}: {errors.strip()[-300:]}" if code else ""


def _run_in_threads(run: Callable[[int], JobReport], count: int) -> list[JobReport]:
    """Call `run` with each number below `count` in parallel threads; return the reports."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(run, range(count)))


def _count_by_end(reports: Iterable[JobReport]) -> str:
    counts = Counter(job.ended_as for job in reports)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def _describe_refusal(job: JobReport) -> str:
    return str(job.refused_by) if job.refused_by else "nothing"


def _list_jobs(
    what: str, reports: Sequence[JobReport], how: Callable[[JobReport], str]
) -> list[str]:
    lines = [f"{job.job_id or 'a job'} {what} {how(job)}" for job in reports[:MOST_NAMED]]
    more = len(reports) - MOST_NAMED
    return [*lines, f"and {more} more"] if more > 0 else lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one group of jobs, and print its report. Return 0 if the group passed, otherwise 1."""
    parser = argparse.ArgumentParser(prog="infra.smoke.jobs", description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=("cancelled", "restarted"))
    parser.add_argument("--url", required=True, help="the gateway's base URL")
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", required=True, type=Path, help="the picture of each job")
    parser.add_argument("--count", type=int, default=50, help="jobs in the group")
    parser.add_argument("--seconds", type=float, default=300, help="time limit in seconds")
    parser.add_argument("--restart", default="", help="the command that restarts the gateway")
    given = parser.parse_args(arguments)
    if given.count < 1:
        parser.error("--count: expected 1 or more")
    api = make_api(given.url, given.model, given.file)
    if given.group == "cancelled":
        passed, report = run_cancelled(api, given.count, given.seconds)
    elif given.restart:
        passed, report = run_restarted(api, given.count, given.seconds, given.restart)
    else:
        parser.error(
            "the group `restarted` needs the command that restarts the gateway: add --restart "
            "COMMAND"
        )
    sys.stdout.write("\n".join(report) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
