"""Tests that orchestrations complete although hosts crash at commits or at random times."""

import asyncio
import contextlib
import json
import sqlite3
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from azure.durable_functions import RetryOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.functions.durable.azure_storage.options import AzureStorageOptions, FaultOptions
from emulator.functions.durable.errors import InstanceExists, InstanceFinished, StoreUnavailable
from emulator.functions.durable.store import Store
from functions_tests.durable.durable_host import EngineHost, make_host


class CrashingStore(Store):
    """A store that fails before or after a given commit, as if the process had died."""

    def __init__(self, path: Path, commits: int, *, after: bool) -> None:
        super().__init__(path)
        self.commits_left = commits
        self.after = after
        self.dead = False

    def commit(self) -> None:
        self.commits_left -= 1
        if self.dead or self.commits_left == 0:
            if self.after and not self.dead:
                super().commit()
            self.dead = True
            raise sqlite3.OperationalError("killed")
        super().commit()


class CrashingHost:
    """A host whose engine crashes once, at a given commit. Its clients repeat failed requests."""

    def __init__(self, host: EngineHost, commits: int, *, after: bool) -> None:
        self.host = host
        self.stores: list[CrashingStore] = []
        self.commits = commits
        self.after = after
        host.make_store = self.make_store

    def make_store(self, path: Path) -> Store:
        store = CrashingStore(path, 0 if self.stores else self.commits, after=self.after)
        self.stores.append(store)
        return store

    async def revive(self) -> None:
        if self.stores[-1].dead:
            await self.host.kill()
            await self.host.start()

    async def insist(self, action: Any) -> None:
        while True:
            try:
                await action()
            except StoreUnavailable:
                await self.revive()
            else:
                return

    async def pass_time(self, seconds: float) -> None:
        await self.revive()
        await self.host.advance(seconds=seconds)
        await self.revive()
        await self.host.settle()


def saga(host: EngineHost) -> None:
    failed: set[str] = set()

    @host.runner.activity
    def flaky(name: str) -> str:
        if name not in failed:
            failed.add(name)
            raise OSError(name)
        return name

    @host.runner.activity
    def double(value: int) -> int:
        return 2 * value

    @host.runner.orchestrator
    def child(context: Any) -> Any:
        value = yield context.call_activity("double", context.get_input())
        yield context.create_timer(context.current_utc_datetime + timedelta(seconds=2))
        return value

    @host.runner.orchestrator
    def saga(context: Any) -> Any:
        seen = context.get_input()
        name = yield context.call_activity_with_retry("flaky", RetryOptions(1000, 5), "f")
        numbers = yield context.task_all(
            [context.call_activity("double", n) for n in range(2)]
            + [context.call_sub_orchestrator("child", 5)]
        )
        reply = context.wait_for_external_event(f"reply-{len(seen)}")
        deadline = context.create_timer(context.current_utc_datetime + timedelta(hours=1))
        yield context.task_any([reply, deadline])
        deadline.cancel()
        seen = [*seen, [name, numbers, reply.result]]
        if len(seen) < 2:
            context.continue_as_new(seen)
            return None
        return seen


async def _play_client(crashing: CrashingHost) -> None:
    """Start the orchestration `saga`, and send its events every second for 12 seconds.

    Repeat each request until the engine accepts it.
    """
    host = crashing.host

    async def start() -> None:
        with contextlib.suppress(InstanceExists):
            await host.engine.start_new("saga", "i", json.dumps("[]"))

    await host.start()
    await crashing.insist(start)
    for _ in range(12):
        await crashing.pass_time(1)
        for round_number in range(2):

            async def reply(number: int = round_number) -> None:
                with contextlib.suppress(InstanceFinished):
                    await host.engine.raise_event("i", f"reply-{number}", str(number))

            await crashing.insist(reply)
    await crashing.pass_time(0)


@pytest.mark.parametrize("after", [False, True])
async def test_an_orchestration_completes_after_a_crash_of_the_host_at_any_commit(
    tmp_path: Path, after: bool
) -> None:
    commits = 1
    while True:
        host = EngineHost(tmp_path / f"{commits}.db")
        saga(host)
        crashing = CrashingHost(host, commits, after=after)
        await _play_client(crashing)
        numbers = [0, 2, 10]
        assert host.output() == [["f", numbers, 0], ["f", numbers, 1]], f"commit {commits}"
        assert host.leftovers() == 0, f"after commit {commits}"
        died = crashing.stores[0].dead
        await host.stop()
        if not died:
            assert commits > 20
            return
        commits += 1


