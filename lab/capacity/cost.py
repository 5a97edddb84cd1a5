"""Estimate the monthly cost of jobs: with autoscaling, and with GPUs that are always on.

`simulation.simulate` computes the GPU hours of one day, or of one week if workers are kept warm in
periods of the week. A month has 30.4 days.

An instance of the gateway is billed while at least one request is open. This time is estimated with
queueing theory (M/G/∞): requests arrive as a Poisson process with r requests per second, and each
request is open for W seconds on average. Then r W requests are open on average, and the fraction of
time without an open request is exp(-r W).

While a request waits for the end of its job, its instance reads the log of ends, which all waiting
requests of the instance share. Every read is billed, even if nothing was appended. A request that
waits for long also looks for the end itself, rarely.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from lab.capacity.load import HOURS, JobLoad
from lab.capacity.nodes import BatchTimes, Cluster, serverless_cluster
from lab.capacity.prices import Gpu, Price, Prices
from lab.capacity.simulation import SimulationResult, simulate
from loosely.local.scaling import Behavior, ScaledObject

DAYS = 30.4
MONTH_HOURS = DAYS * 24
_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 24 * _HOUR_SECONDS
#: In seconds. The gateway responds with 202 after this time, so no request is open longer.
_MAX_OPEN_SECONDS = 30.0
#: How often an instance with a waiting request reads the log of ends in a second, if a read takes
#: 5 ms.
FOLLOW_READS_PER_SECOND = 40.0
#: The pauses of a waiting request between its own looks. Each is twice the one before, up to the
#: longest.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class BillLine:
    """One line of a bill: a quantity, its unit, and the price of one unit.

    ``item`` is for example ``Service Bus``, and ``what`` is the unit, for example ``months``.
    """

    item: str
    what: str
    quantity: float
    price: Price

    @property
    def amount(self) -> float | None:
        """The quantity multiplied by the price; ``None`` if the price is unknown."""
        return None if self.price.amount is None else self.quantity * self.price.amount


@dataclass(slots=True)
class Bill:
    """A month's bill for one kind of deployment."""

    name: str
    gpu_hours: float
    lines: list[BillLine] = field(default_factory=list)

    def add(self, item: str, what: str, quantity: float, price: Price) -> None:
        """Add a line to the bill, such as ``months`` of ``Service Bus`` at a price."""
        self.lines.append(BillLine(item, what, quantity, price))

    @property
    def total(self) -> float:
        """The sum of the amounts of all lines whose price is known."""
        return sum(line.amount or 0.0 for line in self.lines)

    @property
    def unknown(self) -> list[str]:
        """The unit of each line whose price is unknown. A unit may be listed several times."""
        return [line.what for line in self.lines if line.amount is None]

    def by_item(self) -> dict[str, float | None]:
        """Return, for each item, the sum of the amounts of its lines.

        Lines with an unknown amount are left out. The sum is ``None`` if the amounts of all lines
        of an item are unknown.
        """
        sums: dict[str, float | None] = {}
        for line in self.lines:
            before, amount = sums.get(line.item), line.amount
            sums[line.item] = before if amount is None else (before or 0.0) + amount
        return sums

    def document(self) -> dict[str, Any]:
        """Return the bill as a JSON document."""
        return {
            "name": self.name,
            "gpu_hours": round(self.gpu_hours, 2),
            "total": round(self.total, 2),
            "unknown": self.unknown,
            "lines": [
                {
                    "item": line.item,
                    "what": line.what,
                    "quantity": round(line.quantity, 4),
                    "price": line.price.amount,
                    "assumed": line.price.is_assumed,
                    "amount": None if line.amount is None else round(line.amount, 2),
                }
                for line in self.lines
            ],
        }


