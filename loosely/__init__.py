"""Loosely's client: submit a job over HTTP and get its result.

Importing this package is fast. The client's modules and their dependencies are imported when a
public name is used for the first time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from loosely.client.settings import __version__

if TYPE_CHECKING:
    from loosely.client.batches import AsyncBatches
    from loosely.client.clients import (
        AsyncClient,
        BlockingBatches,
        BlockingTenants,
        Client,
        JobStream,
    )
    from loosely.client.errors import (
        AccessDenied,
        BatchRefused,
        GatewayFailure,
        GatewayUnreachable,
        IdempotencyMismatch,
        InputRejected,
        InvalidRequest,
        JobCancelled,
        JobEnded,
        JobExpired,
        JobFailed,
        LooselyError,
        NotFound,
        Overloaded,
        PayloadTooLarge,
        Problem,
        RequestRefused,
        StreamRestarted,
        UnexpectedAnswer,
        WaitTimedOut,
    )
    from loosely.client.mapping import Outcome
    from loosely.client.resources import (
        Event,
        Job,
        JobBatch,
        JobDurations,
        JobEvent,
        JobPage,
        LineCounts,
        Model,
        Place,
        Progress,
        Result,
        Tenant,
        TenantChange,
        Timeline,
        TimelineDelivery,
        TimelineStep,
        Upload,
    )
    from loosely.client.retry import Retry
    from loosely.client.streams import AsyncJobStream
    from loosely.client.tenants import AsyncTenants, ShareSettings

__all__ = [
    "AccessDenied",
    "AsyncBatches",
    "AsyncClient",
    "AsyncJobStream",
    "AsyncTenants",
    "BatchRefused",
    "BlockingBatches",
    "BlockingTenants",
    "Client",
    "Event",
    "GatewayFailure",
    "GatewayUnreachable",
    "IdempotencyMismatch",
    "InputRejected",
    "InvalidRequest",
    "Job",
    "JobBatch",
    "JobCancelled",
    "JobDurations",
    "JobEnded",
    "JobEvent",
    "JobExpired",
    "JobFailed",
    "JobPage",
    "JobStream",
    "LineCounts",
    "LooselyError",
    "Model",
    "NotFound",
    "Outcome",
    "Overloaded",
    "PayloadTooLarge",
    "Place",
    "Problem",
    "Progress",
    "RequestRefused",
    "Result",
    "Retry",
    "ShareSettings",
    "StreamRestarted",
    "Tenant",
    "TenantChange",
    "Timeline",
    "TimelineDelivery",
    "TimelineStep",
    "UnexpectedAnswer",
    "Upload",
    "WaitTimedOut",
    "__version__",
]


_MODULES = ("errors", "resources", "retry", "streams", "mapping", "batches", "tenants", "clients")


def __getattr__(name: str) -> object:
    """Import and return the object with this public name."""
    if name in __all__:
        for module in _MODULES:
            found: object = getattr(import_module(f"loosely.client.{module}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
