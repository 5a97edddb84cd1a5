"""Test changes of an orchestrator's code while its instance waits for an external event.

Each case and each error text was observed on the Durable extension 3.19.0 with the Python SDK,
except the cases of changed timers and sub-orchestrations.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from azure.durable_functions import RetryOptions

from functions_tests.durable.durable_host import EngineHost

Code = Callable[[Any], Any]

_START = "Non-Deterministic workflow detected: A previous execution of this orchestration scheduled"
_END = "Was a change made to the orchestrator code after this instance had already started running?"
_NUMBER = f"{_START} an activity task with sequence number 0 named 'echo', but the current "
MISSING = (
    f"{_START} an activity task with sequence ID 0 and name 'echo' (version ''), but the current "
    f"replay execution hasn't (yet?) scheduled this task. {_END}"
)
OTHER_NAME = (
    f"{_NUMBER}orchestration replay instead scheduled an activity task named 'other' with this "
    f"sequence number.  {_END}"
)


def other_kind(action: str) -> str:
    return (
        f"{_NUMBER}orchestration replay instead produced a {action} action with this sequence "
        f"number. {_END}"
    )


def first(context: Any) -> Any:
    yield context.call_activity("echo", 1)
    return (yield context.wait_for_external_event("go"))


def other_activity(context: Any) -> Any:
    yield context.call_activity("other", 1)
    return (yield context.wait_for_external_event("go"))


def timer_instead(context: Any) -> Any:
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
    return (yield context.wait_for_external_event("go"))


def child_instead(context: Any) -> Any:
    yield context.call_sub_orchestrator("nothing")
    return (yield context.wait_for_external_event("go"))


def no_activity(context: Any) -> Any:
    return (yield context.wait_for_external_event("go"))


def returns_at_once(_: Any) -> Any:
    return "early"


def event_first(context: Any) -> Any:
    yield context.wait_for_external_event("go")
    return (yield context.call_activity("echo", 1))


def raises(context: Any) -> Any:
    yield context.call_activity("echo", 1)
    raise ValueError("raised")


def one_activity_more(context: Any) -> Any:
    yield context.call_activity("echo", 1)
    yield context.call_activity("other", 1)
    return (yield context.wait_for_external_event("go"))


def two_activities_at_once(context: Any) -> Any:
    yield context.task_all([context.call_activity(name, 1) for name in ("echo", "other")])
    return (yield context.wait_for_external_event("go"))


def other_input(context: Any) -> Any:
    yield context.call_activity("echo", 2)
    return (yield context.wait_for_external_event("go"))


def other_case(context: Any) -> Any:
    yield context.call_activity("ECHO", 1)
    return (yield context.wait_for_external_event("go"))


def with_retry(context: Any) -> Any:
    yield context.call_activity_with_retry("echo", RetryOptions(1000, 2), 1)
    return (yield context.wait_for_external_event("go"))


def more_at_the_end(context: Any) -> Any:
    yield context.call_activity("echo", 1)
    result = yield context.wait_for_external_event("go")
    yield context.call_activity("other", 1)
    return result


def renamed_event(context: Any) -> Any:
    yield context.call_activity("echo", 1)
    return (yield context.wait_for_external_event("gone"))


def extra_event(context: Any) -> Any:
    yield context.call_activity("echo", 1)
    yield context.wait_for_external_event("go")
    return (yield context.wait_for_external_event("more"))


async def change(host: EngineHost, before: Code, after: Code) -> tuple[str, Any]:
    """Replace an orchestrator's code while its instance waits; return the status and the output.

    First run the code `before` until the orchestrator waits for an event. Then replace the code
    with `after`, and send the event `go`.
    """
    for name in ("echo", "other"):

        def activity(value: Any) -> Any:
            return value

        activity.__name__ = name
        host.runner.activity(activity)

    def nothing(_: Any) -> None:
        pass

    host.runner.orchestrator(nothing)
    for code in (before, after):

        def nd(context: Any, code: Code = code) -> Any:
            return code(context)

        host.runner.orchestrator(nd)
        if code is before:
            await host.begin("nd")
    await host.raise_event("go", "done")
    return host.status(), host.output()


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (other_activity, OTHER_NAME),
        (timer_instead, other_kind("CreateTimerOrchestratorAction")),
        (child_instead, other_kind("CreateSubOrchestrationAction")),
        (no_activity, MISSING),
        (returns_at_once, MISSING),
        (event_first, MISSING),
        (raises, "Orchestrator function 'nd' failed: raised"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_changed_scheduled_activity_fails_the_instance(
    host: EngineHost, after: Code, text: str
) -> None:
    assert await change(host, first, after) == ("Failed", text)


@pytest.mark.parametrize(
    "after",
    [
        one_activity_more,
        two_activities_at_once,
        other_input,
        other_case,
        with_retry,
        more_at_the_end,
    ],
)
async def test_kept_scheduled_activity_completes(host: EngineHost, after: Code) -> None:
    assert await change(host, first, after) == ("Completed", "done")


@pytest.mark.parametrize("after", [renamed_event, extra_event])
async def test_changed_waits_keep_the_instance_running(host: EngineHost, after: Code) -> None:
    assert (await change(host, first, after))[0] == "Running"


def first_timer(context: Any) -> Any:
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
    event = context.wait_for_external_event("go")
    yield context.task_any([timer, event])
    timer.cancel()
    return event.result


def first_child(context: Any) -> Any:
    yield context.call_sub_orchestrator("nothing", None, "c")
    return (yield context.wait_for_external_event("go"))


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (
            first_timer,
            no_activity,
            (
                f"{_START} a timer task with sequence number 0 but the current replay execution "
                f"hasn't (yet?) scheduled this task. {_END}"
            ),
        ),
        (
            first_timer,
            first,
            (
                f"{_START} a timer task with sequence number 0 named but the current orchestration "
                "replay instead produced a ScheduleTaskOrchestratorAction action with this "
                f"sequence number. {_END}"
            ),
        ),
        (
            first_child,
            no_activity,
            (
                f"{_START} a sub-orchestration task with sequence ID 0 and name 'nothing' (version "
                "'', instance ID 'c'), but the current replay execution hasn't (yet?) scheduled "
                f"this task. {_END}"
            ),
        ),
        (
            first_child,
            first,
            (
                f"{_START} a sub-orchestration task with sequence ID 0 and name 'nothing' (version "
                "'', instance ID 'c'), but the current orchestration replay instead produced a "
                f"ScheduleTaskOrchestratorAction action with this sequence number. {_END}"
            ),
        ),
    ],
    ids=["timer removed", "timer replaced", "child removed", "child replaced"],
)
async def test_changed_timer_or_child_fails_the_instance(
    host: EngineHost, before: Code, after: Code, text: str
) -> None:
    assert await change(host, before, after) == ("Failed", text)


async def test_sequence_number_in_the_error_counts_retries(
    host: EngineHost,
) -> None:
    attempts = 0

    @host.runner.activity
    def flaky(_: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ValueError("no")

    def retried(context: Any) -> Any:
        yield context.call_activity_with_retry("flaky", RetryOptions(1000, 3), 1)
        yield context.call_activity("echo", 1)
        return (yield context.wait_for_external_event("go"))

    def changed(context: Any) -> Any:
        yield context.call_activity_with_retry("flaky", RetryOptions(1000, 3), 1)
        yield context.call_activity("other", 1)
        return (yield context.wait_for_external_event("go"))

    for name in ("echo", "other"):

        def activity(value: Any) -> Any:
            return value

        activity.__name__ = name
        host.runner.activity(activity)

    def nd(context: Any) -> Any:
        return (retried if attempts < 10 else changed)(context)

    host.runner.orchestrator(nd)
    await host.begin("nd")
    await host.advance(seconds=1)
    assert host.scheduled()[-1] == (3, "echo")
    attempts = 10
    await host.raise_event("go", "done")
    assert host.status() == "Failed"
    assert "sequence number 3 named 'echo'" in host.output()
