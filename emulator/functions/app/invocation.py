"""Run one invocation: convert the trigger's data, call the function, convert its return value.

The values are converted from and to datums. A datum of azure.functions is a value together with its
data type. `prepare` looks up the converters of a function once, when the app is loaded.

Source: the Azure Functions Python worker, and azure.functions for `Context` and the converters.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Final

from azure.functions.meta import Datum

from .indexing import BoundValue, Converter, GenericConverter, IndexedFunction, find_converter
from .log_lines import running_function
from .web_extension import WebExtension

TRIAL_RUNS: Final = 20
"""The number of runs of an orchestrator in a thread before it may run on the event loop."""

SLOW_SECONDS: Final = 0.5
"""A run of an orchestrator that takes longer than this is slow.

After one slow run of an orchestrator, all its later runs are in a thread, not on the event loop.
"""

_invocation_id_of_thread = threading.local()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The W3C trace context of the trigger.

    If the trigger does not have a trace context, the fields are empty.
    """

    trace_parent: str = ""
    trace_state: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def Traceparent(self) -> str:  # noqa: N802 - the deprecated name which azure.functions.Context still has
        """Return `trace_parent`. azure.functions.Context declares this deprecated name."""
        return self.trace_parent

    @property
    def Tracestate(self) -> str:  # noqa: N802 - as Traceparent
        """Return `trace_state`. azure.functions.Context declares this deprecated name."""
        return self.trace_state

    @property
    def Attributes(self) -> dict[str, str]:  # noqa: N802 - as Traceparent
        """Return `attributes`. azure.functions.Context declares this deprecated name."""
        return self.attributes


@dataclass(frozen=True, slots=True)
class RetryContext:
    """The retry state of an invocation.

    `retry_count` and `max_retry_count` are always 0, because this host does not support retry
    policies.
    """

    retry_count: int = 0
    max_retry_count: int = 0
    exception: None = None


@dataclass(frozen=True, slots=True)
class InvocationContext:
    """The object that a function receives in its `context` parameter.

    The object has the attributes that azure.functions.Context declares.
    """

    function_name: str
    function_directory: str
    invocation_id: str
    trace_context: TraceContext
    retry_context: RetryContext = field(default_factory=RetryContext)

    @property
    def thread_local_storage(self) -> threading.local:
        """Return the thread-local object from which log handlers can read `invocation_id`."""
        return _invocation_id_of_thread


def make_request_datum(fields: list[Any], body: bytes) -> Datum:
    """Return the datum that an HTTP trigger passes to its function."""
    method, url, headers, query, route = fields
    value = {
        "method": Datum(method, "string"),
        "url": Datum(url, "string"),
        "headers": _texts(headers),
        "query": _texts(query),
        "params": _texts(route),
        "body": Datum(body, "bytes"),
    }
    return Datum(value, "http")


