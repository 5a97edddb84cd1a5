"""Run `loosely up` as a process on free ports, and let tests control the system's components."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

from loosely.local.broker_server import find_server
from loosely.local.data_directory import RunningPart, RunningSystem
from loosely.local.errors import ServerMissing
from tests import connections
from tests.ports import free_ports
from tests.suspension import suspend

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90.0
BUSY_SECONDS = 30.0


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Call `condition` every 50 ms until it returns a true value, and return that value.

    A busy machine gets at least BUSY_SECONDS.
    """
    seconds = max(seconds, BUSY_SECONDS)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"this condition was not met within {seconds} s: {what}")


def run_loosely(
    *arguments: str, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a `loosely` command in `folder`, which can contain models."""
    return subprocess.run(
        [sys.executable, "-m", "loosely", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


class System:
    """A `loosely up` process with its own data directory and ports."""

    def __init__(  # noqa: PLR0917 - callers name all arguments except `data`
        self,
        data: Path,
        catalogue: Path | str | None = None,
        without: tuple[str, ...] = (),
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        folder: Path = ROOT,
    ) -> None:
        self.data = data
        self._prefix = prefix
        self._folder = folder
        self._options = options
        self._environment = environment or {}
        if isinstance(catalogue, str):
            text, catalogue = catalogue, data.parent / "models.toml"
            catalogue.write_text(text, encoding="utf-8")
        self._catalogue = catalogue
        self._without = without
        self.port = port or free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    @property
    def is_isolated(self) -> bool:
        return "--isolated" in self._options

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def visible_data(self) -> Path:
        """The path by which the test can read the files in the system's data directory."""
        if not self._prefix:
            return self.data
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/root{self.data}")

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def service_bus(self) -> str:
        return connections.service_bus(self.part("servicebus").ports["servicebus"])

    def start(self) -> Self:
        command = [*self._prefix, sys.executable, "-m", "loosely", "up"]
        command += ["--port", str(self.port)]
        command += ["--data", str(self.data), *self._options]
        for part in self._without:
            command += ["--without", part]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **self._environment}
        if self._catalogue:
            environment["MODEL_CATALOGUE"] = str(self._catalogue)
        self._output = self.data.parent / f"{self.data.name}.out"
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=output, stderr=output
            )
        until(self.is_up, READY_SECONDS, "all components are ready")
        return self

    def is_up(self) -> bool:
        process = self._process
        if process is not None and process.poll() is not None:
            raise AssertionError(f"`up` ended with {process.returncode}: {self.output()[-2000:]}")
        system = RunningSystem.read(self.visible_data)
        return system is not None and all(part.ready for part in system.parts.values())

    def output(self) -> str:
        return self._output.read_text("utf-8", "replace")

    def part(self, name: str) -> RunningPart:
        system = RunningSystem.read(self.visible_data)
        assert system is not None, "the system is not running"
        return system.parts[name]

    def pid(self, name: str) -> int:
        """Return the process id of the component `name`.

        `functions` is the Functions host, and `app` the process that runs the gateway: with
        `--isolated` a child process of the host, otherwise the host itself. `worker parent` starts
        the process `worker`, which runs the models.
        """
        parents = {"app": "functions", "worker": "worker", "worker parent": "worker"}
        process = psutil.Process(self.part(parents.get(name, name)).pid)
        has_child = sys.platform == "linux" if name == "worker" else self.is_isolated
        if name in {"app", "worker"} and has_child:
            children = until(process.children, 10, f"{name} runs")
            # A spare process of the worker is always younger than the process that works.
            return int(min(children, key=psutil.Process.create_time).pid)
        return process.pid

    def kill(self, name: str) -> None:
        """Send SIGKILL to the process of the component `name` (see `pid`)."""
        os.kill(self.pid(name), signal.SIGKILL)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Suspend a component during the `with` block. Its ports stay open.

        The parent of a worker is suspended, too. It would kill the worker after 27 s.
        """
        pids = [
            self.pid(each) for each in (("worker parent", name) if name == "worker" else (name,))
        ]
        suspend(*pids)
        try:
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)

    def kill_and_wait(self, name: str) -> None:
        """Kill the component `name`, and wait until it is ready again (except `app`)."""
        before = self.pid(name)
        self.kill(name)
        if name != "app":
            until(lambda: self._replaced(name, before), 60, f"{name} is ready again")

    def _replaced(self, name: str, before: int) -> bool:
        part = self.part(name.removesuffix(" parent"))
        if not part.ready or (name != "worker" and part.pid == before):
            return False
        if not name.startswith("worker"):
            return True
        # `loosely up` does not see that the parent has replaced the child.
        try:
            port = part.ports["worker health"]
            is_ready = httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
            return is_ready and self.pid(name) != before
        except (httpx.TransportError, psutil.NoSuchProcess):
            return False

    def stop(self) -> int:
        """Stop the system as Ctrl-C does, and return the exit code."""
        self.http.close()
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(60)
        finally:
            self._process.kill()

    def submit(
        self,
        model: str,
        data: bytes,
        media_type: str = "application/octet-stream",
        query: str = "",
        **headers: str,
    ) -> httpx.Response:
        """Submit a job. `query` begins with `?`; `_` stands for `-` in the names of `headers`."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(
            f"/v1/models/{model}/jobs{query}",
            content=data,
            headers={"content-type": media_type, **fields},
        )

    def accept(
        self,
        model: str,
        data: bytes,
        media_type: str = "application/octet-stream",
        query: str = "",
        **headers: str,
    ) -> str:
        answer = self.submit(model, data, media_type, query, prefer="respond-async", **headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def accept_at_last(
        self,
        model: str,
        data: bytes,
        media_type: str = "application/octet-stream",
        query: str = "",
        **headers: str,
    ) -> str:
        """Submit a job until the gateway accepts it, for up to 60 s, and return the job's id.

        Without an `idempotency_key`, a lost response makes a second job.
        """
        headers["prefer"] = "respond-async"

        def accepted() -> str | None:
            try:
                answer = self.submit(model, data, media_type, query, **headers)
            except httpx.TransportError:
                return None
            return str(answer.json()["id"]) if answer.status_code in {200, 202} else None

        return str(until(accepted, 60, "the job is accepted"))

    def wait_until_empty(self) -> None:
        self.wait_for_messages(0)

    def wait_for_messages(self, count: int) -> None:
        until(lambda: self._message_count() == count, 20, f"{count} messages are in the queues")

    def _message_count(self) -> int:
        port = self.part("servicebus").ports["servicebus admin"]
        feed = httpx.get(f"http://127.0.0.1:{port}/$Resources/queues").text
        counts = [int(count) for count in re.findall(r":MessageCount>(\d+)<", feed)]
        assert counts, feed
        return sum(counts)

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def final(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until a job has ended, also through a gateway's outage, and return the job."""
        return dict(until(lambda: self._final(job_id), seconds, f"job {job_id} is final"))

    def _final(self, job_id: str) -> dict[str, Any] | None:
        try:
            answer = self.http.get(f"/v1/jobs/{job_id}")
        except httpx.TransportError:
            return None
        if answer.status_code >= 500:
            return None
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job if job["finished_at"] else None


def add_form_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--isolated`, whose value `form` are the options for `running`."""
    parser.add_argument(
        "--isolated",
        dest="form",
        action="store_const",
        const=("--isolated",),
        default=(),
        help="run the app in a process beside its host",
    )


def broker_options(broker: str) -> tuple[str, str]:
    """Return the options of `loosely up` for a broker.

    Skip the test without the broker's server, or fail in CI.
    """
    try:
        find_server(broker)
    except ServerMissing as error:
        if os.environ.get("CI") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    return "--broker", broker


@contextmanager
def running(  # noqa: PLR0917 - callers name all arguments except `data`
    data: Path,
    catalogue: Path | str | None = None,
    without: tuple[str, ...] = (),
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    options: tuple[str, ...] = (),
) -> Iterator[System]:
    """Start a system, and stop it at the end of the `with` block.

    `catalogue` is a file, or the text of a file that is written beside `data`. With the data of
    an earlier system, pass its `port`: reply URLs of queued jobs contain it.
    """
    system = System(data, catalogue, without, port, environment, options, folder=folder)
    try:
        yield system.start()
    finally:
        system.stop()
