"""Loosely's client: hand in a job over HTTP, get its result.

Importing this package costs nothing: the client and what it needs are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loosely.client import Client
    from loosely.errors import (
        GatewayUnreachable,
        JobEnded,
        LooselyError,
        Problem,
        RequestRefused,
        UnexpectedAnswer,
    )
    from loosely.job import Job, Result

__version__ = "0.1.0"

__all__ = [
    "Client",
    "GatewayUnreachable",
    "Job",
    "JobEnded",
    "LooselyError",
    "Problem",
    "RequestRefused",
    "Result",
    "UnexpectedAnswer",
    "__version__",
]

_HOMES = {
    "Client": "loosely.client",
    "GatewayUnreachable": "loosely.errors",
    "Job": "loosely.job",
    "JobEnded": "loosely.errors",
    "LooselyError": "loosely.errors",
    "Problem": "loosely.errors",
    "RequestRefused": "loosely.errors",
    "Result": "loosely.job",
    "UnexpectedAnswer": "loosely.errors",
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
