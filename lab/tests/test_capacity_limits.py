"""Test the computed limits of a deployment, and that capacity.md shows these limits."""

import math
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.messages import (
    INPUT_INLINE_LIMIT_BYTES,
    InlineBytes,
    JobRequest,
    ReplyUrl,
    encode_request,
)
from gateway.jobs.lifecycle import FOLLOW_SECONDS
from gateway.operations.sums import INTERVAL_SECONDS
from gateway.queues.estimates import FRESH_SECONDS
from gateway.shares.usage import FLUSH_SECONDS, RELAXED_STEPS
from infra.generate import MAX_QUEUE_MEGABYTES
from lab.capacity.batches import compute_line_use
from lab.capacity.limits import (
    COUNT_INTERVAL_SECONDS,
    WAITING_READS_PER_SECOND,
    DeploymentLimits,
    JobShape,
    compute_need,
    count_queued_jobs,
    find_limits,
    message_bytes,
)
from worker.settings import DEFAULT_HEARTBEAT_SECONDS

ROOT = Path(__file__).parents[2]
CAPACITY = (ROOT / "docs/explanation/capacity.md").read_text("utf-8")
SHAPES = (
    JobShape("small, answered after 0.2 s", 1, 3, 2, 0.2),
    JobShape("small, answered after 20 s in the queue", 5, 3, 9, 20),
    JobShape("small, with a webhook", 7, 3, 2, 0),
    JobShape("large: key, input and result in blobs, answered after 0.2 s", 2, 3, 9, 0.2),
    compute_line_use(50).shape,
)
SMALL = SHAPES[0]
DEFAULT = DeploymentLimits()
LARGEST = DeploymentLimits(dedicated_units=3, is_premium=True)


def rounded(value: float) -> str:
    return "-" if math.isinf(value) else f"{math.floor(value):,}"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_limits_are_documented(shape: JobShape) -> None:
    names = (
        *("Durable Task Scheduler", "Service Bus", "blob storage"),
        *("gateway, processor", "gateway, open requests"),
    )
    limits = {limit.name: limit.jobs_per_second for limit in find_limits(shape, DEFAULT)}
    first = find_limits(shape, DEFAULT)[0]
    cells = [shape.name, *(rounded(limits[name]) for name in names), first.name]
    assert f"| {' | '.join(cells)} |" in CAPACITY


@pytest.mark.parametrize("rate", [10, 100, 500, 1000])
def test_plans_and_tiers_are_documented(rate: int) -> None:
    need = compute_need(rate, SMALL, DEFAULT)
    plan = "Consumption" if need.actions_per_second <= 500 else "Dedicated, 1 unit"
    tier = "Standard" if need.credits_per_second <= 1000 else "Premium"
    cells = [
        f"{rate:,}",
        f"{need.actions_per_second:,.0f}: {plan}",
        f"{need.credits_per_second:,.0f}: {tier}",
        f"{need.blob_requests_per_second:,.0f}",
        f"{need.open_requests:,.0f}",
        str(need.instances),
    ]
    assert f"| {' | '.join(cells)} |" in CAPACITY


@pytest.mark.parametrize("size_bytes", [8, 24 * 1024, INPUT_INLINE_LIMIT_BYTES])
def test_jobs_per_queue_are_documented(size_bytes: int) -> None:
    assert f"| {size_bytes:,} | {count_queued_jobs(size_bytes, DEFAULT):,} |" in CAPACITY


@pytest.mark.parametrize("size_bytes", [8, 24 * 1024, INPUT_INLINE_LIMIT_BYTES])
def test_message_is_not_larger_than_estimated(size_bytes: int) -> None:
    now = datetime.now(UTC)
    request = JobRequest(
        job_id=str(uuid.uuid4()),
        model="classifier",
        input=InlineBytes("application/octet-stream", bytes(size_bytes)),
        created_at=now,
        deadline=now,
        reply_to=ReplyUrl("https://func-abcdefghij.azurewebsites.net/v1/jobs/" + "x" * 300),
    )
    size = len(encode_request(request))
    assert 0.95 * message_bytes(size_bytes) - 1000 < size <= message_bytes(size_bytes)


def test_defaults_are_those_of_deployment() -> None:
    main = (ROOT / "infra" / "main.bicep").read_text("utf-8")
    assert f"param gatewayMaxInstances int = {DEFAULT.instances}\n" in main
    assert f"param gatewayConcurrency int = {DEFAULT.concurrency}\n" in main
    assert "param durableSku string = 'Consumption'\n" in main
    assert "param serviceBusSku string = 'Standard'\n" in main
    assert DEFAULT.queue_megabytes == MAX_QUEUE_MEGABYTES
    assert WAITING_READS_PER_SECOND == 1 / FOLLOW_SECONDS
    assert COUNT_INTERVAL_SECONDS == FRESH_SECONDS


def test_parameter_raises_only_its_limit() -> None:
    base = {limit.name: limit.jobs_per_second for limit in find_limits(SMALL, DEFAULT)}
    for changed, name in (
        (DeploymentLimits(dedicated_units=1), "Durable Task Scheduler"),
        (DeploymentLimits(is_premium=True), "Service Bus"),
        (DeploymentLimits(cores=2), "gateway, processor"),
        (DeploymentLimits(concurrency=400), "gateway, open requests"),
    ):
        found = {limit.name: limit.jobs_per_second for limit in find_limits(SMALL, changed)}
        assert [each for each in found if found[each] > base[each]] == [name]


def test_parameters_are_documented_options() -> None:
    deploy = (ROOT / "docs/how-to/deploy.md").read_text("utf-8")
    for limit in find_limits(SMALL, LARGEST):
        for parameter in re.findall(r"\b[A-Z_]{5,}\b", limit.parameter):
            assert f"`{parameter}`" in deploy
            assert f"`{parameter}`" in CAPACITY


def test_idle_operations_are_documented() -> None:
    app = (ROOT / "functions" / "function_app.py").read_text("utf-8")
    assert '"30 * * * * *"' in app, "the watch runs each minute"
    assert '"0 */10 * * * *"' in app, "the housekeeping runs each ten minutes"
    housekeeping = (ROOT / "functions/gateway/housekeeping.py").read_text("utf-8")
    # One list for each prefix with a limit of deletions, and one for the uploads.
    lists = len(re.findall(r"^ {8}\S+: \(.*_DELETED\),$", housekeeping, re.MULTILINE)) + 1
    manifests = (ROOT / "infra" / "worker.yaml").read_text("utf-8")
    [polling_seconds] = re.findall(r"pollingInterval: (\d+)", manifests)
    for what, each, count, unit in (
        ("heartbeats", "worker", 3600 / DEFAULT_HEARTBEAT_SECONDS, "blob writes"),
        (
            *("minute sums, only in minutes with jobs", "gateway instance"),
            *(3600 / INTERVAL_SECONDS, "blob writes"),
        ),
        (
            *("usage of tenants, only while jobs end", "gateway instance"),
            *(3600 / (RELAXED_STEPS * FLUSH_SECONDS), "blob writes"),
        ),
        ("housekeeping", "app", 6 * lists, "lists of blobs"),
        ("waiting rooms with jobs", "app", 60, "lists of blobs"),
        ("age of the oldest message", "queue", 60, "peeks"),
        ("KEDA", "queue", 3600 / int(polling_seconds), "management operations"),
        (
            *("queue lengths, read all the time", "queue and gateway instance"),
            *(3600 / FRESH_SECONDS, "management operations"),
        ),
    ):
        assert f"| {what} | {each} | {count:,.0f} {unit} |" in CAPACITY