class UnreliableStore(Store):
    """A store in which about a third of the commits fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.dice = Random(7)

    def commit(self) -> None:
        if self.dice.random() < 0.35:
            raise sqlite3.OperationalError("disk full")
        super().commit()


async def test_an_orchestration_completes_although_many_commits_fail(tmp_path: Path) -> None:
    host = EngineHost(tmp_path / "hub.db")
    saga(host)
    host.make_store = UnreliableStore
    await host.start()
    started = False
    while not started:
        with contextlib.suppress(StoreUnavailable):
            await host.engine.start_new("saga", "i", json.dumps("[]"))
            started = True
    for _ in range(60):
        await host.advance(seconds=1)
        for number in range(2):
            with contextlib.suppress(InstanceFinished, StoreUnavailable):
                await host.engine.raise_event("i", f"reply-{number}", str(number))
    await host.settle()
    assert host.output() == [["f", [0, 2, 10], 0], ["f", [0, 2, 10], 1]]
    await host.stop()


Step = st.recursive(
    st.one_of(
        st.tuples(st.just("activity"), st.integers(0, 9)),
        st.tuples(st.just("retry"), st.integers(0, 3)),
        st.tuples(st.just("timer"), st.integers(0, 4)),
        st.tuples(st.just("event"), st.sampled_from("abcdef")),
        st.tuples(st.just("child"), st.integers(0, 2)),
    ),
    lambda step: st.tuples(st.sampled_from(["all", "any"]), st.lists(step, min_size=1, max_size=4)),
    max_leaves=6,
)


def _task(context: Any, step: Any, key: str) -> Any:
    kind, value = step
    match kind:
        case "activity":
            return context.call_activity("plain", value)
        case "retry":
            options = RetryOptions(1000, 3)
            # The SDK cannot replay a nested task_all if two of its tasks fail.
            failures = value if key.count(".") < 2 else min(value, 2)
            return context.call_activity_with_retry("stubborn", options, [key, failures])
        case "timer":
            due = context.current_utc_datetime + timedelta(seconds=value)
            return context.create_timer(due)
        case "event":
            return context.wait_for_external_event(f"{value}-{key}")
        case "child":
            return context.call_sub_orchestrator("child", value)
    parts = [_task(context, part, f"{key}.{n}") for n, part in enumerate(value)]
    return context.task_all(parts) if kind == "all" else context.task_any(parts)


def _programs(host: EngineHost, program: list[Any]) -> None:
    attempts: dict[str, int] = {}

    @host.runner.activity
    def plain(value: Any) -> Any:
        return value

    @host.runner.activity
    def stubborn(key_and_failures: list[Any]) -> str:
        key, failures = key_and_failures
        attempts[key] = attempts.get(key, 0) + 1
        if attempts[key] <= failures:
            raise OSError(key)
        return "done"

    @host.runner.orchestrator
    def child(context: Any) -> Any:
        n = context.get_input()
        for _ in range(n):
            yield context.call_activity("plain", n)
        return n

    @host.runner.orchestrator
    def program_body(context: Any) -> Any:
        log: list[str] = []
        for number, step in enumerate(program):
            try:
                result = yield _task(context, step, str(number))
            except Exception as error:  # noqa: BLE001 - the SDK raises Exception
                log.append(str(error).split(":")[0])
            else:
                log.append("any" if step[0] == "any" else json.dumps(result, default=str))
        yield context.call_activity("plain", "the last id is right")
        return log


def _events(step: Any, key: str) -> list[str]:
    kind, value = step
    if kind == "event":
        return [f"{value}-{key}"]
    if kind in {"all", "any"}:
        return [e for n, part in enumerate(value) for e in _events(part, f"{key}.{n}")]
    return []


@pytest.mark.parametrize("engine", ["local", "azure-storage"])
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    program=st.lists(Step, min_size=1, max_size=4),
    deaths=st.lists(st.integers(0, 12), max_size=4),
    early=st.booleans(),
)
def test_random_orchestrations_complete_although_hosts_are_killed(
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
    program: list[Any],
    deaths: list[int],
    early: bool,
) -> None:
    async def play() -> None:
        host = make_host(tmp_path_factory.mktemp("hub"), engine)
        _programs(host, program)
        names = [name for n, step in enumerate(program) for name in _events(step, str(n))]
        await host.start()
        await host.begin("program_body")
        for turn in range(60):
            if turn in deaths:
                await host.kill()
                await host.start()
                await host.settle()
            if host.status() not in {"Running", "Pending"}:
                break
            if names and (early or turn % 2):
                await host.raise_event(names.pop(0), "e")
            await host.advance(seconds=1)
        assert host.status() == "Completed", (host.status(), host.output())
        assert len(host.output()) == len(program)
        assert ("plain", "the last id is right") in host.runner.calls
        await host.stop()

    asyncio.run(play())


class FaultyHost:
    """A host with the azure-storage engine and random faults. After a crash, it is restarted."""

    def __init__(self, folder: Path, seed: int) -> None:
        faults = FaultOptions(crash_rate=0.1, split_brain_rate=0.3, seed=seed)
        self.host = EngineHost(
            folder, storage=AzureStorageOptions(folder / "task-hub.db", 0.3, faults)
        )

    async def run(self, name: str, value: Any, events: list[str]) -> Any:
        """Start an orchestration, send all events until it has ended, and return its output."""
        host = self.host
        await host.start()
        await host.engine.start_new(name, "i", None if value is None else json.dumps(value))
        for _ in range(200):
            await host.settle()
            if host.is_dead:
                host.outlast_timeouts()
                await host.start()
                continue
            if host.status() not in {"Running", "Pending"}:
                break
            for event in events:
                with contextlib.suppress(InstanceFinished):
                    await host.engine.raise_event("i", event, json.dumps(event))
            await host.advance(seconds=1)
        assert host.status() == "Completed", (host.status(), host.output())
        output = host.output()
        await host.stop()
        return output


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=st.lists(Step, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_random_orchestrations_complete_although_random_faults_are_injected(
    tmp_path_factory: pytest.TempPathFactory, program: list[Any], seed: int
) -> None:
    faulty_host = FaultyHost(tmp_path_factory.mktemp("hub"), seed)
    _programs(faulty_host.host, program)
    names = [name for n, step in enumerate(program) for name in _events(step, str(n))]
    output = asyncio.run(faulty_host.run("program_body", None, names))
    assert len(output) == len(program)
    assert ("plain", "the last id is right") in faulty_host.host.runner.calls


@pytest.mark.parametrize("seed", range(12))
async def test_an_orchestration_with_all_kinds_of_tasks_completes_although_faults_are_injected(
    tmp_path: Path, seed: int
) -> None:
    faulty_host = FaultyHost(tmp_path, seed)
    saga(faulty_host.host)
    output = await faulty_host.run("saga", "[]", ["reply-0", "reply-1"])
    assert output == [["f", [0, 2, 10], f"reply-{number}"] for number in range(2)]
