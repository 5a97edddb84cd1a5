"""Start and stop Loosely and its peers (other ways to serve a model), and find their processes."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from lab.benchmarks.peaks import peak_mb
from lab.benchmarks.peers import environments
from lab.benchmarks.peers.client import PeerRequests
from lab.benchmarks.peers.job import TINY, TINY_BODY
from tests.broker_servers import running_rabbitmq
from tests.e2e.system import running
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
CATALOGUE = ROOT / "lab" / "benchmarks" / "peers" / "models.toml"
LOOSELY = "loosely"
OWN_ENVIRONMENT = "own"
CLASSIFIER = "classifier"
PICTURE_TASKS = ("noop", "resnet18")
ALL_TASKS = (TINY, *PICTURE_TASKS, CLASSIFIER)
_WAIT_SECONDS = 180
_READY_SECONDS = 120.0
_RESTART_PAUSE_SECONDS = 0.1
_MODEL_PROCESSES = "model-processes"
_BOUNDARY = "peer-boundary"
_SERVERS = "lab.benchmarks.peers.servers"
_AZURE_SDK = ROOT / "lab" / "benchmarks" / "peers" / "servers" / "azure_sdk"

BodyForm = Literal["raw", "form", "list"]
"""How a server gets the picture: as the body, as a file of a form, or as base64 in a JSON list."""


@dataclass(frozen=True, slots=True)
class PeerConfiguration:
    """One way to run a peer, for example with or without batches.

    A peer is another way to serve a model, with which Loosely is compared. `commands` are the
    command lines of the peer's programs. In these, `{port}` stands for the port on which the peer
    listens, `{queue_port}` and `{admin_port}` for the ports of Service Bus, and `{folder}` for the
    folder for data. `environment` is a name in `environments.REQUIREMENTS`, or OWN_ENVIRONMENT for
    the Python environment of this process. `options` are those of `loosely up`. `tasks` are the
    tasks that this configuration runs.
    """

    peer: str
    name: str
    title: str
    settings: str
    commands: Sequence[Sequence[str]] = ()
    path: str = "/jobs"
    form: BodyForm = "raw"
    environment: str = "peers"
    uses_redis: bool = False
    uses_rabbitmq: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()
    tasks: Sequence[str] = PICTURE_TASKS

    @property
    def key(self) -> str:
        """The id of this configuration in results, for example `celery/polling`."""
        return f"{self.peer}/{self.name}"

    @property
    def is_ours(self) -> bool:
        """Whether this is Loosely, on any broker."""
        return not self.commands

    def environment_for(self, task: str) -> str:
        """Return the name of the Python environment. Celery's for small tasks has no torch."""
        is_celery = self.peer in {"celery", "celery-rabbitmq"}
        return "celery" if is_celery and task != "resnet18" else self.environment


def _api(module: str, *options: str) -> tuple[str, ...]:
    quiet = ("--log-level", "warning", "--no-access-log")
    return ("uvicorn", f"{_SERVERS}.{module}:app", "--port", "{port}", *quiet, *options)


_CELERY = (
    *("celery", "-A", f"{_SERVERS}.celery_tasks", "worker", "--concurrency", "1"),
    *("--without-gossip", "--without-mingle", "--loglevel", "warning"),
)

_DRAMATIQ = ("dramatiq", f"{_SERVERS}.dramatiq_tasks", "--processes", "1")
_CELERY_SETTINGS = "acks_late, reject_on_worker_lost, prefetch 1, torch imported before the fork"

_AZURE_SDK_COMMANDS = (
    (
        *("python", "-m", "emulator.servicebus", "--log-level", "warning"),
        *("--data", "{folder}/service-bus", "--config", str(_AZURE_SDK / "service_bus.json")),
        *("--port", "{queue_port}", "--admin-port", "{admin_port}"),
    ),
    (
        *("python", "-m", "emulator.functions", "--log-level", "warning", "--no-request-log"),
        *("--data", "{folder}/functions", "--app", str(_AZURE_SDK), "--port", "{port}"),
        "--no-reload",
    ),
    ("python", "-m", f"{_SERVERS}.azure_sdk.worker", "{port}"),
)

