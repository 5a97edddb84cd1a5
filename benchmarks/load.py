"""Closed-loop clients: each sends its next request when the last is answered."""

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients send: the same body, round after round."""

    url: str
    path: str
    media_type: str
    bodies: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back: latencies of good answers in ms, how many were bad, and the whole time."""

    latencies_ms: list[float]
    failures: int
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        return quantiles(self.latencies_ms, n=100, method="inclusive")[percent - 1]


def run(load: Load, clients: int, requests: int) -> Outcome:
    """Send `requests` by `clients` threads, each with a connection of its own."""
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
            connection.request("POST", load.path, body, {"content-type": load.media_type})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                latencies_ms.append((time.perf_counter() - begin) * 1000)
            else:
                failures.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Outcome(latencies_ms, len(failures), time.perf_counter() - begin)
