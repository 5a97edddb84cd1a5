"""Two groups of jobs for the smoke test: cancelled at once, and answered during a restart.

    LOOSELY_API_KEY=… python3 infra/smoke.py cancelled --url URL --model NAME --file PICTURE
    LOOSELY_API_KEY=… python3 infra/smoke.py restarted … --restart COMMAND

Prints what became of the jobs. Exits with 0 if every job ended as it has to, and with 1 if not.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})
CANCELLED_AT_ONCE: Final = 8
"""How many jobs of the first group are submitted and cancelled at the same time."""

PACE_SECONDS: Final = 0.6
"""The time between two submits of the second group before the restart. After it, twice that."""

RESTART_DELAY_SECONDS: Final = 0.2
"""How long the restart begins after half of the group was submitted, when some are accepted."""

DEADLINE_SECONDS: Final = 1800
REQUEST_SECONDS: Final = 30.0
LONGEST_PAUSE_SECONDS: Final = 2.0
MOST_NAMED: Final = 10


class Clock:
    """The time until which a group may take."""

    def __init__(self, seconds: float) -> None:
        self._begun = time.monotonic()
        self._end = self._begun + seconds

    @property
    def is_over(self) -> bool:
        """Whether the group has no time left."""
        return time.monotonic() >= self._end

    @property
    def left_seconds(self) -> float:
        """How much time the group has left, not less than 0."""
        return max(0.0, self._end - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the end."""
        time.sleep(min(seconds, self.left_seconds))

    def pause_until(self, seconds: float) -> None:
        """Sleep until this long after the beginning, but not past the end."""
        self.pause(max(0.0, self._begun + seconds - time.monotonic()))


