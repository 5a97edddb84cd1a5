"""The HTTP API of the Durable extension, with which clients manage orchestration instances.

Source: the extension's `HttpApiHandler` for routes, statuses and bodies, and its `BindingHelper`
for the management URLs and for the client binding, which passes these URLs to the app.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any
from urllib.parse import parse_qsl, quote

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
)
from emulator.functions.durable.history import EventType, check_json, format_seconds
from emulator.functions.durable.instances import OrchestrationInstance, Status

DURABLE_PATH = "/runtime/webhooks/durabletask"
RPC_PATH = "/durabletask"
MAX_REQUEST_BODY_BYTES = 32 * 1024 * 1024
_log = logging.getLogger(__name__)
# The SDK replaces this word in the URLs by the id of an instance.
_ID_PLACEHOLDER = "INSTANCEID"
_CONNECTION = "AzureWebJobsStorage"
_HIDDEN = {
    EventType.ORCHESTRATOR_STARTED,
    EventType.ORCHESTRATOR_COMPLETED,
    EventType.TASK_SCHEDULED,
    EventType.CHILD_CREATED,
    EventType.TIMER_CREATED,
}
_NAMES = {
    EventType.CHILD_COMPLETED: "SubOrchestrationInstanceCompleted",
    EventType.CHILD_FAILED: "SubOrchestrationInstanceFailed",
}
_WITHOUT_BODY = (InstanceMissing, InstanceFinished)
# The front end in Azure ends requests that take longer than this.
_LONGEST_WAIT_SECONDS = 230.0
_CONTINUATION = "x-ms-continuation-token"


class RequestTooLarge(DurableError):
    """The request's body is larger than the limit."""

    status = 413


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

    Raises:
        RequestTooLarge: The body is larger than the limit.
        ArgumentInvalid: The query has too many parameters.
        ClientGone: The client disconnected before the request was complete.
    """
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }
    query_text = scope.get("query_string", b"").decode("latin-1")
    try:
        query = {
            name.lower(): value
            for name, value in parse_qsl(query_text, keep_blank_values=True, max_num_fields=100)
        }
    except ValueError as problem:
        raise ArgumentInvalid(f"The query string is invalid: {problem}") from problem
    origin = f"{scope.get('scheme', 'http')}://{headers.get('host', '127.0.0.1')}"
    try:
        body = await read_body(scope, receive, MAX_REQUEST_BODY_BYTES)
    except BodyTooLarge:
        raise RequestTooLarge(
            f"The body must not have more than {MAX_REQUEST_BODY_BYTES} bytes"
        ) from None
    return ManagementRequest(
        scope["method"],
        _segments(scope),
        query,
        headers,
        f"{origin}{quote(scope['path'])}" + (f"?{query_text}" if query_text else ""),
        origin + DURABLE_PATH,
        body,
    )


def _segments(scope: Scope) -> tuple[str, ...]:
    """Return the path segments after the prefix of the API.

    If the application is mounted under the prefix, the path may lack the prefix.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path.startswith(root):
        path = path[len(root) :]
    for prefix in (DURABLE_PATH, RPC_PATH):
        if path == prefix or path.startswith(prefix + "/"):
            path = path[len(prefix) :]
            break
    return tuple(part for part in path.split("/") if part)


async def write_response(send: Send, response: ManagementResponse) -> None:
    """Send a response to the client."""
    body = response.body.encode()
    headers: Headers = [(b"content-length", str(len(body)).encode())]
    if body:
        headers.append((b"content-type", b"application/json; charset=utf-8"))
    headers += [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers
    ]
    await respond(send, response.status, headers, body)


def make_error_response(error: DurableError, message: str) -> ManagementResponse:
    """Return an error response in the format of the Durable extension.

    The SDK reads the text of the error from `ExceptionMessage`.
    """
    return ManagementResponse(
        error.status,
        json.dumps(
            {
                "Message": message,
                "ExceptionMessage": str(error),
                "ExceptionType": error.kind,
                "StackTrace": None,
            }
        ),
    )


