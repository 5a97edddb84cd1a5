"""What a load costs a month: GPUs that come and go, what stands around them, and one that stays.

GPU hours come from :func:`loosely.planning.simulation.simulate` over one day; a month has
30.4 such days. The gateway's instances are taken for busy while a request is open. With requests
arriving by chance at rate r, each open for W seconds, the share of time with none open is
exp(-r W) (a queue with a server for each, M/G/inf), and r W are open on average.

A request that waits also reads the blob with its job's outcome, at first every 25 ms, and every
half second in the end. Most of these reads find nothing and cost as much as any other.
"""

import math
from dataclasses import dataclass, replace

from loosely.planning.bill import Bill
from loosely.planning.load import HOURS, Load
from loosely.planning.machines import Machines, Work, serverless
from loosely.planning.outcome import Outcome
from loosely.planning.prices import Gpu, Prices
from loosely.planning.simulation import simulate
from loosely.scaling.rules import Behavior, Scaling

DAYS = 30.4
MONTH_HOURS = DAYS * 24
_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 24 * _HOUR_SECONDS
#: A gateway answers 202 after that, so no request is open for longer (`Prefer: wait`).
_LONGEST_WAIT_SECONDS = 30.0
#: The pauses of a waiting request between its looks at the outcome: each is twice the last.
FIRST_PAUSE_SECONDS = 0.025
LONGEST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Deployment:
    """The load, and what runs it."""

    load: Load
    scaling: Scaling
    machines: Machines
    work: Work
    gpu: str
    #: Until a replica of Container Apps has its GPU: an assumption, as all such delays.
    replica_start_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """The bills, and the runs behind those whose GPUs come and go."""

    bills: tuple[Bill, ...]
    on_nodes: Outcome
    on_replicas: Outcome | None


def estimate(deployment: Deployment, prices: Prices) -> Estimate:
    """Return the bill of each way to run it; raises PricesUnusable."""
    gpu, load = prices.gpu(deployment.gpu), deployment.load
    nodes = simulate(load, deployment.scaling, deployment.machines, deployment.work, _DAY_SECONDS)
    bills = [
        _on_nodes("AKS, spot", "node_hour_spot", nodes, deployment, prices),
        _on_nodes("AKS, on demand", "node_hour_on_demand", nodes, deployment, prices),
    ]
    replicas = None
    if gpu.container_apps is not None:
        machines = serverless(deployment.machines, deployment.replica_start_seconds)
        # Container Apps lets nobody set how fast replicas go: it is as Kubernetes has it.
        scaling = replace(deployment.scaling, behavior=Behavior())
        replicas = simulate(load, scaling, machines, deployment.work, _DAY_SECONDS)
        bills.append(_on_replicas(replicas, gpu.container_apps, load, prices))
    bills.append(_always_on(deployment, gpu, prices))
    return Estimate(tuple(bills), nodes, replicas)


def _on_nodes(
    name: str, group: str, outcome: Outcome, deployment: Deployment, prices: Prices
) -> Bill:
    node = prices.gpu(deployment.gpu).node
    bill = Bill(name, outcome.node_hours * DAYS)
    bill.add("GPU", f"hours of {node}", bill.gpu_hours, prices.price(f"{group}.{node}"))
    for part in ("control_plane", "system_node"):
        bill.add("cluster", f"hours of {part}", MONTH_HOURS, prices.price(f"cluster_hour.{part}"))
    _add_gateway(bill, deployment.load, outcome.mean_answer_seconds, prices)
    return bill


def _on_replicas(outcome: Outcome, profile: str, load: Load, prices: Prices) -> Bill:
    bill = Bill("Container Apps", outcome.node_hours * DAYS)
    hours = bill.gpu_hours
    cores = prices.usage("cores_of_a_container_apps_replica", profile)
    gib = prices.usage("gib_of_a_container_apps_replica", profile)
    group = "container_apps_hour"
    bill.add("GPU", f"hours of {profile}", hours, prices.price(f"{group}.gpu_{profile}"))
    bill.add("GPU", "core hours", hours * cores, prices.price(f"{group}.core"))
    bill.add("GPU", "GiB hours", hours * gib, prices.price(f"{group}.gib"))
    _add_gateway(bill, load, outcome.mean_answer_seconds, prices)
    return bill


