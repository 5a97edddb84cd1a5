"""Loosely's client: hand in a job over HTTP, get its result.

Importing this package costs nothing: the client and what it needs are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loosely.async_client import AsyncClient
    from loosely.client import Client
    from loosely.errors import (
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
    from loosely.events import Event
    from loosely.job import Job, Model, Place, Result, Upload
    from loosely.retry import Retry

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
    "JobEnded",
    "JobExpired",
    "JobFailed",
    "LooselyError",
    "Model",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "Place",
    "Problem",
    "RequestRefused",
    "Result",
    "Retry",
    "UnexpectedAnswer",
    "Upload",
    "WaitTimedOut",
    "__version__",
]

_HOMES = {
    "AccessDenied": "loosely.errors",
    "AsyncClient": "loosely.async_client",
    "Client": "loosely.client",
    "Event": "loosely.events",
    "GatewayFailure": "loosely.errors",
    "GatewayUnreachable": "loosely.errors",
    "IdempotencyMismatch": "loosely.errors",
    "InputRejected": "loosely.errors",
    "InvalidRequest": "loosely.errors",
    "Job": "loosely.job",
    "JobCancelled": "loosely.errors",
    "JobEnded": "loosely.errors",
    "JobExpired": "loosely.errors",
    "JobFailed": "loosely.errors",
    "LooselyError": "loosely.errors",
    "Model": "loosely.job",
    "NotFound": "loosely.errors",
    "Overloaded": "loosely.errors",
    "PayloadTooLarge": "loosely.errors",
    "Place": "loosely.job",
    "Problem": "loosely.errors",
    "RequestRefused": "loosely.errors",
    "Result": "loosely.job",
    "Retry": "loosely.retry",
    "UnexpectedAnswer": "loosely.errors",
    "Upload": "loosely.job",
    "WaitTimedOut": "loosely.errors",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
