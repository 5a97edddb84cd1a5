"""A client of a Functions host that runs the sample app `extension`, and the list SOURCES.

Our tests repeat test cases of the Durable extension for Azure Functions. SOURCES lists these test
cases.
"""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

API = "/runtime/webhooks/durabletask"
FINISHED = ("Completed", "Failed", "Terminated")
_TIMEOUT_SECONDS = 30
Test = TypeVar("Test", bound=Callable[..., Any])

SOURCES: list[str] = []
"""The file and the method of each of the extension's test cases that our tests repeat.

A method occurs once for each of its rows of data that our tests repeat.
"""


def source(*methods: str, rows: int = 1) -> Callable[[Test], Test]:
    """Decorate a test that repeats test cases ("File.cs: Method") of the Durable extension."""
    SOURCES.extend(method for method in methods for _ in range(rows))
    return lambda test: test


def new_id() -> str:
    """Return an instance id that no other test uses."""
    return uuid.uuid4().hex


class ExtensionHost:
    """Sends requests to a running Functions host with the app `extension`.

    `engine` is the name of the host's durable engine: "local" or "azure-storage".
    """

    def __init__(self, http: httpx.AsyncClient, engine: str) -> None:
        self.http = http
        self.engine = engine

    async def start(self, name: str, value: Any = None, **query: str) -> str:
        """Start an orchestration with the durable client of the SDK, and return the instance id."""
        response = await self.http.post(f"/api/start/{name}", json=value, params=query)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    async def begin(self, name: str, value: Any = None, **query: str) -> str:
        """Start an orchestration, wait until its status is Running, and return the instance id."""
        instance_id = await self.start(name, value, **query)
        await self.wait_for(instance_id, "Running")
        return instance_id

    async def request(
        self, method: str, path: str, value: Any = None, **query: str
    ) -> httpx.Response:
        """Send a request to the management API. `path` is relative to the URL of the API."""
        return await self.http.request(method, f"{API}/{path}", json=value, params=query)

    async def status(self, instance_id: str, **query: str) -> dict[str, Any]:
        """Return the status of an instance, or an empty dictionary if it does not exist."""
        response = await self.request("GET", f"instances/{instance_id}", **query)
        status: dict[str, Any] = {} if response.status_code == 404 else response.json()
        return status

    async def history(self, instance_id: str) -> list[dict[str, Any]]:
        """Return the events of an instance's history, including results."""
        flags = {"showHistory": "true", "showHistoryOutput": "true"}
        events: list[dict[str, Any]] = (await self.status(instance_id, **flags))["historyEvents"]
        return events

    async def wait_for(
        self, instance_id: str, *statuses: str, custom: Any = None
    ) -> dict[str, Any]:
        """Wait until an instance has one of the statuses, and return its complete status.

        Without `statuses`, wait until the instance has ended. If `custom` is not None, the custom
        status must also be equal to `custom`. Raises AssertionError if the instance ends in any
        other state, or after 30 s.
        """
        wanted = statuses or FINISHED
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                while True:
                    status = await self.status(instance_id)
                    is_wanted = status.get("runtimeStatus") in wanted
                    if is_wanted and custom in (None, status["customStatus"]):
                        return status
                    assert status.get("runtimeStatus") not in FINISHED, status
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{instance_id} does not become {wanted}: {status}") from None

    async def wait_for_events(self, instance_id: str, kind: str, count: int) -> None:
        """Wait until the history of an instance contains `count` events of the type `kind`."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while [e["EventType"] for e in await self.history(instance_id)].count(kind) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def run(self, name: str, value: Any = None) -> dict[str, Any]:
        """Start an orchestration, wait until it has ended, and return its status."""
        return await self.wait_for(await self.start(name, value))

    async def raise_event(self, instance_id: str, name: str, value: Any = None) -> int:
        """Send an event with JSON content to an instance, and return the HTTP status."""
        response = await self.http.post(
            f"{API}/instances/{instance_id}/raiseEvent/{name}",
            content=json.dumps(value),
            headers={"content-type": "application/json"},
        )
        return response.status_code

    async def operate(self, operation: str, instance_id: str, reason: str = "") -> int:
        """Request an operation on an instance, for example "suspend", from the management API."""
        query = {"reason": reason} if reason else {}
        path = f"instances/{instance_id}/{operation}"
        return (await self.request("POST", path, **query)).status_code

    async def call(
        self, operation: str, instance_id: str, value: Any = None, **query: str
    ) -> tuple[bool, str]:
        """Call a method of the SDK's durable client in the app for one instance.

        Return True and the text of the method's result, or False and the text of its exception.
        """
        path = f"/api/call/{operation}/{instance_id}"
        response = await self.http.post(path, json=value, params=query)
        assert response.status_code in {200, 400}, response.text
        return response.status_code == 200, response.text