def read_response(datum: Datum | None) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return the status, headers and body of the HTTP response that a datum contains.

    An empty datum means status 204, and one that is no HTTP response is the body of a 200.
    """
    if datum is None or datum.type is None:
        return 204, [], b""
    if datum.type != "http":
        return 200, [("content-type", "text/plain; charset=utf-8")], _as_bytes(datum.value)
    value = datum.value
    headers = [(name, text.value) for name, text in value["headers"].items()]
    for jar in value["cookies"] or ():
        headers += [("set-cookie", morsel.OutputString()) for morsel in jar.values()]
    return int(value["status_code"].value), headers, _as_bytes(value["body"].value)


def _texts(values: dict[str, str]) -> dict[str, Datum]:
    return {name: Datum(value, "string") for name, value in values.items()}


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


_NO_TRACE = TraceContext()


@dataclass(frozen=True, slots=True)
class ReturnConverter:
    """Converts the return value of a function to a datum."""

    converter: Converter
    slot: BoundValue

    def encode(self, value: Any) -> Datum:
        """Convert a value to a datum. As in Azure, raises TypeError for other types."""
        try:
            return self.converter.encode(value, expected_type=self.slot.python_type)
        except NotImplementedError:
            raise TypeError(
                f'unable to encode outgoing TypedData: unsupported type "{self.slot.binding_type}" '
                f'for Python type "{type(value).__name__}"'
            ) from None


class LoopRuns:
    """Decides whether an orchestrator runs on the event loop or in a thread.

    The first `TRIAL_RUNS` runs are in a thread. If all of them were fast, the next runs are on the
    event loop, which is faster than a thread. After one slow run, the orchestrator always runs in a
    thread, because a slow run on the event loop blocks all other functions.
    """

    def __init__(self) -> None:
        self._fast_count = 0
        self._is_slow = False

    @property
    def is_allowed(self) -> bool:
        """Return whether the orchestrator's next run may be on the event loop."""
        return self._fast_count >= TRIAL_RUNS and not self._is_slow

    def record(self, seconds: float) -> None:
        """Record how many seconds a run of the orchestrator took."""
        self._fast_count += 1
        self._is_slow = self._is_slow or seconds > SLOW_SECONDS


@dataclass(frozen=True, slots=True)
class PreparedFunction:
    """A function, and the parameter names and converters that an invocation needs.

    `trigger` is the name of the parameter that receives the trigger's data. `client` is the name of
    the parameter that receives the durable client; None if the function has no such parameter.
    `loop_runs` decides whether a synchronous orchestrator runs on the event loop or in a thread;
    None if the function is not a synchronous orchestrator.
    """

    function: IndexedFunction
    trigger: str
    decode_trigger: Converter
    wants_metadata: bool
    wants_text: bool
    client: str | None
    output: ReturnConverter | None
    loop_runs: LoopRuns | None = None


def prepare(function: IndexedFunction) -> PreparedFunction:
    """Return the function with the parameter names and converters that its invocations need."""
    trigger_binding = next(b for b in function.bindings if b["type"].endswith("Trigger"))
    clients = [b["name"] for b in function.bindings if b["type"] == "durableClient"]
    signature = function.signature
    converter = find_converter(signature.inputs[trigger_binding["name"]].binding_type)
    returned = signature.returned
    return PreparedFunction(
        function=function,
        trigger=trigger_binding["name"],
        decode_trigger=converter,
        wants_metadata=bool(converter.has_trigger_support()),
        wants_text=converter is GenericConverter and trigger_binding.get("dataType") != "BINARY",
        client=clients[0] if clients else None,
        output=None
        if returned is None
        else ReturnConverter(find_converter(returned.binding_type), returned),
        loop_runs=LoopRuns()
        if trigger_binding["type"] == "orchestrationTrigger" and not function.is_async
        else None,
    )


@dataclass(frozen=True, slots=True)
class TriggerInput:
    """The input of an invocation: the trigger's data, metadata, trace context and invocation id."""

    data: Datum
    metadata: dict[str, Datum]
    trace_parent: str
    trace_state: str
    invocation_id: str


@dataclass(frozen=True, slots=True)
class WebInput:
    """The input of an invocation whose request arrives at the server of a web extension."""

    extension: WebExtension
    route: dict[str, str]
    trace_parent: str
    trace_state: str
    invocation_id: str


async def invoke(
    prepared: PreparedFunction,
    event: TriggerInput,
    client_binding: str | None,
    submit: Callable[..., Any],
) -> Datum | None:
    """Call a function, and return its return value as a datum, or None without an output binding.

    `submit` runs a synchronous function in the thread pool. Raises RuntimeError for a value without
    an output binding, TypeError if the value cannot be converted, and what the function raises.
    """
    metadata = event.metadata if prepared.wants_metadata else {}
    value = prepared.decode_trigger.decode(event.data, trigger_metadata=metadata)
    result = await _call(prepared, value, event, client_binding, submit)
    return None if prepared.output is None else prepared.output.encode(result)


