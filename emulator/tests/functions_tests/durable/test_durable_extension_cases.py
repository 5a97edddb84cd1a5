"""Repeat cases of the Durable extension's own end-to-end tests against the local host.

The extension is github.com/Azure/azure-functions-durable-extension. Its tests run C# functions, or
apps in other languages, with Azure Storage. Here the functions are written with the Python SDK, and
a host process runs them, once with each durable engine. Each case names the file and the method of
the extension's test. The files are in these folders of that repository:

- `test/Common`: `DurableTaskEndToEndTests.cs`, `HttpApiHandlerTests.cs`,
  `OrchestrationVersionTests.cs`
- `test/e2e/Tests/Tests`: all others

Some tests of the extension, for example old ones, expect a behavior that differs from what we
observed on the extension 3.19.0 with a Python app. In these cases, our test expects the observed
behavior, and its docstring describes the difference.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from emulator.functions.settings import DurableOptions, parse_host_file
from functions_tests.durable.durable_host import EngineHost, make_host
from functions_tests.durable.extension_host import (
    API,
    SOURCES,
    ExtensionHost,
    new_id,
    source,
)
from functions_tests.process.host_process import copy_app, running_host

FIDELITY = Path(__file__).parents[3] / "FIDELITY.md"
SETTINGS = {"AzureWebJobs.disabled_activity.Disabled": "true"}
E2E = "DurableTaskEndToEndTests.cs: "
HTTP = "HttpApiHandlerTests.cs: "

pytestmark = pytest.mark.asyncio(loop_scope="module")


HOSTS = {
    "local": ("--engine", "local"),
    "azure-storage": ("--engine", "azure-storage", "--isolated"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=HOSTS)
async def host(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[ExtensionHost]:
    """Yield a running host. All tests of this module share one host for each durable engine."""
    place = tmp_path_factory.mktemp("extension")
    folder = copy_app("extension", place / "app")
    async with (
        running_host(
            folder, place / "data", *HOSTS[request.param], environment=SETTINGS
        ) as process,
        httpx.AsyncClient(base_url=process.url, timeout=30) as http,
    ):
        yield ExtensionHost(http, request.param)


@dataclass(frozen=True)
class Run:
    """A test case: an orchestration that ends without further requests, and what is expected.

    `source` is the file and the method of the Durable extension's own test that this case repeats.
    `output` is the expected output, or a pattern that the whole output must match.
    """

    source: str
    name: str
    input: Any
    output: Any
    status: str = "Completed"
    custom_status: Any = None


def failed(name: str, text: str) -> re.Pattern[str]:
    """Return a pattern for the output of a failed orchestrator whose error starts with `text`."""
    return re.compile(re.escape(f"Orchestrator function '{name}' failed: {text}") + ".*", re.DOTALL)


BOOM = "Activity function 'raise_error' failed: RuntimeError: Kah-BOOOOM!!! \n {"
COMPLEX = {"A": -42, "B": ["2026-01-01T00:00:00Z"], "C": 1, "D": {"E": "e", "F": "01:30:00"}}
UNKNOWN = (
    "The function '{}' doesn't exist, is disabled, or is not an {} function. Additional info: "
)

RUNS = [
    Run(E2E + "HelloWorldOrchestration_Inline", "say_hello", "World", "Hello, World!"),
    Run(
        E2E + "HelloWorldOrchestration_Activity", "say_hello_by_activity", "World", "Hello, World!"
    ),
    # In C#, the output is an empty text.
    Run(E2E + "ParentInstanceId_Not_Assigned_In_Orchestrator", "report_parent", None, None),
    Run(E2E + "HelloWorldActivityWithNewGUID", "compare_guids", "World", True),
    Run(E2E + "VerifyUniqueGuids", "create_unique_guids", None, True),
    Run(E2E + "VerifySameGuidsOnReplay", "replay_guids", None, True),
    Run(
        E2E + "HelloWorldOrchestration_Activity_CustomStatus",
        "set_status_then_greet",
        "World",
        "Hello, World!",
        custom_status={"nextActions": ["A", "B", "C"], "foo": 2},
    ),
    Run(E2E + "SequentialOrchestration", "factorial", 10, 3628800),
    Run(E2E + "ParallelOrchestration", "sum_sizes", "a", sum(range(1, 21))),
    Run(E2E + "HandledActivityException", "count_caught_errors", 5, 5),
    Run(
        E2E + "HandledSubOrchestratorException",
        "raise_error_of_child",
        "Failure ID: 1",
        failed(
            "raise_error_of_child",
            "Orchestrator function 'fail' failed: Activity function 'raise_error' failed: "
            "RuntimeError: Failure ID: 1 \n {",
        ),
        "Failed",
    ),
    Run(
        E2E + "UnhandledOrchestrationException",
        "fail",
        None,
        failed("fail", "message must not be empty"),
        "Failed",
    ),
    Run(
        E2E + "UnhandledActivityException",
        "fail",
        "Kah-BOOOOM!!!",
        failed("fail", BOOM),
        "Failed",
    ),
    Run(
        E2E + "UnhandledSubOrchestratorActivityException",
        "call_orchestrator",
        {"name": "fail", "input": "Kah-BOOOOM!!!"},
        failed("call_orchestrator", f"Orchestrator function 'fail' failed: {BOOM}"),
        "Failed",
    ),
    Run(
        E2E + "UnhandledActivityExceptionWithRetry",
        "retry_activity",
        ["always_fail", 3],
        # The number says that the activity has run three times.
        failed(
            "retry_activity",
            "Activity function 'always_fail' failed: RuntimeError: Kah-BOOOOM!!! 3 \n {",
        ),
        "Failed",
    ),
    # The texts are those of the Python SDK.
    Run(
        E2E + "ActivityWithRetry_NullRetryOptions",
        "retry_activity_without_options",
        None,
        failed("retry_activity_without_options", ""),
        "Failed",
    ),
    Run(
        E2E + "OrchestrationWithRetry_NullRetryOptions",
        "retry_child_without_options",
        None,
        failed("retry_child_without_options", ""),
        "Failed",
    ),
    Run(E2E + "Orchestration_Activity", "greet_by_child", None, None),
    Run(
        E2E + "SubOrchestration_ComplexType",
        "call_orchestrator",
        {"name": "call_activity", "input": ["echo", COMPLEX]},
        COMPLEX,
    ),
    Run(
        E2E + "Orchestration_OnValidOrchestrator",
        "call_orchestrator",
        {
            "name": "say_hello_by_activity",
            "input": "ValidOrchestrator",
            "id": f"PARENT_{new_id()}:0",
        },
        "Hello, ValidOrchestrator!",
    ),
    # With the extension, the next two instances stay Running forever in a Python app. The local
    # host deliberately lets them fail, as in C#: see FIDELITY.md.
    Run(
        E2E + "Orchestration_OnUnregisteredActivity",
        "call_activity",
        ["UnregisteredActivity", {"Foo": "Bar"}],
        failed("call_activity", UNKNOWN.format("UnregisteredActivity", "activity")),
        "Failed",
    ),
    Run(
        E2E + "Orchestration_OnUnregisteredOrchestrator",
        "call_orchestrator",
        {"name": "UnregisteredOrchestrator", "input": {"Foo": "Bar"}},
        failed("call_orchestrator", UNKNOWN.format("UnregisteredOrchestrator", "orchestrator")),
        "Failed",
    ),
    Run(
        E2E + "ExternalClient_CallsNonexistentOrchestrator",
        "NonexistentOrchestrator",
        None,
        failed(
            "NonexistentOrchestrator", UNKNOWN.format("NonexistentOrchestrator", "orchestrator")
        ),
        "Failed",
    ),
    Run(E2E + "AzureStorage_BigReturnValue_Orchestrator", "big_value", 31232, "*" * 31232),
    Run(
        E2E + "AzureStorage_BigReturnValue_Activity",
        "call_activity",
        ["big_value_of_activity", 31232],
        "*" * 31232,
    ),
    Run(E2E + "ContinueAsNew_Repro285", "continue_with_timers", 0, "ok"),
    Run(E2E + "TimerExpiration", "approve", 0.05, "Expired"),
    Run(E2E + "WaitForExternalEventWithTimeout", "await_value", [0.05, "throw"], "TimeoutError"),
    Run(E2E + "WaitForExternalEventWithTimeout", "await_value", [0.05, "default"], "default"),
    Run(
        "HelloCitiesTest.cs: HttpTriggerTests",
        "hello_cities",
        None,
        ["Hello, Tokyo!", "Hello, Seattle!", "Hello, London!"],
    ),
    # Python has no single byte, and the SDK does not encode bytes. A list takes their place.
    Run(
        "ActivityInputTypeTests.cs: DifferentActivityInputTypeTests",
        "call_with_each_type",
        None,
        [
            "list: [1, 2, 3, 4, 5]",
            "list: []",
            "int: 42",
            "Person: Test, 25",
            "str: Test string input",
            "list: [Test1, 25, Test2, 30]",
        ],
    ),
    Run(
        "ErrorHandlingTests.cs: OrchestratorWithUncaughtActivityException_ShouldFail",
        "call_activity",
        ["raise_error", "This activity failed"],
        failed(
            "call_activity",
            "Activity function 'raise_error' failed: RuntimeError: This activity failed \n {",
        ),
        "Failed",
    ),
    Run(
        "ErrorHandlingTests.cs: OrchestratorWithCaughtActivityException_ShouldSucceed",
        "catch_error",
        None,
        re.compile(
            r"Caught: Activity function 'raise_error' failed: RuntimeError: This activity failed "
            r"\n \{.*function_app\.py.*\}",
            re.DOTALL,
        ),
    ),
    Run(
        "ErrorHandlingTests.cs: OrchestratorWithRetriedActivityException_ShouldSucceed",
        "retry_activity",
        ["fail_once", 3],
        "Success",
    ),
    Run(
        "ErrorHandlingTests.cs: OrchestratorWithCustomRetriedActivityException_ShouldSucceed",
        "retry_activity",
        ["fail_once_with_cause", 3],
        "Success",
    ),
    Run(
        "LargeOutputOrchestratorTests.cs: LargeOutputStatusQueryTests",
        "big_value",
        65 * 1024,
        "*" * 65 * 1024,
    ),
    Run(
        "LargeOutputOrchestratorTests.cs: DurableTaskClientWriteOutputTests",
        "big_value",
        4608 * 1024,
        "*" * 4608 * 1024,
    ),
    Run(
        "DisabledOrchestrationTests.cs: "
        "ActiveOrchestration_StartsWhenDisabledFunctionsAreRegistered",
        "say_hello_by_activity",
        "Tokyo",
        "Hello, Tokyo!",
    ),
    Run(
        "DisabledOrchestrationTests.cs: Orchestration_CallingDisabledActivity_FailsGracefully",
        "call_activity",
        ["disabled_activity", "hello"],
        failed(
            "call_activity",
            "Activity function 'disabled_activity' failed: "
            "Activity function 'disabled_activity' is disabled. \n {",
        ),
        "Failed",
    ),
    Run(
        "IsReplayingTests.cs: IsReplayingBasic_CompletesWithExpectedReplayFlags",
        "replay_once",
        None,
        {"before": True, "after": False, "result": "hello"},
    ),
    Run(
        "IsReplayingTests.cs: IsReplayingMultiActivity_SnapshotsShowReplayProgression",
        "replay_often",
        None,
        {"flags": [True, True, True, False], "results": ["one", "two", "three"]},
    ),
    Run(
        "IsReplayingTests.cs: IsReplayingConditionalLog_OnlyCountsLiveExecutionPaths",
        "count_live_steps",
        None,
        {"live": 1, "result": "logged"},
    ),
    Run(
        "IsReplayingTests.cs: IsReplayingCounter_TracksReplayAndLiveCheckpoints",
        "count_steps",
        None,
        {"live": 1, "replayed": 3, "results": ["a", "b", "c"]},
    ),
    Run(
        "IsReplayingTests.cs: IsReplayingFanOutFanIn_ReportsReplayStateAroundParallelTasks",
        "replay_fan_out",
        None,
        {"before": True, "after": False, "results": ["alpha", "beta", "gamma"]},
    ),
    Run(
        "VersioningTests.cs: TestVersionedSubOrchestration_OKWithMatchingVersion",
        "report_versions",
        None,
        "Parent version: '2.0' | Version: '2.0'",
    ),
    Run(
        "VersioningTests.cs: TestVersionedSubOrchestration_OKWithMatchingVersion",
        "report_versions",
        {"version": ""},
        "Parent version: '2.0' | Version: ''",
    ),
    Run(
        "VersioningTests.cs: TestVersionedSubOrchestration_OKWithMatchingVersion",
        "report_versions",
        {"version": "1.0"},
        "Parent version: '2.0' | Version: '1.0'",
    ),
    Run(
        "VersioningTests.cs: TestVersionedSubOrchestration_OKWithMatchingVersion",
        "report_versions",
        {"version": "2.0"},
        "Parent version: '2.0' | Version: '2.0'",
    ),
]


@source(*(run.source for run in RUNS))
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.source)
async def test_orchestration_ends_with_status_and_output(host: ExtensionHost, run: Run) -> None:
    status = await host.run(run.name, run.input)
    assert status["runtimeStatus"] == run.status, status["output"]
    if isinstance(run.output, re.Pattern):
        assert run.output.fullmatch(status["output"]), status["output"]
    else:
        assert status["output"] == run.output
    assert (status["name"], status["customStatus"]) == (run.name, run.custom_status)


@source("VersioningTests.cs: TestVersionedOrchestration_OKWithMatchingVersion", rows=4)
@pytest.mark.parametrize(
    ("query", "version"),
    [
        ({}, "2.0"),
        ({"version": "empty"}, ""),
        ({"version": "1.0"}, "1.0"),
        ({"version": "2.0"}, "2.0"),
    ],
)
async def test_version_is_of_the_start_request_or_the_default(
    host: ExtensionHost, query: dict[str, str], version: str
) -> None:
    status = await host.wait_for(await host.start("report_version", **query))
    assert (status["runtimeStatus"], status["output"]) == ("Completed", f"Version: '{version}'")


def report_versions(engine: EngineHost) -> None:
    """Register an orchestrator that returns its version and its sub-orchestration's version."""

    @engine.runner.orchestrator
    def report_version(context: Any) -> Any:
        return context.version

    @engine.runner.orchestrator
    def report_versions(context: Any) -> Any:
        yield context.wait_for_external_event("Resume")
        return [context.version, (yield context.call_sub_orchestrator("report_version"))]