@dataclass(frozen=True, slots=True)
class ManagementUrls:
    """Builds the management URLs of a task hub.

    Each URL contains `key`, the system key of the Durable extension.
    """

    task_hub: str
    key: str

    def client_binding(self, base_url: str, rpc_base_url: str) -> str:
        """Return the JSON text of a durable client binding.

        `base_url` is the URL of the management API for external clients, and `rpc_base_url` is the
        URL of the same API for the durable client in the app.
        """
        base = base_url.rstrip("/")
        create = f"{base}/orchestrators/{{functionName}}[/{{instanceId}}]?"
        wait = "timeout={timeoutInSeconds}&pollingInterval={intervalInSeconds}&"
        code = f"code={self.key}"
        management = self._management(base, _ID_PLACEHOLDER)
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

    def check_status(self, base_url: str, instance_id: str) -> dict[str, str]:
        """Return the body of the response to a request that starts an instance.

        The body contains the instance id and the management URLs of the instance.
        """
        urls = self._management(base_url.rstrip("/"), quote(instance_id, safe=""))
        del urls["rewindPostUri"]
        return {"id": instance_id, **urls}

    def _management(self, base: str, instance_id: str) -> dict[str, str]:
        instance = f"{base}/instances/{instance_id}"
        query = f"taskHub={quote(self.task_hub)}&connection={_CONNECTION}&code={self.key}"
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
    """Return the status of an instance as JSON.

    `history` is the JSON list from `format_history`, or None to omit the history.
    """
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


def format_history(fragments: Sequence[str], *, outputs: bool) -> str:
    """Return a history as a JSON list, in the format of the Durable extension's responses.

    The list omits the events for the scheduling of tasks. Instead, the event for the end of a task
    contains the time at which the task was scheduled, and the function name. If `outputs` is true,
    the events contain inputs and results.
    """
    events = [event for text in fragments for event in json.loads(f"[{text}]")]
    scheduled = {
        event["EventId"]: event
        for event in events
        if event["EventType"] in {EventType.TASK_SCHEDULED, EventType.CHILD_CREATED}
    }
    shown = [
        _format_event(event, scheduled.get(event.get("TaskScheduledId"), {}), outputs=outputs)
        for event in events
        if event["EventType"] not in _HIDDEN
    ]
    return json.dumps(shown)


