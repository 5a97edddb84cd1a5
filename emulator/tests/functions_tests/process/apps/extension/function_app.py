"""Python functions with which we repeat the Durable extension's own end-to-end tests.

The tests in `test_durable_extension_cases.py` call these functions. Each function does the same as
a function in the extension's own tests, but uses the Python SDK and waits for a shorter time.
"""

# mypy: disable-error-code="untyped-decorator"
# The decorators of azure.durable_functions are not annotated.

import datetime
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azure.durable_functions import DurableOrchestrationClient as Client
from azure.durable_functions import DurableOrchestrationContext as Context

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
Orchestration = Generator[Any, Any, Any]

_calls: Counter[str] = Counter()
_released: defaultdict[str, threading.Event] = defaultdict(threading.Event)


# The clients: HTTP functions that call one method of the durable client each.


@app.route(route="start/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client: Client) -> func.HttpResponse:
    """Start an orchestration with the JSON body as its input, and return its management URLs."""
    value = req.get_json() if req.get_body() else None
    # The host drops a query parameter whose value is empty.
    version = "" if req.params.get("version") == "empty" else req.params.get("version")
    instance_id = req.params.get("id")
    try:
        started = await client.start_new(req.route_params["name"], instance_id, value, version)
    except Exception as error:  # noqa: BLE001 - the SDK raises nothing narrower
        return func.HttpResponse(str(error), status_code=400)
    response: func.HttpResponse = client.create_check_status_response(req, started)
    return response


@app.route(route="wait/{id}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def wait(req: func.HttpRequest, client: Client) -> func.HttpResponse:
    """Wait until an instance ends, and return its output.

    The request body is `[timeout, polling interval]` in ms. After the timeout, return the
    management URLs of the instance.
    """
    timeout_ms, interval_ms = req.get_json()
    response: func.HttpResponse
    try:
        response = await client.wait_for_completion_or_create_check_status_response(
            req, req.route_params["id"], timeout_ms, interval_ms
        )
    except Exception as error:  # noqa: BLE001 - the SDK raises nothing narrower
        response = func.HttpResponse(str(error), status_code=400)
    return response


@app.route(route="links/{id}", methods=["GET"])
@app.durable_client_input(client_name="client")
async def links(req: func.HttpRequest, client: Client) -> func.HttpResponse:
    """Return the management URLs of an instance as JSON."""
    payload = client.create_http_management_payload(req.route_params["id"])
    return func.HttpResponse(json.dumps(payload))


@app.route(route="call/{operation}/{id}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def call(req: func.HttpRequest, client: Client) -> func.HttpResponse:
    """Call a method of the durable client for one instance.

    Return 200 with the method's result as text, or 400 with the text of the exception.
    """
    instance_id = req.route_params["id"]
    reason = req.params.get("reason", "because of the test")
    result: object = ""
    try:
        match req.route_params["operation"]:
            case "raise_event":
                await client.raise_event(instance_id, req.params["name"], req.get_json())
            case "terminate":
                await client.terminate(instance_id, reason)
            case "suspend":
                await client.suspend(instance_id, reason)
            case "resume":
                await client.resume(instance_id, reason)
            case "rewind":
                await client.rewind(instance_id, reason)
            case "purge":
                result = (await client.purge_instance_history(instance_id)).instances_deleted
            case "exists":
                result = bool(await client.get_status(instance_id))
    except Exception as error:  # noqa: BLE001 - the SDK raises nothing narrower
        return func.HttpResponse(str(error), status_code=400)
    return func.HttpResponse(str(result))


@app.route(route="query", methods=["POST"])
@app.durable_client_input(client_name="client")
async def query(req: func.HttpRequest, client: Client) -> func.HttpResponse:
    """Return the ids of all instances, or only of those with a status that the body lists.

    The body is a JSON list of statuses. If the body is empty, all ids are returned.
    """
    if req.get_body():
        statuses = [df.OrchestrationRuntimeStatus(name) for name in req.get_json()]
        found = await client.get_status_by(runtime_status=statuses)
    else:
        found = await client.get_status_all()
    return func.HttpResponse(json.dumps([status.instance_id for status in found]))


@app.route(route="purge", methods=["POST"])
@app.durable_client_input(client_name="client")
async def purge(req: func.HttpRequest, client: Client) -> func.HttpResponse:
    """Purge the instances that were created in the period in the body: `[from, to]`.

    Return 200 with the number of purged instances, or 400 with the text of the exception.
    """
    period = [text and datetime.datetime.fromisoformat(text) for text in req.get_json()]
    try:
        result = await client.purge_instance_history_by(*period)
    except Exception as error:  # noqa: BLE001 - the SDK raises nothing narrower
        return func.HttpResponse(str(error), status_code=400)
    return func.HttpResponse(str(result.instances_deleted))


@app.route(route="release/{id}", methods=["POST"])
def release(req: func.HttpRequest) -> func.HttpResponse:
    """Let the activity `wait_for_release` of an instance return."""
    _released[req.route_params["id"]].set()
    return func.HttpResponse("")


# Orchestrators that only return a value.


@app.orchestration_trigger(context_name="context")
def say_hello(context: Context) -> str:
    return f"Hello, {context.get_input()}!"


@app.orchestration_trigger(context_name="context")
def say_hello_by_activity(context: Context) -> Orchestration:
    return (yield context.call_activity("hello", context.get_input()))


@app.orchestration_trigger(context_name="context")
def hello_cities(context: Context) -> Orchestration:
    first = yield context.call_activity("hello", "Tokyo")
    second = yield context.call_activity("hello", "Seattle")
    return [first, second, (yield context.call_activity("hello", "London"))]


@app.orchestration_trigger(context_name="context")
def report_parent(context: Context) -> Any:
    return context.parent_instance_id


@app.orchestration_trigger(context_name="context")
def big_value(context: Context) -> str:
    return "*" * int(context.get_input())


@app.orchestration_trigger(context_name="context")
def report_version(context: Context) -> str:
    return f"Version: '{context.version}'"


@app.orchestration_trigger(context_name="context")
def report_versions(context: Context) -> Orchestration:
    version = (context.get_input() or {}).get("version")
    child = yield context.call_sub_orchestrator("report_version", version=version)
    return f"Parent version: '{context.version}' | {child}"


# Orchestrators that call activities.


@app.orchestration_trigger(context_name="context")
def call_activity(context: Context) -> Orchestration:
    name, value = context.get_input()
    return (yield context.call_activity(name, value))


@app.orchestration_trigger(context_name="context")
def compare_guids(context: Context) -> Orchestration:
    first, second = context.new_guid(), context.new_guid()
    yield context.call_activity("hello", context.get_input())
    return len({first, second, context.new_guid()}) == 3


@app.orchestration_trigger(context_name="context")
def create_unique_guids(context: Context) -> bool:
    return len({context.new_guid() for _ in range(10_000)}) == 10_000


@app.orchestration_trigger(context_name="context")
def replay_guids(context: Context) -> Orchestration:
    for _ in range(2):
        guid = str(context.new_guid())
        if (yield context.call_activity("echo", guid)) != guid:
            return False
    return True


@app.orchestration_trigger(context_name="context")
def set_status_then_greet(context: Context) -> Orchestration:
    context.set_custom_status({"nextActions": ["A", "B", "C"], "foo": 2})
    return (yield context.call_activity("hello", context.get_input()))


@app.orchestration_trigger(context_name="context")
def factorial(context: Context) -> Orchestration:
    result = 1
    for number in range(1, int(context.get_input()) + 1):
        result = yield context.call_activity("multiply", [result, number])
    return result


@app.orchestration_trigger(context_name="context")
def sum_sizes(context: Context) -> Orchestration:
    names = yield context.call_activity("list_names", context.get_input())
    sizes = yield context.task_all([context.call_activity("measure", name) for name in names])
    return sum(sizes)


@app.orchestration_trigger(context_name="context")
def fan_out(context: Context) -> Orchestration:
    tasks = [context.call_activity("hello", f"{n:03}") for n in range(int(context.get_input()))]
    yield context.task_all(tasks)
    return "Done"


@app.orchestration_trigger(context_name="context")
def call_with_each_type(context: Context) -> Orchestration:
    inputs: list[Any] = [
        [1, 2, 3, 4, 5],
        [],
        42,
        Person("Test", 25),
        "Test string input",
        [Person("Test1", 25), Person("Test2", 30)],
    ]
    tasks = [context.call_activity("describe", value) for value in inputs]
    return (yield context.task_all(tasks))


@app.orchestration_trigger(context_name="context")
def report_links(context: Context) -> Orchestration:
    return (yield context.call_activity("read_links", context.instance_id))


@app.orchestration_trigger(context_name="context")
def time_out(context: Context) -> Orchestration:
    due = context.current_utc_datetime + datetime.timedelta(seconds=context.get_input())
    work = context.call_activity("wait_for_release", context.instance_id)
    timer = context.create_timer(due)
    winner = yield context.task_any([work, timer])
    if winner == timer:
        return "The activity function timed out"
    timer.cancel()
    return work.result


# Orchestrators and activities that fail.


@app.orchestration_trigger(context_name="context")
def fail(context: Context) -> Orchestration:
    message = context.get_input()
    if not message:
        raise ValueError("message must not be empty")
    yield context.call_activity("raise_error", message)


@app.orchestration_trigger(context_name="context")
def count_caught_errors(context: Context) -> Orchestration:
    count = 0
    for _ in range(int(context.get_input())):
        try:
            yield context.call_activity("raise_error", "Kah-BOOOOM!!!")
        except Exception:  # noqa: BLE001 - the SDK raises nothing narrower
            count += 1
    return count


@app.orchestration_trigger(context_name="context")
def catch_error(context: Context) -> Orchestration:
    try:
        yield context.call_activity("raise_error", "This activity failed")
    except Exception as error:  # noqa: BLE001 - the SDK raises nothing narrower
        return f"Caught: {error}"


@app.orchestration_trigger(context_name="context")
def raise_error_of_child(context: Context) -> Orchestration:
    message = context.get_input()
    try:
        yield context.call_sub_orchestrator("fail", message)
    except Exception as error:
        if message not in str(error):
            return f"unexpected error: {error}"
        raise


@app.orchestration_trigger(context_name="context")
def retry_activity(context: Context) -> Orchestration:
    name, attempts = context.get_input()
    options = df.RetryOptions(50, attempts)
    yield context.call_activity_with_retry(name, options, context.instance_id)
    return "Success"


@app.orchestration_trigger(context_name="context")
def retry_child(context: Context) -> Orchestration:
    child_id = f"child-of-{context.instance_id}"
    context.set_custom_status(child_id)
    options = df.RetryOptions(50, 3)
    yield context.call_sub_orchestrator_with_retry("fail", options, None, child_id)


@app.orchestration_trigger(context_name="context")
def retry_activity_without_options(context: Context) -> Orchestration:
    yield context.call_activity_with_retry("raise_error", None, "Kah-BOOOOM!!!")


@app.orchestration_trigger(context_name="context")
def retry_child_without_options(context: Context) -> Orchestration:
    yield context.call_sub_orchestrator_with_retry("fail", None, "Kah-BOOOOM!!!")


# Orchestrators that call other orchestrators.


@app.orchestration_trigger(context_name="context")
def call_orchestrator(context: Context) -> Orchestration:
    given = context.get_input()
    return (yield context.call_sub_orchestrator(given["name"], given.get("input"), given.get("id")))


@app.orchestration_trigger(context_name="context")
def greet_by_child(context: Context) -> Orchestration:
    child_id = f"{context.instance_id}:0"
    yield context.call_sub_orchestrator("say_hello_by_activity", context.get_input(), child_id)


@app.orchestration_trigger(context_name="context")
def rewind_parent(context: Context) -> Orchestration:
    failures = context.get_input()
    names = ["good 1", "bad 1", "bad 2", "good 2"]
    yield context.task_all(
        [
            context.call_sub_orchestrator("rewind_child", [context.instance_id, name, failures])
            for name in names
        ]
    )
    return (yield context.call_activity("count_calls", context.instance_id))


@app.orchestration_trigger(context_name="context")
def rewind_child(context: Context) -> Orchestration:
    root, name, failures = context.get_input()
    yield context.call_activity("succeed", f"{root}/{name}")
    if name.startswith("bad"):
        yield context.call_sub_orchestrator("rewind_grandchild", [root, name, failures])
    return "done"


@app.orchestration_trigger(context_name="context")
def rewind_grandchild(context: Context) -> Orchestration:
    root, name, failures = context.get_input()
    yield context.task_all(
        [
            context.call_activity("succeed", f"{root}/{name} child"),
            context.call_activity("fail_first", [f"{root}/{name} fails 1", failures]),
            context.call_activity("fail_first", [f"{root}/{name} fails 2", failures]),
        ]
    )
    return "done"


# Orchestrators that wait for events and timers.


@app.orchestration_trigger(context_name="context")
def count_operations(context: Context) -> Orchestration:
    value = int(context.get_input())
    operation = yield context.wait_for_external_event("operation")
    value += {"incr": 1, "decr": -1}.get(operation, 0)
    context.set_custom_status(value)
    if operation != "end":
        context.continue_as_new(value)
    return value


@app.orchestration_trigger(context_name="context")
def collect_items(context: Context) -> Orchestration:
    missing = {"item1", "item2", "item3", "item4", "item5"}
    while missing:
        missing.discard((yield context.wait_for_external_event("newItem")))


@app.orchestration_trigger(context_name="context")
def remove_items(context: Context) -> Orchestration:
    items = ["item1", "item2", "item3", "item4", "item5"]
    while items:
        yield context.wait_for_external_event("deleteItem")
        items.pop()


@app.orchestration_trigger(context_name="context")
def collect_items_at_once(context: Context) -> Orchestration:
    tasks = [context.wait_for_external_event("newItem") for _ in range(4)]
    return (yield context.task_all(tasks))


@app.orchestration_trigger(context_name="context")
def count_until_done(context: Context) -> Orchestration:
    count = 0
    while True:
        increment = context.wait_for_external_event("incr")
        done = context.wait_for_external_event("done")
        if (yield context.task_any([increment, done])) == done:
            return count
        count += 1


@app.orchestration_trigger(context_name="context")
def approve(context: Context) -> Orchestration:
    due = context.current_utc_datetime + datetime.timedelta(seconds=context.get_input())
    event = context.wait_for_external_event("approval")
    timer = context.create_timer(due)
    if (yield context.task_any([event, timer])) == timer:
        return "Expired"
    timer.cancel()
    return "Approved" if event.result else "Rejected"


@app.orchestration_trigger(context_name="context")
def await_value(context: Context) -> Orchestration:
    seconds, default = context.get_input()
    due = context.current_utc_datetime + datetime.timedelta(seconds=seconds)
    event = context.wait_for_external_event("Approval")
    timer = context.create_timer(due)
    if (yield context.task_any([event, timer])) == event:
        timer.cancel()
        return event.result
    return "TimeoutError" if default == "throw" else default


@app.orchestration_trigger(context_name="context")
def await_either(context: Context) -> Orchestration:
    due = context.current_utc_datetime + datetime.timedelta(hours=1)
    timer = context.create_timer(due)
    never = context.wait_for_external_event("never")
    event = context.wait_for_external_event("approval")
    winner = yield context.task_any([never, timer, event])
    timer.cancel()
    return winner == event


@app.orchestration_trigger(context_name="context")
def sum_events(context: Context) -> Orchestration:
    total = 0
    for count in range(5):
        context.set_custom_status(f"{count} events")
        number = yield context.wait_for_external_event("add")
        total += yield context.call_activity("add", [total, number])
    return total


@app.orchestration_trigger(context_name="context")
def copy_events_to_status(context: Context) -> Orchestration:
    for _ in range(3):
        context.set_custom_status((yield context.wait_for_external_event("UpdateStatus")))
    due = context.current_utc_datetime + datetime.timedelta(milliseconds=100)
    yield context.create_timer(due)


@app.orchestration_trigger(context_name="context")
def continue_with_timers(context: Context) -> Orchestration:
    number = int(context.get_input())
    if number == 4:
        return "ok"
    due = context.current_utc_datetime + datetime.timedelta(milliseconds=20)
    yield context.create_timer(due)
    context.continue_as_new(number + 1)


@app.orchestration_trigger(context_name="context")
def continue_with_signals(context: Context) -> Orchestration:
    number = int(context.get_input())
    if number == 0:
        return "ok"
    timer = context.create_timer(context.current_utc_datetime + datetime.timedelta(hours=1))
    signal = context.wait_for_external_event(f"signal{number}")
    context.set_custom_status(number)
    if (yield context.task_any([timer, signal])) == timer:
        return "the timer fired"
    timer.cancel()
    context.continue_as_new(number - 1)


# Orchestrators that report when they are replayed.


@app.orchestration_trigger(context_name="context")
def replay_once(context: Context) -> Orchestration:
    before = context.is_replaying
    result = yield context.call_activity("echo", "hello")
    return {"before": before, "after": context.is_replaying, "result": result}


@app.orchestration_trigger(context_name="context")
def replay_often(context: Context) -> Orchestration:
    flags = [context.is_replaying]
    results = []
    for word in ("one", "two", "three"):
        results.append((yield context.call_activity("echo", word)))
        flags.append(context.is_replaying)
    return {"flags": flags, "results": results}


@app.orchestration_trigger(context_name="context")
def count_live_steps(context: Context) -> Orchestration:
    live = 0 if context.is_replaying else 1
    result = yield context.call_activity("echo", "logged")
    live += 0 if context.is_replaying else 1
    return {"live": live, "result": result}


@app.orchestration_trigger(context_name="context")
def count_steps(context: Context) -> Orchestration:
    counts = Counter([context.is_replaying])
    results = []
    for word in ("a", "b", "c"):
        results.append((yield context.call_activity("echo", word)))
        counts[context.is_replaying] += 1
    return {"live": counts[False], "replayed": counts[True], "results": results}


@app.orchestration_trigger(context_name="context")
def replay_fan_out(context: Context) -> Orchestration:
    before = context.is_replaying
    words = ["alpha", "beta", "gamma"]
    results = yield context.task_all([context.call_activity("echo", word) for word in words])
    return {"before": before, "after": context.is_replaying, "results": results}


# Activities.


class Person:
    """A class whose objects the SDK encodes with `to_json` and decodes with `from_json`."""

    def __init__(self, name: str, age: int) -> None:
        self.name = name
        self.age = age

    @staticmethod
    def to_json(person: "Person") -> str:
        """Return a person as a JSON text."""
        return json.dumps([person.name, person.age])

    @staticmethod
    def from_json(text: str) -> "Person":
        """Return the person that `to_json` has encoded."""
        return Person(*json.loads(text))

    def __repr__(self) -> str:
        return f"{self.name}, {self.age}"


@app.activity_trigger(input_name="name")
def hello(name: str) -> str:
    return f"Hello, {name}!"


@app.activity_trigger(input_name="value")
def echo(value: Any) -> Any:
    return value


@app.activity_trigger(input_name="value")
def describe(value: Any) -> str:
    return f"{type(value).__name__}: {value}"


@app.activity_trigger(input_name="numbers")
def multiply(numbers: Any) -> int:
    return int(numbers[0] * numbers[1])


@app.activity_trigger(input_name="numbers")
def add(numbers: Any) -> int:
    return sum(numbers)


@app.activity_trigger(input_name="prefix")
def list_names(prefix: str) -> list[str]:
    return [prefix + "x" * number for number in range(20)]


@app.activity_trigger(input_name="name")
def measure(name: str) -> int:
    return len(name)


@app.activity_trigger(input_name="length")
def big_value_of_activity(length: int) -> str:
    return "*" * length


@app.activity_trigger(input_name="id")
@app.durable_client_input(client_name="client")
async def read_links(id: str, client: Client) -> Any:  # noqa: A002 - the name of the input
    return client.create_http_management_payload(id)


@app.activity_trigger(input_name="id")
def wait_for_release(id: str) -> str:  # noqa: A002 - the name of the input
    _released[id].wait(30)
    return "The activity function completed successfully"


@app.activity_trigger(input_name="message")
def raise_error(message: str) -> None:
    raise RuntimeError(message)


@app.activity_trigger(input_name="id")
def fail_once(id: str) -> str:  # noqa: A002 - the name of the input
    _calls[id] += 1
    if _calls[id] == 1:
        raise RuntimeError("This activity failed")
    return "This activity succeeded"


@app.activity_trigger(input_name="id")
def fail_once_with_cause(id: str) -> str:  # noqa: A002 - the name of the input
    _calls[id] += 1
    if _calls[id] == 1:
        cause = OverflowError("Inner exception message")
        raise RuntimeError("This activity failed\nMore information about the failure") from cause
    return "This activity succeeded"


@app.activity_trigger(input_name="id")
def always_fail(id: str) -> None:  # noqa: A002 - the name of the input
    _calls[id] += 1
    raise RuntimeError(f"Kah-BOOOOM!!! {_calls[id]}")


@app.activity_trigger(input_name="name")
def succeed(name: str) -> None:
    _calls[name] += 1


@app.activity_trigger(input_name="given")
def fail_first(given: Any) -> None:
    name, failures = given
    _calls[name] += 1
    if _calls[name] <= failures:
        raise RuntimeError("Failure!")


@app.activity_trigger(input_name="root")
def count_calls(root: str) -> dict[str, int]:
    start = f"{root}/"
    return {key.removeprefix(start): n for key, n in _calls.items() if key.startswith(start)}


@app.activity_trigger(input_name="name")
def disabled_activity(name: str) -> str:
    return name