@source("OrchestrationVersionTests.cs: OrchestrationVersionIsDeterminedByHostAppVersion", rows=4)
@pytest.mark.parametrize("kind", ["local", "azure-storage"])
@pytest.mark.parametrize("version", [None, "", "1.0", "4.5.6-preview"])
async def test_new_instances_get_host_jsons_default_version(
    tmp_path: Path, kind: str, version: str | None
) -> None:
    durable = {} if version is None else {"defaultVersion": version}
    engine = make_host(tmp_path, kind)
    engine.options = parse_host_file(
        {"version": "2.0", "extensions": {"durableTask": durable}}
    ).durable
    report_versions(engine)
    await engine.start()
    await engine.begin("report_versions")
    await engine.raise_event("Resume")
    assert engine.output() == [version, version]
    await engine.stop()


@source("OrchestrationVersionTests.cs: ExistingOrchestrationVersionIsImmutable")
@pytest.mark.parametrize("kind", ["local", "azure-storage"])
async def test_instance_keeps_its_version(tmp_path: Path, kind: str) -> None:
    engine = make_host(tmp_path, kind)
    report_versions(engine)
    engine.options = DurableOptions(default_version="1.0")
    await engine.start()
    await engine.begin("report_versions")
    await engine.stop()
    engine.options = DurableOptions(default_version="2.0")
    await engine.start()
    await engine.raise_event("Resume")
    assert engine.output() == ["1.0", "1.0"]
    await engine.stop()


