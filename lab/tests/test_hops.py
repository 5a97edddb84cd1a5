"""Test the latency of a job if the connections between the components have a network delay.

Only the connections that cross the network in Azure have the delay. The benchmark `./dev bench
hops` uses the same system.
"""

from pathlib import Path

import pytest

from lab.benchmarks.hops import measure_latencies, run_system

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.thorough,
    pytest.mark.torch,
    pytest.mark.timeout(180),
]

DELAY_MS = 100.0
# The message's way to Service Bus and to the worker, the reply's way to the gateway, and the start
# of the orchestration with the outcome.
FEWEST_HOPS = 2.5


def test_latency_is_at_least_2_5_delays(tmp_path: Path) -> None:
    with run_system(tmp_path, DELAY_MS) as url:
        latencies_ms = measure_latencies(url, size_bytes=8, jobs=1)
    # Timers of the event loop have a resolution of about 1 ms.
    assert min(latencies_ms) >= FEWEST_HOPS * DELAY_MS - 5
