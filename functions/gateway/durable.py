"""The client of Durable Functions, which uses the SDK's client.

Version 2 of the SDK will change its client. Then only this module must be changed.
"""

import asyncio
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from azure.durable_functions import DurableOrchestrationClient, OrchestrationRuntimeStatus
from azure.durable_functions.models.utils.http_utils import _get_session

from contract.messages import Json
from contract.names import ORCHESTRATOR_JOB
from gateway.errors import FinalInstance, Unavailable, UnknownInstance

_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)
_CONTINUATION: Final = "x-ms-continuation-token"
# Continuation tokens of a last page. The Azure Storage provider may send the JSON null in base64.
_NO_MORE: Final = frozenset({"", "null", "bnVsbA=="})
# The SDK does not escape an id in its URL, and the job id of a dead letter may be any text.
_ID: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
_RETRY_PAUSES_SECONDS: Final = (0.1, 0.3, 1.0)
# No instance has this id.
_UNKNOWN_ID: Final = "00000000-0000-0000-0000-000000000000"

READ_TIMEOUT_SECONDS: Final = 10.0
"""How long a request that reads may take. The SDK's limit of 4 minutes is too long for a caller."""

CHANGE_TIMEOUT_SECONDS: Final = 20.0
"""The same for changes. It must be rare, as a change may happen after it."""


class RuntimeStatus(StrEnum):
    """The runtime status of an orchestration, with the names that Durable Functions uses."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    CONTINUED_AS_NEW = "ContinuedAsNew"
    COMPLETED = "Completed"
    FAILED = "Failed"
    TERMINATED = "Terminated"
    CANCELED = "Canceled"

    @property
    def is_final(self) -> bool:
        """Whether the orchestration has ended."""
        return self in {
            RuntimeStatus.COMPLETED,
            RuntimeStatus.FAILED,
            RuntimeStatus.TERMINATED,
            RuntimeStatus.CANCELED,
        }


@dataclass(frozen=True, slots=True)
class InstanceSnapshot:
    """The state of one orchestration; `input` is the text that was passed to `Durable.start`."""

    runtime_status: RuntimeStatus
    input: str
    output: Json
    updated_at: datetime
    custom_status: Json = None


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of a history. `kind` is the host's name for it, for example `TaskCompleted`."""

    kind: str
    name: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class InstancePage:
    """Jobs' orchestrations, not sorted. `is_whole` is false if more of them match the query."""

    instances: tuple[tuple[str, InstanceSnapshot], ...]
    is_whole: bool


_Answer = tuple[Json, str]