# Sub-orchestrations


@source(E2E + "SubOrchestration_ParentInstanceId_Assigned")
async def test_child_reads_its_parents_id(
    host: ExtensionHost,
) -> None:
    status = await host.run("call_orchestrator", {"name": "report_parent"})
    assert status["output"] == status["instanceId"]


@source(E2E + "SubOrchestration_Requires_Different_Id_Than_Parent")
async def test_child_cannot_have_its_parents_id(host: ExtensionHost) -> None:
    """Check that a parent fails if it starts a sub-orchestration with the parent's own id.

    With Azure's Durable extension, the parent fails only in a C# app. In a Python app, it stays
    Running forever. FIDELITY.md describes this difference.
    """
    own_id = new_id()
    await host.start("call_orchestrator", {"name": "report_parent", "id": own_id}, id=own_id)
    status = await host.wait_for(own_id)
    assert status["runtimeStatus"] == "Failed", status
    # The local engine starts a child in the transaction that ends its parent's first episode.
    parent_status = {"local": "Pending", "azure-storage": "Running"}[host.engine]
    assert status["output"] == (
        "Orchestrator function 'call_orchestrator' failed: An Orchestration instance with the "
        f"status {parent_status} already exists. \n "
    )


@source(E2E + "UnhandledOrchestrationExceptionWithRetry")
async def test_failure_of_a_childs_third_attempt_fails_parent(
    host: ExtensionHost,
) -> None:
    status = await host.run("retry_child")
    assert status["runtimeStatus"] == "Failed"
    assert status["output"].startswith(
        "Orchestrator function 'retry_child' failed: Orchestrator function 'fail' failed: "
        "message must not be empty"
    )
    assert (await host.status(status["customStatus"]))["runtimeStatus"] == "Failed"
    kinds = [event["EventType"] for event in await host.history(status["instanceId"])]
    assert kinds.count("SubOrchestrationInstanceFailed") == 3


@source(E2E + "RaiseEventToSubOrchestration")
async def test_event_completes_child_and_parent(
    host: ExtensionHost,
) -> None:
    child_id = f"SubOrchestration-{new_id()}"
    parent = await host.start(
        "call_orchestrator", {"name": "approve", "input": 300, "id": child_id}
    )
    await host.wait_for(parent, "Running")
    await host.wait_for(child_id, "Running")
    assert await host.raise_event(child_id, "approval", True) == 202
    assert (await host.wait_for(parent))["output"] == "Approved"


# Events and timers


@source(E2E + "TimerCancellation")
async def test_event_before_the_timer_completes(
    host: ExtensionHost,
) -> None:
    instance_id = await host.begin("approve", 10)
    assert await host.raise_event(instance_id, "approval", True) == 202
    status = await host.wait_for(instance_id)
    assert (status["runtimeStatus"], status["output"]) == ("Completed", "Approved")


@source(E2E + "WaitForExternalEventWithTimeout", rows=2)
@pytest.mark.parametrize("default", ["throw", "default"])
async def test_wait_with_timeout_returns_an_early_event(host: ExtensionHost, default: str) -> None:
    """The event's name must have the same case as the name for which the orchestrator waits."""
    instance_id = await host.begin("await_value", [30, default])
    assert await host.raise_event(instance_id, "approval", "ignored") == 202
    assert await host.raise_event(instance_id, "Approval", "ApprovalValue") == 202
    assert (await host.wait_for(instance_id))["output"] == "ApprovalValue"


@source(E2E + "WaitForExternalEventWithCancellationToken")
async def test_cancelled_timer_does_not_delay_the_end(
    host: ExtensionHost,
) -> None:
    instance_id = await host.begin("await_either")
    assert await host.raise_event(instance_id, "approval") == 202
    status = await host.wait_for(instance_id)
    assert (status["runtimeStatus"], status["output"]) == ("Completed", True)


@source("TimeoutTests.cs: TimeoutFunction_ShouldTimeoutWhenAppropriate")
async def test_timed_out_activity_delays_the_end(
    host: ExtensionHost,
) -> None:
    """Check that the status stays Running until the activity has ended.

    We observed this on the Durable extension 3.19.0. The extension's own test checks only the end
    of the orchestration.
    """
    instance_id = await host.start("time_out", 0.05)
    await host.wait_for_events(instance_id, "TimerFired", 1)
    assert (await host.status(instance_id))["runtimeStatus"] == "Running"
    await host.http.post(f"/api/release/{instance_id}")
    assert (await host.wait_for(instance_id))["output"] == "The activity function timed out"


@source("TimeoutTests.cs: TimeoutFunction_ShouldTimeoutWhenAppropriate")
async def test_activity_that_ends_early_does_not_time_out(
    host: ExtensionHost,
) -> None:
    instance_id = await host.start("time_out", 10)
    await host.http.post(f"/api/release/{instance_id}")
    status = await host.wait_for(instance_id)
    assert status["output"] == "The activity function completed successfully"


@source(E2E + "WaitForEventAndCallActivity_DroppedEventsTest")
async def test_events_and_activities_can_alternate(
    host: ExtensionHost,
) -> None:
    """Send each event only when the orchestrator waits for it."""
    instance_id = await host.start("sum_events")
    for number in range(5):
        await host.wait_for(instance_id, "Running", custom=f"{number} events")
        assert await host.raise_event(instance_id, "add", number) == 202
    assert (await host.wait_for(instance_id))["output"] == 26


@source(E2E + "ExternalEvents_MultipleNamesLooping")
async def test_loop_waits_for_two_event_names(
    host: ExtensionHost,
) -> None:
    instance_id = await host.begin("count_until_done")
    for name in ("incr", "incr", "done"):
        assert await host.raise_event(instance_id, name) == 202
    assert (await host.wait_for(instance_id))["output"] == 2


@source(
    E2E + "BatchedActorOrchestration",
    E2E + "BatchedActorOrchestrationDeleteLastItemAlways",
    E2E + "ParallelBatchedActorOrchestration",
)
@pytest.mark.parametrize(
    ("name", "event", "count"),
    [
        ("collect_items", "newItem", 5),
        ("remove_items", "deleteItem", 5),
        ("collect_items_at_once", "newItem", 4),
    ],
)
async def test_all_expected_events_are_needed(
    host: ExtensionHost, name: str, event: str, count: int
) -> None:
    instance_id = await host.begin(name)
    for number in range(1, count):
        assert await host.raise_event(instance_id, event, f"item{number}") == 202
    await host.wait_for_events(instance_id, "EventRaised", count - 1)
    assert (await host.status(instance_id))["runtimeStatus"] == "Running"
    assert await host.raise_event(instance_id, event, f"item{count}") == 202
    assert (await host.wait_for(instance_id))["runtimeStatus"] == "Completed"


