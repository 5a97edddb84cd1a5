"""Loosely's client: submit a job over HTTP and get its result.

Importing this package is cheap: the client and its dependencies are loaded on first use.
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
    from loosely.client.resources import Event, Job, Model, Place, Result, Upload
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

_MODULES = {
    "AccessDenied": "loosely.client.errors",
    "AsyncClient": "loosely.client.clients",
    "Client": "loosely.client.clients",
    "Event": "loosely.client.resources",
    "GatewayFailure": "loosely.client.errors",
    "GatewayUnreachable": "loosely.client.errors",
    "IdempotencyMismatch": "loosely.client.errors",
    "InputRejected": "loosely.client.errors",
    "InvalidRequest": "loosely.client.errors",
    "Job": "loosely.client.resources",
    "JobCancelled": "loosely.client.errors",
    "JobEnded": "loosely.client.errors",
    "JobExpired": "loosely.client.errors",
    "JobFailed": "loosely.client.errors",
    "LooselyError": "loosely.client.errors",
    "Model": "loosely.client.resources",
    "NotFound": "loosely.client.errors",
    "Overloaded": "loosely.client.errors",
    "PayloadTooLarge": "loosely.client.errors",
    "Place": "loosely.client.resources",
    "Problem": "loosely.client.errors",
    "RequestRefused": "loosely.client.errors",
    "Result": "loosely.client.resources",
    "Retry": "loosely.client.retry",
    "UnexpectedAnswer": "loosely.client.errors",
    "Upload": "loosely.client.resources",
    "WaitTimedOut": "loosely.client.errors",
}


def __getattr__(name: str) -> object:
    """Return a public name, imported from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