class Durable:
    """Durable Functions, by the SDK's client.

    Each method raises Unavailable if the call fails.
    """

    def __init__(self, client: DurableOrchestrationClient) -> None:
        self._client = client

    async def check(self) -> None:
        """Check that Durable Functions responds and accepts changes, without making a change.

        The host answers an event for an orchestration that does not exist with 404. The local host
        also checks that its disk is not full. The SDK's method is not used, because its errors for
        404 and for other statuses differ only in their messages.
        """
        path = f"instances/{_UNKNOWN_ID}/raiseEvent/check"
        url = f"{self._client._orchestration_bindings.rpc_base_url}{path}"
        with _unavailable("a request to Durable Functions failed"):
            session = await _get_session()
            async with asyncio.timeout(READ_TIMEOUT_SECONDS), session.post(url) as answer:
                status = answer.status
        if status != HTTPStatus.NOT_FOUND:
            raise Unavailable(
                "durable", f"a request to Durable Functions failed with HTTP status {status}"
            )

    async def start(
        self, instance_id: str, input_text: str, orchestrator: str = ORCHESTRATOR_JOB
    ) -> None:
        """Start an orchestration with the input `input_text`.

        An ended orchestration with the same id is replaced. One that has not ended continues, and
        no error is raised. If the SDK fails but the orchestration exists, it counts as started.
        """
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_SECONDS):
                await self._client.start_new(
                    orchestrator, instance_id=instance_id, client_input=input_text
                )
        except Exception as error:
            if not await self._was_started(instance_id):
                raise Unavailable(
                    "durable", f"the orchestration could not be started: {error!r}"
                ) from error

    async def _was_started(self, job_id: str) -> bool:
        for pause_seconds in _RETRY_PAUSES_SECONDS:
            try:
                return await self.status(job_id) is not None
            except Unavailable:
                await asyncio.sleep(pause_seconds)
        return False

    async def status(self, job_id: str) -> InstanceSnapshot | None:
        """Return the state of an orchestration; None if no orchestration has this id."""
        if not _ID.fullmatch(job_id):
            return None
        with _unavailable("the orchestration's status could not be read"):
            found = await self._get(f"instances/{job_id}")
            return None if found is None else _instance(found[0])

    async def history(self, job_id: str) -> tuple[HistoryEvent, ...]:
        """Return the history of an orchestration; empty if no orchestration has this id.

        The SDK's method ignores the history. This one is without inputs and results.
        """
        if not _ID.fullmatch(job_id):
            return ()
        query = {"showHistory": "true", "showInput": "false"}
        with _unavailable("the orchestration's history could not be read"):
            found = await self._get(f"instances/{job_id}", query)
            return () if found is None else _history(found[0]["historyEvents"])

    async def raise_event(self, job_id: str, name: str, data: Json) -> None:
        """Send an external event with the content `data` to an orchestration.

        Raises UnknownInstance if no orchestration has this id, or FinalInstance if it has ended.
        """
        if not _ID.fullmatch(job_id):
            raise UnknownInstance(job_id)
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_SECONDS):
                await self._client.raise_event(job_id, name, data)
        except Exception as error:
            # The SDK's errors for 404, 410 and other statuses differ only in their messages.
            found = await self.status(job_id)
            if found is None:
                raise UnknownInstance(job_id) from error
            if found.runtime_status.is_final:
                raise FinalInstance(job_id) from error
            raise Unavailable(
                "durable", f"the event {name} could not be sent: {error!r}"
            ) from error

    async def terminate(self, job_id: str, reason: str) -> None:
        """Terminate an orchestration. Raises UnknownInstance if no orchestration has this id."""
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_SECONDS):
                await self._client.terminate(job_id, reason)
        except Exception as error:
            if await self.status(job_id) is None:
                raise UnknownInstance(job_id) from error
            raise Unavailable(
                "durable", f"the orchestration could not be terminated: {error!r}"
            ) from error

    async def list_jobs(
        self, prefix: str, limit: int, statuses: Collection[RuntimeStatus]
    ) -> InstancePage:
        """Return up to `limit` jobs whose ids begin with `prefix`; without `statuses`, in any.

        This is one query of the host, because the SDK's method has no limit.
        """
        query = {"instanceIdPrefix": prefix, "top": str(limit), "showInput": "true"}
        if statuses:
            query["runtimeStatus"] = ",".join(sorted(statuses))
        with _unavailable("the orchestrations could not be listed"):
            values, more = await self._get("instances/", query) or ([], "")
            found = [value for value in values if value["name"] == ORCHESTRATOR_JOB]
            pairs = tuple((str(value["instanceId"]), _instance(value)) for value in found)
            return InstancePage(pairs, more in _NO_MORE)

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> _Answer | None:
        """Send a GET request to the host; return the JSON value and the continuation token.

        Returns None for status 404. The SDK's method gives the same result for the statuses 404 and
        500.
        """
        url = f"{self._client._orchestration_bindings.rpc_base_url}{path}"
        session = await _get_session()
        async with asyncio.timeout(READ_TIMEOUT_SECONDS), session.get(url, params=query) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            answer.raise_for_status()
            value = await answer.json(content_type=None)
            return value, answer.headers.get(_CONTINUATION, "")

    async def purge(self, created_before: datetime) -> int:
        """Delete the ended orchestrations created before this time; return their number."""
        ended = [OrchestrationRuntimeStatus(each.value) for each in RuntimeStatus if each.is_final]
        with _unavailable("the old orchestrations could not be deleted"):
            result = await self._client.purge_instance_history_by(
                created_time_from=_EPOCH, created_time_to=created_before, runtime_status=ended
            )
            return int(result.instances_deleted)


@lru_cache(maxsize=1)
def read_binding(text: str) -> Durable:
    """Return Durable Functions for the text that the host passes for a binding `durableClient`.

    The text is the same in each invocation. The SDK's decorator parses it each time.
    """
    return Durable(DurableOrchestrationClient(text))


@contextmanager
def _unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Unavailable("durable", f"{what}: {error!r}") from error


def _instance(value: dict[str, Any]) -> InstanceSnapshot:
    return InstanceSnapshot(
        RuntimeStatus(value["runtimeStatus"]),
        _input_text(value["input"]),
        value["output"],
        _utc(datetime.fromisoformat(value["lastUpdatedTime"])),
        value["customStatus"],
    )


def _history(events: list[dict[str, Any]]) -> tuple[HistoryEvent, ...]:
    return tuple(
        HistoryEvent(
            str(event["EventType"]),
            event.get("FunctionName") or event.get("Name"),
            _utc(datetime.fromisoformat(event["Timestamp"])),
        )
        for event in events
    )


def _input_text(value: object) -> str:
    """Return the text that was passed to `start`, which the SDK encodes as JSON twice."""
    if not isinstance(value, str):
        return ""
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