@source(E2E + "SetStatusOrchestration")
async def test_custom_status_can_follow_the_events(
    host: ExtensionHost,
) -> None:
    instance_id = await host.start("copy_events_to_status")
    running = await host.wait_for(instance_id, "Running")
    assert running["customStatus"] is None
    await host.raise_event(instance_id, "UpdateStatus", "updated status")
    await host.wait_for(instance_id, "Running", custom="updated status")
    await host.raise_event(instance_id, "UpdateStatus", None)
    await host.raise_event(instance_id, "UpdateStatus", {"Foo": "Bar", "Count": 2})
    status = await host.wait_for(instance_id)
    assert status["customStatus"] == {"Foo": "Bar", "Count": 2}


@source(E2E + "ActorOrchestration")
async def test_continue_as_new_passes_the_state(
    host: ExtensionHost,
) -> None:
    instance_id = await host.begin("count_operations", 0)
    for operation, value in [("incr", 1), ("incr", 2), ("incr", 3), ("decr", 2), ("incr", 3)]:
        await host.raise_event(instance_id, "operation", operation)
        await host.wait_for(instance_id, "Running", custom=value)
    await host.raise_event(instance_id, "operation", "end")
    status = await host.wait_for(instance_id)
    # The SDK encodes the input of `continue_as_new`, so it is a JSON text here.
    assert (status["output"], status["input"]) == (3, "3")


@source(E2E + "ContinueAsNewMultipleTimersAndEvents")
async def test_cancelled_timers_allow_ten_continue_as_new(
    host: ExtensionHost,
) -> None:
    """Send ten events, one in each execution of the orchestrator.

    The Durable extension's own test sends 20 events at once. This is possible only with C#
    functions, which can preserve unprocessed events when they continue as new.
    """
    instance_id = await host.start("continue_with_signals", 10)
    for number in range(10, 0, -1):
        await host.wait_for(instance_id, "Running", custom=number)
        await host.raise_event(instance_id, f"signal{number}")
    assert (await host.wait_for(instance_id))["output"] == "ok"


@source(E2E + "OrchestrationConcurrency")
async def test_fifty_waiting_orchestrations_complete(
    host: ExtensionHost,
) -> None:
    """Start 50 orchestrations. The Durable extension's own test starts 100."""
    prefix = new_id()
    starts = [
        host.request("POST", f"orchestrators/approve/{prefix}-{number}", "0.2")
        for number in range(50)
    ]
    assert {response.status_code for response in await asyncio.gather(*starts)} == {202}
    async with asyncio.timeout(30):
        query = {"instanceIdPrefix": prefix, "runtimeStatus": "Completed"}
        while len((await host.request("GET", "instances", **query)).json()) < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@source("ExternalEventTests.cs: RaiseExternalEventTests")
async def test_completed_instance_refuses_events(host: ExtensionHost) -> None:
    """The request to send the event gets 410 without a body, so the SDK chooses the error text."""
    instance_id = await host.begin("approve", 10)
    assert (await host.call("raise_event", instance_id, True, name="approval"))[0]
    assert (await host.wait_for(instance_id))["runtimeStatus"] == "Completed"
    assert await host.call("raise_event", instance_id, True, name="approval") == (
        False,
        f"Instance with ID {instance_id} is gone: either completed or failed",
    )
    assert await host.raise_event(instance_id, "approval", True) == 410


@source("ExternalEventTests.cs: NotFoundInstanceTest")
async def test_unknown_instance_refuses_events(host: ExtensionHost) -> None:
    missing = "instance-does-not-exist-test-01"
    assert await host.call("raise_event", missing, True, name="approval") == (
        False,
        f"No instance with ID {missing} found.",
    )
    assert await host.raise_event(missing, "approval", True) == 404


# Suspend, resume, terminate


@source(E2E + "SuspendResumeOrchestration")
async def test_suspended_instance_processes_events_later(
    host: ExtensionHost,
) -> None:
    """While the instance is Suspended, its output is the reason for the suspension.

    We observed this on the Durable extension 3.19.0. The extension's own test expects the output 0.
    """
    instance_id = await host.begin("count_until_done")
    assert await host.operate("suspend", instance_id, "sleepyOrch") == 202
    await host.wait_for(instance_id, "Suspended")
    await host.raise_event(instance_id, "incr")
    await host.raise_event(instance_id, "done")
    status = await host.status(instance_id, showInput="false")
    assert (status["runtimeStatus"], status["output"]) == ("Suspended", "sleepyOrch")
    assert await host.operate("resume", instance_id, "wakeUp") == 202
    assert (await host.wait_for(instance_id))["output"] == 1


@source("SuspendResumeTests.cs: SuspendAndResumeRunningOrchestration_ShouldSucceed")
async def test_running_instance_is_suspended_and_resumed(host: ExtensionHost) -> None:
    instance_id = await host.begin("approve", 60)
    assert await host.call("suspend", instance_id) == (True, "")
    await host.wait_for(instance_id, "Suspended")
    assert await host.call("resume", instance_id) == (True, "")
    await host.wait_for(instance_id, "Running")
    await host.operate("terminate", instance_id)


UNEXPECTED = "The operation failed with an unexpected status code 500"


@source("SuspendResumeTests.cs: SuspendSuspendedOrchestration_ShouldFail")
async def test_suspended_instance_cannot_be_suspended(host: ExtensionHost) -> None:
    instance_id = await host.begin("approve", 60)
    await host.call("suspend", instance_id)
    await host.wait_for(instance_id, "Suspended")
    assert await host.call("suspend", instance_id) == (False, UNEXPECTED)
    response = await host.request("POST", f"instances/{instance_id}/suspend")
    assert response.status_code == 500
    assert response.json()["ExceptionMessage"] == (
        f"Cannot suspend the orchestration instance {instance_id} because instance is in the "
        "Suspended state."
    )
    await host.operate("terminate", instance_id)


@source("SuspendResumeTests.cs: ResumeRunningOrchestration_ShouldFail")
async def test_running_instance_cannot_be_resumed(host: ExtensionHost) -> None:
    instance_id = await host.begin("approve", 60)
    assert await host.call("resume", instance_id) == (False, UNEXPECTED)
    response = await host.request("POST", f"instances/{instance_id}/resume")
    assert response.json()["ExceptionMessage"] == (
        f"Cannot resume the orchestration instance {instance_id} because instance is in the "
        "Running state."
    )
    await host.operate("terminate", instance_id)


@source("SuspendResumeTests.cs: SuspendResumeCompletedOrchestration_ShouldFail")
async def test_suspend_of_completed_instance_raises_nothing(
    host: ExtensionHost,
) -> None:
    """For a Python app, the Durable extension's own test expects no exception either."""
    instance_id = (await host.run("hello_cities"))["instanceId"]
    assert await host.call("suspend", instance_id) == (True, "")
    assert await host.call("resume", instance_id) == (True, "")
    assert await host.operate("suspend", instance_id) == 410
    assert await host.operate("resume", instance_id) == 410


@source(E2E + "TerminateOrchestration")
async def test_termination_reason_is_the_output(
    host: ExtensionHost,
) -> None:
    instance_id = await host.begin("count_operations", 0)
    assert await host.operate("terminate", instance_id, "sayōnara") == 202
    status = await host.wait_for(instance_id)
    assert (status["runtimeStatus"], status["output"]) == ("Terminated", "sayōnara")


