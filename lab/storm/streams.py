"""Kill components while streams run, and check what their readers got (`--streams N`).

Each job is a chat with a deterministic engine, whose text depends only on the prompt. Its reader
follows the job with `GET /v1/jobs/{id}/events`, and resumes after each break with Last-Event-ID.
The gateway, the worker, its child, the engine, the store of blobs and, with `--store redis`, Redis
are killed in turn. Redis writes each command to its disk before it answers (`appendfsync always`),
so the test assumes a Redis that loses nothing that it has confirmed.
"""

import asyncio
import json
import os
import random
import shlex
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from lab.storm.callers import StormCallers, UnexpectedResponse
from lab.storm.jobs import JobKind, StormJob, StormSubmission
from lab.storm.kills import Kill
from lab.storm.rig import ROOT, Rig, RigError, RigOptions, SupervisedPart
from lab.storm.run import Storm, in_background, read_all_again, wait_until_all_ended
from loosely.client.sse import EventParser, ServerSentEvent
from loosely.local.logs import PartLog
from loosely.local.parts import Part
from loosely.local.probe import Probe
from tests.engine_server import words
from tests.ports import free_port

BLOBS, REDIS = STORES = ("blobs", "redis")

_ENGINE = ROOT / "tests" / "engine_server.py"
_COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(_ENGINE))} --port {{port}}"
_CATALOGUE = f"""
[chat]
description = "A deterministic engine."
implementation = "worker.models.engine"
media_types = ["text/plain"]
deadline_seconds = 1800
max_deadline_seconds = 1800
lock_seconds = 5
max_delivery_count = 50
reports_progress = true
max_concurrent_jobs = 16
streams = true
options = {{ command = '{_COMMAND}', start_seconds = 60 }}
"""
_SHORTEST_SECONDS, _LONGEST_SECONDS = 2.0, 8.0
_RETRY_SECONDS = 0.1
_POLL_SECONDS = 0.02
# Longer than the time between two comments of a silent stream.
_SILENCE_SECONDS = 40.0
_RUNNING_WITHIN_SECONDS = 60.0
_MAX_TOLD = 5


class ReadStream:
    """The events that a reader has got, over all its responses, and what was wrong with them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Any]] = []
        self.chunks: list[str] = []
        self.attempts = 0
        #: How many requests were sent, and how many of them were answered with the stream.
        self.requests = 0
        self.responses = 0
        self.is_lost = False
        self.final: dict[str, Any] | None = None
        self.faults: list[str] = []
        self._last = (1, 0)

    @property
    def last_id(self) -> str | None:
        """The id to resume after."""
        return self.events[-1][0] if self.events else None

    def take(self, event: ServerSentEvent) -> None:
        """Add an event, and check its place among the events before it."""
        data = json.loads(event.data)
        if event.type == "stream_lost":
            self.is_lost = True
            return
        attempt, number = map(int, (event.id or "0-0").split("-"))
        found, last, self._last = (attempt, number), self._last, (attempt, number)
        is_right = found == (last[0], last[1] + 1)
        if event.type == "attempt":
            self.attempts += 1
            self.chunks.clear()
            is_right = is_right or (attempt > last[0] and number == 0)
        if event.type == "end":
            self.final = data
        else:
            self.events.append((event.id or "", event.type, data))
        if event.type == "chunk":
            self.chunks.append(data)
        if not is_right:
            self.faults.append(f"{event.type} {event.id} after {last[0]}-{last[1]}")

    def judge(self, text: str) -> list[str]:
        """Return what is wrong with the stream of a job whose answer is `text`."""
        found, got = self.faults[:_MAX_TOLD], "".join(self.chunks)
        if self.final is None:
            return [*found, "the stream has no end"]
        if self.final.get("result") != text:
            found.append(f"the end has the result {self.final.get('result')!r}")
        if not (text.startswith(got) if self.is_lost else got == text):
            found.append(f"the chunks ({len(got)} characters) are not the answer ({len(text)})")
        return found


@dataclass
class StreamJob(StormJob):
    """A chat, and what its reader has got."""

    prompt: str = ""
    tokens: int = 0
    stream: ReadStream = field(default_factory=ReadStream)

    @property
    def text(self) -> str:
        """The engine's answer."""
        return "".join(words(self.prompt, self.tokens))

    def submission(self, ran_path: Path, attempt: int) -> StormSubmission:
        """Return the request that submits the job. All attempts have the same input."""
        headers = {"content-type": "text/plain"}
        return StormSubmission("", f"/v1/models/{self.model}/jobs", self.prompt.encode(), headers)

    def is_right_result(self, result: Any) -> bool:
        """Return whether `result` is the engine's answer."""
        return bool(result == self.text)


