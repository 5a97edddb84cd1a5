from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servicebus_tests.broker.broker_harness import RunningBroker


@pytest.fixture
async def servicebus(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    servicebus = await RunningBroker.open(tmp_path)
    yield servicebus
    await servicebus.broker.close()
