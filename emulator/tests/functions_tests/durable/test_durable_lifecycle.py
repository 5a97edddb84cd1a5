"""Tests of the life cycle of an instance: ids, timers, continue-as-new, suspension, rewind."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from emulator.functions.durable.errors import InstanceExists, OperationInvalid
from emulator.functions.settings import DurableOptions
from functions_tests.durable.durable_host import EngineHost, child, make_host


async def test_continue_as_new_starts_a_new_execution(host: EngineHost) -> None:
    @host.runner.activity
    def work(n: int) -> int:
        return n

    @host.runner.orchestrator
    def eternal(context: Any) -> Any:
        n = context.get_input()
        yield context.call_activity("work", n)
        yield context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
        if n < 3:
            context.continue_as_new(n + 1)
            return None
        return n

    instance = await host.begin("eternal", 0)
    executions = {instance.execution}
    for _ in range(4):
        await host.advance(seconds=1)
        executions.add(host.engine.find("i").execution)
    assert host.output() == 3
    assert len(executions) == 4
    assert host.scheduled() == [(0, "work"), (1, "timer")]


async def test_former_executions_results_are_ignored(host: EngineHost) -> None:
    gates = {0: asyncio.Event(), 1: asyncio.Event()}

    @host.runner.activity
    async def work(n: int) -> int:
        await gates[n].wait()
        return n

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        return (yield context.call_activity("work", context.get_input()))

    await host.engine.start_new("body", "i", json.dumps("0"))
    await host.pump()
    await host.engine.terminate("i", "no more")
    await host.pump()
    assert host.status() == "Terminated"
    await host.engine.start_new("body", "i", json.dumps("1"))
    await host.pump()
    gates[0].set()
    await host.pump()
    assert host.status() == "Running"
    gates[1].set()
    await host.settle()
    assert host.output() == 1


async def test_continue_as_new_waits_for_running_tasks(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def eternal(context: Any) -> Any:
        n = context.get_input()
        limit = context.create_timer(context.current_utc_datetime + timedelta(seconds=10))
        renew = context.wait_for_external_event("renew")
        first = yield context.task_any([limit, renew])
        if first is renew:
            context.continue_as_new(1)
            return None
        return n

    before = await host.begin("eternal", 0)
    execution, created = before.execution, before.created
    await host.raise_event("renew")
    assert host.engine.find("i").execution == execution
    await host.advance(seconds=10)
    renewed = host.engine.find("i")
    assert renewed.execution != execution
    assert renewed.created > created
    assert host.status() == "Running"
    await host.advance(seconds=10)
    assert host.output() == 1


async def test_earlier_events_are_marked_as_played(
    host: EngineHost,
) -> None:
    child(host)
    await host.begin("child", 'a "IsPlayed":false in the input')
    await host.raise_event("go", 'and "IsPlayed":false in an event')
    assert host.output() == [
        None,
        'a "IsPlayed":false in the input',
        'and "IsPlayed":false in an event',
    ]
    first, second = host.runner.contexts
    assert [event["IsPlayed"] for event in first["history"]] == [False, False]
    assert [event["IsPlayed"] for event in second["history"]] == [True, True, True, False, False]
    assert (first["isReplaying"], second["isReplaying"]) == (False, True)


async def test_custom_status_stays_until_cleared(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        context.set_custom_status({"at": context.get_input()["step"]})
        yield context.wait_for_external_event("go")
        context.set_custom_status(None)

    await host.begin("body", {"step": "é\u2028"})
    assert json.loads(host.engine.find("i").custom_status or "") == {"at": "é\u2028"}
    await host.raise_event("go")
    assert host.engine.find("i").custom_status is None
    assert host.status() == "Completed"


async def test_timer_of_ten_days_is_split_into_three(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.create_timer(context.current_utc_datetime + timedelta(days=10))
        return context.current_utc_datetime.isoformat()

    await host.begin("body")
    for _ in range(3):
        await host.advance(days=3)
    assert host.status() == "Running"
    await host.advance(days=1)
    assert host.output() == "2026-01-11T00:00:00+00:00"
    assert host.scheduled() == [(0, "timer"), (1, "timer"), (2, "timer")]


async def test_stored_messages_wait_for_the_resume(
    host: EngineHost,
) -> None:
    calls = []

    @host.runner.activity
    async def slow(value: str) -> str:
        calls.append(value)
        await gate.wait()
        return value

    gate = asyncio.Event()

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        value = yield context.call_activity("slow", "v")
        return [value, (yield context.wait_for_external_event("go"))]

    await host.engine.start_new("body", "i")
    await host.pump()
    await host.engine.suspend("i", "wait")
    await host.pump()
    with pytest.raises(OperationInvalid):
        await host.engine.suspend("i", "wait")
    gate.set()
    await host.raise_event("go", 1)
    assert host.status() == "Suspended"
    await host.kill()
    await host.start()
    await host.settle()
    assert host.status() == "Suspended"
    await host.engine.resume("i", "go on")
    if host.storage is None:  # the azure-storage engine changes the status in the next episode
        with pytest.raises(OperationInvalid):
            await host.engine.resume("i", "go on")
    await host.settle()
    assert host.output() == ["v", 1]
    # The result of the activity was stored, so the activity did not run again.
    assert calls == ["v"]


async def test_history_counts_the_generations_of_an_id(host: EngineHost) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        if context.get_input():
            context.continue_as_new(None)
            return None
        return (yield context.wait_for_external_event("go"))

    async def generation() -> int | None:
        await host.kill()
        await host.start()
        await host.settle()
        first: dict[str, Any] = json.loads(f"[{host.fragments()[0]}]")[1]
        generation: int | None = first["Generation"]
        return generation

    await host.begin("body")
    assert await generation() == 0
    await host.raise_event("go")
    await host.begin("body")
    assert await generation() == 1
    await host.raise_event("go")
    await host.begin("body", {"again": True})
    assert await generation() is None
    await host.raise_event("go")
    assert host.status() == "Completed"


async def test_event_that_cancels_a_timer_ends_a_suspended_one(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        timer = context.create_timer(context.current_utc_datetime + timedelta(hours=1))
        event = context.wait_for_external_event("go")
        winner = yield context.task_any([timer, event])
        if winner == event:
            timer.cancel()
        return event.result

    await host.begin("body")
    await host.engine.suspend("i", None)
    await host.settle()
    await host.raise_event("other")
    assert host.status() == "Suspended"
    await host.raise_event("go", 7)
    assert (host.status(), host.output()) == ("Completed", 7)


async def test_fired_timer_waits_for_the_resume(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
        return (yield context.wait_for_external_event("go"))

    await host.begin("body")
    await host.engine.suspend("i", None)
    await host.settle()
    await host.advance(seconds=2)
    await host.raise_event("go", 7)
    assert host.status() == "Suspended"
    await host.engine.resume("i", None)
    await host.settle()
    assert host.output() == 7


async def test_suspended_instance_can_be_terminated(host: EngineHost) -> None:
    child(host)
    await host.begin("child")
    await host.engine.suspend("i", "")
    await host.engine.terminate("i", "the end")
    await host.settle()
    assert (host.status(), host.output()) == ("Terminated", "the end")


async def test_id_of_a_finished_instance_can_be_reused(
    host: EngineHost,
) -> None:
    child(host)
    await host.begin("child", 1)
    with pytest.raises(InstanceExists):
        await host.engine.start_new("child", "i")
    await host.raise_event("go", "x")
    await host.begin("child", 2)
    assert host.status() == "Running"
    await host.raise_event("go", "y")
    assert host.output() == [None, 2, "y"]


@pytest.mark.parametrize("instance_id", ["@x", "a/b", "a\\b", "a#b", "a?b", "a\nb", "x" * 257])
async def test_ids_may_be_long_and_have_special_characters(
    host: EngineHost, instance_id: str
) -> None:
    child(host)
    await host.begin("child", 1, instance_id)
    await host.raise_event("go", "y", instance_id)
    assert host.output(instance_id) == [None, 1, "y"]


@pytest.mark.parametrize("engine", ["local", "azure-storage"])
async def test_host_json_may_permit_replacing_unfinished_ones(tmp_path: Path, engine: str) -> None:
    host = make_host(tmp_path, engine)
    host.options = DurableOptions(replaces_unfinished=True, default_version="7")
    child(host)
    await host.start()
    former = await host.begin("child", 1)
    assert former.version == "7"
    starting = asyncio.ensure_future(host.engine.start_new("child", "i", '"2"', "8"))
    await host.settle()
    await starting
    await host.settle()
    await host.raise_event("go", "y")
    assert host.output() == [None, 2, "y"]
    assert host.engine.find("i").version == "8"
    await host.stop()


async def test_unknown_orchestrator_fails(host: EngineHost) -> None:
    child(host)
    await host.begin("nobody")
    assert host.output() == (
        "Orchestrator function 'nobody' failed: The function 'nobody' doesn't exist, is disabled, "
        "or is not an orchestrator function. Additional info: The following are the known "
        "orchestrator functions: 'child'."
    )


async def test_unknown_activity_fails(host: EngineHost) -> None:
    @host.runner.activity
    def known(value: Any) -> None:
        pass

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.call_activity("nothing")

    await host.begin("body")
    assert host.output() == (
        "Orchestrator function 'body' failed: The function 'nothing' doesn't exist, is disabled, "
        "or is not an activity function. Additional info: The following are the known activity "
        "functions: 'known'."
    )


async def test_only_function_names_ignore_case(
    host: EngineHost,
) -> None:
    @host.runner.activity
    def echo(value: Any) -> Any:
        return value

    child(host)

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        started = context.call_sub_orchestrator("CHILD", None, "c")
        result = yield context.call_activity("Echo", 1)
        return [result, (yield started)]

    await host.begin("BODY")
    assert host.engine.find("i").name == "BODY"
    await host.raise_event("GO", "x", "c")
    assert host.status("c") == "Running"
    await host.raise_event("go", "x", "c")
    assert host.output() == [1, ["i", None, "x"]]


async def test_unsupported_action_fails(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.call_http("GET", "http://localhost/")

    await host.begin("body")
    assert host.output() == (
        "Orchestrator function 'body' failed: call_http is not supported by the local host"
    )


async def test_failure_in_the_first_episode_can_be_rewound(
    local_host: EngineHost,
) -> None:
    host = local_host
    broken = [True]

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        if broken:
            raise OSError("at once")
        yield context.wait_for_external_event("go")

    await host.begin("body")
    broken.clear()
    await host.kill()
    await host.start()
    await host.engine.rewind("i")
    await host.settle()
    assert host.status() == "Running"
    await host.raise_event("go")
    assert host.status() == "Completed"
