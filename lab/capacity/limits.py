"""Compute which limit of Azure's services a load reaches first.

The limits are published by Microsoft. capacity.md has the sources, and the counts of
operations that a job needs.
"""

import math
from dataclasses import dataclass

#: Actions that the Durable Task Scheduler dispatches in a second.
CONSUMPTION_ACTIONS_PER_SECOND = 500.0
DEDICATED_ACTIONS_PER_SECOND = 2_000.0
#: Credits of a Standard namespace for each second. A message that is sent or received costs one.
#: Microsoft's list does not name settlements. They are counted, to be safe.
STANDARD_CREDITS_PER_SECOND = 1_000.0
MANAGEMENT_CREDITS = 10.0
#: How often each instance counts the messages of a busy queue (`FRESH_SECONDS`).
COUNT_INTERVAL_SECONDS = 5.0
#: Requests that a storage account serves in a second. Some regions have twice as many.
BLOB_REQUESTS_PER_SECOND = 20_000.0
#: Processor time of the app and the host for one job, measured by `./dev bench cpu`.
GATEWAY_SECONDS_PER_JOB = 0.0058
#: The share of its time for which an instance may be busy, so that requests do not wait for it.
BUSY_SHARE = 0.7
#: Reads of the log of ends in a second by one instance, at most (`FOLLOW_SECONDS`).
WAITING_READS_PER_SECOND = 50.0
#: Each base64 character has six bits. The rest of a message has about 1 KB.
_BASE64 = 4 / 3
_MESSAGE_BYTES = 1_000
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class JobShape:
    """A kind of job: how many operations of each service one job needs.

    `open_seconds` is how long the request that submits the job waits for the end of the job.
    `gateway_seconds` is the processor time of the gateway.
    """

    name: str
    actions: float
    service_bus_operations: float
    blob_operations: float
    open_seconds: float
    gateway_seconds: float = GATEWAY_SECONDS_PER_JOB


@dataclass(frozen=True, slots=True)
class DeploymentLimits:
    """The parameters of a deployment that determine its limits. The defaults are those of infra/.

    `dedicated_units` is the number of capacity units that the Durable Task Scheduler has in the
    plan Dedicated; it is 0 for the plan Consumption. `busy_queues` is the number of queues whose
    lengths are read, because callers submit jobs to these queues or poll jobs in these queues.
    """

    dedicated_units: int = 0
    is_premium: bool = False
    instances: int = 40
    concurrency: int = 50
    cores: float = 1.0
    queue_megabytes: int = 5120
    busy_queues: int = 2

    @property
    def actions_per_second(self) -> float:
        """How many actions per second the Durable Task Scheduler can dispatch."""
        if not self.dedicated_units:
            return CONSUMPTION_ACTIONS_PER_SECOND
        return DEDICATED_ACTIONS_PER_SECOND * self.dedicated_units


@dataclass(frozen=True, slots=True)
class Limit:
    """How many jobs per second one service can carry, and the parameter that changes this limit."""

    name: str
    jobs_per_second: float
    parameter: str


def find_limits(shape: JobShape, deployment: DeploymentLimits) -> list[Limit]:
    """Return the limits of a deployment for jobs of this shape, the lowest first."""
    credits_left = STANDARD_CREDITS_PER_SECOND - _count_credits(deployment, deployment.instances)
    waiting_reads = WAITING_READS_PER_SECOND * deployment.instances
    processor = deployment.instances * deployment.cores * BUSY_SHARE
    open_requests = deployment.instances * deployment.concurrency
    limits = [
        Limit(
            "Durable Task Scheduler",
            deployment.actions_per_second / shape.actions,
            "DURABLE_SKU, DURABLE_CAPACITY",
        ),
        Limit(
            "Service Bus",
            math.inf if deployment.is_premium else credits_left / shape.service_bus_operations,
            "SERVICE_BUS_SKU, SERVICE_BUS_UNITS",
        ),
        Limit(
            "blob storage",
            (BLOB_REQUESTS_PER_SECOND - waiting_reads) / shape.blob_operations,
            "none: a request to Azure's support",
        ),
        Limit(
            "gateway, processor",
            processor / shape.gateway_seconds,
            "GATEWAY_MAX_INSTANCES, GATEWAY_MEMORY_MB",
        ),
        Limit(
            "gateway, open requests",
            open_requests / shape.open_seconds if shape.open_seconds else math.inf,
            "GATEWAY_MAX_INSTANCES, GATEWAY_CONCURRENCY",
        ),
    ]
    return sorted(limits, key=lambda limit: limit.jobs_per_second)


@dataclass(frozen=True, slots=True)
class Need:
    """What a rate of jobs needs: operations per second, open requests and gateway instances."""

    actions_per_second: float
    credits_per_second: float
    blob_requests_per_second: float
    open_requests: float
    instances: int


def compute_need(jobs_per_second: float, shape: JobShape, deployment: DeploymentLimits) -> Need:
    """Return what `jobs_per_second` jobs of this shape need.

    `instances` is the number of gateway instances that the processor time and the open requests
    need. The blob requests do not include the repeated reads that waiting requests make.
    """
    open_requests = jobs_per_second * shape.open_seconds
    processor = jobs_per_second * shape.gateway_seconds / (BUSY_SHARE * deployment.cores)
    instances = max(1, math.ceil(processor), math.ceil(open_requests / deployment.concurrency))
    return Need(
        jobs_per_second * shape.actions,
        jobs_per_second * shape.service_bus_operations + _count_credits(deployment, instances),
        jobs_per_second * shape.blob_operations,
        open_requests,
        instances,
    )


def _count_credits(deployment: DeploymentLimits, instances: int) -> float:
    """Return how many credits a second the counts of messages need if so many instances count."""
    return MANAGEMENT_CREDITS * deployment.busy_queues * instances / COUNT_INTERVAL_SECONDS


def message_bytes(input_bytes: int) -> int:
    """Return the size in bytes of a message that contains an input of this size."""
    return math.ceil(input_bytes * _BASE64) + _MESSAGE_BYTES


def count_queued_jobs(input_bytes: int, deployment: DeploymentLimits) -> int:
    """Return how many jobs with inputs of this size fit into one queue."""
    return deployment.queue_megabytes * _MEGABYTE // message_bytes(input_bytes)
