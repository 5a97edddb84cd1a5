"""Test that the list of jobs is complete and in order, and needs few queries of the task hub."""

import asyncio
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.durable import Durable, RuntimeStatus
from gateway.jobs.listing import MAX_QUERIES, IdRange, id_at, list_newest
from gateway.jobs.model import JobStatus
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.listed_jobs import Store, id_of, list_jobs


@settings(max_examples=60)
@given(
    times=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 2_000), st.integers(0, 300_000_000)), st.integers(0, 99)
        ),
        max_size=80,
        unique=True,
    ),
    limit=st.integers(1, 30),
    window_size=st.integers(1, 20),
)
def test_pages_contain_each_job_once(
    times: list[tuple[int, int]], limit: int, window_size: int
) -> None:
    ids = [id_of(*time) for time in times]
    store = Store(ids, window_size)
    wanted = [job_id for job_id in ids if int(job_id[-1], 16) % 3]

    async def all_pages() -> list[str]:
        span = IdRange(id_of(300_000_001)[:13], id_at(datetime(2026, 3, 1, tzinfo=UTC)))
        found: list[str] = []
        for _ in range(3_000):
            before = store.looks
            page = await list_newest(
                cast(Durable, store), span, (), limit, lambda i, _: i if i in wanted else None
            )
            assert len(page.jobs) <= limit
            assert store.looks - before <= MAX_QUERIES
            found += page.jobs
            if page.below is None:
                return found
            assert page.below < span.below
            span = IdRange(page.below, span.above)
        raise AssertionError("the pages do not end")

    assert asyncio.run(all_pages()) == sorted(wanted, reverse=True)


async def test_list_begins_with_the_newest_job(gateway: RunningGateway) -> None:
    ids = [await gateway.accept() for _ in range(5)]
    page = await list_jobs(gateway)
    assert [job["id"] for job in page["jobs"]] == ids[::-1]
    assert page["jobs"][0] == {**await gateway.job(ids[-1]), "queue": page["jobs"][0]["queue"]}
    assert page["next_cursor"] is None


async def test_cursor_leads_to_the_next_page(gateway: RunningGateway) -> None:
    ids = [await gateway.accept() for _ in range(7)]
    path: str | None = "/v1/jobs?limit=3&model=noop"
    found, pages = [], 0
    while path:
        answer = await gateway.http.get(path)
        found += [job["id"] for job in answer.json()["jobs"]]
        path = answer.json()["links"]["next"]
        assert answer.headers.get("link") == (f'<{path}>; rel="next"' if path else None)
        pages += 1
    assert found == ids[::-1]
    assert pages == 3


async def test_page_needs_a_bounded_number_of_queries(gateway: RunningGateway) -> None:
    ids = [await gateway.accept() for _ in range(120)]
    found: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(6):
        before = gateway.durable.list_count
        page = await list_jobs(gateway, limit=100, **cursor)
        assert gateway.durable.list_count - before <= MAX_QUERIES
        found += [job["id"] for job in page["jobs"]]
        cursor = {"cursor": page["next_cursor"]}
        if page["next_cursor"] is None:
            break
    assert found == ids[::-1]


async def test_list_is_filtered_by_status_and_model(gateway: RunningGateway) -> None:
    queued, succeeded, cancelled = [await gateway.accept() for _ in range(3)]
    await gateway.reply(gateway.queues.request(1))
    await gateway.http.delete(f"/v1/jobs/{cancelled}")
    gateway.durable.runs[broken := await gateway.accept()].status = RuntimeStatus.FAILED
    expected = {
        JobStatus.QUEUED: queued,
        JobStatus.SUCCEEDED: succeeded,
        JobStatus.CANCELLED: cancelled,
        JobStatus.FAILED: broken,
    }
    for status in JobStatus:
        page = await list_jobs(gateway, status=status.value)
        ids = [job["id"] for job in page["jobs"]]
        assert ids == ([expected[status]] if status in expected else [])
    assert (await list_jobs(gateway, model="classifier"))["jobs"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "noob"),
        ("cursor", "x"),
        ("cursor", "é"),
        ("cursor", "Pz8/"),
        ("cursor", "A" * 5000),
        ("page", "2"),
    ],
)
async def test_invalid_query_parameter_is_refused(
    gateway: RunningGateway, name: str, value: str
) -> None:
    answer = await gateway.http.get("/v1/jobs", params={name: value})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert name in answer.json()["detail"]


async def test_list_needs_durable_functions(gateway: RunningGateway) -> None:
    gateway.durable.is_down = True
    assert (await gateway.http.get("/v1/jobs")).status_code == 503