CONFIGURATIONS = (
    PeerConfiguration(
        "fastapi",
        "threads",
        "FastAPI in process",
        "`def` endpoint in the default pool of 40 threads",
        [_api("fastapi_threads")],
    ),
    PeerConfiguration(
        "celery",
        "threads",
        "FastAPI + Celery, threads",
        f"Redis; {_CELERY_SETTINGS}; `.get()` in threads",
        [_CELERY, _api("celery_api")],
        uses_redis=True,
        tasks=(TINY, *PICTURE_TASKS),
    ),
    PeerConfiguration(
        "celery",
        "polling",
        "FastAPI + Celery, polling",
        f"Redis; {_CELERY_SETTINGS}; polls every 10 ms",
        [_CELERY, _api("celery_api")],
        path="/polled",
        uses_redis=True,
        tasks=(TINY, *PICTURE_TASKS),
    ),
    PeerConfiguration(
        "celery-rabbitmq",
        "threads",
        "FastAPI + Celery on RabbitMQ, threads",
        f"RabbitMQ, results in Redis; {_CELERY_SETTINGS}; `.get()` in threads",
        [_CELERY, _api("celery_api")],
        uses_redis=True,
        uses_rabbitmq=True,
        tasks=(TINY, *PICTURE_TASKS),
    ),
    PeerConfiguration(
        "celery-rabbitmq",
        "polling",
        "FastAPI + Celery on RabbitMQ, polling",
        f"RabbitMQ, results in Redis; {_CELERY_SETTINGS}; polls every 10 ms",
        [_CELERY, _api("celery_api")],
        path="/polled",
        uses_redis=True,
        uses_rabbitmq=True,
        tasks=(TINY, *PICTURE_TASKS),
    ),
    PeerConfiguration(
        "dramatiq",
        "one-thread",
        "FastAPI + dramatiq, 1 thread",
        "one process with one thread, heartbeat 5 s; `get_result` in threads",
        [(*_DRAMATIQ, "--threads", "1"), _api("dramatiq_api")],
        uses_redis=True,
    ),
    PeerConfiguration(
        "dramatiq",
        "threads",
        "FastAPI + dramatiq, 8 threads",
        "one process with 8 threads, heartbeat 5 s; `get_result` in threads",
        [(*_DRAMATIQ, "--threads", "8"), _api("dramatiq_api")],
        uses_redis=True,
    ),
    PeerConfiguration(
        "arq",
        "polling",
        "FastAPI + arq",
        "polls every 10 ms on both sides, job_timeout 5 s",
        [("arq", f"{_SERVERS}.arq_tasks.WorkerSettings"), _api("arq_api")],
        environment="arq",
        uses_redis=True,
    ),
    PeerConfiguration(
        "litserve",
        "batched",
        "LitServe, batches",
        "restart_workers; batches of 8, 10 ms",
        [("python", "-m", f"{_SERVERS}.litserve_server", "{port}")],
        form="form",
        variables={"PEER_BATCH_SIZE": "8"},
    ),
    PeerConfiguration(
        "litserve",
        "single",
        "LitServe, no batches",
        "restart_workers; no batches",
        [("python", "-m", f"{_SERVERS}.litserve_server", "{port}")],
        form="form",
        variables={"PEER_BATCH_SIZE": "1"},
    ),
    PeerConfiguration(
        "bentoml",
        "batched",
        "BentoML, batches",
        "one service; batches of 8",
        [("bentoml", "serve", f"{_SERVERS}.bentoml_server:Classify", "--port", "{port}")],
        path="/batched",
        form="list",
    ),
    PeerConfiguration(
        "bentoml",
        "single",
        "BentoML, no batches",
        "one service; no batches",
        [("bentoml", "serve", f"{_SERVERS}.bentoml_server:Classify", "--port", "{port}")],
    ),
    PeerConfiguration(
        "azure-sdk",
        "emulators",
        "Azure SDKs without Loosely",
        "the same emulators; batches of messages are sent, one message is received at a time",
        _AZURE_SDK_COMMANDS,
        environment=OWN_ENVIRONMENT,
    ),
    PeerConfiguration(
        LOOSELY, "up", "Loosely", "`loosely up`; batches of 8, 5 ms", tasks=ALL_TASKS
    ),
    PeerConfiguration(
        "loosely-rabbitmq",
        "up",
        "Loosely on RabbitMQ",
        "`loosely up --broker rabbitmq`: quorum queues, confirmed; batches of 8, 5 ms",
        options=("--broker", "rabbitmq"),
        tasks=(TINY, *PICTURE_TASKS),
    ),
    PeerConfiguration(
        "loosely-redis",
        "up",
        "Loosely on Redis",
        "`loosely up --broker redis`: streams; batches of 8, 5 ms",
        options=("--broker", "redis"),
        tasks=(TINY, *PICTURE_TASKS),
    ),
)


