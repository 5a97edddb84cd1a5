"""Orchestrations with chosen job ids, and requests for the list of jobs."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.durable import InstancePage, InstanceSnapshot, RuntimeStatus
from tests.unit.gateway.conftest import RunningGateway

START_MS = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)
NOBODY = InstanceSnapshot(RuntimeStatus.RUNNING, "", None, datetime(2026, 3, 1, tzinfo=UTC))


def id_of(milliseconds: int, tail: int = 0) -> str:
    digits = f"{START_MS + milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-{tail:012x}"


@dataclass
class Store:
    """A store of orchestrations that does not list the orchestrations in the order of their ids.

    `looks` counts the queries.
    """

    ids: list[str]
    window_size: int
    looks: int = 0

    async def list_jobs(
        self, prefix: str, limit: int, statuses: Collection[RuntimeStatus]
    ) -> InstancePage:
        self.looks += 1
        size = min(limit, self.window_size)
        found = sorted((i for i in self.ids if i.startswith(prefix)), key=lambda i: i[::-1])
        return InstancePage(tuple((i, NOBODY) for i in found[:size]), len(found) <= size)


async def list_jobs(gateway: RunningGateway, **query: Any) -> Any:
    return await gateway.get("/v1/jobs", **query)
