"""Measure the processor time of one job in each layer of each process (`./dev bench cpu --layers`).

py-spy reads the stacks of the running processes from outside, so the product is unchanged.
"""

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from lab.benchmarks import load
from lab.benchmarks.machine import process_seconds
from lab.benchmarks.peers import environments
from lab.benchmarks.peers.job import TINY, TINY_BODY
from lab.benchmarks.peers.measure import make_pictures
from lab.benchmarks.peers.systems import CATALOGUE
from loosely.local.data_directory import RunningSystem
from tests.e2e.system import ROOT, running

TASKS = (TINY, "noop")
CLIENTS = (1, 16)
WARM_UP_JOBS = 100
JOBS = 300
SAMPLED_SECONDS = 10
SAMPLES_PER_SECOND = 100
# Processes that use less for a job are not sampled, in ms.
_SMALL_MS = 0.1
EVENT_LOOP = "event loop and its sockets"
THREADS = "switches between threads"
UNSAMPLED = "not sampled"
OTHER = "other packages"
# The longest prefix that fits the path of a module names its layer.
LAYERS: Mapping[str, str] = {
    "contract/": "contract",
    "function_app.py": "gateway: jobs and queues",
    "gateway/": "gateway: jobs and queues",
    "gateway/http/": "gateway: HTTP, with FastAPI",
    "gateway/web_extension.py": "gateway: HTTP, with FastAPI",
    "gateway/asgi.py": "gateway: HTTP, with FastAPI",
    "fastapi/": "gateway: HTTP, with FastAPI",
    "pydantic/": "gateway: HTTP, with FastAPI",
    "gateway/submission/": "gateway: submission",
    "gateway/storage/": "gateway: storage",
    "gateway/telemetry.py": "telemetry",
    "opentelemetry/": "telemetry",
    "prometheus_client/": "telemetry",
    "worker/telemetry/": "telemetry",
    "azure/": "Azure SDKs, with aiohttp",
    "azurefunctions/": "Azure SDKs, with aiohttp",
    "aiohttp/": "Azure SDKs, with aiohttp",
    "azure/functions/": "Functions and Durable SDKs",
    "azure/durable_functions/": "Functions and Durable SDKs",
    "azure/servicebus/": "Service Bus SDK",
    "azure/servicebus/_pyamqp/": "Service Bus SDK: AMQP",
    "uvicorn/": "HTTP server (uvicorn)",
    "emulator/": "local host: HTTP and calls",
    "emulator/functions/durable/": "local host: Durable Functions",
    "emulator/functions/durable/store.py": "local host: Durable store (SQLite)",
    "emulator/blobs/": "local blob storage",
    "emulator/servicebus/": "local Service Bus: queues",
    "emulator/servicebus/amqp/": "local Service Bus: AMQP",
    "emulator/servicebus/messages.py": "local Service Bus: AMQP",
    "emulator/servicebus/broker/store.py": "local Service Bus: store (SQLite)",
    "emulator/servicebus/broker/transactions.py": "local Service Bus: store (SQLite)",
    "emulator/disk.py": "local Service Bus: store (SQLite)",
    "aio_pika/": "RabbitMQ client",
    "aiormq/": "RabbitMQ client",
    "pamqp/": "RabbitMQ client",
    "pika/": "RabbitMQ client",
    "redis/": "Redis client",
    "worker/": "worker: the rest",
    "worker/brokers/": "worker: receive and settle",
    "worker/servicebus/": "worker: receive and settle",
    "worker/pipeline/receive.py": "worker: receive and settle",
    "worker/pipeline/consumer.py": "worker: receive and settle",
    "worker/pipeline/prepare.py": "worker: prepare",
    "worker/inputs/": "worker: prepare",
    "worker/pipeline/infer.py": "worker: infer",
    "worker/inference/": "worker: infer",
    "worker/models/": "worker: infer",
    "worker/memory/": "worker: infer",
    "lab/": "the model",
    "benchmarks/": "the model",
    "worker/pipeline/reply.py": "worker: reply",
    "worker/replies.py": "worker: reply",
    "urllib3/": "worker: reply",
    "loosely/": "supervisor",
}
_FRAME = re.compile(r"(?P<function>.+) \((?P<path>.+):\d+\)")
_STANDARD_LIBRARY = re.compile(r"^<|/lib/python3\.\d+/(?!site-packages/)")
_EVENT_LOOP = re.compile(r"/asyncio/|/site-packages/uvloop/")
_LOOP_RUNS = re.compile(r"/asyncio/(runners|base_events|events)\.py|/site-packages/uvloop/")
_THREADS = re.compile(
    r"/(threading|queue|selectors)\.py:|/concurrent/futures/"
    # They wait for their next call at a lock, or let another thread run. Both are in C.
    r"|/worker/pipeline/consumer\.py:(ThreadGroup\._run|Consumer\.run_queue)$"
)


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that py-spy found `samples` times in a thread.

    `thread_id` is the thread's id in the operating system. `frames` has `path:function` for each
    frame, from the thread's first function to the one that ran.
    """

    thread_id: int
    frames: tuple[str, ...]
    samples: int


def parse_stacks(text: str) -> list[Stack]:
    """Return the stacks in py-spy's format `raw`, which names each thread in the first frame."""
    stacks: list[Stack] = []
    for line in text.splitlines():
        names, _, samples = line.rpartition(" ")
        thread, *frames = names.split(";")
        thread_id = re.search(r"\((\d+)\)", thread)
        matches = filter(None, map(_FRAME.fullmatch, frames))
        found = tuple(f"{match['path']}:{match['function']}" for match in matches)
        if thread_id is not None and found:
            stacks.append(Stack(int(thread_id[1]), found, int(samples)))
    return stacks


