"""The gateway's metrics for Prometheus, at `/metrics`.

Two successive scrapes may reach different instances of the Function App. Therefore each response
contains the counters of all processes, which are read from blob storage. Before a process responds,
it writes its own counters. So a counter never decreases from one scrape to the next.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from gateway.errors import Unavailable
from gateway.operations.overview import SOURCE_SECONDS, Figures, Operations
from gateway.operations.sums import ProcessSums
from gateway.operations.tenants import (
    MAX_SHOWN,
    NO_NAME,
    OTHER,
    SeenTenant,
    TenantFigures,
    add_figures,
    most_used,
)
from gateway.queues.workers import WorkerState
from gateway.telemetry import BUCKET_SECONDS, Histogram

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX: Final = "loosely_gateway_"

_EXPORTED_BUCKETS: Final = tuple(range(0, len(BUCKET_SECONDS), 4))
"""The indexes of the exported bounds: every fourth, so 1 ms, 4 ms, 16 ms and so on."""


class MetricsPage:
    """A collector for prometheus_client of the figures for operators."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator["Metric"]:
        """Yield all metrics."""
        yield from _job_metrics(self._figures.processes)
        yield from _queue_metrics(self._figures)
        yield from _worker_metrics(self._figures)
        yield from _tenant_metrics(self._figures.tenants)


async def render_metrics(operations: Operations, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format that the Accept header prefers, and their content type.

    Raises Unavailable if the blob storage does not respond.
    """
    # Imported at the first scrape, because most gateways are never scraped.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

    try:
        async with asyncio.timeout(SOURCE_SECONDS):
            await operations.sums.write()
    except TimeoutError:
        raise Unavailable("blobs", "the counts of this process cannot be written") from None
    figures = await operations.read(is_fresh=True)
    if figures.unavailable:
        raise Unavailable("blobs", f"{' and '.join(figures.unavailable)} cannot be read")
    registry = CollectorRegistry()
    registry.register(MetricsPage(figures))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _job_metrics(processes: Iterable[ProcessSums]) -> Iterator["Metric"]:
    from prometheus_client.metrics_core import (  # noqa: PLC0415
        CounterMetricFamily,
        HistogramMetricFamily,
    )

    labels = ("model", "process")
    accepted = CounterMetricFamily(
        f"{PREFIX}jobs_accepted",
        "Accepted jobs, including the new jobs of redriven dead letters.",
        labels=labels,
    )
    ended = CounterMetricFamily(
        f"{PREFIX}jobs_ended",
        "Ended jobs, by final status and by the code of the error.",
        labels=("model", "status", "code", "process"),
    )
    wait = HistogramMetricFamily(
        f"{PREFIX}queue_wait_seconds",
        "Time in the queue of jobs that succeeded, as the worker measured it.",
        labels=labels,
    )
    run = HistogramMetricFamily(
        f"{PREFIX}inference_seconds",
        "Time for which the batches of jobs that succeeded ran.",
        labels=labels,
    )
    chunks = CounterMetricFamily(
        f"{PREFIX}chunks", "Chunks that the models of ended jobs emitted.", labels=labels
    )
    first_chunk = HistogramMetricFamily(
        f"{PREFIX}first_chunk_seconds",
        "Time from when a job was put into the queue until its first chunk.",
        labels=labels,
    )
    for each in processes:
        for model, sums in each.totals.items():
            own = (model, each.process)
            accepted.add_metric(own, sums.accepted)
            ends = {
                ("succeeded", ""): sums.succeeded,
                ("cancelled", ""): sums.cancelled,
                ("expired", "expired"): sums.expired,
                **{("failed", code): count for code, count in sums.failed.items()},
            }
            for (status, code), count in ends.items():
                ended.add_metric((model, status, code, each.process), count)
            wait.add_metric(own, _buckets(sums.wait), sums.wait.sum_seconds)
            run.add_metric(own, _buckets(sums.run), sums.run.sum_seconds)
            chunks.add_metric(own, sums.chunks)
            first_chunk.add_metric(own, _buckets(sums.first_chunk), sums.first_chunk.sum_seconds)
    yield from (accepted, ended, wait, run, chunks, first_chunk)


def _queue_metrics(figures: Figures) -> Iterator["Metric"]:
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

    waiting = GaugeMetricFamily(
        f"{PREFIX}queue_messages",
        "Messages by state: normal and low (no worker holds the message), held (in the waiting "
        "room), scheduled, dead.",
        labels=("model", "state"),
    )
    oldest = GaugeMetricFamily(
        f"{PREFIX}queue_oldest_age_seconds",
        "Age of the oldest waiting job, held or in the queue; otherwise 0.",
        labels=("model",),
    )
    for queue in figures.queues:
        states = {
            "normal": queue.normal,
            "low": queue.low,
            "held": queue.held,
            "scheduled": queue.scheduled,
            "dead": queue.dead,
        }
        for state, count in states.items():
            if count is not None:
                waiting.add_metric((queue.model, state), count)
        oldest.add_metric((queue.model,), queue.oldest_age_seconds or 0.0)
    yield from (waiting, oldest)


def _worker_metrics(figures: Figures) -> Iterator["Metric"]:
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

    workers = GaugeMetricFamily(
        f"{PREFIX}workers", "Workers by the state that their heartbeats show.", labels=("state",)
    )
    states = [worker.state(figures.at) for worker in figures.workers]
    for state in WorkerState:
        workers.add_metric((state.value,), states.count(state))
    yield workers


def _tenant_metrics(tenants: list[SeenTenant]) -> Iterator["Metric"]:
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

    jobs = GaugeMetricFamily(
        f"{PREFIX}tenant_jobs",
        "Jobs by tenant and state: queued (in the queue), held (in the waiting room), running.",
        labels=("tenant", "state"),
    )
    seconds = GaugeMetricFamily(
        f"{PREFIX}tenant_gpu_seconds",
        "Seconds on devices by tenant, in the last hour and since midnight UTC.",
        labels=("tenant", "period"),
    )
    share = GaugeMetricFamily(
        f"{PREFIX}tenant_share_ratio",
        "The tenant's share of the models in use while jobs are held, from 0 to 1.",
        labels=("tenant",),
    )
    for tenant, total in _limit_tenants(tenants).items():
        queued = None if total.waiting is None else total.waiting - total.held
        for state, count in (("queued", queued), ("held", total.held), ("running", total.running)):
            if count is not None:
                jobs.add_metric((tenant, state), count)
        seconds.add_metric((tenant, "hour"), total.hour_seconds)
        seconds.add_metric((tenant, "day"), total.day_seconds)
        if total.share is not None and tenant != OTHER:
            share.add_metric((tenant,), total.share)
    yield from (jobs, seconds, share)


def _limit_tenants(tenants: list[SeenTenant]) -> dict[str, TenantFigures]:
    """Return the figures of MAX_SHOWN tenants by label, and of the others under OTHER."""
    found: dict[str, list[TenantFigures]] = {}
    active = most_used(tenant for tenant in tenants if tenant.models)
    for place, tenant in enumerate(active):
        label = tenant.name or NO_NAME if place < MAX_SHOWN else OTHER
        found.setdefault(label, []).append(tenant.total)
    return {label: add_figures(figures) for label, figures in found.items()}


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the upper bounds and the cumulative counts of the exported buckets."""
    found: list[tuple[str, float]] = []
    for last in _EXPORTED_BUCKETS:
        below = sum(count for bucket, count in histogram.counts.items() if bucket <= last)
        found.append((f"{BUCKET_SECONDS[last]:g}", below))
    return [*found, ("+Inf", histogram.counts.total())]
