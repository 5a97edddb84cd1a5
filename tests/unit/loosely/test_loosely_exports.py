"""Test which public names the package `loosely` exports."""

from importlib import import_module
from inspect import iscoroutinefunction, signature

import pytest

import loosely
from loosely import AsyncClient, Client
from loosely.client import errors

PUBLIC = """
AccessDenied AsyncBatches AsyncClient AsyncJobStream AsyncTenants BatchRefused
BlockingBatches BlockingTenants Client Event GatewayFailure GatewayUnreachable
IdempotencyMismatch InputRejected InvalidRequest Job JobBatch JobCancelled JobDurations
JobEnded JobEvent JobExpired JobFailed JobPage JobStream LineCounts LooselyError Model
NotFound Outcome Overloaded PayloadTooLarge Place Problem Progress RequestRefused Result
Retry ShareSettings StreamRestarted Tenant TenantChange Timeline TimelineDelivery
TimelineStep UnexpectedAnswer Upload WaitTimedOut
"""
EXPORTS = sorted(set(loosely.__all__) - {"__version__"})


def test_public_names_are_exactly_these() -> None:
    assert sorted(loosely.__all__) == sorted(dir(loosely))
    assert PUBLIC.split() == EXPORTS


@pytest.mark.parametrize("name", EXPORTS)
def test_export_is_documented_and_found(name: str) -> None:
    member = getattr(loosely, name)
    assert member is getattr(import_module(member.__module__), name)
    assert member.__doc__


def test_exceptions_are_public_and_in_tree() -> None:
    tree = (errors.__doc__ or "").split()
    kinds = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.LooselyError)
    ]
    assert [name for name in kinds if name not in tree or name not in EXPORTS] == []


def test_both_clients_have_same_methods() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        public = {name for name in dir(client) if not name.startswith("_") and name != "url"}
        return {name: list(signature(getattr(client, name)).parameters) for name in public}

    assert methods(Client) == methods(AsyncClient)
    iterators = {"iter_events", "jobs", "map", "stream", "follow"}
    waited_for = {name for name in methods(AsyncClient) if name not in iterators}
    assert all(iscoroutinefunction(getattr(AsyncClient, name)) for name in waited_for)