async def invoke_web(
    prepared: PreparedFunction,
    event: WebInput,
    client_binding: str | None,
    submit: Callable[..., Any],
) -> None:
    """Call a function with the request that arrives at the extension's server.

    The server sends the function's result, or status 500. Raises what the function raises.
    """
    extension, invocation_id = event.extension, event.invocation_id
    try:
        request = await extension.receive_request(invocation_id, event.route)
        result = await _call(prepared, request, event, client_binding, submit)
    except Exception as error:
        extension.set_result(invocation_id, error)
        raise
    except BaseException as error:
        extension.set_result(invocation_id, RuntimeError(f"the function has ended: {error!r}"))
        raise
    extension.set_result(invocation_id, result)


async def _call(
    prepared: PreparedFunction,
    value: Any,
    event: TriggerInput | WebInput,
    client_binding: str | None,
    submit: Callable[..., Any],
) -> Any:
    """Call a function with the trigger's value, and return its result."""
    function = prepared.function
    running_function.set(function.name)
    arguments = {prepared.trigger: value}
    if prepared.client is not None:
        arguments[prepared.client] = client_binding
    invocation_id = event.invocation_id
    if function.signature.requires_context:
        traced = TraceContext(event.trace_parent, event.trace_state)
        arguments["context"] = InvocationContext(
            function.name, function.directory, invocation_id, traced
        )
    if function.is_async:
        result = await function.call(**arguments)
    elif prepared.loop_runs is not None:
        result = await run_orchestrator(
            function.call, prepared.loop_runs, invocation_id, arguments, submit
        )
    else:
        result = await submit(function.call, invocation_id, arguments)
    if prepared.output is None and result is not None:
        raise RuntimeError(
            f"function {function.name!r} without a $return binding returned a non-None value"
        )
    return result


async def run_orchestrator(
    call: Callable[..., Any],
    loop_runs: LoopRuns,
    invocation_id: str,
    arguments: dict[str, Any],
    submit: Callable[..., Any],
) -> Any:
    """Call a synchronous orchestrator in a thread or on the event loop; return its result."""

    def run(**arguments: Any) -> Any:
        begin = time.perf_counter()
        try:
            return call(**arguments)
        finally:
            loop_runs.record(time.perf_counter() - begin)

    if loop_runs.is_allowed:
        return _call_with_id(run, invocation_id, arguments)
    return await submit(run, invocation_id, arguments)


class ThreadPool:
    """Runs synchronous functions in threads.

    Each function runs in a copy of the context variables of its invocation.
    """

    def __init__(self, executor: ThreadPoolExecutor, run_in_executor: Callable[..., Any]) -> None:
        self._executor = executor
        self._run_in_executor = run_in_executor

    def close(self) -> None:
        """Start no more calls; those that run, continue."""
        self._executor.shutdown(wait=False)

    def submit(
        self, call: Callable[..., Any], invocation_id: str, arguments: dict[str, Any]
    ) -> Any:
        """Start a call in a thread, and return an awaitable for the result of the call."""
        return self._run_in_executor(
            self._executor, copy_context().run, _call_with_id, call, invocation_id, arguments
        )


def _call_with_id(call: Callable[..., Any], invocation_id: str, arguments: dict[str, Any]) -> Any:
    local = InvocationContext("", "", invocation_id, _NO_TRACE).thread_local_storage
    local.invocation_id = invocation_id
    try:
        return call(**arguments)
    finally:
        local.invocation_id = None


def make_metadata(values: dict[str, Any] | None) -> dict[str, Datum]:
    """Convert trigger metadata to datums: text, integers, and otherwise JSON. Omit None."""
    return {name: _datum_of(value) for name, value in (values or {}).items() if value is not None}


def _datum_of(value: Any) -> Datum:
    if isinstance(value, str):
        return Datum(value, "string")
    if isinstance(value, int) and not isinstance(value, bool):
        return Datum(value, "int")
    return Datum(json.dumps(value), "json")
