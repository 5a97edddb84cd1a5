"""Test that the list of jobs is complete, and that few queries find jobs by any filter."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.catalogue import Priority
from contract.messages import InlineBytes, JobRequest
from gateway.durable import Durable, InstancePage, InstanceSnapshot, RuntimeStatus
from gateway.jobs.listing import (
    MAX_QUERIES,
    WINDOW_INSTANCES,
    IdRange,
    Listing,
    id_at,
    list_newest,
    searched_since,
)
from gateway.jobs.model import JobOutcome, JobStatus, final_record, initial_record, write_ticket
from gateway.jobs.search import JobFilter
from tests.unit.gateway.api_keys import ask
from tests.unit.gateway.conftest import RunningGateway, error_body
from tests.unit.gateway.dead_letters import dead_job

START_MS = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)
START = datetime.fromtimestamp(START_MS / 1000, UTC)
NOBODY = InstanceSnapshot(RuntimeStatus.RUNNING, "", None, datetime(2026, 3, 1, tzinfo=UTC))


def id_of(milliseconds: int, tail: int = 0) -> str:
    digits = f"{START_MS + milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-{tail:012x}"


@dataclass
class Store:
    """A store that counts its queries, and does not list orchestrations in the order of ids."""

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


async def found(gateway: RunningGateway, **query: Any) -> list[str]:
    page = await list_jobs(gateway, **query)
    assert page["next_cursor"] is None
    return [job["id"] for job in page["jobs"]]


async def test_label_or_its_beginning_finds_jobs(gateway: RunningGateway) -> None:
    labels: list[dict[str, Any]] = [
        {"label": label} for label in ("order 1", "order 12", "invoice 1", "Order 1")
    ]
    labels.insert(3, {})
    ids = [await gateway.accept(**label) for label in labels]
    assert await found(gateway, label="order 1") == [ids[0]]
    assert await found(gateway, label="order 1*") == [ids[1], ids[0]]
    assert await found(gateway, label="order*") == [ids[1], ids[0]]
    assert await found(gateway, label="*") == [ids[4], ids[2], ids[1], ids[0]]
    assert await found(gateway, label="order") == []
    for _ in range(2):  # also when the jobs have ended
        for number in range(len(ids)):
            await gateway.reply(gateway.queues.request(number))
        assert await found(gateway, label="order 1") == [ids[0]]


async def test_problem_code_finds_jobs(gateway: RunningGateway) -> None:
    failed = await gateway.accept()
    await gateway.reply(error=error_body("inference-failed"))
    unreadable = await gateway.accept()
    await gateway.reply(error=error_body("invalid-input"))
    dead = await dead_job(gateway)
    cancelled = await gateway.accept()
    await gateway.http.delete(f"/v1/jobs/{cancelled}")
    lost = await gateway.accept()
    gateway.durable.runs[lost].status = RuntimeStatus.FAILED
    await gateway.accept()
    succeeded = await gateway.accept()
    await gateway.reply()
    expected = {
        "inference-failed": [failed],
        "invalid-input": [unreadable],
        "dead-lettered": [dead],
        "cancelled": [cancelled],
        "unavailable": [lost],
        "of-a-later-version": [],
    }
    for code, ids in expected.items():
        assert await found(gateway, code=code) == ids, code
        assert await found(gateway, code=code, status="succeeded") == []
        assert await found(gateway, code=code, status="queued") == []
    assert await found(gateway, code="inference-failed", status="failed") == [failed]
    assert await found(gateway, status="succeeded") == [succeeded]


async def test_time_of_creation_finds_jobs(gateway: RunningGateway) -> None:
    # The ids have the time of this machine, so the times of creation must be near it.
    gateway.clock.now = begun = datetime.now(UTC).replace(microsecond=0)
    ids = []
    for _ in range(4):
        ids.append(await gateway.accept())
        gateway.clock.now += timedelta(seconds=10)
    second, fourth = begun + timedelta(seconds=10), begun + timedelta(seconds=30)
    assert await found(gateway, created_after=second.isoformat()) == ids[:0:-1]
    assert await found(gateway, created_before=fourth.isoformat()) == ids[2::-1]
    span = {"created_after": second.isoformat(), "created_before": fourth.isoformat()}
    assert await found(gateway, **span) == ids[2:0:-1]
    assert await found(gateway, created_after="9999-12-31T23:59:59Z") == []
    assert await found(gateway, created_after="0001-01-01T00:00:00Z") == ids[::-1]
    assert await found(gateway, created_before="0001-01-01T00:00:00Z") == []
    page = await list_jobs(gateway, created_after=second.isoformat())
    assert datetime.fromisoformat(page["searched_back_to"]) == second


async def test_id_finds_a_job_with_one_query(gateway: RunningGateway) -> None:
    ids = [await gateway.accept() for _ in range(3)]
    before = gateway.durable.list_count
    assert await found(gateway, id=ids[1]) == [ids[1]]
    assert await found(gateway, id=ids[1][:-3] + "*") == [ids[1]]
    assert gateway.durable.list_count - before == 2
    assert await found(gateway, id=ids[0][:6] + "*") == ids[::-1]
    assert await found(gateway, id=ids[1], model="classifier") == []
    assert await found(gateway, id="018f0000-0000-7000-8000-000000000000") == []
    assert await found(gateway, id="ffff*") == []


async def test_all_filters_must_match(gateway: RunningGateway) -> None:
    wanted = await gateway.accept(label="a")
    await gateway.accept(label="b")
    other = await gateway.accept(label="a")
    await gateway.reply(gateway.queues.request(0), error=error_body("inference-failed"))
    query = {"label": "a", "code": "inference-failed", "status": "failed", "model": "noop"}
    assert await found(gateway, **query) == [wanted]
    assert await found(gateway, **query, id=other) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "000000001999"),
        ("limit", "000000001" + "9" * 5000),
        ("limit", "x"),
        ("status", "done"),
        ("code", "Not A Code"),
        ("code", ""),
        ("label", ""),
        ("label", "x" * 102),
        ("created_after", "yesterday"),
        ("created_after", "2026-03-01"),
        ("created_after", "2026-03-01T12:00:00"),
        ("created_before", "2026-02-30T12:00:00Z"),
        ("created_before", "9999-12-31T23:59:59-14:00"),
        ("created_after", "0001-01-01T00:00:00+14:00"),
        ("id", "018*"),
        ("id", "018f0000-0000-7000-8000"),
        ("id", "018F0000*"),
        ("id", "../../"),
        ("id", "*"),
    ],
)
async def test_invalid_filter_is_refused(gateway: RunningGateway, name: str, value: str) -> None:
    answer = await gateway.http.get("/v1/jobs", params={name: value})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert answer.json()["detail"].startswith(f"{name}: expected")


@dataclass
class BusyStore:
    """A store with one job for each second of six hours, of which those `labelled` have labels."""

    labelled: frozenset[int]
    seconds: int = 21_600
    queries: int = 0
    instances: int = 0

    async def list_jobs(
        self, prefix: str, limit: int, statuses: Collection[RuntimeStatus]
    ) -> InstancePage:
        self.queries += 1
        first, last = prefix.ljust(13, "0"), prefix.ljust(13, "f")
        limits = [int(each.replace("-", "")[:12].ljust(12, "0"), 16) for each in (first, last)]
        lowest = max(0, -(-(limits[0] - START_MS) // 1000))
        highest = min(self.seconds - 1, (limits[1] - START_MS) // 1000)
        numbers = range(lowest, highest + 1)
        found = tuple(self._job(number) for number in numbers[:limit])
        self.instances += len(found)
        return InstancePage(found, len(numbers) <= limit)

    async def search(self, wanted: JobFilter, span: IdRange) -> Listing[str]:
        def choose(job_id: str, one: InstanceSnapshot) -> str | None:
            return job_id if wanted.may_match(one, cast(Any, one.output)) else None

        return await list_newest(cast(Durable, self), span, (), 20, choose)

    def _job(self, number: int) -> tuple[str, InstanceSnapshot]:
        job_id, at = id_of(number * 1000), START + timedelta(seconds=number)
        request = JobRequest(job_id, "noop", InlineBytes("text/plain", b""), at, at)
        label = "rare" if number in self.labelled else None
        ticket = write_ticket(request, None, "acme", None, Priority.NORMAL, label=label)
        output = final_record(initial_record(ticket), JobOutcome.cancelled(at))
        return job_id, InstanceSnapshot(RuntimeStatus.COMPLETED, ticket.text, output, at)


async def test_search_for_a_rare_label_is_bounded() -> None:
    labelled = frozenset({20_000, 12_500, 12_499, 3})
    store = BusyStore(labelled)
    wanted = JobFilter(label="rare")
    span = IdRange(id_at(START + timedelta(hours=6)), id_at(START))
    found: list[int] = []
    searched_to = START + timedelta(hours=6)
    pages = 0
    while True:
        queries, instances = store.queries, store.instances
        page = await store.search(wanted, span)
        pages += 1
        assert store.queries - queries <= MAX_QUERIES
        assert store.instances - instances <= MAX_QUERIES * WINDOW_INSTANCES
        found += [(int(i[:13].replace("-", ""), 16) - START_MS) // 1000 for i in page.jobs]
        if page.below is None:
            break
        now_to = searched_since(page.below)
        assert now_to < searched_to, "the search did not look further back"
        searched_to = now_to
        # Everything since that time was found, and nothing older.
        since = (searched_to - START).total_seconds()
        assert found == sorted((n for n in labelled if n >= since), reverse=True)
        span = IdRange(page.below, span.above)
    assert found == sorted(labelled, reverse=True)
    # 21,600 jobs in pages of at most 6,400 orchestrations.
    assert 4 <= pages <= 8


@pytest.mark.parametrize(
    ("wanted", "most_queries"),
    [
        (JobFilter(id=id_of(9_000_000)), 1),
        (JobFilter(id=id_of(9_000_000)[:11] + "*"), 1),
        (JobFilter(created_after=START + timedelta(hours=5, minutes=55), label="rare"), 30),
        (JobFilter(created_before=START + timedelta(minutes=5), label="rare"), 30),
    ],
)
async def test_narrow_search_needs_few_queries(wanted: JobFilter, most_queries: int) -> None:
    store = BusyStore(frozenset({100, 21_500}))
    span = wanted.narrow(IdRange(id_at(START + timedelta(hours=6)), id_at(START)))
    page = await store.search(wanted, span)
    assert page.below is None
    assert len(page.jobs) >= 1
    assert store.queries <= most_queries


@settings(max_examples=25)
@given(
    times=st.lists(st.integers(0, 100_000_000), min_size=1, max_size=60, unique=True),
    limit=st.integers(1, 10),
    window_size=st.integers(1, 10),
)
def test_page_has_all_jobs_since_its_earliest_time(
    times: list[int], limit: int, window_size: int
) -> None:
    store = Store([id_of(time) for time in times], window_size)
    span = IdRange(id_of(100_000_001)[:13], id_at(START))
    page = asyncio.run(list_newest(cast(Durable, store), span, (), limit, lambda i, _: i))
    if page.below is None:
        assert len(page.jobs) == len(times)
        return
    since = searched_since(page.below)
    expected = [id_of(time) for time in sorted(times, reverse=True)]
    newer = [i for i in expected if i[:13] >= id_at(since)]
    assert newer == page.jobs[: len(newer)]


async def test_unchanged_result_gets_304(gateway: RunningGateway) -> None:
    await gateway.accept(label="a")
    first = await gateway.http.get("/v1/jobs?label=a")
    gateway.clock.now += timedelta(seconds=5)
    headers = {"if-none-match": first.headers["etag"]}
    assert (await gateway.http.get("/v1/jobs?label=a", headers=headers)).status_code == 304


async def test_each_tenant_reads_one_page_at_a_time(closed: RunningGateway) -> None:
    running = most = 0

    async def list_slowly(*given: Any) -> InstancePage:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20):
            await asyncio.sleep(0)
        running -= 1
        return InstancePage((), is_whole=True)

    closed.durable.list_jobs = list_slowly  # type: ignore[method-assign, assignment]
    searches = [ask(closed, name, "/v1/jobs?label=a") for name in ("a", "a", "reader", "b")]
    assert [answer.status_code for answer in await asyncio.gather(*searches)] == [200] * 4
    assert most == 2
    assert not closed.services.search.locks


@settings(max_examples=30)
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


async def test_cursor_leads_to_the_next_page_of_the_filter(gateway: RunningGateway) -> None:
    ids = [await gateway.accept(label="a b&c") for _ in range(7)]
    await gateway.accept(label="other")
    path: str | None = "/v1/jobs?limit=3&label=a%20b%26c"
    found, pages = [], 0
    while path:
        answer = await gateway.http.get(path)
        found += [job["id"] for job in answer.json()["jobs"]]
        path = answer.json()["links"]["next"]
        assert answer.headers.get("link") == (f'<{path}>; rel="next"' if path else None)
        pages += 1
    assert found == ids[::-1]
    assert pages == 3


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
