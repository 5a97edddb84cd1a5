"""Send HTTP requests from several clients, and measure the responses."""

import http.client
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class HttpLoad:
    """The URL, path, media type, bodies and further headers of a benchmark's HTTP requests.

    The requests use the `bodies` in order. After the last body, the first body is used again.
    """

    url: str
    path: str
    media_type: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class HttpLoadResult:
    """The result of a benchmark with HTTP requests.

    `latencies_ms` contains the latency of each successful response. `failures` is the number of
    responses that were not successful. `seconds` is the duration of the benchmark.
    """

    latencies_ms: list[float]
    failures: int
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        return quantiles(self.latencies_ms, n=100, method="inclusive")[percent - 1]


def run(load: HttpLoad, clients: int, requests: int, prefer: str | None = None) -> HttpLoadResult:
    """Send `requests` HTTP requests from `clients` threads, and return the result.

    Each thread has its own connection, and waits for each response before the next request.
    `prefer` is the value of the header `Prefer`, or None to omit the header. Without `prefer`, a
    response is successful if its status is 200. With `prefer`, the status must be 202.
    """
    headers = {"content-type": load.media_type, **load.headers}
    headers |= {"prefer": prefer} if prefer else {}
    latencies_ms: list[float] = []
    failures: list[int] = []
    numbers = iter(range(requests))
    lock = threading.Lock()

    def client() -> None:
        target = urlsplit(load.url)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            begin = time.perf_counter()
            body = load.bodies[number % len(load.bodies)]
            connection.request("POST", load.path, body, headers)
            response = connection.getresponse()
            response.read()
            if response.status == (202 if prefer else 200):
                latencies_ms.append((time.perf_counter() - begin) * 1000)
            else:
                failures.append(response.status)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return HttpLoadResult(latencies_ms, len(failures), time.perf_counter() - begin)
