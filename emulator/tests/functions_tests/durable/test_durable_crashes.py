"""Test that orchestrations complete although hosts crash at commits or at random times.

A commit is a transaction of the database in which the host stores the orchestrations.
"""

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
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from emulator.functions.durable.azure_storage.options import AzureStorageOptions, FaultOptions
from emulator.functions.durable.errors import InstanceExists, InstanceFinished, StoreUnavailable
from emulator.functions.durable.store import Store
from functions_tests.durable.durable_host import EngineHost, make_host


class CrashingStore(Store):
    """A store that behaves as if its process died: a commit and all later commits fail.

    `commits` is the number of the first commit that fails. If `after` is true, this commit is
    written to the database before the store raises the error.
    """

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
    """A host whose engine crashes once, at commit number `commits`, and is then restarted.

    If `after` is true, the engine crashes just after this commit, otherwise just before it. The
    method `insist` repeats a request until the engine accepts it.
    """

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
    """Start the orchestration `saga`, and send it the two events for which it waits.

    Both events are sent once a second, for 12 seconds of the manual clock. Each request is repeated
    until the engine accepts it.
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
async def test_crash_at_any_commit_loses_nothing(tmp_path: Path, after: bool) -> None:
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


async def test_many_failed_commits_lose_nothing(tmp_path: Path) -> None:
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
            return context.call_activity_with_retry("stubborn", options, [key, value])
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


# The retry fails three times, and then the last event completes the inner task_all once more.
INNER_TASK_ALL_FAILS = ("all", [("all", [("retry", 3), ("event", "a"), ("event", "a")])])


def _can_fail(step: Any) -> bool:
    kind, value = step
    return (kind == "retry" and value >= 3) or (kind == "all" and any(map(_can_fail, value)))


def _has_failing_inner_task_all(step: Any, *, is_inner: bool = False) -> bool:
    """Return whether a task_all that can fail is nested in another task_all or a task_any."""
    kind, value = step
    if kind not in {"all", "any"}:
        return False
    if is_inner and len(value) > 1 and _can_fail(step):
        return True
    return any(_has_failing_inner_task_all(part, is_inner=True) for part in value)


def check_end(host: EngineHost, program: list[Any]) -> None:
    """Check that the orchestration has completed, or has failed because of a fault of the SDK.

    The fault can occur only if a step contains a task_all that can fail and is nested in another
    task_all or a task_any.
    """
    if host.status() == "Failed" and any(map(_has_failing_inner_task_all, program)):
        assert "This is a fault of the azure-functions-durable package" in host.output()
        return
    assert host.status() == "Completed", (host.status(), host.output())
    assert len(host.output()) == len(program)
    assert ("plain", "the last id is right") in host.runner.calls


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
@example(program=[INNER_TASK_ALL_FAILS, ("retry", 1)], deaths=[], early=False)
@example(program=[("any", [INNER_TASK_ALL_FAILS[1][0], ("timer", 1)])], deaths=[3], early=True)
def test_random_kills_lose_nothing(
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
        check_end(host, program)
        await host.stop()

    asyncio.run(play())


async def test_nested_task_all_failure_is_explained(
    host: EngineHost,
) -> None:
    _programs(host, [INNER_TASK_ALL_FAILS, ("retry", 1)])
    await host.begin("program_body")
    await host.raise_event("a-0.0.1", "e")
    for _ in range(3):
        await host.advance(seconds=1)
    # The first step has failed, and the program waits for the retry of its second step.
    assert host.status() == "Running"
    await host.raise_event("a-0.0.2", "e")
    assert host.status() == "Failed"
    assert host.output() == (
        "Orchestrator function 'program_body' failed: Parent Task -1 does not have pending "
        "sub-task with ID -1.This most likely means that Task -1 completed twice. This is a fault "
        "of the azure-functions-durable package: it cannot run a task_all inside another task_all "
        "or task_any if a task of the inner task_all fails and the others complete later. Run the "
        "inner task_all in a sub-orchestration, or return errors from its tasks instead of "
        "raising them."
    )


async def test_parent_can_catch_a_childs_task_all_failure(
    host: EngineHost,
) -> None:
    @host.runner.activity
    def broken(value: Any) -> Any:
        raise OSError(value)

    @host.runner.orchestrator
    def inner(context: Any) -> Any:
        event = context.wait_for_external_event("go")
        return (yield context.task_all([context.call_activity("broken", 1), event]))

    @host.runner.orchestrator
    def outer(context: Any) -> Any:
        inner_tasks = context.call_sub_orchestrator("inner", None, "inner-1")
        try:
            yield context.task_all([inner_tasks, context.wait_for_external_event("go")])
        except Exception:  # noqa: BLE001 - the SDK raises Exception
            yield context.wait_for_external_event("end")
        return "caught"

    await host.begin("outer")
    await host.raise_event("go")
    await host.raise_event("end")
    assert host.status("inner-1") == "Failed"
    assert host.status() == "Completed"
    assert host.output() == "caught"


class FaultyHost:
    """A host with the azure-storage engine and random faults. After a crash, it is restarted."""

    def __init__(self, folder: Path, seed: int) -> None:
        faults = FaultOptions(crash_rate=0.1, split_brain_rate=0.3, seed=seed)
        self.host = EngineHost(
            folder, storage=AzureStorageOptions(folder / "task-hub.db", 0.3, faults)
        )

    async def run(self, name: str, value: Any, events: list[str]) -> None:
        """Start an orchestration, and send `events` to it every second until it has ended.

        If the host crashes, restart the host after its leases have expired.
        """
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


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=st.lists(Step, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_random_faults_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, program: list[Any], seed: int
) -> None:
    faulty_host = FaultyHost(tmp_path_factory.mktemp("hub"), seed)
    _programs(faulty_host.host, program)
    names = [name for n, step in enumerate(program) for name in _events(step, str(n))]

    async def play() -> None:
        await faulty_host.run("program_body", None, names)
        check_end(faulty_host.host, program)
        await faulty_host.host.stop()

    asyncio.run(play())


@pytest.mark.parametrize("seed", range(12))
async def test_all_kinds_of_tasks_complete_under_faults(tmp_path: Path, seed: int) -> None:
    faulty_host = FaultyHost(tmp_path, seed)
    saga(faulty_host.host)
    host = faulty_host.host
    await faulty_host.run("saga", "[]", ["reply-0", "reply-1"])
    assert host.status() == "Completed", host.output()
    assert host.output() == [["f", [0, 2, 10], f"reply-{number}"] for number in range(2)]
    await host.stop()
