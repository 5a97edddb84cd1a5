"""Invoke the functions of the app, and log each invocation."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from emulator.functions.catalogue import FunctionCatalogue
from emulator.functions.errors import FunctionFailure
from emulator.functions.exchange import Exchange
from emulator.functions.loaded_app import InvocationResponse
from emulator.functions.supervisor import AppSupervisor

_log = logging.getLogger("functions.host")
_NO_TRACE = ["", ""]
_HTTP_REASON = "This function was programmatically called via the host APIs."
_NO_REASON = "(null)"
_HTTP_RESTART_TIMEOUT_SECONDS = 10.0
_WORK_RESTART_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class HttpResult:
    """The response of a function with an HTTP trigger."""

    status: int
    headers: list[list[str]]
    body: bytes


class Invoker:
    """Invokes functions of the app, each for at most `functionTimeout` of host.json.

    Each method raises FunctionFailure if the function raised an exception or exceeded the timeout,
    and AppUnavailable if the app process did not respond. Implements `FunctionRunner`.
    """

    def __init__(
        self,
        supervisor: AppSupervisor,
        timeout_seconds: float | None,
        catalogue: FunctionCatalogue,
        *,
        logs_invocations: bool = True,
    ) -> None:
        """Create the invoker. As in the Durable extension, disabled functions fail when called."""
        self._disabled = frozenset(catalogue.disabled)
        self.disabled_orchestrators = frozenset(
            name for name, function in catalogue.orchestrators.items() if function in self._disabled
        )
        self.orchestrators = frozenset(catalogue.orchestrators) - self.disabled_orchestrators
        self.activities = frozenset(catalogue.activities)
        self._supervisor = supervisor
        self._timeout_seconds = timeout_seconds
        self._functions_of_orchestrators = catalogue.orchestrators
        self._functions_of_activities = catalogue.activities
        self._logs_invocations = logs_invocations

    async def invoke_http(
        self, name: str, request: list[Any], trace: list[str] | None, body: bytes
    ) -> HttpResult:
        """Invoke a function with an HTTP trigger, and return its response."""
        call = [name, "http", *request, trace or _NO_TRACE]
        head, payload = await self._invoke(call, body, _HTTP_REASON)
        return HttpResult(head[1], head[2], payload)

    @property
    def has_web_extension(self) -> bool:
        """Return whether the app's HTTP functions get their requests from a web extension."""
        return self._supervisor.has_web_extension

    async def invoke_web(
        self, name: str, route: dict[str, str], trace: list[str] | None, exchange: Exchange
    ) -> None:
        """Invoke a function, and forward the request to the server of the app's web extension.

        Raises also ForwardError, after the function has ended, if the request or the response could
        not be forwarded.
        """
        call = [name, "web", route, trace or _NO_TRACE]
        await self._invoke(call, b"", _HTTP_REASON, exchange)

    async def invoke(
        self,
        name: str,
        kind: str,
        body: bytes,
        metadata: dict[str, Any] | None = None,
        trace: list[str] | None = None,
    ) -> str | None:
        """Invoke a function with a trigger's data, and return its return value as text or None."""
        call = [name, kind, metadata, trace or _NO_TRACE]
        head, payload = await self._invoke(call, body, _NO_REASON)
        return payload.decode() if head[1] else None

    async def invoke_timer(self, name: str, payload: str, fired_at: datetime) -> None:
        """Invoke a function with the JSON of a TimerRequest. `fired_at` is only logged."""
        call = [name, "json", None, _NO_TRACE]
        await self._invoke(call, payload.encode(), f"Timer fired at {fired_at.isoformat()}")

    async def run_orchestrator(self, name: str, context_json: str) -> str:
        """Run one episode; return the JSON from the durable SDK. Raises FunctionFailure without."""
        function = self._functions_of_orchestrators[name]
        state = await self.invoke(function, "string", context_json.encode())
        if state is None:
            raise FunctionFailure(
                "RuntimeError",
                f"the orchestrator {name} returned None: expected JSON text from the durable SDK",
            )
        return state

    async def run_activity(self, name: str, input_json: str, instance_id: str) -> str | None:
        """Run an activity with a JSON input, and return its result as JSON text, or None."""
        function = self._functions_of_activities[name]
        if function in self._disabled:
            raise FunctionFailure("", f"Activity function '{name}' is disabled.")
        return await self.invoke(function, "json", input_json.encode(), {"instanceId": instance_id})

    async def _invoke(
        self, call: list[Any], body: bytes, reason: str, exchange: Exchange | None = None
    ) -> InvocationResponse:
        name, kind = call[:2]
        restart_timeout_seconds = (
            _HTTP_RESTART_TIMEOUT_SECONDS
            if kind in ("http", "web")
            else _WORK_RESTART_TIMEOUT_SECONDS
        )
        invocation_id = str(uuid.uuid4())
        try:
            async with asyncio.timeout(self._timeout_seconds):
                app = await self._supervisor.wait_until_ready(restart_timeout_seconds)
                with self._log_invocation(name, reason, invocation_id):
                    if exchange is None:
                        answer = await app.invoke([*call, invocation_id], body)
                    else:
                        answer = await app.invoke_web([*call, invocation_id], exchange)
                    head = answer[0]
                    if head[0] == "error":
                        raise FunctionFailure(str(head[1]), str(head[2]), str(head[3]))
        except TimeoutError:
            self._supervisor.give_up(name)
            raise FunctionFailure(
                "FunctionTimeoutException",
                f"Timeout value of {self._timeout_seconds:.0f} s exceeded by function: "
                f"Functions.{name}",
            ) from None
        return answer

    @contextlib.contextmanager
    def _log_invocation(self, name: str, reason: str, invocation_id: str) -> Iterator[None]:
        """Log the start and the end of an invocation, in the words of Azure's host."""
        if not self._logs_invocations:
            yield
            return
        begin = time.perf_counter()
        _log.info("Executing 'Functions.%s' (Reason='%s', Id=%s)", name, reason, invocation_id)
        level, outcome = logging.ERROR, "Failed"
        try:
            yield
            level, outcome = logging.INFO, "Succeeded"
        finally:
            _log.log(
                level,
                "Executed 'Functions.%s' (%s, Id=%s, Duration=%.0fms)",
                *(name, outcome, invocation_id, (time.perf_counter() - begin) * 1000),
            )