def find_layer(frames: Sequence[str], root: str) -> str:
    """Return the layer to which a stack belongs.

    That is the layer of the innermost frame that has one. A frame of the standard library or of a
    package without a layer, and what runs in C, thus count to their caller. The event loop and the
    hand-over of work to another thread are layers of their own.

    Args:
        frames: `path:function` of each frame, from the outermost frame to the innermost.
        root: The root of the repository from which the process runs.
    """
    begin = max((n for n, path in enumerate(frames, 1) if _LOOP_RUNS.search(path)), default=0)
    if begin < len(frames) and _THREADS.search(frames[-1]):
        return THREADS
    for path in reversed(frames[begin:]):
        if _STANDARD_LIBRARY.search(path):
            continue
        module = _module(path, root)
        prefixes = [prefix for prefix in LAYERS if module.startswith(prefix)]
        if prefixes:
            return LAYERS[max(prefixes, key=len)]
    if any(_EVENT_LOOP.search(path) for path in frames):
        return EVENT_LOOP
    return THREADS if all(map(_STANDARD_LIBRARY.search, frames)) else OTHER


def _module(path: str, root: str) -> str:
    _, installed, module = path.rpartition("/site-packages/")
    return module if installed else path.removeprefix(f"{root}/").removeprefix("functions/")


def share_by_layer(
    stacks: Iterable[Stack], thread_seconds: Mapping[int, float], root: str
) -> dict[str, float]:
    """Return the share of each layer in the processor time of a process; the sum is 1.

    The samples divide the processor time of their thread. A thread that only waits has none, even
    if it was found awake.

    Args:
        stacks: The stacks of the process.
        thread_seconds: The processor time of each thread while the stacks were sampled.
        root: The root of the repository from which the process runs.
    """
    samples: Counter[int] = Counter()
    by_layer: Counter[tuple[int, str]] = Counter()
    for stack in stacks:
        samples[stack.thread_id] += stack.samples
        by_layer[stack.thread_id, find_layer(stack.frames, root)] += stack.samples
    all_seconds = sum(thread_seconds.values())
    if not all_seconds:
        return {UNSAMPLED: 1.0}
    shares: defaultdict[str, float] = defaultdict(float)
    for (thread, layer), count in by_layer.items():
        shares[layer] += thread_seconds.get(thread, 0.0) * count / samples[thread] / all_seconds
    for thread, seconds in thread_seconds.items():
        if not samples[thread]:
            shares[UNSAMPLED] += seconds / all_seconds
    return {layer: share for layer, share in shares.items() if share}


