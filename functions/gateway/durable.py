"""The port to Durable Functions: five verbs, and the real client behind them.

The 2.x SDK has other wires and other classes; only this module would change.
"""

import asyncio
import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Protocol

from azure.durable_functions import DurableOrchestrationClient, OrchestrationRuntimeStatus
from azure.durable_functions.models.utils.http_utils import _get_session

from contract.fields import Json
from contract.names import ORCHESTRATOR_JOB
from gateway.errors import FinalInstance, Unavailable, UnknownInstance

_log = logging.getLogger(__name__)

_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)
_CONTINUATION: Final = "x-ms-continuation-token"
# The Azure Storage provider may write the end as the JSON null, in base64.
_NO_MORE: Final = frozenset({"", "null", "bnVsbA=="})
# The SDK pastes an id into a URL as it is. A dead letter may name a job by whatever text.
_ID: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
_LOOK_AGAIN_SECONDS: Final = (0.1, 0.3, 1.0)

LOOK_SECONDS: Final = 10.0
"""How long a look may take. A caller waits for it, and the SDK would give it four minutes."""

CHANGE_SECONDS: Final = 20.0
"""The same of what changes something: given up too soon, it would happen behind our back."""


class RuntimeStatus(StrEnum):
    """Durable's own words."""

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
        return self in _FINAL


_FINAL: Final = frozenset(
    {
        RuntimeStatus.COMPLETED,
        RuntimeStatus.FAILED,
        RuntimeStatus.TERMINATED,
        RuntimeStatus.CANCELED,
    }
)


@dataclass(frozen=True, slots=True)
class Instance:
    """One orchestration as the store describes it. A job's `input` is its ticket's text."""

    runtime_status: RuntimeStatus
    input: str
    output: Json
    updated_at: datetime
    custom_status: Json = None


@dataclass(frozen=True, slots=True)
class Listed:
    """Some job orchestrations with their ids, in no order; whole if these are all there are."""

    instances: tuple[tuple[str, Instance], ...]
    is_whole: bool


class Durable(Protocol):
    """What the gateway asks of Durable. Each verb raises Unavailable where it did not answer."""

    async def start(
        self, instance_id: str, input_text: str, orchestrator: str = ORCHESTRATOR_JOB
    ) -> None:
        """Start an orchestration. If this returns, it will run. One that has ended runs again."""

    async def status(self, job_id: str) -> Instance | None:
        """The orchestration with this id, or None."""

    async def raise_event(self, job_id: str, name: str, data: Json) -> None:
        """Deliver an event; raises UnknownInstance, or FinalInstance where it came too late."""

    async def terminate(self, job_id: str, reason: str) -> None:
        """End an orchestration by force."""

    async def listed(self, prefix: str, limit: int, statuses: Collection[RuntimeStatus]) -> Listed:
        """Up to `limit` jobs whose ids start so, in one of these statuses, or in any for none."""

    async def purge(self, created_before: datetime) -> int:
        """Delete ended orchestrations that were created before this; returns how many."""


_Got = tuple[Json, str]


class DurableClient:
    """The port over one invocation's client binding."""

    def __init__(self, client: DurableOrchestrationClient) -> None:
        self._client = client

    async def start(
        self, instance_id: str, input_text: str, orchestrator: str = ORCHESTRATOR_JOB
    ) -> None:
        """See Durable. A start whose answer was lost is looked up before it counts as failed."""
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await self._client.start_new(
                    orchestrator, instance_id=instance_id, client_input=input_text
                )
        except Exception as error:
            if not await self._was_started(instance_id):
                raise Unavailable("durable", f"start failed: {error!r}") from error

    async def _was_started(self, job_id: str) -> bool:
        for pause_seconds in _LOOK_AGAIN_SECONDS:
            try:
                return await self.status(job_id) is not None
            except Unavailable:
                await asyncio.sleep(pause_seconds)
        return False

    async def status(self, job_id: str) -> Instance | None:
        """See Durable."""
        if not _ID.fullmatch(job_id):
            return None
        try:
            found = await self._got(f"instances/{job_id}")
            return None if found is None else _instance(found[0])
        except Exception as error:
            raise Unavailable("durable", f"status failed: {error!r}") from error

    async def raise_event(self, job_id: str, name: str, data: Json) -> None:
        """See Durable."""
        if not _ID.fullmatch(job_id):
            raise UnknownInstance(job_id)
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await self._client.raise_event(job_id, name, data)
        except Exception as error:
            # The SDK tells 404, 410 and all others apart in prose only, so look instead of parsing.
            found = await self.status(job_id)
            if found is None:
                raise UnknownInstance(job_id) from error
            if found.runtime_status.is_final:
                raise FinalInstance(job_id) from error
            raise Unavailable("durable", f"event {name} failed: {error!r}") from error

    async def terminate(self, job_id: str, reason: str) -> None:
        """See Durable."""
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await self._client.terminate(job_id, reason)
        except Exception as error:
            if await self.status(job_id) is None:
                raise UnknownInstance(job_id) from error
            raise Unavailable("durable", f"terminate failed: {error!r}") from error

    async def listed(self, prefix: str, limit: int, statuses: Collection[RuntimeStatus]) -> Listed:
        """See Durable. The SDK's own verb has neither limit nor pages."""
        query = {"instanceIdPrefix": prefix, "top": str(limit), "showInput": "true"}
        if statuses:
            query["runtimeStatus"] = ",".join(sorted(statuses))
        try:
            values, more = await self._got("instances/", query) or ([], "")
            found = [value for value in values if value["name"] == ORCHESTRATOR_JOB]
            pairs = tuple((str(value["instanceId"]), _instance(value)) for value in found)
        except Exception as error:
            raise Unavailable("durable", f"list failed: {error!r}") from error
        return Listed(pairs, more in _NO_MORE)

    async def _got(self, path: str, query: Mapping[str, str] | None = None) -> _Got | None:
        """What the host answers, and where it goes on; None for 404.

        Asks as the SDK does, but tells a store that failed, 500, from a job that does not exist.
        """
        url = f"{self._client._orchestration_bindings.rpc_base_url}{path}"
        session = await _get_session()
        async with asyncio.timeout(LOOK_SECONDS), session.get(url, params=query) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            answer.raise_for_status()
            value = await answer.json(content_type=None)
            return value, answer.headers.get(_CONTINUATION, "")

    async def purge(self, created_before: datetime) -> int:
        """See Durable."""
        ended = [OrchestrationRuntimeStatus(status.value) for status in sorted(_FINAL)]
        try:
            result = await self._client.purge_instance_history_by(
                created_time_from=_EPOCH, created_time_to=created_before, runtime_status=ended
            )
        except Exception as error:
            raise Unavailable("durable", f"purge failed: {error!r}") from error
        return int(result.instances_deleted)


def _instance(value: dict[str, Any]) -> Instance:
    """An instance as the host writes it."""
    return Instance(
        RuntimeStatus(value["runtimeStatus"]),
        _input_text(value["input"]),
        value["output"],
        _utc(datetime.fromisoformat(value["lastUpdatedTime"])),
        value["customStatus"],
    )


def _input_text(value: object) -> str:
    """The text that start was given: start_new encodes it, and its HTTP client once more."""
    if not isinstance(value, str):
        return ""
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