@dataclass(slots=True)
class ServedPeer:
    """The running system that is measured, and the requests to send to it.

    The system is Loosely or one of its peers (other ways to serve a model).
    """

    requests: PeerRequests
    model_processes: Path
    roots: Sequence[Any]
    is_loosely: bool = False
    form: BodyForm = "raw"
    ready_seconds: float = 0.0

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the system that run now."""
        found: dict[int, psutil.Process] = {}
        for root in self.roots:
            try:
                process = psutil.Process(root.pid)
                found |= {each.pid: each for each in [process, *process.children(recursive=True)]}
            except psutil.NoSuchProcess:
                continue
        return list(found.values())

    def model_pids(self) -> set[int]:
        """Return the ids of the running processes that have loaded a model."""
        announced = {int(path.name) for path in self.model_processes.iterdir()}
        return announced & {process.pid for process in self.processes()}

    def kill_model_process(self) -> None:
        """Kill each process that has loaded a model, as the kernel does when memory runs out."""
        for pid in self.model_pids():
            os.kill(pid, signal.SIGKILL)

    def peaks_mb(self) -> tuple[float, float]:
        """Return the peak memory of the model processes and of all other processes, in MB.

        Each of the two values is the sum of the peaks of single processes.
        """
        model_pids = self.model_pids()
        model, others = 0.0, 0.0
        for process in self.processes():
            try:
                peak = peak_mb(process.pid)
            except psutil.NoSuchProcess:
                continue
            if process.pid in model_pids:
                model += peak
            else:
                others += peak
        return model, others

    def read_result(self, body: bytes) -> Any:
        """Return the model's result from the body of a response."""
        document = json.loads(body)
        if self.is_loosely:
            return document["result"]
        return document[0] if self.form == "list" else document


class _SupervisedProgram:
    """A running program. If it ends, it is started again after 0.1 s, as systemd would do."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The id of the program's current process."""
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._command,
                cwd=self._log.parent,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _supervise(self) -> None:
        while True:
            self._process.wait()
            if self._stopping.wait(_RESTART_PAUSE_SECONDS):
                return
            self._process = self._start()

    def stop(self) -> None:
        """Terminate the program and do not restart it.

        Wait up to 10 s for the end of the program. Then kill the program, and the processes that it
        has started, if they still run.
        """
        self._stopping.set()
        tree: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            tree = [*root.children(recursive=True), root]
        self._process.terminate()
        self._thread.join(10)
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._thread.join()


@contextmanager
def serve(
    configuration: PeerConfiguration, task: str, pictures: Sequence[bytes], folder: Path
) -> Iterator[ServedPeer]:
    """Run a peer or Loosely during the `with` block, which begins after the first status 200.

    Raises RuntimeError with the end of the logs if there is none in time.
    """
    (folder / _MODEL_PROCESSES).mkdir()
    begin = time.monotonic()
    start = _serve_loosely if configuration.is_ours else _serve_peer
    with start(configuration, task, pictures, folder) as served:
        _wait_until_answered(served, folder, begin)
        yield served


@contextmanager
def _serve_loosely(
    configuration: PeerConfiguration, task: str, pictures: Sequence[bytes], folder: Path
) -> Iterator[ServedPeer]:
    model_processes = folder / _MODEL_PROCESSES
    variables = {
        "PEER_MODEL_PROCESSES": str(model_processes),
        "TORCH_THREADS": "1",
        "WORKER_MODELS": task,
        # As for the peers, Python keeps the compiled modules of the first start. `running` would
        # prevent this.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    with running(
        folder / "data", CATALOGUE, environment=variables, options=tuple(configuration.options)
    ) as system:
        bodies, media_type = _encode(task, pictures, configuration.form)
        headers = {"content-type": media_type, "prefer": f"wait={_WAIT_SECONDS}"}
        requests = PeerRequests(system.url, f"/v1/models/{task}/jobs", bodies, headers)
        (root,) = [each for each in psutil.Process().children() if "loosely" in each.cmdline()]
        yield ServedPeer(requests, model_processes, [root], is_loosely=True)