def find_processes(system: RunningSystem) -> dict[str, list[int]]:
    """Return the process ids of each part of a system. A part's children are `PART app`."""
    found = {"supervisor": [system.pid]}
    for name, part in system.parts.items():
        found[name] = [part.pid]
        if children := psutil.Process(part.pid).children(recursive=True):
            found[f"{name} app"] = [child.pid for child in children]
    return found


def measure_layers(stacks_folder: Path, options: tuple[str, ...] = ()) -> int:
    """Measure each task with each number of clients, and print the table. Return 0.

    Args:
        stacks_folder: The folder in which py-spy writes the stacks.
        options: Further options of `loosely up`.
    """
    stacks_folder.mkdir(parents=True, exist_ok=True)
    py_spy = environments.prepare("py-spy") / "py-spy"
    variables = {"WORKER_MODELS": ",".join(TASKS), "TORCH_THREADS": "1"}
    found: dict[str, dict[str, dict[str, float]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder,
        running(Path(folder) / "data", CATALOGUE, environment=variables, options=options) as system,
    ):
        running_system = RunningSystem.read(Path(folder) / "data")
        assert running_system is not None, "up.json describes no running system"
        bodies = {TINY: ([TINY_BODY], "text/plain"), "noop": (make_pictures(), "image/jpeg")}
        for clients in CLIENTS:
            for task in TASKS:
                body, media_type = bodies[task]
                jobs = load.HttpLoad(system.url, f"/v1/models/{task}/jobs", media_type, body)
                case = f"{task}, {clients} clients" if clients > 1 else f"{task}, 1 client"
                found[case] = _measure_case(
                    jobs, clients, running_system, py_spy, stacks_folder / case.replace(", ", "-")
                )
    console = Console(width=150)
    console.print(_table(found))
    console.print(f"py-spy's stacks are in {stacks_folder}", highlight=False)
    return 0


def _measure_case(
    jobs: load.HttpLoad, clients: int, system: RunningSystem, py_spy: Path, stacks: Path
) -> dict[str, dict[str, float]]:
    """Return the processor time per job in ms, by process and by layer.

    The time of each process is measured without py-spy, and then divided by the stacks that py-spy
    finds under the same load.
    """
    load.run(jobs, clients=clients, requests=WARM_UP_JOBS)
    processes = find_processes(system)
    process_ms = measure_processes(jobs, clients, processes)
    sampled = {name: pids for name, pids in processes.items() if process_ms[name] >= _SMALL_MS}
    shares = sample_shares(jobs, clients, sampled, py_spy, stacks)
    return {
        name: {layer: share * ms for layer, share in shares.get(name, {UNSAMPLED: 1.0}).items()}
        for name, ms in process_ms.items()
    }


def measure_processes(
    jobs: load.HttpLoad, clients: int, processes: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Send jobs, and return the processor time per job in ms by the name of the process.

    Raises RuntimeError if a job failed.
    """
    before = {name: sum(map(process_seconds, pids)) for name, pids in processes.items()}
    outcome = load.run(jobs, clients=clients, requests=JOBS)
    if outcome.failures:
        raise RuntimeError(f"{outcome.failures} of {JOBS} jobs failed")
    return {
        name: (sum(map(process_seconds, pids)) - before[name]) / JOBS * 1000
        for name, pids in processes.items()
    }


def sample_shares(
    jobs: load.HttpLoad,
    clients: int,
    processes: Mapping[str, Sequence[int]],
    py_spy: Path,
    stacks: Path,
) -> dict[str, dict[str, float]]:
    """Sample processes under load, and return the share of each layer by the name of the process.

    Args:
        jobs: The jobs that are sent meanwhile.
        clients: The number of clients.
        processes: The process ids by name. A process that does not run Python is not sampled.
        py_spy: The program.
        stacks: The begin of the path of each file with stacks.

    Raises:
        RuntimeError: if py-spy failed, for example because it may not read the processes.
    """
    sampled = {
        pid: stacks.with_name(f"{stacks.name}-{name}-{pid}.raw")
        for name, pids in processes.items()
        for pid in pids
        if "python" in psutil.Process(pid).exe()
    }
    before = {pid: _thread_seconds(pid) for pid in sampled}
    profilers = [_start_profiler(py_spy, pid, file) for pid, file in sampled.items()]
    while any(profiler.poll() is None for profiler in profilers):
        load.run(jobs, clients=clients, requests=20 * clients)
    for profiler in profilers:
        _, problem = profiler.communicate()
        if profiler.returncode:
            raise RuntimeError(f"py-spy failed: {problem.strip()}")
    shares: dict[str, dict[str, float]] = {}
    for name, pids in processes.items():
        found: list[Stack] = []
        seconds: dict[int, float] = {}
        for pid in sampled.keys() & set(pids):
            found += parse_stacks(sampled[pid].read_text("utf-8"))
            for thread, now in _thread_seconds(pid).items():
                seconds[thread] = now - before[pid].get(thread, 0.0)
        shares[name] = share_by_layer(found, seconds, str(ROOT))
    return shares


def _thread_seconds(pid: int) -> dict[int, float]:
    threads = psutil.Process(pid).threads()
    return {thread.id: thread.user_time + thread.system_time for thread in threads}


def _start_profiler(py_spy: Path, pid: int, file: Path) -> subprocess.Popen[str]:
    # Without --nonblocking, py-spy stops the process for each sample, which wakes all its threads.
    command = [str(py_spy), "record", "--nonblocking", "--full-filenames", "--threads"]
    command += ["--rate", str(SAMPLES_PER_SECOND), "--duration", str(SAMPLED_SECONDS)]
    command += ["--format", "raw", "--output", str(file), "--pid", str(pid)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def rows(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """Return the rows of the table: process, layer, and ms and share of the process in each case.

    The first row is the sum, and the first row of a process is its sum. The largest come first.

    Args:
        found: The processor time per job in ms, by case, process and layer.
    """
    cases = list(found.values())
    names = {name for case in cases for name in case}
    process_ms = {name: [sum(case.get(name, {}).values()) for case in cases] for name in names}
    lines = [["all", "", *(f"{sum(each):.2f}" for each in zip(*process_ms.values(), strict=True))]]
    for name in sorted(names, key=lambda name: (-sum(process_ms[name]), name)):
        lines.append([name, "", *(f"{each:.2f}" for each in process_ms[name])])
        layers = {layer for case in cases for layer in case.get(name, {})}
        layer_ms = {
            layer: [case.get(name, {}).get(layer, 0.0) for case in cases] for layer in layers
        }
        for layer in sorted(layers, key=lambda layer: (-sum(layer_ms[layer]), layer)):
            pairs = zip(layer_ms[layer], process_ms[name], strict=True)
            lines.append(
                ["", layer, *(f"{ms:.2f} ({ms / (all_ms or 1):3.0%})" for ms, all_ms in pairs)]
            )
    return lines


def _table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table(title="processor time of one job in ms, and its share of the process")
    for column in ("process", "layer"):
        table.add_column(column)
    for case in found:
        table.add_column(case, justify="right")
    for row in rows(found):
        table.add_row(*row)
    return table
