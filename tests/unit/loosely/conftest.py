from collections.abc import Iterator

import pytest

from tests.unit.loosely.both_clients import Connect, SleepClock, connecting_clients
from tests.unit.loosely.scripted_gateway import ScriptedGateway, serving


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    """Yield a running gateway on loopback that returns the responses that a test has set."""
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_api_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOSELY_API_KEY", raising=False)


@pytest.fixture
def clock() -> SleepClock:
    return SleepClock()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, clock: SleepClock) -> Iterator[Connect]:
    with connecting_clients(request.param, clock) as connect:
        yield connect
