"""Python versions of C# functions.

The file `observed/durable-3.19.0.jsonl` contains the responses of the C# functions.

A C# function receives the input as it was sent, but the method `get_input` of the Python SDK
decodes the input once more. Therefore the Python functions do not use `get_input`. They read the
input from the JSON context with which the orchestrator is called.
"""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from azure.durable_functions import Orchestrator, RetryOptions

from functions_tests.durable.durable_host import SdkRunner

Code = Callable[[Any, Any], Any]


class ObservedFunctions(SdkRunner):
    """Runs the Python versions of the C# functions.

    The attribute `code` selects which variant of the orchestrator `NonDet` runs. A test changes
    `code` between two runs, so that the orchestrator is not deterministic.
    """

    def __init__(self) -> None:
        super().__init__()
        self._slow = asyncio.Event()
        self.slow_calls = 0
        self.code = "activity"
        self._flaky_calls = 0
        self._input: Any = None
        for activity in (self.SayHello, self.Boom, self.BoomInner, self.Slow, self.FlakyWork):
            self.activity(activity)
        for code in ORCHESTRATORS:
            self._register(code)
        self._register(self._non_deterministic, "NonDet")

    def _register(self, code: Code, name: str | None = None) -> None:
        def body(context: Any) -> Any:
            return (yield from code(context, self._input))

        self.bodies[name or code.__name__] = Orchestrator.create(body)
        self.orchestrators = frozenset(self.bodies)
        self.disabled_orchestrators: frozenset[str] = frozenset()

    async def run_orchestrator(self, name: str, context_json: str) -> str:
        self._input = json.loads(context_json)["input"]
        return await super().run_orchestrator(name, context_json)

    def SayHello(self, name: str) -> str:  # noqa: N802 - the recorded name
        return f"Hello {name}!"

    def Boom(self, _: Any) -> None:  # noqa: N802 - the recorded name
        raise ValueError("boom")

    def BoomInner(self, _: Any) -> None:  # noqa: N802 - the recorded name
        raise ValueError("outer-msg")

    async def Slow(self, _: Any) -> str:  # noqa: N802 - the recorded name
        self.slow_calls += 1
        try:
            await self._slow.wait()
        finally:
            self.slow_calls -= 1
        return "slow"

    def end_slow(self) -> None:
        """Let the running calls of the activity `Slow` return."""
        self._slow.set()
        self._slow = asyncio.Event()

    def FlakyWork(self, _: Any) -> str:  # noqa: N802 - the recorded name
        self._flaky_calls += 1
        if self._flaky_calls == 1:
            raise ValueError("flaky")
        return "recovered"

    def _non_deterministic(self, context: Any, _: Any) -> Any:
        if self.code in {"timer", "timer inserted"}:
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
        if self.code == "other":
            yield context.call_activity("Slow", "x")
        if self.code == "child":
            yield context.call_sub_orchestrator("Nothing")
        if self.code in {"activity", "timer inserted"}:
            yield context.call_activity("SayHello", "x")
        return (yield context.wait_for_external_event("Go"))


def Hello(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    first = yield context.call_activity("SayHello", "Tokyo")
    second = yield context.call_activity("SayHello", "Seattle")
    return [first, second, (yield context.call_activity("SayHello", "London"))]


def Echo(_: Any, given: Any) -> Any:  # noqa: N802 - the recorded name
    yield from ()
    return given


def Nothing(_: Any, __: Any) -> Any:  # noqa: N802 - the recorded name
    yield from ()


def Wait(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.wait_for_external_event("Go"))


def WaitString(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.wait_for_external_event("Go"))


def WaitTwice(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    first = yield context.wait_for_external_event("Go")
    return [first, (yield context.wait_for_external_event("Go"))]


def WaitTwo(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.task_all([context.wait_for_external_event(n) for n in ("A", "B")]))


def LateWait(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
    return (yield context.wait_for_external_event("Go"))


def WaitTimer(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    event = context.wait_for_external_event("Go")
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=2))
    winner = yield context.task_any([event, timer])
    if winner is event:
        timer.cancel()
    context.set_custom_status("event" if winner is event else "timeout")
    return "event" if winner is event else "timer"


def Timer(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=3))
    return "fired"


def SlowOrch(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.call_activity("Slow", "x"))


def Fail(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.call_activity("Boom", "x")


def FailInner(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.call_activity("BoomInner", "x")


def FailSelf(_: Any, __: Any) -> Any:  # noqa: N802 - the recorded name
    yield from ()
    raise ValueError("self-boom")


def FailRetry(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.call_activity_with_retry("Boom", RetryOptions(1000, 2), "x")


def Flaky(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.call_activity("FlakyWork", "x"))


def Sub(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.call_sub_orchestrator("Hello"))


def SubNamed(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.call_sub_orchestrator("Hello", None, f"{context.instance_id}-child"))


def SubWait(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.call_sub_orchestrator("Wait", None, f"{context.instance_id}-child"))


def SubFail(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.call_sub_orchestrator("Fail")


def SubFailSelf(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.call_sub_orchestrator("FailSelf")


def SubFailRetry(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    options = RetryOptions(1000, 2)
    yield context.call_sub_orchestrator_with_retry("FailSelf", options)


def FanOut(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    return (yield context.task_all([context.call_activity("SayHello", n) for n in "ab"]))


def FanOutFail(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    boom = [context.call_activity("Boom", n) for n in "bc"]
    yield context.task_all([context.call_activity("SayHello", "a"), *boom])


def FailHandled(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    try:
        yield context.call_activity("Boom", "x")
    except Exception as error:  # noqa: BLE001 - the class that the SDK raises
        return f"handled| failed: {error}"


def FailUnknownActivity(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.call_activity("NoSuchActivity", "x")


def FailUnknownSub(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    yield context.call_sub_orchestrator("NoSuchOrch")


def ContinueAsNew(context: Any, count: Any) -> Any:  # noqa: N802 - the recorded name
    # The SDK encodes the input of `continue_as_new`, as it does in C#.
    number = int(count)
    context.set_custom_status(f"n={number}")
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
    if number < 3:
        context.continue_as_new(number + 1)
        return None
    return f"done {number}"


def CustomStatus(context: Any, _: Any) -> Any:  # noqa: N802 - the recorded name
    context.set_custom_status({"stage": "one", "pct": 50, "list": [1, 2]})
    yield context.wait_for_external_event("Go")
    context.set_custom_status(None)
    return "ok"


ORCHESTRATORS: tuple[Code, ...] = (
    ContinueAsNew,
    CustomStatus,
    Echo,
    Fail,
    FailHandled,
    FailInner,
    FailRetry,
    FailSelf,
    FailUnknownActivity,
    FailUnknownSub,
    FanOut,
    FanOutFail,
    Flaky,
    Hello,
    LateWait,
    Nothing,
    SlowOrch,
    Sub,
    SubFail,
    SubFailRetry,
    SubFailSelf,
    SubNamed,
    SubWait,
    Timer,
    Wait,
    WaitString,
    WaitTimer,
    WaitTwice,
    WaitTwo,
)
