"""Compare streamed chats through the gateway with the engine alone (`./dev bench streams`).

Both ways use the same engine server, in turn, in one run: a chat of 40 tokens from one caller after
another, for the time to the first token and between tokens, and chats of many callers at once, for
the tokens a second.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import psutil

from lab.benchmarks.figures import Figure, print_report
from tests.e2e.system import System, running

ROUNDS = 3
CHATS = 30
TOKENS = 40
RATE = 40
CALLERS = 32
CALLER_TOKENS = 200
CALLER_RATE = 20
MAX_FIRST_MS = 40.0
FLUSH_MS = 40.0
MIN_SHARE = 0.95

CATALOGUE = """
[chat]
description = "An engine."
implementation = "worker.models.engine"
media_types = ["application/json"]
deadline_seconds = 300
reports_progress = true
max_concurrent_jobs = 64
openai = ["chat.completions"]
options = {{command = '{python} {script} --port {{port}}'}}
"""


@dataclass(slots=True)
class Timings:
    """What one way of streaming took."""

    first_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def first(self) -> float:
        return median(self.first_ms)

    def gap(self) -> float:
        return quantiles(self.gaps_ms, n=100, method="inclusive")[94]

    def rate(self) -> float:
        return median(self.rates)


async def chat(
    session: aiohttp.ClientSession, url: str, tokens: int, rate: float
) -> tuple[float, list[float]]:
    """Stream one chat; return when it began, and when each token came."""
    prompt = f"tokens={tokens} rate={rate} hello"
    body = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    begun, times, rest = time.perf_counter(), list[float](), b""
    async with session.post(f"{url}/chat/completions", json=body) as response:
        response.raise_for_status()
        async for piece in response.content.iter_any():
            *events, rest = (rest + piece).split(b"\n\n")
            now = time.perf_counter()
            times += [now for event in events if b'"content"' in event]
    # The last chunk has no token.
    if len(times) != tokens + 1:
        raise RuntimeError(f"{url} streamed {len(times) - 1} of {tokens} tokens")
    return begun, times[:-1]


async def measure_alone(session: aiohttp.ClientSession, url: str, timings: Timings) -> None:
    """Stream chats one after another."""
    for _ in range(CHATS):
        begun, times = await chat(session, url, TOKENS, RATE)
        timings.first_ms.append((times[0] - begun) * 1000)
        timings.gaps_ms += [(later - earlier) * 1000 for earlier, later in pairwise(times)]


async def measure_together(session: aiohttp.ClientSession, url: str, timings: Timings) -> None:
    """Stream the chats of many callers at once."""
    begun = time.perf_counter()
    await asyncio.gather(*(chat(session, url, CALLER_TOKENS, CALLER_RATE) for _ in range(CALLERS)))
    timings.rates.append(CALLERS * CALLER_TOKENS / (time.perf_counter() - begun))


def engine_url(system: System) -> str:
    """Return the address of the engine server that the worker has started."""
    for process in psutil.Process(system.pid("worker")).children(recursive=True):
        command = process.cmdline()
        if "--port" in command and "engine_server.py" in command[1]:
            return f"http://127.0.0.1:{command[command.index('--port') + 1]}/v1"
    raise RuntimeError("the worker has started no engine")


async def measure(system: System) -> list[Figure]:
    """Measure both ways in turn, and return the rows of the report."""
    ways = {"engine": engine_url(system), "gateway": f"{system.url}/openai/v1"}
    found = {name: Timings() for name in ways}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for url in ways.values():
            await chat(session, url, 2, RATE)
        for number in range(ROUNDS):
            order = list(ways)[:: 1 if number % 2 else -1]
            for name in order:
                await measure_alone(session, ways[name], found[name])
            for name in order:
                await measure_together(session, ways[name], found[name])
    alone, through = found["engine"], found["gateway"]
    added_ms = through.first() - alone.first()
    share = through.rate() / alone.rate()
    return [
        Figure(
            "time to the first token, p50: engine, gateway",
            f"{alone.first():.1f}, {through.first():.1f} ms (+{added_ms:.1f})",
            f"+{MAX_FIRST_MS:g} ms at most",
            added_ms <= MAX_FIRST_MS,
        ),
        Figure(
            "time between tokens, p95: engine, gateway",
            f"{alone.gap():.1f}, {through.gap():.1f} ms",
            f"+{FLUSH_MS:g} ms at most",
            through.gap() <= alone.gap() + FLUSH_MS,
        ),
        Figure(
            f"tokens a second, {CALLERS} streams: engine, gateway",
            f"{alone.rate():.0f}, {through.rate():.0f} ({share:.3f})",
            f"{MIN_SHARE:g} at least",
            share >= MIN_SHARE,
        ),
    ]


def run(options: Sequence[str] = (), environment: dict[str, Any] | None = None) -> list[Figure]:
    """Measure on a new system with these options of `loosely up`; return the rows of the report."""
    script = Path("tests/engine_server.py").resolve()
    catalogue = CATALOGUE.format(python=sys.executable, script=script)
    with (
        tempfile.TemporaryDirectory(prefix="loosely-streams-") as name,
        running(
            Path(name) / "data", catalogue, options=tuple(options), environment=environment
        ) as system,
    ):
        return asyncio.run(measure(system))


def main(arguments: Sequence[str] = ()) -> int:
    """Compare both ways, and print the report. Return 1 if a target was missed.

    `arguments` are options of `loosely up`, such as `--isolated`.
    """
    return print_report("Streams beside the engine alone", run(arguments))