def plan_streams(count: int, seed: int) -> list[StreamJob]:
    """Return `count` chats of 2 to 8 seconds. The same arguments give the same chats."""
    chance = random.Random(f"streams {seed}")
    jobs = []
    for number in range(count):
        rate = chance.choice((10, 25, 50))
        tokens = round(rate * chance.uniform(_SHORTEST_SECONDS, _LONGEST_SECONDS))
        prompt = f"tokens={tokens} rate={rate} chat {number} of storm {seed}"
        jobs.append(
            StreamJob(number, JobKind.KEYED, 0, "chat", label="", prompt=prompt, tokens=tokens)
        )
    return jobs


class EngineKill(Kill):
    """A kill of the engine server, and not of the worker that has started it."""

    def __str__(self) -> str:
        return "engine"

    async def carry_out(self, rig: Rig) -> None:
        """Kill the engine, after it was started."""
        engines: list[int] = []

        async def is_found() -> bool:
            engines[:] = _find_engines(rig)
            return bool(engines)

        if not await _wait_until(is_found, _RUNNING_WITHIN_SECONDS):
            raise RigError("no engine was started")
        for engine in engines:
            with suppress(ProcessLookupError):
                os.kill(engine, signal.SIGKILL)


def _find_engines(rig: Rig) -> list[int]:
    """Return the process ids of the engines that run."""
    worker, found = rig.members["worker"].process(), []
    with suppress(psutil.Error):
        for each in worker.children(recursive=True) if worker else ():
            with suppress(psutil.Error):
                if each.cmdline()[1:2] == [str(_ENGINE)]:
                    found.append(int(each.pid))
    return found


def plan_stream_kills(
    count: int, seed: int, gateways: Sequence[str], store: str = BLOBS
) -> list[Kill]:
    """Return `count` kills of each component in turn. The same arguments give the same kills."""
    chance = random.Random(f"kills of streams {seed}")
    kills: list[Kill] = []
    while len(kills) < count:
        targets = ["gateway", "worker", "child", "engine", BLOBS, *([REDIS] * (store == REDIS))]
        chance.shuffle(targets)
        for target in targets:
            kind = EngineKill if target == "engine" else Kill
            part = {"gateway": chance.choice(gateways), "child": "worker", "engine": "worker"}
            delay_seconds, overlaps = chance.uniform(0.05, 2.0), chance.random() < 0.25
            kills.append(kind(part.get(target, target), target == "child", delay_seconds, overlaps))
    return kills[:count]


class RedisServer(SupervisedPart):
    """A Redis server that is restarted with its data whenever it dies."""

    __slots__ = ()

    async def wait_until_ready(self) -> None:
        """Wait until the server answers PING. Raises RigError."""
        (port,) = self.part.ports.values()
        if not await _wait_until(lambda: _answers_ping(port), _RUNNING_WITHIN_SECONDS):
            raise RigError(f"redis was not ready:\n{self.last_lines()}")


