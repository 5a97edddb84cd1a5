"""Test how a delivery history is stored in a message."""

import json

import pytest

from contract.names import PROPERTY_DELIVERY_HISTORY
from worker.processes.history import NO_HISTORY, DeliveryHistory, read_history

HISTORY = DeliveryHistory(1, 2, 3, 4)


def test_history_is_read_from_the_properties() -> None:
    assert read_history(HISTORY.to_properties()) == HISTORY
    assert DeliveryHistory.from_bytes(HISTORY.to_bytes()) == HISTORY


def test_count_stops_at_255() -> None:
    full = DeliveryHistory(300, 300, 300, 300)
    assert read_history(full.to_properties()) == DeliveryHistory.from_bytes(full.to_bytes())


def test_members_of_a_later_version_are_ignored() -> None:
    text = json.dumps({"failed_count": 1, "new": "x"})
    assert read_history({PROPERTY_DELIVERY_HISTORY: text}) == DeliveryHistory(1)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "7", '{"failed_count": -1}', '{"failed_count": "1"}', "[" * 100_000]
)
def test_invalid_history_is_ignored(text: str) -> None:
    assert read_history({PROPERTY_DELIVERY_HISTORY: text}) == NO_HISTORY


def test_three_kills_count_as_one_failure() -> None:
    assert [DeliveryHistory(2, kills).failures for kills in range(7)] == [2, 2, 2, 3, 3, 3, 4]
