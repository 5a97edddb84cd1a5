"""Test that the queries of Azure Monitor's workbook and alerts find the gateway's log lines."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.messages import encode_request
from contract.queues import names
from gateway.jobs.orchestrator import log_failure
from gateway.queues.ages import log_oldest
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.dead_letters import give_up

INFRA = Path(__file__).parents[3] / "infra"
WORKBOOK: dict[str, Any] = json.loads((INFRA / "workbook.json").read_text(encoding="utf-8"))
ALERTS = (INFRA / "modules" / "alerts.bicep").read_text(encoding="utf-8")
ITEMS: list[dict[str, Any]] = WORKBOOK["items"]
QUERIES = {item["name"]: item["content"]["query"] for item in ITEMS if item["type"] == 3}
ALERT_QUERIES = dict(
    re.findall(r"name: '([\w-]+)'\n(?:(?! name:).)*?query: '(.*?)'\n", ALERTS, re.DOTALL)
)
EVERY_QUERY = [*QUERIES.values(), *ALERT_QUERIES.values()]


def read(query: str, line: str) -> dict[str, str] | None:
    """Return the fields that a query finds in a log line, or None if the query does not match."""
    for operator, text in re.findall(r'message (startswith|has) "([^"]*)"', query):
        if text not in line or (operator == "startswith" and not line.startswith(text)):
            return None
    [pattern] = re.findall(r"parse message with (.*?) \|", query)
    found = re.fullmatch("".join(_pieces(pattern)), line)
    return found.groupdict() if found else None


def _pieces(pattern: str) -> Iterator[str]:
    """Yield a regular expression for a pattern in the simple mode of the KQL operator `parse`."""
    for literal, name, number in re.findall(r'"([^"]*)"|(\*|\w+)(:real)?', pattern):
        if not name:
            yield re.escape(literal)
        else:
            kind = r"[\d.]+" if number else ".*?"
            yield kind if name == "*" else f"(?P<{name}>{kind})"


@pytest.mark.parametrize(
    "query",
    [QUERIES["oldest-age"], ALERT_QUERIES["oldest-message"], ALERT_QUERIES["no-ready-worker"]],
)
async def test_age_of_the_oldest_message_is_found(
    query: str, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.queues.enqueued_at["noop"] = gateway.clock() - timedelta(seconds=90)
    with caplog.at_level("INFO"):
        await log_oldest(gateway.queues, names(gateway.services.catalogue), gateway.clock)
    [line] = caplog.messages
    assert read(query, line) == {"queue": "noop", "seconds": "90"}


async def test_silent_queue_has_no_age(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.queues.is_down = True
    await log_oldest(gateway.queues, names(gateway.services.catalogue), gateway.clock)
    assert len(caplog.messages) == 2 * len(gateway.services.catalogue)
    assert not any(read(QUERIES["oldest-age"], line) for line in caplog.messages)


@pytest.mark.parametrize(
    "query",
    [QUERIES["failed-by-code"], QUERIES["failed-over-time"], ALERT_QUERIES["failed-jobs"]],
)
def test_failed_job_is_found(query: str, caplog: pytest.LogCaptureFixture) -> None:
    log_failure("1", {"model": "noop", "status": "failed", "error": {"code": "worker-fault"}})
    [line] = caplog.messages
    found = read(query, line)
    assert found is not None
    assert found.items() >= {"status": "failed", "code": "worker-fault"}.items()
    assert found.get("model", "noop") == "noop"


@pytest.mark.parametrize(
    ("status", "lines"),
    [("succeeded", []), ("cancelled", []), ("expired", ["job 1 of noop ended as expired: boom"])],
)
def test_expired_jobs_are_logged_and_others_are_not(
    status: str, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    log_failure("1", {"model": "noop", "status": status, "error": {"code": "boom"}})
    assert caplog.messages == lines


async def test_dead_letter_is_found(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await gateway.accept()
    await give_up(gateway, encode_request(gateway.queues.request()), job_id)
    [line] = [message for message in caplog.messages if "dead-lettered" in message]
    found = read(QUERIES["dead-letters"], line)
    assert found is not None
    # The log quotes texts that callers chose, and the query removes the quotes.
    assert (found["job"], found["queue"]) == (repr(job_id), "noop")
    assert found["reason"]
    for name in ("job", "reason", "description"):
        assert f'{name} = trim("\'", {name})' in QUERIES["dead-letters"]
    assert read(ALERT_QUERIES["given-up"], line) == {"queue": "noop"}


@pytest.mark.parametrize("query", EVERY_QUERY)
def test_http_queries_match_submissions_or_replies(query: str) -> None:
    if "matches regex" in query:
        [pattern] = re.findall(r'matches regex @"(.*?)"', query)
        is_of_replies = "replies = " in query
        for path, is_found in (
            ("models/x/jobs", not is_of_replies),
            ("jobs/1/reply", is_of_replies),
        ):
            url = f"https://func.example/v1/{path}"
            assert (re.search(pattern, url) is not None) == is_found, url


@pytest.mark.parametrize("query", EVERY_QUERY)
def test_no_query_counts_sampled_rows(query: str) -> None:
    if re.search(r"\b(requests|traces)\b", query):  # other tables are not sampled
        assert "count()" not in query
    assert query.count("(") == query.count(")")
    assert query.count('"') % 2 == 0


def test_items_have_unique_names() -> None:
    assert WORKBOOK["version"] == "Notebook/1.0"
    names = [item["name"] for item in ITEMS]
    assert len(set(names)) == len(names)
    versions = {1: None, 3: "KqlItem/1.0", 9: "KqlParameterItem/1.0", 10: "MetricsItem/2.0"}
    for item in ITEMS:
        assert item["content"].get("version") == versions[item["type"]]
        if item["type"] in {3, 10}:
            assert item["content"]["timeContextFromParameter"] == "Range"
            assert item["content"]["title"]
    monitoring = (INFRA / "modules" / "monitoring.bicep").read_text(encoding="utf-8")
    assert "replace(loadTextContent('../workbook.json'), 'SERVICE_BUS_ID'" in monitoring
    namespaces = [item["content"]["resourceIds"] for item in ITEMS if item["type"] == 10]
    assert namespaces == [["SERVICE_BUS_ID"]] * 2