@source("TerminateOrchestratorTests.cs: TerminateRunningOrchestration_ShouldSucceed")
@source("TerminateOrchestratorTests.cs: TerminateTerminatedOrchestration_ShouldFail")
async def test_second_termination_raises_nothing(
    host: ExtensionHost,
) -> None:
    """The Durable extension answers the second call with 410 and without a body.

    We observed this on version 3.19.0. For this response, the Python SDK raises no exception. The
    extension's own test expects an exception.
    """
    instance_id = await host.begin("approve", 60)
    assert await host.call("terminate", instance_id) == (True, "")
    await host.wait_for(instance_id, "Terminated")
    assert await host.call("terminate", instance_id) == (True, "")
    assert await host.operate("terminate", instance_id) == 410


@source("TerminateOrchestratorTests.cs: TerminateCompletedOrchestration_ShouldFail")
async def test_completed_instance_cannot_be_terminated(host: ExtensionHost) -> None:
    instance_id = (await host.run("hello_cities"))["instanceId"]
    assert await host.operate("terminate", instance_id) == 410
    assert (await host.status(instance_id))["runtimeStatus"] == "Completed"


@source("TerminateOrchestratorTests.cs: TerminateNonExistantOrchestration_ShouldFail")
async def test_unknown_instance_cannot_be_terminated(host: ExtensionHost) -> None:
    missing = new_id()
    assert await host.call("terminate", missing) == (
        False,
        f"No instance with ID '{missing}' found.",
    )


# Restart, rewind, starts with the id of an existing instance


@source("RestartOrchestrationTests.cs: RestartOrchestration_CreatedTimeAndOutputChange", rows=2)
@source(E2E + "RestartOrchestator_IsSuccess", HTTP + "RestartInstance_Is_Success", rows=2)
@pytest.mark.parametrize("is_new", [True, False])
async def test_restart_keeps_input_and_output(host: ExtensionHost, is_new: bool) -> None:
    first = await host.run("say_hello", "RestartAsyncTest")
    started = (await host.history(first["instanceId"]))[0]
    path = f"instances/{first['instanceId']}/restart"
    response = await host.request("POST", path, restartWithNewInstanceId=str(is_new))
    assert response.status_code == 202
    second = await host.wait_for(response.json()["id"])
    assert (second["instanceId"] != first["instanceId"]) == is_new
    assert (second["input"], second["output"]) == (first["input"], first["output"])
    again = (await host.history(second["instanceId"]))[0]
    assert again["Timestamp"] > started["Timestamp"]


@source(HTTP + "RestartInstanceAndWaitToComplete_Is_Success", rows=2)
@pytest.mark.parametrize("is_new", [True, False])
async def test_restart_with_timeout_waits_for_the_output(host: ExtensionHost, is_new: bool) -> None:
    first = await host.run("say_hello", "World")
    response = await host.request(
        "POST",
        f"instances/{first['instanceId']}/restart",
        timeout="30",
        pollingInterval="1",
        restartWithNewInstanceId=str(is_new),
    )
    assert (response.status_code, response.json()) == (200, "Hello, World!")


@source(
    "RestartOrchestrationTests.cs: RestartOrchestration_NonExistentInstanceId_ShouldReturnNotFound"
)
@source(E2E + "RestartOrchestrator_ThrowsException")
@source(HTTP + "RestartInstance_Returns_HTTP_400_On_Invalid_InstanceId")
async def test_unknown_instance_cannot_be_restarted(host: ExtensionHost) -> None:
    """Check the error text that we observed on the Durable extension 3.19.0.

    The extension's own test in `DurableTaskEndToEndTests.cs` expects an older text.
    """
    missing = new_id()
    response = await host.request("POST", f"instances/{missing}/restart")
    assert response.status_code == 400
    body = response.json()
    assert body["Message"] == "InstanceId does not match a valid orchestration instance."
    assert body["ExceptionMessage"] == (
        f"No instance with ID '{missing}' was found. (Parameter 'instanceId')"
    )


@source(
    "RestartOrchestrationTests.cs: "
    "RestartOrchestration_NotCompletedOrchestrationWithRestartFalse_ShouldSucceed"
)
async def test_running_instance_cannot_restart_with_its_id(
    host: ExtensionHost,
) -> None:
    """The Durable extension 3.19.0 answers the restart request with 409, as we observed.

    The extension's own test expects that the restart replaces the running instance.
    """
    instance_id = await host.begin("approve", 60)
    path = f"instances/{instance_id}/restart"
    response = await host.request("POST", path, restartWithNewInstanceId="false")
    assert response.status_code == 409
    assert response.json()["Message"] == (
        "A non-terminal instance with this instance ID already exists."
    )
    await host.operate("terminate", instance_id)


@source(E2E + "Dedupe_Default_NotRunning_ThrowsException")
async def test_id_of_a_running_instance_is_refused(
    host: ExtensionHost,
) -> None:
    instance_id = await host.begin("count_operations", 0, id=f"OverridableStates_{new_id()}")
    await host.raise_event(instance_id, "operation", "incr")
    await host.wait_for(instance_id, "Running", custom=1)
    response = await host.http.post("/api/start/say_hello", params={"id": instance_id})
    assert response.status_code == 400
    text = "An Orchestration instance with the status Running already exists."
    assert text in response.text
    await host.operate("terminate", instance_id)


@source(
    "DedupeStatusesTests.cs: CanStartOrchestration_WithSameId_ForAllStatuses_ForEmptyDedupeStatuses"
)
async def test_only_an_ended_instance_is_replaced(
    host: ExtensionHost,
) -> None:
    """The start request gets 409 if the existing instance is Running or Suspended.

    We observed this on the Durable extension 3.19.0 with the default value of
    `overridableExistingInstanceStates`. The extension's own test expects that the new instance
    replaces the existing instance, whatever the status of the existing instance is.
    """
    completed, failed, terminated, running, suspended = [new_id() for _ in range(5)]
    await host.start("say_hello", "World", id=completed)
    await host.start("fail", id=failed)
    for instance_id in (terminated, running, suspended):
        await host.start("approve", 60, id=instance_id)
        await host.wait_for(instance_id, "Running")
    await host.operate("terminate", terminated)
    await host.operate("suspend", suspended)
    wanted = {
        completed: ("Completed", 202),
        failed: ("Failed", 202),
        terminated: ("Terminated", 202),
        running: ("Running", 409),
        suspended: ("Suspended", 409),
    }
    for instance_id, (status, code) in wanted.items():
        await host.wait_for(instance_id, status)
        path = f"orchestrators/say_hello/{instance_id}"
        response = await host.request("POST", path, '"again"')
        assert response.status_code == code, status
        if code == 202:
            assert (await host.wait_for(instance_id))["output"] == "Hello, again!"
        else:
            await host.operate("terminate", instance_id)


@source("RewindOrchestratorTests.cs: RewindFailedOrchestration_ShouldSucceed", rows=2)
@pytest.mark.parametrize("failures", [1, 2])
async def test_rewind_repeats_only_failed_activities(host: ExtensionHost, failures: int) -> None:
    """The Durable extension's own test also uses durable entities. Our test uses none."""
    instance_id = await host.start("rewind_parent", failures)
    for _ in range(failures):
        await host.wait_for(instance_id, "Failed")
        if host.engine == "azure-storage":
            assert await host.operate("rewind", instance_id) == 500
            return
        assert await host.call("rewind", instance_id) == (True, "")
    status = await host.wait_for(instance_id)
    assert status["runtimeStatus"] == "Completed", status
    assert len(status["output"]) == 10
    for name, count in status["output"].items():
        assert count == (1 + failures if "fails" in name else 1), name