@contextmanager
def _serve_peer(
    configuration: PeerConfiguration, task: str, pictures: Sequence[bytes], folder: Path
) -> Iterator[ServedPeer]:
    name = configuration.environment_for(task)
    programs = (
        Path(sys.executable).parent if name == OWN_ENVIRONMENT else environments.prepare(name)
    )
    model_processes = folder / _MODEL_PROCESSES
    environment = {
        **environments.variables(),
        **configuration.variables,
        "PEER_TASK": task,
        "PEER_MODEL_PROCESSES": str(model_processes),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    ports = {name: str(free_port()) for name in ("port", "queue_port", "admin_port", "redis_port")}
    environment["PEER_SERVICE_BUS"] = (
        f"Endpoint=sb://127.0.0.1:{ports['queue_port']};"
        "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;"
        "UseDevelopmentEmulator=true"
    )
    commands: list[Sequence[str]] = []
    if configuration.uses_redis:
        commands.append(
            (find_redis(), "--port", ports["redis_port"], "--bind", "127.0.0.1", "--save", "")
        )
        environment["PEER_REDIS"] = f"redis://127.0.0.1:{ports['redis_port']}/0"
    for first, *rest in configuration.commands:
        options = (part.format(folder=folder, **ports) for part in rest)
        commands.append((str(programs / first), *options))
    bodies, media_type = _encode(task, pictures, configuration.form)
    requests = PeerRequests(
        f"http://127.0.0.1:{ports['port']}",
        configuration.path,
        bodies,
        {"content-type": media_type},
    )
    with ExitStack() as stack:
        roots: list[Any] = []
        if configuration.uses_rabbitmq:
            rabbitmq = stack.enter_context(running_rabbitmq(folder / "rabbitmq"))
            environment["PEER_RABBITMQ"] = rabbitmq.url
            roots.append(rabbitmq)
        for number, command in enumerate(commands):
            program = _SupervisedProgram(command, environment, folder / f"program-{number}.log")
            stack.callback(program.stop)
            roots.append(program)
        yield ServedPeer(requests, model_processes, roots, form=configuration.form)


def find_redis() -> str:
    """Return the path of redis-server.

    Raises:
        SystemExit: if redis-server is not installed.
    """
    path = shutil.which("redis-server")
    if path is None:
        raise SystemExit(
            "redis-server is not installed, and Celery, dramatiq and arq need it: install it with "
            "`sudo apt-get install --no-install-recommends redis-server`, "
            "or choose other peers with --peers"
        )
    return path


def _encode(task: str, pictures: Sequence[bytes], form: BodyForm) -> tuple[list[bytes], str]:
    if task == TINY:
        return [TINY_BODY], "text/plain"
    if form == "raw":
        return list(pictures), "image/jpeg"
    if form == "list":
        texts = [base64.b64encode(picture).decode("ascii") for picture in pictures]
        return [json.dumps({"pictures": [text]}).encode() for text in texts], "application/json"
    head = (
        f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="picture"; filename="p.jpg"\r\n'
        "content-type: image/jpeg\r\n\r\n"
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    media_type = f"multipart/form-data; boundary={_BOUNDARY}"
    return [head + picture + tail for picture in pictures], media_type


def _wait_until_answered(served: ServedPeer, folder: Path, begin: float) -> None:
    """Repeat a request to a system until the response has status 200.

    Then set `served.ready_seconds` to the number of seconds since `begin`, the time at which the
    system was started.

    Args:
        served: The system.
        folder: The folder that contains the system's log files.
        begin: A value of `time.monotonic()`, in seconds.

    Raises:
        RuntimeError: if no response has status 200 within `_READY_SECONDS`. The message contains
            the end of each log file.
    """
    requests = served.requests
    url, last = requests.url + requests.path, "no response"
    while time.monotonic() < begin + _READY_SECONDS:
        try:
            response = httpx.post(
                url, content=requests.bodies[0], headers=dict(requests.headers), timeout=30
            )
            last = f"status {response.status_code}: {response.text[:500]}"
            if response.status_code == 200:
                served.ready_seconds = time.monotonic() - begin
                return
        except httpx.TransportError as error:
            last = repr(error)
        time.sleep(0.05)
    logs = "\n".join(path.read_text("utf-8", "replace")[-2000:] for path in folder.glob("*.log"))
    raise RuntimeError(
        f"{url} did not respond with status 200 within {_READY_SECONDS} s; the last response or "
        f"error: {last}\n{logs}"
    )
