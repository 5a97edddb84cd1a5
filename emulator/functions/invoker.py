"""Invocations as the host's parts make them: HTTP, trigger data, orchestrators, activities."""

import asyncio
from dataclasses import dataclass
from typing import Any

from emulator.functions.process import Answer
from emulator.functions.runner import FunctionFailure
from emulator.functions.supervisor import Supervisor

_NO_TRACE = ["", ""]
_HTTP_PATIENCE_SECONDS = 10.0
_WORK_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class HttpResult:
    """What an HTTP function answered."""

    status: int
    headers: list[list[str]]
    body: bytes


class Invoker:
    """Runs functions in the app process, none longer than host.json's functionTimeout.

    It is the durable engine's FunctionRunner: `orchestrators` and `activities` map the names that
    orchestrations use to functions.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        timeout_seconds: float | None,
        orchestrators: dict[str, str],
        activities: dict[str, str],
    ) -> None:
        self.orchestrators = frozenset(orchestrators)
        self.activities = frozenset(activities)
        self._supervisor = supervisor
        self._timeout_seconds = timeout_seconds
        self._functions_of_orchestrators = orchestrators
        self._functions_of_activities = activities

    async def http(
        self, name: str, request: list[Any], trace: list[str] | None, body: bytes
    ) -> HttpResult:
        """Run an HTTP function; `request` is method, URL, headers, query and route values.

        Raises FunctionFailure or AppUnavailable.
        """
        call = [name, "http", *request, trace or _NO_TRACE]
        head, payload = await self._invoke(name, call, body, _HTTP_PATIENCE_SECONDS)
        return HttpResult(head[2], head[3], payload)

    async def data(
        self,
        name: str,
        kind: str,
        body: bytes,
        metadata: dict[str, Any] | None = None,
        trace: list[str] | None = None,
    ) -> str | None:
        """Run a function on trigger data of a datum type (`string`, `json` or `bytes`).

        Returns the returned datum's text. Raises FunctionFailure or AppUnavailable.
        """
        call = [name, kind, metadata, trace or _NO_TRACE]
        head, payload = await self._invoke(name, call, body, _WORK_PATIENCE_SECONDS)
        return payload.decode() if head[2] else None

    async def orchestrate(self, name: str, context_json: str) -> str:
        """Run one episode of an orchestrator; see FunctionRunner."""
        function = self._functions_of_orchestrators[name]
        state = await self.data(function, "string", context_json.encode())
        if state is None:
            raise FunctionFailure("RuntimeError", f"the orchestrator {name} returned no state")
        return state

    async def act(self, name: str, input_json: str, instance_id: str) -> str | None:
        """Run an activity on its JSON input; see FunctionRunner."""
        function = self._functions_of_activities[name]
        return await self.data(function, "json", input_json.encode(), {"instanceId": instance_id})

    async def _invoke(
        self, name: str, call: list[Any], body: bytes, patience_seconds: float
    ) -> Answer:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._supervisor.invoke(call, body, patience_seconds)
        except TimeoutError:
            # The function cannot be stopped from outside, and its thread would be lost for good.
            self._supervisor.kill()
            raise FunctionFailure(
                "FunctionTimeoutException",
                f"Timeout value of {self._timeout_seconds:.0f} s exceeded by function: "
                f"Functions.{name}",
            ) from None
        head = answer[0]
        if head[1] == "error":
            raise FunctionFailure(str(head[2]), str(head[3]))
        return answer