@source(E2E + "RewindOrchestration")
async def test_failed_instance_completes_after_rewind(host: ExtensionHost) -> None:
    """Rewind an orchestration that failed because an activity raised an error.

    In the Durable extension's own test, the orchestrator raises the error, and no activity fails.
    With the extension 3.19.0 and a Python app, we observed that such an orchestrator fails again
    after the rewind.
    """
    instance_id = await host.start("call_activity", ["fail_once", new_id()])
    assert (await host.wait_for(instance_id))["runtimeStatus"] == "Failed"
    if host.engine == "azure-storage":
        assert await host.operate("rewind", instance_id, "rewind!") == 500
        return
    assert await host.operate("rewind", instance_id, "rewind!") == 202
    assert (await host.wait_for(instance_id))["output"] == "This activity succeeded"


@source("RewindOrchestratorTests.cs: RewindOnlyRewindsFailedOrchestrations")
async def test_only_failed_instance_can_be_rewound(host: ExtensionHost) -> None:
    completed = (await host.run("say_hello"))["instanceId"]
    running = await host.begin("approve", 60)
    text = 'This orchestration has status {}, but only orchestrations in the "Failed" state can be '
    text += "rewound."
    assert await host.call("rewind", completed) == (False, text.format("Completed"))
    assert await host.operate("rewind", running) == 412
    await host.operate("terminate", running)
    await host.wait_for(running, "Terminated")
    assert await host.operate("rewind", running) == 412
    missing = new_id()
    response = await host.request("POST", f"instances/{missing}/rewind")
    assert response.status_code == 404
    assert response.json() == f'No orchestration with instance ID "${missing}" found.'


# Purge


@source(E2E + "Purge_Single_Instance_History")
async def test_purged_instance_no_longer_exists(host: ExtensionHost) -> None:
    instance_id = await host.start("call_activity", ["echo", "x" * 65536])
    assert (await host.wait_for(instance_id))["output"] == "x" * 65536
    assert len(await host.history(instance_id)) == 3
    assert await host.call("purge", instance_id) == (True, "1")
    assert (await host.request("GET", f"instances/{instance_id}")).status_code == 404
    assert await host.call("exists", instance_id) == (True, "False")


@source("PurgeInstancesTests.cs: PurgeOnlyPurgesTerminalOrchestrations")
async def test_only_ended_instance_can_be_purged(host: ExtensionHost) -> None:
    completed = (await host.run("hello_cities"))["instanceId"]
    failed = (await host.run("fail"))["instanceId"]
    terminated, running, suspended = [await host.start("approve", 60) for _ in range(3)]
    for instance_id in (terminated, running, suspended):
        await host.wait_for(instance_id, "Running")
    await host.call("terminate", terminated)
    await host.call("suspend", suspended)
    await host.wait_for(terminated, "Terminated")
    await host.wait_for(suspended, "Suspended")
    for instance_id in (completed, failed, terminated):
        assert await host.call("purge", instance_id) == (True, "1")
    assert await host.call("purge", new_id()) == (True, "0")
    for instance_id, status in [(running, "Running"), (suspended, "Suspended")]:
        response = await host.request("DELETE", f"instances/{instance_id}")
        assert response.status_code == 412
        assert response.json() == (
            "Only orchestrations in a terminal state can be purged, but the orchestration with "
            f"instance ID {instance_id} has status {status}"
        )
        assert not (await host.call("purge", instance_id))[0]
        await host.operate("terminate", instance_id)


async def purge(host: ExtensionHost, start: datetime | None, end: datetime | None) -> str:
    """Purge the instances created from `start` to `end`, with the durable client of the SDK."""
    period = [moment and moment.isoformat() for moment in (start, end)]
    return (await host.http.post("/api/purge", json=period)).text


YEAR = timedelta(days=365)


@source(
    "PurgeInstancesTests.cs: PurgeOrchestrationHistory_StartAndEnd_Succeeds",
    "PurgeInstancesTests.cs: PurgeOrchestrationHistory_Start_Succeeds",
)
@pytest.mark.parametrize("has_end", [True, False])
async def test_purge_by_creation_time(host: ExtensionHost, has_end: bool) -> None:
    instance_id = (await host.run("hello_cities"))["instanceId"]
    now = datetime.now(UTC)
    assert int(await purge(host, now - YEAR, now if has_end else None)) > 0
    assert await host.call("exists", instance_id) == (True, "False")


@source(
    "PurgeInstancesTests.cs: PurgeOrchestrationHistory_End_Succeeds",
    "PurgeInstancesTests.cs: PurgeOrchestrationHistory_NoBoundaries_Succeeds",
)
@pytest.mark.parametrize("has_end", [True, False])
async def test_purge_without_created_time_from_is_refused(
    host: ExtensionHost, has_end: bool
) -> None:
    """The purge request gets 400 in a Python app, as we observed on the Durable extension 3.19.0.

    For apps in other languages, the extension's own tests expect that the instances are purged.
    """
    query = {"createdTimeTo": datetime.now(UTC).isoformat()} if has_end else {}
    response = await host.request("DELETE", "instances", **query)
    assert response.status_code == 400
    assert response.json() == "Please provide value for 'createdTimeFrom' parameter."


@source(
    "PurgeInstancesTests.cs: PurgeOrchestrationHistoryAfterInvocation_Succeeds",
    "PurgeInstancesTests.cs: PurgeAfterPurge_ZeroRows",
)
async def test_second_purge_finds_no_instances(
    host: ExtensionHost,
) -> None:
    """Purge the instances that were created in the same period twice.

    Unlike the Durable extension's own tests, this test sends the start of the period, because a
    Python app must send it.
    """
    start = datetime.now(UTC)
    await host.run("hello_cities")
    end = start + timedelta(minutes=1)
    assert await purge(host, start, end) == "1"
    assert await purge(host, start, end) == "0"


@source(E2E + "Purge_All_History_By_TimePeriod", E2E + "Purge_Partially_History_By_TimePeriod")
async def test_purge_by_creation_time_and_status(
    host: ExtensionHost,
) -> None:
    start = datetime.now(UTC)
    first = await host.run("fan_out", 20)
    middle = datetime.now(UTC)
    second = await host.run("fan_out", 20)
    assert (first["output"], second["output"]) == ("Done", "Done")
    query = {"createdTimeFrom": start.isoformat(), "runtimeStatus": "Completed,Terminated,Failed"}
    path = "instances"
    response = await host.request("DELETE", path, createdTimeTo=middle.isoformat(), **query)
    assert response.json() == {"instancesDeleted": 1}
    assert await host.call("exists", first["instanceId"]) == (True, "False")
    assert len(await host.history(second["instanceId"])) == 22
    end = datetime.now(UTC).isoformat()
    response = await host.request("DELETE", path, createdTimeTo=end, **query)
    assert response.json() == {"instancesDeleted": 1}
    assert await host.call("exists", second["instanceId"]) == (True, "False")


# Status, history, lists


@source(E2E + "GetStatus_InstanceNotFound")
async def test_status_of_unknown_instance_is_404(
    host: ExtensionHost,
) -> None:
    missing = f"BOGUS_{new_id()}"
    assert await host.call("exists", missing) == (True, "False")
    response = await host.request("GET", f"instances/{missing}")
    assert (response.status_code, response.content) == (404, b"")


@source(E2E + "GetStatus_ShowInputFalse", E2E + "GetStatus_ShowInputDefault")
@pytest.mark.parametrize(("query", "shown"), [({"showInput": "false"}, None), ({}, "1")])
async def test_status_contains_the_input_unless_excluded(
    host: ExtensionHost, query: dict[str, str], shown: str | None
) -> None:
    instance_id = await host.start("count_operations", 1)
    assert (await host.status(instance_id, **query))["input"] == shown
    await host.operate("terminate", instance_id)


