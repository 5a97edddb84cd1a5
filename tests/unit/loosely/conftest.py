from collections.abc import Iterator

import pytest

from tests.unit.loosely.scripted_gateway import ScriptedGateway, serving


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    """A gateway to be told what to answer."""
    with serving() as started:
        yield started