def _format_event(event: dict[str, Any], cause: dict[str, Any], *, outputs: bool) -> dict[str, Any]:
    kind = EventType(event["EventType"])
    name = _NAMES.get(kind) or "".join(part.title() for part in kind.name.split("_"))
    shown: dict[str, Any] = {"EventType": name, "Timestamp": event["Timestamp"]}
    if kind is EventType.EXECUTION_STARTED:
        shown["FunctionName"] = event["Name"]
    elif "Name" in event:
        shown["Name"] = event["Name"]
    if cause:
        shown["ScheduledTime"] = cause["Timestamp"]
        shown["FunctionName"] = cause["Name"]
    for key in ("FireAt", "Reason", "Details", "OrchestrationStatus"):
        if key in event:
            shown[key] = event[key]
    if kind is EventType.EXECUTION_TERMINATED:
        reason = event["Input"]
        shown["Input"] = reason if isinstance(reason, str) else json.dumps(reason)
    elif outputs:
        for key in ("Input", "Result"):
            if event.get(key) is not None:
                shown[key] = json.loads(event[key]) if isinstance(event[key], str) else event[key]
    return shown


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
            response = await self._respond(request)
        except ClientGone:
            return
        except _WITHOUT_BODY as error:
            response = ManagementResponse(error.status)
        except (InstanceUnfinished, InstanceNotFailed) as error:
            response = ManagementResponse(error.status, json.dumps(str(error)))
        except ArgumentInvalid as error:
            response = make_error_response(
                error, "One or more of the arguments submitted is incorrect"
            )
        except InstanceExists as error:
            response = make_error_response(error, str(error))
        except DurableError as error:
            response = make_error_response(
                error, "Something went wrong while processing your request"
            )
        await write_response(send, response)

    async def _respond(self, request: ManagementRequest) -> ManagementResponse:  # noqa: PLR0911 - one return for each route
        match request.method, request.segments:
            case "POST", ("orchestrators", name):
                return await self._start(request, name, None)
            case "POST", ("orchestrators", name, instance_id):
                return await self._start(request, name, instance_id)
            case "GET", ("instances",):
                return self._list(request)
            case "DELETE", ("instances",):
                return await self._purge_by(request)
            case "GET", ("instances", instance_id):
                return self._status(request, instance_id)
            case "DELETE", ("instances", instance_id):
                return await self._purge(instance_id)
            case "POST", ("instances", instance_id, operation):
                return await self._operate(request, instance_id, operation.lower())
            case "POST", ("instances", instance_id, operation, name):
                if operation.lower() == "raiseevent":
                    return await self._raise_event(request, instance_id, name)
            case "POST", ("makeprimary",):
                return ManagementResponse(200)
            case _, ("entities", *_):
                raise DurableError("Entities are not supported by the local host")
        return _NOT_FOUND

    async def _start(
        self, request: ManagementRequest, name: str, instance_id: str | None
    ) -> ManagementResponse:
        input_text = _json_text(request.body) if request.body else None
        instance = await self._engine.start_new(
            name, instance_id, input_text, request.query.get("version")
        )
        return await self._start_response(request, instance.id)

    async def _start_response(
        self, request: ManagementRequest, instance_id: str
    ) -> ManagementResponse:
        """Return the response to a request that has started an instance.

        If the query has a timeout and a polling interval, first wait until the instance has
        finished or the timeout has passed.
        """
        timeout_seconds = _seconds(request.query.get("timeout"))
        polling_seconds = _seconds(request.query.get("pollinginterval"))
        if timeout_seconds is not None and polling_seconds is not None:
            if polling_seconds > timeout_seconds:
                raise ArgumentInvalid(
                    f"Total timeout {timeout_seconds} (seconds) should be bigger than "
                    f"retry timeout {polling_seconds} (seconds)"
                )
            longest = min(timeout_seconds, _LONGEST_WAIT_SECONDS)
            if await self._engine.wait_finished(instance_id, longest):
                return self._outcome(request, instance_id)
        urls = self._urls().check_status(request.base_url, instance_id)
        headers = (("Location", urls["statusQueryGetUri"]), ("Retry-After", "10"))
        return ManagementResponse(202, json.dumps(urls), headers)

    def _outcome(self, request: ManagementRequest, instance_id: str) -> ManagementResponse:
        instance = self._engine.find(instance_id)
        if instance.status is Status.COMPLETED:
            return ManagementResponse(200, instance.output or "null")
        strict = _flag(request, "returninternalservererroronfailure", default=False)
        failed = instance.status is Status.FAILED
        return ManagementResponse(500 if failed and strict else 200, format_status(instance))

    def _status(self, request: ManagementRequest, instance_id: str) -> ManagementResponse:
        instance = self._engine.find(instance_id)
        history = None
        if _flag(request, "showhistory", default=False):
            history = format_history(
                self._engine.read_history_of(instance),
                outputs=_flag(request, "showhistoryoutput", default=False),
            )
        body = format_status(
            instance, show_input=_flag(request, "showinput", default=True), history=history
        )
        if not instance.is_finished:
            return ManagementResponse(202, body, (("Location", request.url), ("Retry-After", "5")))
        strict = _flag(request, "returninternalservererroronfailure", default=False)
        return ManagementResponse(500 if strict and instance.status is Status.FAILED else 200, body)

    def _list(self, request: ManagementRequest) -> ManagementResponse:
        show_input = _flag(request, "showinput", default=False)
        page, token = self._engine.read_page(
            records.InstanceFilter.parse(request.query),
            request.query.get("top"),
            request.headers.get(_CONTINUATION, ""),
        )
        bodies = ",".join(format_status(instance, show_input=show_input) for instance in page)
        return ManagementResponse(200, f"[{bodies}]", ((_CONTINUATION, token),))

    async def _operate(
        self, request: ManagementRequest, instance_id: str, operation: str
    ) -> ManagementResponse:
        reason = request.query.get("reason", "")
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
            case _:
                return _NOT_FOUND
        return _ACCEPTED

    async def _rewind(self, instance_id: str) -> ManagementResponse:
        try:
            await self._engine.rewind(instance_id)
        except InstanceMissing:
            # The superfluous dollar sign is also in the text of the extension.
            text = f'No orchestration with instance ID "${instance_id}" found.'
            return ManagementResponse(404, json.dumps(text))
        return _ACCEPTED

    async def _restart(self, request: ManagementRequest, instance_id: str) -> ManagementResponse:
        try:
            former = self._engine.find(instance_id)
        except InstanceMissing as error:
            raise ArgumentInvalid(
                f"An orchestration with the instanceId {instance_id} was not found."
            ) from error
        new_id = _flag(request, "restartwithnewinstanceid", default=True)
        started = await self._engine.start_new(
            former.name, None if new_id else former.id, former.input, former.version
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
        await self._engine.raise_event(instance_id, name, _json_text(request.body))
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
        condition = records.InstanceFilter.parse(request.query)
        if condition.created_from is None:
            text = "Please provide value for 'createdTimeFrom' parameter."
            return ManagementResponse(400, json.dumps(text))
        count = await self._engine.purge(self._engine.find_finished(condition))
        return _deleted(count) if count else _NOT_FOUND


def _deleted(count: int) -> ManagementResponse:
    return ManagementResponse(200, f'{{"instancesDeleted":{count}}}')


def _json_text(body: bytes) -> str:
    """Decode a JSON body to text. Raises ArgumentInvalid if the body is not JSON."""
    try:
        text = body.decode()
        check_json(text)
    except (ValueError, RecursionError) as problem:
        raise ArgumentInvalid(f"Invalid JSON content: {problem}") from problem
    return text


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _flag(request: ManagementRequest, name: str, *, default: bool) -> bool:
    text = request.query.get(name, "").strip().lower()
    return text == "true" if text in {"true", "false"} else default