@source(
    E2E + "HelloWorldOrchestration_Activity_History",
    E2E + "HelloWorldOrchestration_ShowHistoryInputOutput",
)
@pytest.mark.parametrize("outputs", [False, True])
async def test_history_contains_results_only_on_request(host: ExtensionHost, outputs: bool) -> None:
    status = await host.run("say_hello_by_activity", "World")
    assert "historyEvents" not in status
    flags = {"showHistory": "true", "showHistoryOutput": str(outputs)}
    started, task, completed = (await host.status(status["instanceId"], **flags))["historyEvents"]
    assert started["EventType"] == "ExecutionStarted"
    assert started["FunctionName"] == "say_hello_by_activity"
    assert started["Input"] is not None
    assert (task["EventType"], task["FunctionName"]) == ("TaskCompleted", "hello")
    moments = [datetime.fromisoformat(task[key]) for key in ("ScheduledTime", "Timestamp")]
    assert moments[0] <= moments[1]
    assert completed["EventType"] == "ExecutionCompleted"
    assert completed["OrchestrationStatus"] == "Completed"
    results = [event.get("Result") for event in (task, completed)]
    assert results == (["Hello, World!"] * 2 if outputs else [None, None])


@source(
    E2E + "SubOrchestration_ComplexType_History",
    E2E + "SubOrchestration_ComplexType_HistoryInputOutput",
)
@pytest.mark.parametrize("outputs", [False, True])
async def test_parents_history_contains_the_childs_result(
    host: ExtensionHost, outputs: bool
) -> None:
    """Check also that the input in the second event of the history is null.

    We observed this on the Durable extension 3.19.0. The extension's own test expects an input in
    this event.
    """
    status = await host.run(
        "call_orchestrator", {"name": "call_activity", "input": ["echo", COMPLEX]}
    )
    flags = {"showHistory": "true", "showHistoryOutput": str(outputs)}
    started, child, completed = (await host.status(status["instanceId"], **flags))["historyEvents"]
    assert (started["EventType"], started["FunctionName"]) == (
        "ExecutionStarted",
        "call_orchestrator",
    )
    assert child["EventType"] == "SubOrchestrationInstanceCompleted"
    assert (child["FunctionName"], child["Input"]) == ("call_activity", None)
    assert completed["OrchestrationStatus"] == "Completed"
    results = [event.get("Result") for event in (child, completed)]
    assert results == ([COMPLEX] * 2 if outputs else [None, None])


@source("OrchestrationQueryTests.cs: ListAllOrchestrations_ShouldSucceed")
async def test_client_lists_all_instances(host: ExtensionHost) -> None:
    instance_id = (await host.run("say_hello"))["instanceId"]
    assert instance_id in (await host.http.post("/api/query")).json()


@source("OrchestrationQueryTests.cs: ListRunningOrchestrations_ShouldContainRunningOrchestration")
async def test_client_lists_running_instances(host: ExtensionHost) -> None:
    completed = (await host.run("say_hello"))["instanceId"]
    running = await host.begin("approve", 60)
    listed = (await host.http.post("/api/query", json=["Running"])).json()
    assert running in listed
    assert completed not in listed
    await host.operate("terminate", running)


@source(
    E2E + "GetStatus_WithCondition",
    HTTP + "GetAllStatus_is_Success",
    HTTP + "GetQueryStatus_is_Success",
    HTTP + "GetQueryMultipleRuntimeStatus_is_Success",
    HTTP + "GetQueryWithoutRuntimeStatus_is_Success",
)
@pytest.mark.parametrize(
    ("query", "names"),
    [
        (
            {"runtimeStatus": "Running,Completed", "createdTimeFrom": "<", "createdTimeTo": ">"},
            "ab",
        ),
        ({}, "ab"),
        ({"runtimeStatus": "Running", "createdTimeFrom": "<", "createdTimeTo": ">"}, "a"),
        ({"runtimeStatus": "Running,Completed", "createdTimeFrom": "<"}, "ab"),
        ({"createdTimeFrom": "<"}, "ab"),
        ({"runtimeStatus": "Completed", "createdTimeFrom": ">"}, ""),
    ],
)
async def test_list_is_filtered_by_status_and_creation_time(
    host: ExtensionHost, query: dict[str, str], names: str
) -> None:
    """Check also that the last page of the list has no continuation token.

    We observed this on the Durable extension 3.19.0. The extension's own test in
    `HttpApiHandlerTests.cs` expects an empty token. The last row of parameters is not from that
    test.
    """
    prefix = new_id()
    await host.start("approve", 60, id=f"{prefix}-a")
    await host.start("say_hello", "World", id=f"{prefix}-b")
    await host.wait_for(f"{prefix}-a", "Running")
    await host.wait_for(f"{prefix}-b")
    day = timedelta(days=1)
    times = {"<": datetime.now(UTC) - day, ">": datetime.now(UTC) + day}
    query = {key: times[text].isoformat() if text in times else text for key, text in query.items()}
    response = await host.request("GET", "instances/", instanceIdPrefix=prefix, **query)
    assert response.status_code == 200
    assert "x-ms-continuation-token" not in response.headers
    shown = [
        (status["instanceId"], status["name"], status["runtimeStatus"])
        for status in response.json()
    ]
    known = {"a": ("approve", "Running"), "b": ("say_hello", "Completed")}
    assert shown == [(f"{prefix}-{name}", *known[name]) for name in names]
    await host.operate("terminate", f"{prefix}-a")


@source(HTTP + "GetQueryStatusWithPaging_is_Success")
async def test_list_continues_with_the_token(
    host: ExtensionHost,
) -> None:
    prefix = new_id()
    for number in range(3):
        await host.start("say_hello", "World", id=f"{prefix}-{number}")
        await host.wait_for(f"{prefix}-{number}")
    url = f"{API}/instances?instanceIdPrefix={prefix}&runtimeStatus=Completed&top=2"
    first = await host.http.get(url)
    assert [status["instanceId"] for status in first.json()] == [f"{prefix}-0", f"{prefix}-1"]
    token = first.headers["x-ms-continuation-token"]
    second = await host.http.get(url, headers={"x-ms-continuation-token": token})
    assert [status["instanceId"] for status in second.json()] == [f"{prefix}-2"]


@source(HTTP + "HandleGetStatusRequestAsync_Failed_Orchestration_Config_Response_Code", rows=2)
@pytest.mark.parametrize(("flag", "code"), [("True", 500), ("False", 200)])
async def test_failed_instance_gets_500_only_on_request(
    host: ExtensionHost, flag: str, code: int
) -> None:
    instance_id = (await host.run("fail"))["instanceId"]
    query = {"returnInternalServerErrorOnFailure": flag}
    response = await host.request("GET", f"Instances/{instance_id}", **query)
    assert (response.status_code, response.json()["runtimeStatus"]) == (code, "Failed")


# Starts by HTTP and management URLs