async def _answers_ping(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PING\r\n")
        line = await reader.readline()
        writer.close()
    except OSError:
        return False
    return line.startswith(b"+PONG")


@dataclass(frozen=True)
class StreamStorm:
    """The test, with the store of the streams."""

    store: str
    redis_port: int = field(default_factory=free_port)

    @property
    def options(self) -> RigOptions:
        """The options of the system under test."""
        url = f"redis://127.0.0.1:{self.redis_port}"
        environment = {"STREAM_REDIS_URL": url} if self.store == REDIS else {}
        return RigOptions(catalogue=_CATALOGUE, environment=environment)

    async def run(self, rig: Rig, run: Storm) -> None:
        """Start some streams before each kill and after the last one; then check all of them."""
        if self.store == REDIS:
            await self._start_redis(rig)
        await rig.start("worker")
        run.say("every component is ready")
        jobs = [job for job in run.jobs if isinstance(job, StreamJob)]
        plan = plan_stream_kills(run.options.kills, run.options.seed, rig.gateways, self.store)
        running: list[int] = []
        async with (
            StormCallers(rig.url, rig.ran_path) as callers,
            _streaming_client(rig.url) as client,
            asyncio.TaskGroup() as readers,
            in_background(callers.watch(run.jobs)),
        ):
            share = len(jobs) / (len(plan) + 1)
            tasks: list[asyncio.Task[None]] = []
            for number in range(len(plan) + 1):
                tasks += [
                    readers.create_task(_submit_and_follow(callers, client, job))
                    for job in jobs[round(number * share) : round((number + 1) * share)]
                ]
                if number < len(plan):
                    running.append(await _kill(rig, run, jobs, plan, number))
            await asyncio.wait(tasks, timeout=run.options.settle)
            await wait_until_all_ended(run)
            await asyncio.wait(tasks, timeout=_SILENCE_SECONDS)
            for task in tasks:
                task.cancel()
        async with StormCallers(rig.url, rig.ran_path) as callers:
            await read_all_again(rig, run, callers)
        await _judge(rig, run, jobs)
        run.retries = callers.retries
        run.notes += self._count(jobs, running)

    async def _start_redis(self, rig: Rig) -> None:
        if (program := shutil.which("redis-server")) is None:
            raise RigError("redis-server is not installed (Debian: apt-get install redis-server)")
        folder = rig.ran_path.parent / "redis"
        folder.mkdir(exist_ok=True)
        command = (program, "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "")
        kept = ("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always")
        port = {REDIS: self.redis_port}
        probe = Probe(self.redis_port)
        part = Part(REDIS, "streams", "", (*command, *kept), probe, port)
        log = PartLog(rig.ran_path.parent / "logs" / "redis.log")
        rig.members[REDIS] = RedisServer(part, log, rig.members["worker"].launcher)
        await rig.start(REDIS)

    def _count(self, jobs: Sequence[StreamJob], running: Sequence[int]) -> list[str]:
        streams = [job.stream for job in jobs]
        rows = {
            "store of streams": self.store,
            "streams": sum(stream.final is not None for stream in streams),
            "events": sum(len(stream.events) for stream in streams),
            "reconnects": f"{sum(each.responses - 1 for each in streams)}, after "
            f"{sum(each.requests - each.responses for each in streams)} requests without an answer",
            "told attempts": f"{sum(each.attempts for each in streams)} in "
            f"{sum(each.attempts > 0 for each in streams)} streams",
            "told lost events": f"{sum(stream.is_lost for stream in streams)} streams",
            "kills while streams ran": f"{sum(each > 0 for each in running)} of {len(running)}, "
            f"at most {max(running, default=0)} streams",
        }
        return [f"{name:<25} {value}" for name, value in rows.items()]


async def _kill(
    rig: Rig, run: Storm, jobs: Sequence[StreamJob], plan: Sequence[Kill], number: int
) -> int:
    """Carry out a kill, and return how many streams ran."""
    kill = plan[number]
    before = [len(job.stream.events) for job in jobs]

    def count_running() -> int:
        """Count the streams that have got events since the last kill, and have not ended."""
        return sum(
            job.stream.final is None and len(job.stream.events) > known
            for job, known in zip(jobs, before, strict=True)
        )

    async def is_running() -> bool:
        return count_running() > 0

    if not (number and plan[number - 1].overlaps):
        await _wait_until(is_running, _RUNNING_WITHIN_SECONDS)
    await asyncio.sleep(kill.delay_seconds)
    count = count_running()
    await kill.carry_out(rig)
    run.faults.append(str(kill))
    run.say(f"kill {number + 1} of {len(plan)}, {kill}, {count} streams ran")
    await kill.recover(rig)
    return count


async def _wait_until(is_true: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Wait at most `seconds` until the condition is true, and return whether it is."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                if await is_true():
                    return True
                await asyncio.sleep(_POLL_SECONDS)
    return False


def _streaming_client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=_SILENCE_SECONDS, trust_env=False, limits=limits)


async def _submit_and_follow(
    callers: StormCallers, client: httpx.AsyncClient, job: StreamJob
) -> None:
    await callers.submit(job)
    await _follow(client, job.ids[0], job.stream)


async def _follow(client: httpx.AsyncClient, job_id: str, stream: ReadStream) -> None:
    """Follow a job to its end, over as many responses as needed."""
    while stream.final is None:
        stream.requests += 1
        headers = {"accept": "text/event-stream"}
        if stream.last_id is not None:
            headers["last-event-id"] = stream.last_id
        with suppress(httpx.TransportError):
            async with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as found:
                await _read(found, stream)
        if stream.final is None:
            await asyncio.sleep(_RETRY_SECONDS)


async def _read(found: httpx.Response, stream: ReadStream) -> None:
    if found.status_code == 429 or found.status_code >= 500 or found.status_code == 404:
        return
    if found.status_code != 200:
        text = (await found.aread()).decode()
        raise UnexpectedResponse(f"{found.url}: {found.status_code} {text[:500]}")
    stream.responses += 1
    parser = EventParser()
    async for piece in found.aiter_bytes():
        for event in parser.feed(piece):
            if event.type not in {"resume", "behind"}:
                stream.take(event)


async def _judge(rig: Rig, run: Storm, jobs: Sequence[StreamJob]) -> None:
    """Check what each reader got, and that a reader that comes later gets the same events."""
    async with _streaming_client(rig.url) as client:
        for job in jobs:
            again = ReadStream()
            with suppress(TimeoutError):
                async with asyncio.timeout(run.options.settle):
                    await _follow(client, job.ids[0], again)
            faults = job.stream.judge(job.text)
            if again.events != job.stream.events:
                faults.append(
                    f"{len(again.events)} events were read again, not {len(job.stream.events)}"
                )
            if again.is_lost != job.stream.is_lost:
                faults.append(f"lost: {job.stream.is_lost}, later {again.is_lost}")
            run.failures += [f"stream {job.number} ({job.ids[0]}): {fault}" for fault in faults]
