from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.unit.loosely.both_clients import Connect, SleepClock, connecting_clients
from tests.unit.loosely.command_line import VARIABLES, Run, run_command
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


@pytest.fixture
def loosely(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Return a function that runs a command for the scripted gateway in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOOSELY_URL", gateway.url)
    return run_command


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 picture")
    return str(path)


@pytest.fixture
def submit(loosely: Run, picture: str) -> Run:
    """Return a function that runs `loosely submit` with a picture for the model `classifier`."""
    return partial(loosely, "submit", picture, "-m", "classifier")