def check_urls(
    host: ExtensionHost, payload: dict[str, str], task_hub: str = "ExtensionHub"
) -> None:
    """Check that each management URL in `payload` has the form that Durable Functions gives it.

    The system key at the end of each URL is not checked. The URLs must be those of the instance
    `payload["id"]` on `host`, and must name `task_hub`.
    """
    base = f"{str(host.http.base_url).rstrip('/')}{API}/instances/{payload['id']}"
    query = f"taskHub={task_hub}&connection=Storage&code="
    expected = {
        "statusQueryGetUri": f"{base}?{query}",
        "sendEventPostUri": f"{base}/raiseEvent/{{eventName}}?{query}",
        "terminatePostUri": f"{base}/terminate?reason={{text}}&{query}",
        "purgeHistoryDeleteUri": f"{base}?{query}",
        "restartPostUri": f"{base}/restart?{query}",
        "suspendPostUri": f"{base}/suspend?reason={{text}}&{query}",
        "resumePostUri": f"{base}/resume?reason={{text}}&{query}",
    }
    found = {name: url.rpartition("code=")[0] + "code=" for name, url in payload.items()}
    assert {name: found[name] for name in expected} == expected


@source(HTTP + "CreateCheckStatusResponse_Returns_Correct_HTTP_202_Response")
async def test_client_creates_a_response_with_urls(host: ExtensionHost) -> None:
    response = await host.http.post("/api/start/say_hello", json="World")
    payload = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == payload["statusQueryGetUri"]
    assert "rewindPostUri" in payload
    check_urls(host, payload)


@source(
    HTTP + "CreateCheckStatus_Returns_Correct_HttpManagementPayload_based_on_default_values",
    E2E + "OrchestrationClient_Gets_HttpManagementPayload",
)
async def test_client_creates_management_urls(host: ExtensionHost) -> None:
    status = await host.run("say_hello", "World")
    payload = (await host.http.get(f"/api/links/{status['instanceId']}")).json()
    assert payload["id"] == status["instanceId"]
    check_urls(host, payload)


@source(
    HTTP + "CreateCheckStatus_Returns_Correct_HttpManagementPayload_based_on_custom_taskhub_value"
)
async def test_task_hub_name_keeps_its_case(
    host: ExtensionHost,
) -> None:
    response = await host.request("POST", "orchestrators/say_hello", '"x"', taskHub="EXTENSIONhub")
    assert response.status_code == 202
    check_urls(host, response.json(), "EXTENSIONhub")


@source(E2E + "Activity_Gets_HttpManagementPayload")
async def test_activity_can_create_management_urls(
    host: ExtensionHost,
) -> None:
    status = await host.run("report_links")
    assert status["output"]["id"] == status["instanceId"]
    check_urls(host, status["output"])


@source(HTTP + "StartNewInstance_Is_Success", rows=4)
@pytest.mark.parametrize("has_id", [False, True])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain; charset=utf-8"])
async def test_start_without_id_accepts_json_or_text(
    host: ExtensionHost, has_id: bool, content_type: str
) -> None:
    given = f"/{new_id()}" if has_id else ""
    response = await host.http.post(
        f"{API}/Orchestrators/say_hello{given}",
        content=r'"\"TestContent\""',
        headers={"content-type": content_type},
    )
    payload = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == payload["statusQueryGetUri"]
    assert response.headers["retry-after"] == "10"
    assert payload["id"] == given[1:] or not has_id
    check_urls(host, payload)
    assert (await host.wait_for(payload["id"]))["output"] == "Hello, TestContent!"


@source(HTTP + "StartNewInstanceAndWaitToComplete_Is_Success", rows=4)
@pytest.mark.parametrize("has_id", [False, True])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain; charset=utf-8"])
async def test_start_with_timeout_waits_for_the_output(
    host: ExtensionHost, has_id: bool, content_type: str
) -> None:
    given = f"/{new_id()}" if has_id else ""
    response = await host.http.post(
        f"{API}/Orchestrators/say_hello{given}?timeout=90&pollingInterval=10",
        content=r'"\"TestContent\""',
        headers={"content-type": content_type},
    )
    assert (response.status_code, response.json()) == (200, "Hello, TestContent!")


@source(HTTP + "StartNewInstance_Returns_HTTP_400_On_Bad_JSON")
async def test_start_with_invalid_json_is_refused(host: ExtensionHost) -> None:
    response = await host.http.post(
        f"{API}/orchestrators/say_hello",
        content="badly formatted JSON string",
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400
    assert response.json()["Message"] == "Invalid JSON content"


@source(HTTP + "StartNewInstance_Returns_HTTP_400_On_Missing_Function")
@source(E2E + "StartOrchestration_OnUnregisteredOrchestrator")
async def test_unknown_orchestrator_is_accepted_and_fails(
    host: ExtensionHost,
) -> None:
    """The start request gets 202, and the instance fails, as on the Durable extension 3.19.0.

    The extension's own tests expect that the start request gets 400.
    """
    response = await host.request("POST", "orchestrators/NonexistentFunction", "TestContent")
    assert response.status_code == 202
    status = await host.wait_for(response.json()["id"])
    assert status["runtimeStatus"] == "Failed"
    text = UNKNOWN.format("NonexistentFunction", "orchestrator")
    assert status["output"].startswith(
        f"Orchestrator function 'NonexistentFunction' failed: {text}"
    )


# Waits for the end of an instance

WAIT = HTTP + "WaitForCompletionOrCreateCheckStatusResponseAsync_"


@source(WAIT + "Throws_Exception_When_Bad_Timeout_Request")
async def test_polling_interval_over_timeout_is_refused(
    host: ExtensionHost,
) -> None:
    response = await host.http.post(f"/api/wait/{new_id()}", json=[0, 100_000])
    assert response.status_code == 400
    assert "Total timeout" in response.text
    query = {"timeout": "0", "pollingInterval": "100"}
    response = await host.request("POST", "orchestrators/say_hello", '"x"', **query)
    assert response.status_code == 400
    text = "Total timeout 0 should be bigger than retry timeout 100"
    assert response.json() == {"Message": text}


@source(WAIT + "Returns_HTTP_202_Response_After_Timeout")
async def test_wait_returns_urls_after_its_timeout(
    host: ExtensionHost,
) -> None:
    instance_id = await host.start("approve", 60)
    response = await host.http.post(f"/api/wait/{instance_id}", json=[60, 20])
    assert response.status_code == 202
    assert response.json()["id"] == instance_id
    check_urls(host, response.json())
    await host.operate("terminate", instance_id)


@source(WAIT + "Returns_HTTP_200_Response")
async def test_wait_returns_the_output_of_an_ended_instance(host: ExtensionHost) -> None:
    instance_id = (await host.run("say_hello", "Tokyo"))["instanceId"]
    response = await host.http.post(f"/api/wait/{instance_id}", json=[100_000, 10_000])
    assert (response.status_code, response.text) == (200, "Hello, Tokyo!")


@source(WAIT + "Returns_HTTP_200_Response_After_Few_Iterations")
async def test_wait_returns_the_output_of_a_later_end(
    host: ExtensionHost,
) -> None:
    instance_id = await host.start("approve", 0.1)
    response = await host.http.post(f"/api/wait/{instance_id}", json=[30_000, 20])
    assert (response.status_code, response.text) == (200, "Expired")


@source(WAIT + "Returns_Defaults_When_Runtime_Status_is_Terminated")
async def test_wait_returns_the_status_of_a_termination(host: ExtensionHost) -> None:
    instance_id = await host.begin("approve", 60)
    await host.operate("terminate", instance_id, "enough")
    response = await host.http.post(f"/api/wait/{instance_id}", json=[30_000, 20])
    assert response.status_code == 200
    assert response.json()["runtimeStatus"] == "Terminated"


async def test_fidelity_page_counts_cases_and_names_files() -> None:
    files = {text.partition(":")[0] for text in SOURCES}
    text = FIDELITY.read_text(encoding="utf-8")
    assert f"{len(SOURCES)} cases of the extension's own end-to-end tests" in text
    assert [name for name in sorted(files) if f"`{name}`" not in text] == []
