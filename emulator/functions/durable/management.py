"""The HTTP API of the Durable extension, with which clients manage orchestration instances.

Source: recorded responses of the Durable extension 3.19.0. `FIDELITY.md` lists
the differences between this module and the Durable extension.
"""

import json
import logging
import math
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from json.encoder import encode_basestring as quoted
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote_plus

from emulator.functions.asgi import (
    BodyTooLarge,
    ClientGone,
    Headers,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from emulator.functions.durable import records
from emulator.functions.durable.engine import DurableEngine
from emulator.functions.durable.errors import (
    ArgumentInvalid,
    DurableError,
    InstanceExists,
    InstanceFinished,
    InstanceMissing,
    InstanceNotFailed,
    InstanceUnfinished,
    OperationInvalid,
    StorageRefused,
)
from emulator.functions.durable.history import EventType, dump_json, format_seconds
from emulator.functions.durable.instances import OrchestrationInstance, Status, TaskMessage
from emulator.functions.durable.runner import describe_unknown_entity
from emulator.functions.newtonsoft import JsonReaderError, normalize_json

DURABLE_PATH = "/runtime/webhooks/durabletask"
RPC_PATH = "/durabletask"
JSON_CONTENT_TYPE = "application/json; charset=utf-8"
MAX_REQUEST_BODY_BYTES = 32 * 1024 * 1024
_log = logging.getLogger(__name__)
# The SDK replaces this word in the URLs by the id of an instance.
_ID_PLACEHOLDER = "INSTANCEID"
# The name of the default connection in links, and the setting that it stands for.
_CONNECTION = "Storage"
_CONNECTIONS = {"storage", "azurewebjobsstorage"}
_TASK_HUB = re.compile(r"[A-Za-z][A-Za-z0-9]{2,44}")
_HIDDEN = {EventType.ORCHESTRATOR_STARTED, EventType.ORCHESTRATOR_COMPLETED}
_TASKS = {EventType.TASK_SCHEDULED, EventType.CHILD_CREATED}
_TASK_ENDS = {
    EventType.TASK_COMPLETED,
    EventType.TASK_FAILED,
    EventType.CHILD_COMPLETED,
    EventType.CHILD_FAILED,
}
_NAMES = {
    EventType.CHILD_CREATED: "SubOrchestrationInstanceCreated",
    EventType.CHILD_COMPLETED: "SubOrchestrationInstanceCompleted",
    EventType.CHILD_FAILED: "SubOrchestrationInstanceFailed",
}
_SHOWN_KEYS = {
    EventType.EXECUTION_STARTED: ("Input",),
    EventType.TASK_SCHEDULED: ("Name",),
    EventType.TASK_FAILED: ("Reason", "Details"),
    EventType.CHILD_CREATED: ("Name", "InstanceId", "Input"),
    EventType.CHILD_FAILED: ("Reason", "Details"),
    EventType.TIMER_CREATED: ("FireAt",),
    EventType.TIMER_FIRED: ("FireAt",),
    EventType.EVENT_RAISED: ("Name", "Input"),
    EventType.EXECUTION_SUSPENDED: ("Reason",),
    EventType.EXECUTION_RESUMED: ("Reason",),
    EventType.EXECUTION_COMPLETED: ("OrchestrationStatus",),
}
_WITH_RESULT = {
    EventType.TASK_COMPLETED,
    EventType.CHILD_COMPLETED,
    EventType.EXECUTION_COMPLETED,
}
# The extension writes these members, too. They are the same on this host, except Generation.
_ADDED_KEYS: dict[EventType, dict[str, Any]] = {
    EventType.EXECUTION_STARTED: {
        "Correlation": None,
        "ParentTraceContext": None,
        "ScheduledStartTime": None,
        "Generation": 0,
        "GenerateNewTrace": False,
    },
    EventType.TASK_SCHEDULED: {"ParentTraceContext": None, "Tags": None},
    EventType.TASK_FAILED: {"FailureDetails": None},
    EventType.CHILD_CREATED: {"ClientSpanId": None, "Tags": None},
    EventType.CHILD_FAILED: {"FailureDetails": None},
    EventType.EVENT_RAISED: {"ParentTraceContext": None},
    EventType.EXECUTION_COMPLETED: {"FailureDetails": None},
}
_WITHOUT_BODY = (InstanceMissing, InstanceFinished)
# The front end in Azure ends requests that take longer than this.
_LONGEST_WAIT_SECONDS = 230.0
_CONTINUATION = "x-ms-continuation-token"
_LONGEST_ID = 999
_SHOWN_WHILE_WAITING = _TASK_ENDS | {
    EventType.EVENT_RAISED,
    EventType.EXECUTION_RESUMED,
    EventType.EXECUTION_SUSPENDED,
    EventType.TIMER_FIRED,
}


def _is_shown(message: TaskMessage) -> bool:
    """Return whether a history shows a message that no episode has used, and no kill loses."""
    survives_kill = message.is_stored or message.kind is EventType.TIMER_FIRED
    return survives_kill and message.kind in _SHOWN_WHILE_WAITING


class RequestTooLarge(DurableError):
    """The request's body is larger than the limit."""

    status = 413


class InvalidJson(DurableError):
    """The body is not JSON. The error text is that of Newtonsoft.Json."""

    status = 400
    kind = "Newtonsoft.Json.JsonReaderException"


@dataclass(frozen=True, slots=True)
class ManagementRequest:
    """A request to the management API.

    `segments` are the path segments after the prefix of the API.
    """

    method: str
    segments: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    url: str
    base_url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ManagementResponse:
    """A response of the management API. The body is JSON text or empty."""

    status: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


async def read_request(scope: Scope, receive: Receive) -> ManagementRequest:
    """Read a complete request to the management API.

    Raises RequestTooLarge, ArgumentInvalid if the query has too many parameters, or ClientGone.
    """
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }
    origin = f"{scope.get('scheme', 'http')}://{headers.get('host', '127.0.0.1')}"
    try:
        body = await read_body(scope, receive, MAX_REQUEST_BODY_BYTES)
    except BodyTooLarge:
        raise _too_large() from None
    query_text = scope.get("query_string", b"").decode("latin-1")
    return make_request(
        scope["method"],
        _raw_path(scope),
        query_text,
        headers,
        body,
        origin=origin,
        root=str(scope.get("root_path", "")),
    )


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"The body must not have more than {MAX_REQUEST_BODY_BYTES} bytes")


