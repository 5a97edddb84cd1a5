"""The HTTP API of the Durable extension, by which clients manage instances.

Protocol source: the extension's `HttpApiHandler`; statuses and bodies are its own.
"""

import json
import logging
import math
from collections.abc import Callable

from emulator.functions.durable import queries
from emulator.functions.durable.errors import (
    ArgumentInvalid,
    DurableError,
    InstanceExists,
    InstanceFinished,
    InstanceMissing,
    InstanceUnfinished,
)
from emulator.functions.durable.history import check_json
from emulator.functions.durable.links import Links
from emulator.functions.durable.model import Status
from emulator.functions.durable.operations import Operations
from emulator.functions.durable.views import status_body
from emulator.functions.durable.wire import (
    Disconnected,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_response,
    read_request,
    write_response,
)

_log = logging.getLogger(__name__)
_NOT_FOUND = Response(404)
_ACCEPTED = Response(202)
_BARE = (InstanceMissing, InstanceFinished)
# What Azure's front end lets a request take.
_LONGEST_WAIT_SECONDS = 230.0
_CONTINUATION = "x-ms-continuation-token"


class ManagementApi:
    """The API as an ASGI application."""

    def __init__(self, engine: Operations, links: Callable[[], Links]) -> None:
        self._engine = engine
        self._links = links

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            request = await read_request(scope, receive)
            response = await self._answer(request)
        except Disconnected:
            return
        except _BARE as error:
            response = Response(error.status)
        except InstanceUnfinished as error:
            response = Response(error.status, json.dumps(str(error)))
        except ArgumentInvalid as error:
            response = error_response(error, "One or more of the arguments submitted is incorrect")
        except InstanceExists as error:
            response = error_response(error, str(error))
        except DurableError as error:
            response = error_response(error, "Something went wrong while processing your request")
        await write_response(send, response)

    async def _answer(self, request: Request) -> Response:  # noqa: PLR0911 - one a route
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
                return Response(200)
            case _, ("entities", *_):
                raise DurableError("Entities are not supported by the local host")
        return _NOT_FOUND

    async def _start(self, request: Request, name: str, instance_id: str | None) -> Response:
        input_text = _json_text(request.body) if request.body else None
        instance = await self._engine.start_new(
            name, instance_id, input_text, request.query.get("version")
        )
        return await self._started(request, instance.id)

    async def _started(self, request: Request, instance_id: str) -> Response:
        """Answer that an instance was started; or how it ended, to who wants to wait for that."""
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
        links = self._links().check_status(request.base_url, instance_id)
        headers = (("Location", links["statusQueryGetUri"]), ("Retry-After", "10"))
        return Response(202, json.dumps(links), headers)

    def _outcome(self, request: Request, instance_id: str) -> Response:
        instance = self._engine.find(instance_id)
        if instance.status is Status.COMPLETED:
            return Response(200, instance.output or "null")
        strict = _flag(request, "returninternalservererroronfailure", default=False)
        failed = instance.status is Status.FAILED
        return Response(500 if failed and strict else 200, status_body(instance))

    def _status(self, request: Request, instance_id: str) -> Response:
        instance = self._engine.find(instance_id)
        history = None
        if _flag(request, "showhistory", default=False):
            history = queries.shown_history(
                self._engine.history_of(instance),
                outputs=_flag(request, "showhistoryoutput", default=False),
            )
        body = status_body(
            instance, show_input=_flag(request, "showinput", default=True), history=history
        )
        if not instance.finished:
            return Response(202, body, (("Location", request.url), ("Retry-After", "5")))
        strict = _flag(request, "returninternalservererroronfailure", default=False)
        return Response(500 if strict and instance.status is Status.FAILED else 200, body)

    def _list(self, request: Request) -> Response:
        show_input = _flag(request, "showinput", default=False)
        page, token = self._engine.page(
            queries.Filter.of(request.query),
            request.query.get("top"),
            request.headers.get(_CONTINUATION, ""),
        )
        bodies = ",".join(status_body(instance, show_input=show_input) for instance in page)
        return Response(200, f"[{bodies}]", ((_CONTINUATION, token),))

    async def _operate(self, request: Request, instance_id: str, operation: str) -> Response:
        reason = request.query.get("reason", "")
        match operation:
            case "terminate":
                await self._engine.terminate(instance_id, reason)
            case "suspend":
                await self._engine.suspend(instance_id, reason)
            case "resume":
                await self._engine.resume(instance_id, reason)
            case "rewind":
                await self._engine.rewind(instance_id)
            case "restart":
                return await self._restart(request, instance_id)
            case _:
                return _NOT_FOUND
        return _ACCEPTED

    async def _restart(self, request: Request, instance_id: str) -> Response:
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
        return await self._started(request, started.id)

    async def _raise_event(self, request: Request, instance_id: str, name: str) -> Response:
        self._engine.find_unfinished(instance_id)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ArgumentInvalid("Only application/json request content is supported")
        await self._engine.raise_event(instance_id, name, _json_text(request.body))
        return _ACCEPTED

    async def _purge(self, instance_id: str) -> Response:
        instance = self._engine.find(instance_id)
        if not instance.finished:
            raise InstanceUnfinished(
                "Only orchestrations in a terminal state can be purged, but the orchestration "
                f"with instance ID {instance_id} has status {instance.status}"
            )
        return _deleted(await self._engine.purge([instance]))

    async def _purge_by(self, request: Request) -> Response:
        condition = queries.Filter.of(request.query)
        if condition.created_from is None:
            raise ArgumentInvalid("Please provide value for 'createdTimeFrom' parameter.")
        count = await self._engine.purge(self._engine.finished(condition))
        return _deleted(count) if count else _NOT_FOUND


def _deleted(count: int) -> Response:
    return Response(200, f'{{"instancesDeleted":{count}}}')


def _json_text(body: bytes) -> str:
    """Return a body that is JSON as text; raises ArgumentInvalid."""
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


def _flag(request: Request, name: str, *, default: bool) -> bool:
    text = request.query.get(name, "").strip().lower()
    return text == "true" if text in {"true", "false"} else default