def _always_on(deployment: Deployment, gpu: Gpu, prices: Prices) -> Bill:
    """GPUs behind a REST server, enough of them for the busiest hour, and nothing else."""
    load, work = deployment.load, deployment.work
    busy = load.busiest_per_second * work.seconds(work.batch_size) / work.batch_size
    count = max(1, math.ceil(busy / prices.usage("always_on_utilisation")))
    bill = Bill(f"always on, {count} GPU{'s' if count > 1 else ''}", count * MONTH_HOURS)
    price = prices.price(f"node_hour_on_demand.{gpu.node}")
    bill.add("GPU", f"hours of {gpu.node}", bill.gpu_hours, price)
    return bill


def looks(wait_seconds: float) -> int:
    """Return how often a request reads its job's outcome while it waits this long.

    Nobody wakes it: the reply comes to another instance of the gateway.
    """
    count, at_seconds, pause_seconds = 0, 0.0, FIRST_PAUSE_SECONDS
    while at_seconds < wait_seconds:
        at_seconds += pause_seconds
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        count += 1
    return count


def _add_gateway(bill: Bill, load: Load, answer_seconds: float, prices: Prices) -> None:
    jobs = load.jobs_per_day * DAYS
    open_seconds = min(answer_seconds, _LONGEST_WAIT_SECONDS)
    _add_functions(bill, load, open_seconds, prices)
    actions = jobs * prices.usage("durable_actions_per_job") / 1e6
    bill.add("durable", "million actions", actions, prices.price("durable.million_actions"))
    operations = jobs * prices.usage("service_bus_operations_per_job")
    operations += MONTH_HOURS * prices.usage("service_bus_operations_per_hour")
    paid = max(0.0, operations / 1e6 - _known(prices, "service_bus.included_million_operations"))
    bill.add("Service Bus", "months", 1.0, prices.price("service_bus.month"))
    bill.add(
        "Service Bus", "million operations", paid, prices.price("service_bus.million_operations")
    )
    kept_gb = (
        jobs / DAYS * prices.usage("retention_days") * prices.usage("payload_mb_per_job") / 1000
    )
    bill.add("storage", "GB months", kept_gb, prices.price("storage.gb_month"))
    writes = jobs * prices.usage("writes_per_job") / 1e4
    reads = jobs * (prices.usage("reads_per_job") + looks(open_seconds)) / 1e4
    bill.add("storage", "10,000 writes", writes, prices.price("storage.ten_thousand_writes"))
    bill.add("storage", "10,000 reads", reads, prices.price("storage.ten_thousand_reads"))
    bill.add("registry", "days", DAYS, prices.price("registry.day"))
    logs_gb = max(0.0, jobs * prices.usage("log_kb_per_job") / 1e6 - _known(prices, "logs.free_gb"))
    bill.add("logs", "GB", logs_gb, prices.price("logs.gb"))


def _add_functions(bill: Bill, load: Load, open_seconds: float, prices: Prices) -> None:
    ready, size_gb = prices.usage("ready_instances"), prices.usage("instance_gb")
    executions = load.jobs_per_day * DAYS * prices.usage("executions_per_job")
    gb_seconds = DAYS * size_gb * _busy_seconds(load, open_seconds, prices)
    kind = "ready_busy_gb_second"
    if ready:
        standing = ready * size_gb * MONTH_HOURS * _HOUR_SECONDS
        bill.add("Functions", "GB-s ready", standing, prices.price("functions.ready_gb_second"))
    else:  # only what comes on demand has free grants
        kind = "gb_second"
        executions = max(0.0, executions - _known(prices, "functions.free_executions"))
        gb_seconds = max(0.0, gb_seconds - _known(prices, "functions.free_gb_seconds"))
    bill.add("Functions", "GB-s", gb_seconds, prices.price(f"functions.{kind}"))
    price = prices.price("functions.million_executions")
    bill.add("Functions", "million executions", executions / 1e6, price)


def _busy_seconds(load: Load, open_seconds: float, prices: Prices) -> float:
    """Instance seconds of a day with a request open."""
    together = prices.usage("concurrent_requests")
    rates = [jobs / _HOUR_SECONDS for jobs in load.jobs_per_hour]
    if load.burst:
        rates = [load.burst / _DAY_SECONDS] * HOURS
    shares = (max(-math.expm1(-r * open_seconds), r * open_seconds / together) for r in rates)
    return _HOUR_SECONDS * sum(shares)


def _known(prices: Prices, name: str) -> float:
    return prices.price(name).amount or 0.0