def make_request(  # noqa: PLR0913 - the parts of an HTTP request
    method: str,
    raw_path: str,
    query_text: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    origin: str,
    root: str,
) -> ManagementRequest:
    """Return a request, whose path begins with `root` or another prefix of the API.

    The names of `headers` are in lower case. Raises RequestTooLarge, or ArgumentInvalid if the
    query has too many parameters.
    """
    if len(body) > MAX_REQUEST_BODY_BYTES:
        raise _too_large()
    query: dict[str, str] = {}
    try:
        pairs = parse_qsl(query_text, keep_blank_values=True, max_num_fields=100)
    except ValueError as problem:
        raise ArgumentInvalid(f"The query string is invalid: {problem}") from problem
    for name, value in pairs:
        key = name.lower()
        query[key] = f"{query[key]},{value}" if key in query else value
    return ManagementRequest(
        method,
        _segments(raw_path, root),
        query,
        headers,
        f"{origin}{raw_path}" + (f"?{query_text}" if query_text else ""),
        origin + DURABLE_PATH,
        body,
    )


def _raw_path(scope: Scope) -> str:
    """Return the path as the client sent it."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("latin-1") if raw else quote(scope["path"])


def _segments(raw_path: str, root: str) -> tuple[str, ...]:
    """Return the decoded path segments after the prefix of the API, if the path has it.

    As in the Durable extension, `+` means a space, an escaped slash separates segments, and empty
    segments are kept, except at the end.
    """
    path = unquote_plus(raw_path)
    if root and path.startswith(root):
        path = path[len(root) :]
    for prefix in (DURABLE_PATH, RPC_PATH):
        if path == prefix or path.startswith(prefix + "/"):
            path = path[len(prefix) :]
            break
    path = path.removeprefix("/").removesuffix("/")
    parts = tuple(path.split("/"))
    if "." in parts or ".." in parts:
        parts = tuple(posixpath.normpath(f"/{path}")[1:].split("/"))
    return parts


async def write_response(send: Send, response: ManagementResponse) -> None:
    """Send a response to the client."""
    body = response.body.encode()
    headers: Headers = [(b"content-length", str(len(body)).encode())]
    if body:
        headers.append((b"content-type", JSON_CONTENT_TYPE.encode()))
    headers += [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers
    ]
    await respond(send, response.status, headers, body)


def make_error_response(error: DurableError, message: str) -> ManagementResponse:
    """Return an error as the extension does; the SDK reads `ExceptionMessage`."""
    return ManagementResponse(
        error.status,
        dump_json(
            {
                "Message": message,
                "ExceptionMessage": str(error),
                "ExceptionType": error.kind,
                "StackTrace": None,
            }
        ),
    )


def describe_error(error: DurableError) -> ManagementResponse:
    """Return the response to a request that has raised an error."""
    if isinstance(error, _WITHOUT_BODY):
        return ManagementResponse(error.status)
    if isinstance(error, InstanceUnfinished | InstanceNotFailed):
        return ManagementResponse(error.status, dump_json(str(error)))
    if isinstance(error, InvalidJson):
        return make_error_response(error, "Invalid JSON content")
    if isinstance(error, ArgumentInvalid | InstanceExists):
        return _refusal(error.status, str(error))
    return make_error_response(error, "Something went wrong while processing your request")


def _refusal(status: int, text: str) -> ManagementResponse:
    """Return an error response that contains only a status and a text, not an exception."""
    return ManagementResponse(status, dump_json({"Message": text}))


@dataclass(frozen=True, slots=True)
class ManagementUrls:
    """Builds the management URLs of a task hub.

    Each URL contains `key`, the system key of the Durable extension.
    """

    task_hub: str
    key: str

    def client_binding(self, base_url: str, rpc_base_url: str) -> str:
        """Return the JSON text of a durable client binding."""
        base = base_url.rstrip("/")
        create = f"{base}/orchestrators/{{functionName}}[/{{instanceId}}]?"
        wait = "timeout={timeoutInSeconds}&pollingInterval={intervalInSeconds}&"
        code = f"code={self.key}"
        management = self._management(base, _ID_PLACEHOLDER, self.task_hub)
        return json.dumps(
            {
                "taskHubName": self.task_hub,
                "connectionName": None,
                "creationUrls": {
                    "createNewInstancePostUri": create + code,
                    "createAndWaitOnNewInstancePostUri": create + wait + code,
                },
                "managementUrls": {"id": _ID_PLACEHOLDER, **management},
                "baseUrl": base,
                "requiredQueryStringParameters": code,
                "rpcBaseUrl": rpc_base_url.rstrip("/") + "/",
            }
        )

    def check_status(
        self, base_url: str, instance_id: str, task_hub: str | None = None
    ) -> dict[str, str]:
        """Return the response to a start, with `task_hub` as the request spells it, or None."""
        # .NET escapes these characters in another way than Python.
        escaped = quote_plus(instance_id, safe="!*()").replace("~", "%7E")
        urls = self._management(base_url.rstrip("/"), escaped, task_hub or self.task_hub)
        del urls["rewindPostUri"]
        return {"id": instance_id, **urls}

    def _management(self, base: str, instance_id: str, task_hub: str) -> dict[str, str]:
        instance = f"{base}/instances/{instance_id}"
        query = f"taskHub={quote(task_hub)}&connection={_CONNECTION}&code={self.key}"
        return {
            "statusQueryGetUri": f"{instance}?{query}",
            "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
            "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
            "rewindPostUri": f"{instance}/rewind?reason={{text}}&{query}",
            "purgeHistoryDeleteUri": f"{instance}?{query}",
            "restartPostUri": f"{instance}/restart?{query}",
            "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
            "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
        }


def format_status(
    instance: OrchestrationInstance, *, show_input: bool = True, history: str | None = None
) -> str:
    """Return the status of an instance as JSON."""
    input_text = (instance.input or "null") if show_input else "null"
    version = "" if instance.version is None else f'"version":{quoted(instance.version)},'
    parent = "" if instance.parent is None else f'"parentInstanceId":{quoted(instance.parent.id)},'
    shown = "" if history is None else f',"historyEvents":{history}'
    return (
        f'{{"name":{quoted(instance.name)},{version}"instanceId":{quoted(instance.id)},{parent}'
        f'"runtimeStatus":"{instance.status}","input":{input_text},'
        f'"customStatus":{instance.custom_status or "null"},"output":{instance.output or "null"},'
        f'"createdTime":"{format_seconds(instance.created)}",'
        f'"lastUpdatedTime":"{format_seconds(instance.updated)}"{shown}}}'
    )


def format_history(fragments: Sequence[str], *, outputs: bool, inputs: bool = True) -> str:
    """Return a history as a JSON list, in the format of the Durable extension's responses.

    The end of a task has the function's name and the time of its start, whose own event is listed
    only until then. `outputs` and `inputs` add these.
    """
    events = [event for text in fragments for event in json.loads(f"[{text}]")]
    tasks = {event["EventId"]: event for event in events if event["EventType"] in _TASKS}
    ended = {event["TaskScheduledId"] for event in events if event["EventType"] in _TASK_ENDS}
    shown = [
        _format_event(event, tasks.get(event.get("TaskScheduledId"), {}), outputs=outputs)
        for event in events
        if event["EventType"] not in _HIDDEN
        and not (event["EventType"] in _TASKS and event["EventId"] in ended)
    ]
    if not inputs:
        for event in shown:
            event.pop("Input", None)
    return dump_json(shown)


def _format_event(event: dict[str, Any], cause: dict[str, Any], *, outputs: bool) -> dict[str, Any]:
    kind = EventType(event["EventType"])
    name = _NAMES.get(kind) or "".join(part.title() for part in kind.name.split("_"))
    shown: dict[str, Any] = {"EventType": name}
    if kind in _SHOWN_KEYS:
        shown |= {key: event[key] for key in _SHOWN_KEYS[kind]}
    if outputs and kind in _WITH_RESULT:
        text = event["Result"]
        shown["Result"] = None if text is None else json.loads(text)
    shown |= _ADDED_KEYS.get(kind, {})
    shown["Timestamp"] = event["Timestamp"]
    for key in ("FireAt", "Timestamp"):
        if key in shown:
            shown[key] = _format_time(shown[key], "Z")
    if kind is EventType.EXECUTION_STARTED:
        shown["FunctionName"] = event["Name"]
        shown["Generation"] = event.get("Generation", 0)
    elif kind is EventType.TASK_SCHEDULED:
        shown["Input"] = None
    elif kind is EventType.EXECUTION_TERMINATED:
        reason = event["Input"]
        shown["Input"] = reason if isinstance(reason, str | None) else dump_json(reason)
    if cause:
        shown["ScheduledTime"] = _format_time(cause["Timestamp"], "+00:00")
        shown["FunctionName"] = cause["Name"]
        if "InstanceId" in cause:
            shown["InstanceId"] = cause["InstanceId"]
        shown["Input"] = None
    return shown


def _format_time(timestamp: str, zone: str) -> str:
    """Return the time of an event as .NET writes it; `zone` is the suffix for UTC."""
    return timestamp.removesuffix("Z").rstrip("0").rstrip(".") + zone


_NOT_FOUND = ManagementResponse(404)
_ACCEPTED = ManagementResponse(202)


class ManagementApi:
    """The ASGI application that serves the management API."""

    def __init__(self, engine: DurableEngine, urls: Callable[[], ManagementUrls]) -> None:
        self._engine = engine
        self._urls = urls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one HTTP request."""
        if scope["type"] != "http":
            return
        try:
            request = await read_request(scope, receive)
        except ClientGone:
            return
        except DurableError as error:
            response = describe_error(error)
        else:
            response = await self.respond(request)
        await write_response(send, response)

    async def respond(self, request: ManagementRequest) -> ManagementResponse:
        """Return the response to a request."""
        try:
            return await self._respond(request)
        except DurableError as error:
            return describe_error(error)

    async def _respond(  # noqa: PLR0911 - one return for each collection
        self, request: ManagementRequest
    ) -> ManagementResponse:
        collection, *rest = request.segments
        if collection.lower() == "makeprimary" and not rest:
            return ManagementResponse(200)
        if not all(rest):
            return _NOT_FOUND
        self._check_connection(request)
        is_own_hub = self._is_own_hub(request)
        match collection.lower():
            case "orchestrators" if is_own_hub and request.method == "POST":
                return await self._start(request, rest)
            case "instances" if is_own_hub:
                return await self._instances(request, rest)
            case "instances" if request.method == "GET" and not rest:
                return ManagementResponse(200, "[]")
            case "entities":
                return _respond_without_entities(request.method, rest)
        return _NOT_FOUND

    async def _instances(  # noqa: PLR0911 - one return for each route
        self, request: ManagementRequest, rest: list[str]
    ) -> ManagementResponse:
        match request.method, rest:
            case "GET", []:
                return self._list(request)
            case "DELETE", []:
                return await self._purge_by(request)
            case "GET", [instance_id]:
                return self._status(request, instance_id)
            case "DELETE", [instance_id]:
                return await self._purge(instance_id)
            case "POST", [instance_id, operation]:
                return await self._operate(request, instance_id, operation.lower())
            case "POST", [instance_id, operation, name] if operation.lower() == "raiseevent":
                return await self._raise_event(request, instance_id, name)
        return _NOT_FOUND

    @staticmethod
    def _check_connection(request: ManagementRequest) -> None:
        connection = request.query.get("connection") or _CONNECTION
        if connection.lower() not in _CONNECTIONS:
            raise OperationInvalid(
                f"Unable to resolve the Azure Storage connection named '{connection}'."
            )

    def _is_own_hub(self, request: ManagementRequest) -> bool:
        """Return whether a request is for this task hub. Raises StorageRefused for bad names."""
        own = self._urls().task_hub
        hub = request.query.get("taskhub") or own
        if hub.lower() == own.lower():
            return True
        if not _TASK_HUB.fullmatch(hub):
            raise StorageRefused
        return False

    async def _start(self, request: ManagementRequest, rest: list[str]) -> ManagementResponse:
        if len(rest) not in {1, 2}:
            return _NOT_FOUND
        name, instance_id = rest[0], rest[1] if len(rest) > 1 else None
        input_text = _json_text(request.body) if request.body.strip() else None
        if instance_id is not None and len(instance_id) > _LONGEST_ID:
            raise StorageRefused
        instance = await self._engine.start_new(
            name, instance_id, input_text, request.query.get("version")
        )
        return await self._start_response(request, instance.id)

    async def _start_response(
        self, request: ManagementRequest, instance_id: str
    ) -> ManagementResponse:
        """Return the response to a start, after the wait that the query asks for."""
        timeout_seconds = _seconds(request.query.get("timeout"))
        polling_seconds = _seconds(request.query.get("pollinginterval"))
        if timeout_seconds is not None and polling_seconds is not None:
            if polling_seconds > timeout_seconds:
                raise ArgumentInvalid(
                    f"Total timeout {timeout_seconds:g} should be bigger than retry timeout "
                    f"{polling_seconds:g}"
                )
            longest = min(timeout_seconds, _LONGEST_WAIT_SECONDS)
            if longest > 0 and await self._engine.wait_finished(instance_id, longest):
                return self._outcome(instance_id)
        urls = self._urls().check_status(
            request.base_url, instance_id, request.query.get("taskhub")
        )
        headers = (("Location", urls["statusQueryGetUri"]), ("Retry-After", "10"))
        return ManagementResponse(202, dump_json(urls), headers)

    def _outcome(self, instance_id: str) -> ManagementResponse:
        instance = self._engine.find(instance_id)
        if instance.status is Status.COMPLETED:
            return ManagementResponse(200, instance.output or "null")
        return ManagementResponse(200, format_status(instance))

    def _status(self, request: ManagementRequest, instance_id: str) -> ManagementResponse:
        instance = self._engine.find(instance_id)
        history = None
        show_input = _flag(request, "showinput", default=True)
        if _flag(request, "showhistory", default=False):
            waiting = [message.text for message in instance.mailbox if _is_shown(message)]
            history = format_history(
                [*self._engine.read_history_of(instance), *waiting],
                outputs=_flag(request, "showhistoryoutput", default=False),
                inputs=show_input,
            )
        body = format_status(instance, show_input=show_input, history=history)
        if not instance.is_finished:
            return ManagementResponse(202, body, (("Location", request.url), ("Retry-After", "5")))
        strict = _flag(request, "returninternalservererroronfailure", default=False)
        return ManagementResponse(500 if strict and instance.status is Status.FAILED else 200, body)

    def _list(self, request: ManagementRequest) -> ManagementResponse:
        show_input = _flag(request, "showinput", default=True)
        page, token = self._engine.read_page(
            records.InstanceFilter.parse(request.query),
            request.query.get("top"),
            request.headers.get(_CONTINUATION, ""),
        )
        bodies = ",".join(format_status(instance, show_input=show_input) for instance in page)
        headers = ((_CONTINUATION, token),) if token else ()
        return ManagementResponse(200, f"[{bodies}]", headers)

    async def _operate(
        self, request: ManagementRequest, instance_id: str, operation: str
    ) -> ManagementResponse:
        reason = request.query.get("reason") or None
        match operation:
            case "terminate":
                await self._engine.terminate(instance_id, reason)
            case "suspend":
                await self._engine.suspend(instance_id, reason)
            case "resume":
                await self._engine.resume(instance_id, reason)
            case "rewind":
                return await self._rewind(instance_id)
            case "restart":
                return await self._restart(request, instance_id)
            case "restartwithoptions":
                return await self._restart_with_options(request, instance_id)
            case _:
                return _NOT_FOUND
        return _ACCEPTED

    async def _rewind(self, instance_id: str) -> ManagementResponse:
        try:
            await self._engine.rewind(instance_id)
        except InstanceMissing:
            # The superfluous dollar sign is also in the text of the extension.
            text = f'No orchestration with instance ID "${instance_id}" found.'
            return ManagementResponse(404, dump_json(text))
        return _ACCEPTED

    async def _restart(self, request: ManagementRequest, instance_id: str) -> ManagementResponse:
        is_new = _flag(request, "restartwithnewinstanceid", default=True)
        return await self._start_again(request, instance_id, None if is_new else instance_id)

    async def _restart_with_options(
        self, request: ManagementRequest, instance_id: str
    ) -> ManagementResponse:
        new_id = request.query.get("newinstanceid")
        if not new_id:
            raise ArgumentInvalid("A new orchestration instance ID must be provided.")
        if new_id.startswith("@"):
            error = ArgumentInvalid(
                "Orchestration instance IDs must not start with @. (Parameter 'newInstanceId')"
            )
            return make_error_response(error, str(error))
        return await self._start_again(request, instance_id, new_id)

    async def _start_again(
        self, request: ManagementRequest, instance_id: str, new_id: str | None
    ) -> ManagementResponse:
        """Start an instance like another one, with `new_id` or a random id; return the response."""
        try:
            former = self._engine.find(instance_id)
        except InstanceMissing:
            missing = ArgumentInvalid(
                f"No instance with ID '{instance_id}' was found. (Parameter 'instanceId')"
            )
            return make_error_response(
                missing, "InstanceId does not match a valid orchestration instance."
            )
        version = request.query.get("version") or former.version
        try:
            started = await self._engine.start_new(former.name, new_id, former.input, version)
        except InstanceExists as error:
            return make_error_response(
                error, "A non-terminal instance with this instance ID already exists."
            )
        return await self._start_response(request, started.id)

    async def _raise_event(
        self, request: ManagementRequest, instance_id: str, name: str
    ) -> ManagementResponse:
        # Check this before the instance id. So a caller can use an id that does not exist to find
        # out, without a change, whether the store accepts changes.
        self._engine.check_writable()
        self._engine.find_unfinished(instance_id)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ArgumentInvalid("Only application/json request content is supported")
        text = _json_text(request.body)
        if text.lstrip().startswith(("{", "[")):
            text = dump_json(json.loads(text))
        await self._engine.raise_event(instance_id, name, text)
        return _ACCEPTED

    async def _purge(self, instance_id: str) -> ManagementResponse:
        instance = self._engine.find(instance_id)
        if not instance.is_finished:
            raise InstanceUnfinished(
                "Only orchestrations in a terminal state can be purged, but the orchestration "
                f"with instance ID {instance_id} has status {instance.status}"
            )
        return _deleted(await self._engine.purge([instance]))

    async def _purge_by(self, request: ManagementRequest) -> ManagementResponse:
        # As in the extension, the prefix of the instance id does not matter.
        condition = replace(records.InstanceFilter.parse(request.query), prefix="")
        if condition.created_from is None:
            text = "Please provide value for 'createdTimeFrom' parameter."
            return ManagementResponse(400, dump_json(text))
        count = await self._engine.purge(self._engine.find_finished(condition))
        return _deleted(count) if count else _NOT_FOUND


def _respond_without_entities(method: str, rest: list[str]) -> ManagementResponse:
    """Respond like the Durable extension if the app has no entity functions."""
    match method, rest:
        case "GET", [] | [_]:
            return ManagementResponse(200, "[]")
        case ("POST", [name] | [name, _]) | ("DELETE", [name, _]):
            raise ArgumentInvalid(describe_unknown_entity(name.lower()))
    return _NOT_FOUND


def _deleted(count: int) -> ManagementResponse:
    return ManagementResponse(200, f'{{"instancesDeleted":{count}}}')


def _json_text(body: bytes) -> str:
    """Decode a JSON body to text. Raises InvalidJson if the body is not JSON."""
    try:
        return normalize_json(body)
    except JsonReaderError as problem:
        raise InvalidJson(str(problem)) from problem


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _flag(request: ManagementRequest, name: str, *, default: bool) -> bool:
    text = request.query.get(name, "").strip().lower()
    return text == "true" if text in {"true", "false"} else default
