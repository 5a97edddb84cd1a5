"""The engine dies before and after every commit, and each time the story ends the same."""

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
from tests.unit.durable.conftest import make_world
from tests.unit.durable.durable_world import World


class DyingStore(Store):
    """A store which dies at its n-th commit, just before it or just after."""

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


class Mortal:
    """A world whose engine dies once, at a commit; and a client who does not give up."""

    def __init__(self, world: World, commits: int, *, after: bool) -> None:
        self.world = world
        self.stores: list[DyingStore] = []
        self.commits = commits
        self.after = after
        world.make_store = self.make_store

    def make_store(self, path: Path) -> Store:
        store = DyingStore(path, 0 if self.stores else self.commits, after=self.after)
        self.stores.append(store)
        return store

    async def revive(self) -> None:
        if self.stores[-1].dead:
            await self.world.kill()
            await self.world.start()

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
        await self.world.advance(seconds=seconds)
        await self.revive()
        await self.world.settle()


def saga(world: World) -> None:
    failed: set[str] = set()

    @world.runner.activity
    def flaky(name: str) -> str:
        if name not in failed:
            failed.add(name)
            raise OSError(name)
        return name

    @world.runner.activity
    def double(value: int) -> int:
        return 2 * value

    @world.runner.orchestrator
    def child(context: Any) -> Any:
        value = yield context.call_activity("double", context.get_input())
        yield context.create_timer(context.current_utc_datetime + timedelta(seconds=2))
        return value

    @world.runner.orchestrator
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


async def _tell(mortal: Mortal) -> None:
    """Play the client of the saga."""
    world = mortal.world

    async def start() -> None:
        with contextlib.suppress(InstanceExists):
            await world.engine.start_new("saga", "i", json.dumps("[]"))

    await world.start()
    await mortal.insist(start)
    for _ in range(12):
        await mortal.pass_time(1)
        for round_number in range(2):

            async def reply(number: int = round_number) -> None:
                with contextlib.suppress(InstanceFinished):
                    await world.engine.raise_event("i", f"reply-{number}", str(number))

            await mortal.insist(reply)
    await mortal.pass_time(0)


@pytest.mark.parametrize("after", [False, True])
async def test_death_at_every_commit(tmp_path: Path, after: bool) -> None:
    commits = 1
    while True:
        world = World(tmp_path / f"{commits}.db")
        saga(world)
        mortal = Mortal(world, commits, after=after)
        await _tell(mortal)
        numbers = [0, 2, 10]
        assert world.output() == [["f", numbers, 0], ["f", numbers, 1]], f"commit {commits}"
        assert world.leftovers() == 0, f"after commit {commits}"
        died = mortal.stores[0].dead
        await world.stop()
        if not died:
            assert commits > 20
            return
        commits += 1


class HiccupStore(Store):
    """A store which refuses every third commit or so, and does not die of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.dice = Random(7)

    def commit(self) -> None:
        if self.dice.random() < 0.35:
            raise sqlite3.OperationalError("disk full")
        super().commit()


async def test_refused_transactions_are_repeated(tmp_path: Path) -> None:
    world = World(tmp_path / "hub.db")
    saga(world)
    world.make_store = HiccupStore
    await world.start()
    started = False
    while not started:
        with contextlib.suppress(StoreUnavailable):
            await world.engine.start_new("saga", "i", json.dumps("[]"))
            started = True
    for _ in range(60):
        await world.advance(seconds=1)
        for number in range(2):
            with contextlib.suppress(InstanceFinished, StoreUnavailable):
                await world.engine.raise_event("i", f"reply-{number}", str(number))
    await world.settle()
    assert world.output() == [["f", [0, 2, 10], 0], ["f", [0, 2, 10], 1]]
    await world.stop()


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


def _programs(world: World, program: list[Any]) -> None:
    attempts: dict[str, int] = {}

    @world.runner.activity
    def plain(value: Any) -> Any:
        return value

    @world.runner.activity
    def stubborn(key_and_failures: list[Any]) -> str:
        key, failures = key_and_failures
        attempts[key] = attempts.get(key, 0) + 1
        if attempts[key] <= failures:
            raise OSError(key)
        return "done"

    @world.runner.orchestrator
    def child(context: Any) -> Any:
        n = context.get_input()
        for _ in range(n):
            yield context.call_activity("plain", n)
        return n

    @world.runner.orchestrator
    def program_body(context: Any) -> Any:
        log: list[str] = []
        for number, step in enumerate(program):
            try:
                result = yield _task(context, step, str(number))
            except Exception as error:  # noqa: BLE001 - what the SDK raises
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
def test_any_program_ends_whatever_dies(
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
    program: list[Any],
    deaths: list[int],
    early: bool,
) -> None:
    async def play() -> None:
        world = make_world(tmp_path_factory.mktemp("hub"), engine)
        _programs(world, program)
        names = [name for n, step in enumerate(program) for name in _events(step, str(n))]
        await world.start()
        await world.begin("program_body")
        for turn in range(60):
            if turn in deaths:
                await world.kill()
                await world.start()
                await world.settle()
            if world.status() not in {"Running", "Pending"}:
                break
            if names and (early or turn % 2):
                await world.raise_event(names.pop(0), "e")
            await world.advance(seconds=1)
        assert world.status() == "Completed", (world.status(), world.output())
        assert len(world.output()) == len(program)
        assert ("plain", "the last id is right") in world.runner.calls
        await world.stop()

    asyncio.run(play())


class Faulty:
    """A world of the azure-storage engine with random faults, revived whenever it dies."""

    def __init__(self, folder: Path, seed: int) -> None:
        faults = FaultOptions(crash_rate=0.1, split_brain_rate=0.3, seed=seed)
        self.world = World(folder, storage=AzureStorageOptions(folder / "task-hub.db", 0.3, faults))

    async def run(self, name: str, value: Any, events: list[str]) -> Any:
        """Start an orchestration, send it each event again and again, and return its output."""
        world = self.world
        await world.start()
        await world.engine.start_new(name, "i", None if value is None else json.dumps(value))
        for _ in range(200):
            await world.settle()
            if world.is_dead:
                world.outlast_timeouts()
                await world.start()
                continue
            if world.status() not in {"Running", "Pending"}:
                break
            for event in events:
                with contextlib.suppress(InstanceFinished):
                    await world.engine.raise_event("i", event, json.dumps(event))
            await world.advance(seconds=1)
        assert world.status() == "Completed", (world.status(), world.output())
        output = world.output()
        await world.stop()
        return output


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=st.lists(Step, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_any_program_ends_whatever_is_lost_or_repeated(
    tmp_path_factory: pytest.TempPathFactory, program: list[Any], seed: int
) -> None:
    faulty = Faulty(tmp_path_factory.mktemp("hub"), seed)
    _programs(faulty.world, program)
    names = [name for n, step in enumerate(program) for name in _events(step, str(n))]
    output = asyncio.run(faulty.run("program_body", None, names))
    assert len(output) == len(program)
    assert ("plain", "the last id is right") in faulty.world.runner.calls


@pytest.mark.parametrize("seed", range(12))
async def test_saga_ends_whatever_is_lost_or_repeated(tmp_path: Path, seed: int) -> None:
    faulty = Faulty(tmp_path, seed)
    saga(faulty.world)
    output = await faulty.run("saga", "[]", ["reply-0", "reply-1"])
    assert output == [["f", [0, 2, 10], f"reply-{number}"] for number in range(2)]
