"""Measure how much memory the gateway needs for large request bodies (`./dev bench bodies`).

Sixteen callers send 95 MB each at the same time, with a Content-Length and in chunks. One model
accepts so much, and the other refuses it. Then curl sends 1 GB from a pipe, which is refused when
the body has passed the limit. No worker runs.
"""

import http.client
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lab.benchmarks.figures import Figure, print_report
from tests.e2e.system import System, running

MIB = 1024**2
CALLERS = 16
BODY_BYTES = 95_000_000
PIPED_BYTES = 1_000_000_000
PIECE_BYTES = 64 * 1024
MAX_GROWTH_MIB = 64
MAX_REFUSAL_SECONDS = 1.0
_SAMPLE_SECONDS = 0.01
_MEDIA_TYPE = "application/octet-stream"

CATALOGUE = """
[wide]
description = "Accepts 100 MB in a request."
implementation = "worker.models.noop"
media_types = ["application/octet-stream"]
max_input_bytes = 100_000_000

[narrow]
description = "Accepts 4 MiB in a request."
implementation = "worker.models.noop"
media_types = ["application/octet-stream"]
max_input_bytes = 4_194_304
"""
LIMITS = {"wide": 100_000_000, "narrow": 4_194_304}
STATUSES = {"wide": 202, "narrow": 413}
"""The status of the response to a body of 95 MB, by model."""


@dataclass
class Memory:
    """The resident memory of the gateway's processes, before and at the peak of a measurement.

    The gateway's processes are the Functions host and, if it has one, its app process.
    """

    before_bytes: dict[int, int] = field(default_factory=dict)
    peak_bytes: dict[int, int] = field(default_factory=dict)

    @property
    def growth_mib(self) -> float:
        """The sum of the growths of all processes in MiB."""
        return sum(self.peak_bytes[pid] - self.before_bytes[pid] for pid in self.peak_bytes) / MIB


@contextmanager
def watching_memory(system: System) -> Iterator[Memory]:
    """Measure the memory of the gateway's processes every 10 ms during the `with` block."""
    host = psutil.Process(system.part("functions").pid)
    processes = [host, *host.children(recursive=True)]
    memory, has_ended = Memory(), threading.Event()
    memory.before_bytes = {each.pid: each.memory_info().rss for each in processes}
    memory.peak_bytes = dict(memory.before_bytes)

    def watch() -> None:
        while not has_ended.wait(_SAMPLE_SECONDS):
            for each in processes:
                rss_bytes = each.memory_info().rss
                memory.peak_bytes[each.pid] = max(memory.peak_bytes[each.pid], rss_bytes)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        has_ended.set()
        thread.join()


def send_body(port: int, model: str, size_bytes: int, *, is_chunked: bool) -> int:
    """Submit a job with a body of zeros without waiting for its end, and return the HTTP status.

    0 means that the gateway closed the connection without a response.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", f"/v1/models/{model}/jobs")
    connection.putheader("content-type", _MEDIA_TYPE)
    connection.putheader("prefer", "respond-async")
    if is_chunked:
        connection.putheader("transfer-encoding", "chunked")
    else:
        connection.putheader("content-length", str(size_bytes))
    piece = bytes(PIECE_BYTES)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # the response may be there already
            connection.endheaders()
            for start in range(0, size_bytes, PIECE_BYTES):
                part = piece[: size_bytes - start]
                connection.send(b"%x\r\n%s\r\n" % (len(part), part) if is_chunked else part)
            if is_chunked:
                connection.send(b"0\r\n\r\n")
        response = connection.getresponse()
        response.read()
    except (TimeoutError, ConnectionError, http.client.BadStatusLine):
        return 0
    finally:
        connection.close()
    return response.status


def measure_uploads(
    system: System,
    model: str,
    *,
    is_chunked: bool,
    callers: int = CALLERS,
    size_bytes: int = BODY_BYTES,
) -> Figure:
    """Send large bodies at the same time, and return a row of the report about their memory."""
    with watching_memory(system) as memory, ThreadPoolExecutor(callers) as pool:
        begin = time.perf_counter()
        sent = [
            pool.submit(send_body, system.port, model, size_bytes, is_chunked=is_chunked)
            for _ in range(callers)
        ]
        found = [each.result() for each in sent]
        seconds = time.perf_counter() - begin
    counts = ", ".join(f"{found.count(status)} of {status}" for status in sorted(set(found)))
    return Figure(
        f"{callers} bodies of {size_bytes / 1e6:.0f} MB to the model {model}, "
        + ("in chunks" if is_chunked else "with a Content-Length"),
        f"{memory.growth_mib:.0f} MiB more; {counts}; {seconds:.1f} s",
        f"{MAX_GROWTH_MIB} MiB at most",
        memory.growth_mib <= MAX_GROWTH_MIB and set(found) == {STATUSES[model]},
    )


def measure_pipe(system: System, model: str, size_bytes: int = PIPED_BYTES) -> Figure:
    """Send a body from a pipe by curl, and return a row of the report about its refusal."""
    command = ["curl", "--silent", "--no-buffer", "-X", "POST", "-T", "-"]
    command += ["-H", f"content-type: {_MEDIA_TYPE}", "-w", "\n%{http_code}"]
    command.append(f"{system.url}/v1/models/{model}/jobs")
    passed_at: list[float] = []
    with (
        watching_memory(system) as memory,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl,
    ):
        assert curl.stdin is not None
        assert curl.stdout is not None

        def write() -> None:
            assert curl.stdin is not None
            piece, sent_bytes = bytes(PIECE_BYTES), 0
            with suppress(BrokenPipeError):
                while sent_bytes < size_bytes:
                    sent_bytes += curl.stdin.write(piece)
                    if sent_bytes > LIMITS[model] and not passed_at:
                        passed_at.append(time.perf_counter())
                curl.stdin.close()

        writer = threading.Thread(target=write)
        writer.start()
        status = curl.stdout.read().rpartition(b"\n")[2].decode()
        answered_at = time.perf_counter()
        curl.kill()
        writer.join()
        with suppress(BrokenPipeError):
            curl.stdin.close()
    seconds = answered_at - passed_at[0] if passed_at else 0.0
    return Figure(
        f"{size_bytes / 1e6:.0f} MB from curl's pipe to the model {model}",
        f"{status} {seconds:.2f} s after the limit; {memory.growth_mib:.0f} MiB more",
        f"413 within {MAX_REFUSAL_SECONDS:g} s, {MAX_GROWTH_MIB} MiB at most",
        status == "413" and seconds <= MAX_REFUSAL_SECONDS and memory.growth_mib <= MAX_GROWTH_MIB,
    )


def main(arguments: Sequence[str] = ()) -> int:
    """Measure large bodies, and print the report. Return 1 if a target was missed, otherwise 0.

    `arguments` are options of `loosely up`, such as `--isolated`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bodies-") as folder,
        running(
            Path(folder) / "data", CATALOGUE, without=("worker",), options=tuple(arguments)
        ) as system,
    ):
        assert system.submit("narrow", b"x", prefer="respond-async").status_code == 202
        figures = [
            measure_uploads(system, model, is_chunked=is_chunked)
            for is_chunked in (True, False)
            for model in ("narrow", "wide")
        ]
        figures += [measure_pipe(system, model) for model in LIMITS]
    return print_report("Memory of the gateway for large bodies", figures)
