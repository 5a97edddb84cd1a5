"""Test the prediction of shares and waits: cases calculated by hand, and invariants."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.capacity.nodes import BatchTimes
from lab.capacity.prices import Prices
from lab.capacity.tenants import TenantLoad, TenantResult, compute_room_use, simulate_tenants

ROOT = Path(__file__).parents[2]
ONE_BY_ONE = BatchTimes(0.1, 1, 0.1)
BATCHES = BatchTimes(0.06, 8, 0.26)


def part(found: dict[str, TenantResult], name: str) -> float:
    return found[name].device_seconds / sum(each.device_seconds for each in found.values())


class TestSimulation:
    def test_weights_are_the_parts_of_busy_tenants(self) -> None:
        loads = [
            TenantLoad("a", 1, burst=5000),
            TenantLoad("b", 2, burst=5000, cost=10),
            TenantLoad("c", 4, burst=5000, cost=5),
        ]
        found = simulate_tenants(loads, BatchTimes(0.01, 1, 0.01), duration_seconds=60)
        for load in loads:
            assert part(found, load.name) == pytest.approx(load.weight / 7, rel=0.05)

    def test_small_tenant_waits_for_a_window(self) -> None:
        loads = [
            TenantLoad("a", burst=10_000),
            TenantLoad("b", jobs_per_second=1, start_seconds=5),
        ]
        found = simulate_tenants(loads, BATCHES, duration_seconds=125)
        assert len(found["b"].wait_seconds) == found["b"].jobs
        assert max(found["b"].wait_seconds) <= 2 * 0.26 + 1e-6

    def test_without_shares_it_waits_for_all(self) -> None:
        loads = [
            TenantLoad("a", burst=100),
            TenantLoad("b", burst=1, start_seconds=1),
        ]
        waits = [
            simulate_tenants(loads, ONE_BY_ONE, has_shares=has_shares)["b"].wait_seconds
            for has_shares in (False, True)
        ]
        assert waits[0] == pytest.approx([9.0])
        assert waits[1][0] <= 1.01, "the window has ten jobs, which may start one more worker"

    def test_running_limit_is_kept(self) -> None:
        loads = [TenantLoad("a", burst=50, max_running=1), TenantLoad("b", burst=50)]
        found = simulate_tenants(loads, ONE_BY_ONE, workers=2, duration_seconds=2.05)
        assert found["a"].device_seconds <= 2.1

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 60), st.floats(0, 5), st.floats(0.1, 9)), min_size=1),
        st.integers(1, 3),
    )
    def test_device_is_never_idle_for_fairness(
        self, tenants: list[tuple[int, float, float]], workers: int
    ) -> None:
        """A job alone in its batch takes as long in any order, so the work is done as early."""
        loads = [
            TenantLoad(str(index), weight, burst=burst, start_seconds=start)
            for index, (burst, start, weight) in enumerate(tenants)
        ]
        fair, queued = (
            simulate_tenants(loads, ONE_BY_ONE, workers=workers, has_shares=has_shares)
            for has_shares in (True, False)
        )

        def total(found: dict[str, TenantResult]) -> tuple[int, float]:
            waits = [wait for each in found.values() for wait in each.wait_seconds]
            return len(waits), sum(waits)

        assert total(fair) == pytest.approx(total(queued))


class TestOptions:
    def test_keys_are_parsed(self) -> None:
        found = TenantLoad.parse("a:weight=2,rate=1.5,burst=7,from=3,cost=10,running=4")
        assert found == TenantLoad("a", 2, 1.5, 7, 3, 10, 4)
        assert TenantLoad.parse("b") == TenantLoad("b")

    @pytest.mark.parametrize(
        "text", ["a:weight=0", "a:size=1", "a:rate=x", "a:burst=-1", "a:cost=0", "a:running=0"]
    )
    def test_wrong_options_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="tenant a"):
            TenantLoad.parse(text)

    @pytest.mark.parametrize(
        "loads", [[TenantLoad("a"), TenantLoad("a")], [TenantLoad("a", burst=10**7)]]
    )
    def test_wrong_loads_are_refused(self, loads: list[TenantLoad]) -> None:
        with pytest.raises(ValueError, match=r"^(expected|jobs)"):
            simulate_tenants(loads, ONE_BY_ONE)


@pytest.mark.parametrize("instances", [1, 2, 10, 40])
def test_use_of_an_open_room_is_documented(instances: int) -> None:
    use = compute_room_use(instances)
    cost = use.hourly_cost(Prices.load(ROOT / "infra" / "prices.yaml"))
    row = f"| {instances} | {use.writes * 3600:,.0f} | {use.reads * 3600:,.0f} | {cost:.3f} |"
    assert row in (ROOT / "docs/explanation/capacity.md").read_text("utf-8")