@dataclass(frozen=True)
class Api:
    """The gateway as this test calls it."""

    url: str
    model: str
    picture: bytes = field(repr=False)
    key: str = field(repr=False)

    def call(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of an answer; 0 and {} if there was none."""
        request = urllib.request.Request(f"{self.url}{path}", body, method=method)  # noqa: S310  the operator's own URL
        request.add_header("authorization", f"Bearer {self.key}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:  # noqa: S310  as above
                return answer.status, _object(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {}
        except (OSError, http.client.HTTPException):
            return 0, {}

    def submit(self, key: str) -> tuple[int, str]:
        """Submit a job without waiting for it; return the status and the job's id."""
        status, job = self.call(
            "POST",
            f"/v1/models/{self.model}/jobs?deadline_seconds={DEADLINE_SECONDS}",
            self.picture,
            content_type="image/jpeg",
            prefer="respond-async",
            idempotency_key=f'"{key}"',
        )
        return status, str(job.get("id", ""))


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def may_pass(status: int) -> bool:
    """Return whether a request with this answer is worth repeating."""
    return status in {0, 429} or status >= 500


@dataclass
class Fate:
    """What became of one job."""

    job_id: str = ""
    refused_by: int = 0
    repeats: int = 0
    is_cancelled: bool = False
    relapsed_to: str = ""
    status: str = ""
    code: str = ""
    accepted_at: float = 0.0
    ended_at: float = 0.0

    @property
    def ended_as(self) -> str:
        """The job's last known status, with the code of its error."""
        shown = self.status or "not accepted"
        shown = shown if not self.status or self.status in FINAL else f"still {shown}"
        return f"{shown} ({self.code})" if self.code else shown


def accept(api: Api, clock: Clock) -> Fate:
    """Submit one job, again while the gateway is away, under one Idempotency-Key."""
    fate, key = Fate(), str(uuid.uuid4())
    while not clock.is_over:
        status, job_id = api.submit(key)
        if status in {200, 202} and job_id:
            fate.job_id, fate.status, fate.accepted_at = job_id, "queued", time.monotonic()
            break
        fate.refused_by = status
        if not may_pass(status):
            break
        fate.repeats += 1
        clock.pause(1.0)
    return fate


def look(api: Api, fate: Fate) -> None:
    """Read the job's status once, and note whether a cancelled job is back in the queue."""
    status, job = api.call("GET", f"/v1/jobs/{fate.job_id}")
    if status != 200 or not job.get("status"):
        return
    fate.status = str(job["status"])
    if fate.is_cancelled and fate.status in {"queued", "running"}:
        fate.relapsed_to = fate.status
    if fate.status in FINAL:
        fate.ended_at = time.monotonic()
        fate.code = str((job.get("error") or {}).get("code") or "")


def watch(api: Api, fate: Fate, clock: Clock) -> None:
    """Read the job's status until it has ended, or the time is over."""
    pause = 0.1
    while fate.status not in FINAL and not clock.is_over:
        clock.pause(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        look(api, fate)


def cancel(api: Api, fate: Fate, clock: Clock) -> None:
    """Cancel the job, again while the gateway is away, and read its status at once."""
    while not clock.is_over:
        status, _ = api.call("DELETE", f"/v1/jobs/{fate.job_id}")
        if status in {200, 202}:
            fate.is_cancelled = True
            look(api, fate)
            return
        fate.refused_by = status
        if not may_pass(status):
            return
        fate.repeats += 1
        clock.pause(0.5)


def run_cancelled(api: Api, count: int, seconds: float) -> tuple[bool, list[str]]:
    """Cancel each job right after its 202; return whether all held, and the report."""
    clock = Clock(seconds)
    gate = threading.Semaphore(CANCELLED_AT_ONCE)

    def one(_: int) -> Fate:
        with gate:
            fate = accept(api, clock)
            if fate.job_id:
                cancel(api, fate, clock)
        if fate.job_id:
            watch(api, fate, clock)
        return fate

    fates = _together(one, count)
    accepted = [fate for fate in fates if fate.job_id]
    told = [fate for fate in accepted if fate.is_cancelled]
    relapsed = [fate for fate in told if fate.relapsed_to]
    wrong = [fate for fate in told if fate.status not in {"cancelled", "succeeded"}]
    summary = (
        f"{len(accepted)} of {count} jobs accepted, {len(told)} cancelled right after: "
        f"{_counted(told)}; {len(relapsed)} seen queued or running after that"
    )
    report = [summary, *_named("was cancelled, and then", relapsed, lambda fate: fate.relapsed_to)]
    report += _named("was cancelled, and ended as", wrong, lambda fate: fate.ended_as)
    unheard = [fate for fate in fates if not fate.is_cancelled]
    report += _named("was not cancelled: the gateway answered", unheard, _refusal)
    return bool(told) and not (relapsed or wrong or unheard), report


def run_restarted(
    api: Api, count: int, seconds: float, restart_command: str
) -> tuple[bool, list[str]]:
    """Submit jobs and restart the gateway meanwhile; return whether all that it took succeeded."""
    clock = Clock(seconds)
    restart = Restart(restart_command)
    first_accepted = threading.Event()

    def one(number: int) -> Fate:
        clock.pause_until(submit_after_seconds(number, count))
        fate = accept(api, clock)
        if fate.job_id:
            first_accepted.set()
            watch(api, fate, clock)
        return fate

    def begin() -> None:
        clock.pause_until(count // 4 * PACE_SECONDS + RESTART_DELAY_SECONDS)
        # Without a job there is nothing to see, and no reason to restart anything.
        if first_accepted.wait(min(10.0, clock.left_seconds)):
            restart.begin()

    beginning = threading.Thread(target=begin)
    beginning.start()
    fates = _together(one, count)
    beginning.join()
    failure = restart.end(clock.left_seconds)
    accepted = [fate for fate in fates if fate.job_id]
    wrong = [fate for fate in accepted if fate.status != "succeeded"]
    after = [fate for fate in accepted if fate.ended_at > restart.begun_at > 0]
    slowest = max((f.ended_at - f.accepted_at for f in accepted if f.ended_at), default=0.0)
    summary = (
        f"{len(accepted)} of {count} jobs accepted: {_counted(accepted)}; "
        f"{len(after)} ended after the restart began, the slowest took {slowest:.1f} s, "
        f"{sum(fate.repeats for fate in fates)} submits were repeated"
    )
    report = [summary, failure] if failure else [summary]
    report += _named("was accepted, and ended as", wrong, lambda fate: fate.ended_as)
    lost = [fate for fate in fates if not fate.job_id]
    report += _named("was not accepted: the gateway answered", lost, _refusal)
    return bool(accepted) and not (wrong or failure), report


def submit_after_seconds(number: int, count: int) -> float:
    """Return when to submit this job of the second group, from 0.

    A quarter one by one, then half at once, just before the restart, and the rest one by one: it is
    not known how long after its command a restart takes place.
    """
    before, together = count // 4, count // 2
    after = number - before - together + 1
    return (min(number, before) + 2 * max(0, after)) * PACE_SECONDS


class Restart:
    """The command that restarts the gateway, run beside the jobs."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self.begun_at = 0.0

    def begin(self) -> None:
        """Start the command."""
        self._process = subprocess.Popen(  # noqa: S603  the operator's own command
            ["/bin/sh", "-c", self._command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.begun_at = time.monotonic()

    def end(self, seconds: float) -> str:
        """Wait for the command; return what went wrong, or nothing."""
        if self._process is None:
            return "the gateway was not restarted, since no job was accepted before"
        try:
            _, errors = self._process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return "the restart did not end in time"
        code = self._process.returncode
        return f"the restart failed with {code}: {errors.strip()[-300:]}" if code else ""


def _together(run: Callable[[int], Fate], count: int) -> list[Fate]:
    """Run each job on a thread of its own: they mostly wait."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(run, range(count)))


def _counted(fates: Iterable[Fate]) -> str:
    counts = Counter(fate.ended_as for fate in fates)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def _refusal(fate: Fate) -> str:
    return str(fate.refused_by) if fate.refused_by else "nothing"


def _named(what: str, fates: Sequence[Fate], how: Callable[[Fate], str]) -> list[str]:
    lines = [f"{fate.job_id or 'a job'} {what} {how(fate)}" for fate in fates[:MOST_NAMED]]
    more = len(fates) - MOST_NAMED
    return [*lines, f"and {more} more"] if more > 0 else lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one group and print its report."""
    parser = argparse.ArgumentParser(prog="smoke.py", description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=("cancelled", "restarted"))
    parser.add_argument("--url", required=True, help="the gateway's base URL")
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", required=True, type=Path, help="the picture of each job")
    parser.add_argument("--count", type=int, default=50, help="jobs in the group")
    parser.add_argument("--seconds", type=float, default=300, help="how long the group may take")
    parser.add_argument("--restart", default="", help="the command that restarts the gateway")
    given = parser.parse_args(arguments)
    if given.count < 1:
        parser.error("--count: expected 1 or more")
    key = os.environ.get("LOOSELY_API_KEY", "")
    api = Api(given.url.rstrip("/"), given.model, given.file.read_bytes(), key)
    if given.group == "cancelled":
        passed, report = run_cancelled(api, given.count, given.seconds)
    elif given.restart:
        passed, report = run_restarted(api, given.count, given.seconds, given.restart)
    else:
        parser.error("restarted needs --restart COMMAND")
    sys.stdout.write("\n".join(report) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
