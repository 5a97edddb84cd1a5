"""Fixtures: one Service Bus and blob storage for all tests, and a gateway and workers per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.worker.worker_gateway import Gateway, run_gateway
from tests.conformance.worker.worker_services import LocalServices, Program, run_services

StartWorker = Callable[..., Program]


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    with run_services(tmp_path_factory.mktemp("worker-services")) as running:
        yield running


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with run_gateway() as running:
        yield running


@pytest.fixture
def start_worker(services: LocalServices, gateway: Gateway) -> Iterator[StartWorker]:
    """Yield a function that starts a worker for the given models. Kill all workers at the end."""
    started: list[Program] = []

    def start(models: str, *, wait: bool = True, **settings: str) -> Program:
        worker = services.worker(gateway.host, models, **settings)
        started.append(worker)
        worker.start(wait=wait)
        return worker

    yield start
    for worker in started:
        worker.kill()
    # A worker that is killed before it settles leaves its messages to the next test.
    services.clear_queues()
