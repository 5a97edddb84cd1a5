"""Apps that are away or changed, and what a host keeps meanwhile."""

from datetime import timedelta
from typing import Any

import pytest

from emulator.functions.durable.errors import DatabaseInUse
from functions_tests.durable.durable_host import World, child


async def test_changed_code_is_noticed(world: World) -> None:
    names = ["first", "second"]

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        for name in names:
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=9))
            yield context.wait_for_external_event(name)

    await world.begin("body")
    await world.advance(seconds=9)
    await world.raise_event("first")
    names.clear()
    await world.raise_event("other")
    assert world.status() == "Failed"
    assert "Non-Deterministic workflow detected" in world.output()


async def test_failure_with_an_output_that_is_no_json(world: World) -> None:
    @world.runner.orchestrator
    def body(context: Any) -> Any:
        return object()

    await world.begin("body")
    assert world.status() == "Failed"
    assert "not JSON serializable" in world.output()


async def test_outage_of_the_app_costs_nothing(world: World) -> None:
    child(world)

    @world.runner.activity
    def work(value: int) -> int:
        return value

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        return (yield context.call_activity("work", 1))

    world.runner.down = True
    await world.begin("body")
    for _ in range(10):
        await world.advance(seconds=1)
    assert world.status() == "Pending"
    world.runner.down = False
    await world.advance(seconds=1)
    assert world.output() == 1
    assert world.runner.calls == [("work", 1)]


async def test_result_that_arrives_during_an_outage_is_kept(local_world: World) -> None:
    world = local_world

    @world.runner.activity
    def work(value: int) -> int:
        world.runner.down = True
        return value

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        return (yield context.call_activity("work", 1))

    await world.begin("body")
    assert world.local.store.read("SELECT count(*) FROM work") == [(0,)]
    await world.kill()
    world.runner.down = False
    await world.start()
    await world.settle()
    assert world.output() == 1
    assert len(world.runner.calls) == 1


async def test_memory_is_bounded(local_world: World) -> None:
    world = local_world
    child(world)
    world.local.hub._memory_characters = 20_000
    for number in range(60):
        await world.begin("child", number, f"m{number}")
    assert len(world.local.hub._instances) < 20
    for number in range(60):
        await world.raise_event("go", "x", f"m{number}")
        assert world.output(f"m{number}") == [None, number, "x"]


async def test_two_hosts_cannot_share_a_database(local_world: World) -> None:
    world = local_world
    other = World(world.database)
    with pytest.raises(DatabaseInUse):
        await other.start()
