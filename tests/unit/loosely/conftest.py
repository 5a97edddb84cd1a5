from collections.abc import Iterator

import pytest

from tests.unit.loosely.both_clients import Clock, Make, faces
from tests.unit.loosely.scripted_gateway import ScriptedGateway, serving


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    """A gateway to be told what to answer."""
    with serving() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_key_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOSELY_API_KEY", raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Make]:
    with faces(request.param, clock) as made:
        yield made