@dataclass(frozen=True, slots=True)
class PlannedDeployment:
    """A deployment whose cost is estimated: its load of jobs and its settings."""

    load: JobLoad
    scaling: ScaledObject
    cluster: Cluster
    times: BatchTimes
    gpu: str
    #: Seconds until the GPU of a new Container Apps replica can be used. The default is an
    #: assumption.
    replica_start_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The monthly bill of each kind of deployment, and the results of the simulations.

    `on_nodes` is the simulation on AKS. `on_replicas` is the simulation on Container Apps; None if
    Container Apps does not have the GPU. `simulated_days` is the number of days of each simulation.
    """

    bills: tuple[Bill, ...]
    on_nodes: SimulationResult
    on_replicas: SimulationResult | None
    simulated_days: int = 1


def estimate_cost(deployment: PlannedDeployment, prices: Prices) -> CostEstimate:
    """Return a bill for each kind of deployment.

    The kinds are AKS with spot nodes, AKS with on-demand nodes, Container Apps if it has the GPU,
    and GPUs that are always on.

    Raises:
        PricesUnusable: The price list does not contain the GPU or an entry that a bill needs.
    """
    gpu, load = prices.gpu(deployment.gpu), deployment.load
    # Periods may differ from day to day, but each week is the same.
    days = 7 if deployment.scaling.cron else 1
    seconds = days * _DAY_SECONDS
    nodes = simulate(load, deployment.scaling, deployment.cluster, deployment.times, seconds)
    gpu_hours = nodes.node_hours / days * DAYS
    bills = [
        _bill_nodes("AKS, spot", "node_hour_spot", gpu_hours, nodes, deployment, prices),
        _bill_nodes("AKS, on demand", "node_hour_on_demand", gpu_hours, nodes, deployment, prices),
    ]
    replicas = None
    if gpu.container_apps is not None:
        cluster = serverless_cluster(deployment.cluster, deployment.replica_start_seconds)
        # Container Apps has no setting for the scaling behavior. It uses the default of Kubernetes.
        scaling = replace(deployment.scaling, behavior=Behavior())
        replicas = simulate(load, scaling, cluster, deployment.times, seconds)
        hours = replicas.node_hours / days * DAYS
        bills.append(_bill_replicas(replicas, hours, gpu.container_apps, load, prices))
    bills.append(_bill_always_on(deployment, gpu, prices))
    return CostEstimate(tuple(bills), nodes, replicas, days)


def _bill_nodes(  # noqa: PLR0913, PLR0917 - a bill has these parts
    name: str,
    group: str,
    gpu_hours: float,
    result: SimulationResult,
    deployment: PlannedDeployment,
    prices: Prices,
) -> Bill:
    node = prices.gpu(deployment.gpu).node
    bill = Bill(name, gpu_hours)
    bill.add("GPU", f"hours of {node}", bill.gpu_hours, prices.price(f"{group}.{node}"))
    for part, count in (("control_plane", 1), ("system_node", prices.usage("system_nodes"))):
        hours = MONTH_HOURS * count
        bill.add("cluster", f"hours of {part}", hours, prices.price(f"cluster_hour.{part}"))
    for part in ("load_balancer", "public_address"):
        bill.add("cluster", f"hours of {part}", MONTH_HOURS, prices.price(f"cluster_hour.{part}"))
    disks = prices.usage("system_nodes") + bill.gpu_hours / MONTH_HOURS
    bill.add("disks", "months of a disk", disks, prices.price("disks.node_disk_month"))
    _add_gateway(bill, deployment.load, result.mean_answer_seconds, prices)
    return bill


def _bill_replicas(
    result: SimulationResult, hours: float, profile: str, load: JobLoad, prices: Prices
) -> Bill:
    bill = Bill("Container Apps", hours)
    cores = prices.usage("cores_of_a_container_apps_replica", profile)
    gib = prices.usage("gib_of_a_container_apps_replica", profile)
    group = "container_apps_hour"
    bill.add("GPU", f"hours of {profile}", hours, prices.price(f"{group}.gpu_{profile}"))
    bill.add("GPU", "core hours", hours * cores, prices.price(f"{group}.core"))
    bill.add("GPU", "GiB hours", hours * gib, prices.price(f"{group}.gib"))
    _add_gateway(bill, load, result.mean_answer_seconds, prices)
    return bill


def _bill_always_on(deployment: PlannedDeployment, gpu: Gpu, prices: Prices) -> Bill:
    """Return the bill for GPUs that are always on, without queues and scaling.

    The number of GPUs is sufficient for the busiest hour.
    """
    load, times = deployment.load, deployment.times
    busy = load.busiest_per_second * times.seconds(times.batch_size) / times.batch_size
    count = max(1, math.ceil(busy / prices.usage("always_on_utilisation")))
    bill = Bill(f"always on, {count} GPU{'s' if count > 1 else ''}", count * MONTH_HOURS)
    price = prices.price(f"node_hour_on_demand.{gpu.node}")
    bill.add("GPU", f"hours of {gpu.node}", bill.gpu_hours, price)
    return bill


def count_looks(wait_seconds: float) -> int:
    """Return how often a request that waits ``wait_seconds`` for its job looks for the end itself.

    It finds an end whose line in the log was lost.
    """
    count, at_seconds, pause_seconds = 0, FIRST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS
    while at_seconds < wait_seconds:
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        at_seconds += pause_seconds
        count += 1
    return count


def _add_gateway(bill: Bill, load: JobLoad, answer_seconds: float, prices: Prices) -> None:
    jobs = load.jobs_per_day * DAYS
    open_seconds = min(answer_seconds, _MAX_OPEN_SECONDS)
    _add_functions(bill, load, open_seconds, prices)
    actions = jobs * prices.usage("durable_actions_per_job") / 1e6
    bill.add("durable", "million actions", actions, prices.price("durable.million_actions"))
    operations = jobs * prices.usage("service_bus_operations_per_job")
    operations += MONTH_HOURS * prices.usage("service_bus_operations_per_hour")
    paid = max(
        0.0, operations / 1e6 - _amount_or_zero(prices, "service_bus.included_million_operations")
    )
    bill.add("Service Bus", "months", 1.0, prices.price("service_bus.month"))
    bill.add(
        "Service Bus", "million operations", paid, prices.price("service_bus.million_operations")
    )
    kept_gb = (
        jobs / DAYS * prices.usage("retention_days") * prices.usage("payload_mb_per_job") / 1000
    )
    bill.add("storage", "GB months", kept_gb, prices.price("storage.gb_month"))
    writes = jobs * prices.usage("writes_per_job") / 1e4
    reads = jobs * (prices.usage("reads_per_job") + count_looks(open_seconds)) / 1e4
    waiting_seconds = DAYS * _busy_seconds(load, open_seconds, prices)
    reads += waiting_seconds * FOLLOW_READS_PER_SECOND / 1e4
    write_price = prices.price("storage.ten_thousand_writes")
    bill.add("storage", "10,000 writes", writes, write_price)
    bill.add("storage", "10,000 reads", reads, prices.price("storage.ten_thousand_reads"))
    beats = bill.gpu_hours * prices.usage("heartbeats_per_worker_hour")
    figures = (beats + _sums(jobs, prices)) / 1e4
    bill.add("heartbeats, sums", "10,000 writes", figures, write_price)
    bill.add("registry", "days", DAYS, prices.price("registry.day"))
    logs_gb = max(
        0.0, jobs * prices.usage("log_kb_per_job") / 1e6 - _amount_or_zero(prices, "logs.free_gb")
    )
    bill.add("logs", "GB", logs_gb, prices.price("logs.gb"))
    tests = MONTH_HOURS * prices.usage("web_tests_per_hour") / 1e4
    bill.add("web tests", "10,000 web tests", tests, prices.price("web_tests.ten_thousand"))


def _sums(jobs: float, prices: Prices) -> float:
    """Return how often, at most, all gateway instances write sums and usage in a month.

    An instance writes only after a job was accepted or has ended.
    """
    hours = max(1.0, prices.usage("ready_instances")) * MONTH_HOURS
    return min(2 * jobs, hours * prices.usage("sums_per_instance_hour")) + min(
        jobs, hours * prices.usage("usage_per_instance_hour")
    )


def _add_functions(bill: Bill, load: JobLoad, open_seconds: float, prices: Prices) -> None:
    ready, size_gb = prices.usage("ready_instances"), prices.usage("instance_gb")
    executions = load.jobs_per_day * DAYS * prices.usage("executions_per_job")
    gb_seconds = DAYS * size_gb * _busy_seconds(load, open_seconds, prices)
    kind = "ready_busy_gb_second"
    if ready:
        standing = ready * size_gb * MONTH_HOURS * _HOUR_SECONDS
        bill.add("Functions", "GB-s ready", standing, prices.price("functions.ready_gb_second"))
    else:  # the free grant applies only to on-demand instances
        kind = "gb_second"
        executions = max(0.0, executions - _amount_or_zero(prices, "functions.free_executions"))
        gb_seconds = max(0.0, gb_seconds - _amount_or_zero(prices, "functions.free_gb_seconds"))
    bill.add("Functions", "GB-s", gb_seconds, prices.price(f"functions.{kind}"))
    price = prices.price("functions.million_executions")
    bill.add("Functions", "million executions", executions / 1e6, price)


def _busy_seconds(load: JobLoad, open_seconds: float, prices: Prices) -> float:
    """Return the billed seconds of all gateway instances in one day.

    An instance is billed while at least one request is open. If more requests are open than one
    instance can serve, several instances are billed. ``open_seconds`` is the average time for which
    a request is open.
    """
    together = prices.usage("concurrent_requests")
    rates = [jobs / _HOUR_SECONDS for jobs in load.jobs_per_hour]
    if load.burst:
        rates = [load.burst / _DAY_SECONDS] * HOURS
    shares = (max(-math.expm1(-r * open_seconds), r * open_seconds / together) for r in rates)
    return _HOUR_SECONDS * sum(shares)


def _amount_or_zero(prices: Prices, name: str) -> float:
    return prices.price(name).amount or 0.0
