"""Loosely's client: submit a job over HTTP and get its result.

Importing this package is fast. The client's modules and their dependencies are imported when a
public name is used for the first time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loosely.client.clients import AsyncClient, Client
    from loosely.client.errors import (
        AccessDenied,
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
        UnexpectedAnswer,
        WaitTimedOut,
    )
    from loosely.client.resources import (
        Event,
        Job,
        JobDurations,
        JobPage,
        Model,
        Place,
        Progress,
        Result,
        Timeline,
        TimelineDelivery,
        TimelineStep,
        Upload,
    )
    from loosely.client.retry import Retry

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Client",
    "Event",
    "GatewayFailure",
    "GatewayUnreachable",
    "IdempotencyMismatch",
    "InputRejected",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobDurations",
    "JobEnded",
    "JobExpired",
    "JobFailed",
    "JobPage",
    "LooselyError",
    "Model",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "Place",
    "Problem",
    "Progress",
    "RequestRefused",
    "Result",
    "Retry",
    "Timeline",
    "TimelineDelivery",
    "TimelineStep",
    "UnexpectedAnswer",
    "Upload",
    "WaitTimedOut",
    "__version__",
]

_ERRORS = (
    *("AccessDenied", "GatewayFailure", "GatewayUnreachable", "IdempotencyMismatch"),
    *("InputRejected", "InvalidRequest", "JobCancelled", "JobEnded", "JobExpired", "JobFailed"),
    *("LooselyError", "NotFound", "Overloaded", "PayloadTooLarge", "Problem", "RequestRefused"),
    *("UnexpectedAnswer", "WaitTimedOut"),
)
_RESOURCES = (
    *("Event", "Job", "JobPage", "JobDurations", "Model", "Place", "Progress", "Result"),
    *("Timeline", "TimelineDelivery", "TimelineStep", "Upload"),
)
#: For each public name, the module that defines it.
_MODULES = {
    **dict.fromkeys(("AsyncClient", "Client"), "loosely.client.clients"),
    **dict.fromkeys(_ERRORS, "loosely.client.errors"),
    **dict.fromkeys(_RESOURCES, "loosely.client.resources"),
    "Retry": "loosely.client.retry",
}


def __getattr__(name: str) -> object:
    """Import and return the object with this public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
