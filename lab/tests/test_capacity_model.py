"""Test the simulation of scaling and the cost model: invariants, and cases calculated by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.jobs.lifecycle import FIRST_PAUSE_SECONDS, FOLLOW_SECONDS, LONGEST_PAUSE_SECONDS
from lab.capacity import cost
from lab.capacity.chart import draw_picture, draw_text
from lab.capacity.clock import SimulationClock
from lab.capacity.cost import DAYS, MONTH_HOURS, PlannedDeployment, count_looks, estimate_cost
from lab.capacity.deployed import DEPLOYED
from lab.capacity.load import JobLoad
from lab.capacity.nodes import BatchTimes, Cluster, NodePool
from lab.capacity.prices import Prices, PricesUnusable
from lab.capacity.simulation import SimulationResult, SimulationSample, percentiles, simulate
from loosely.local.scaling import Behavior, PolicyType, ScaledObject, ScalingPolicy, ScalingRules

ROOT = Path(__file__).parents[2]
PRICES = ROOT / "infra" / "prices.yaml"
NO_DELAYS = Cluster(0.0, 0.0, 0.0, scan_interval_seconds=0.0)


def run(load: JobLoad, hours: float = 1.0, **given: Any) -> SimulationResult:
    usual: dict[str, Any] = {"scaling": DEPLOYED, "cluster": Cluster(), "times": BatchTimes()}
    return simulate(load, **{**usual, **given}, duration_seconds=hours * 3600)


class TestSimulation:
    def test_cold_start_has_node_image_and_model(self) -> None:
        """The job arrives 60 s after the start of the simulation.

        The node is up at 240 s, the image is pulled at 300 s, and the model is loaded at 315 s.
        """
        outcome = run(JobLoad.at_once(1), times=BatchTimes(4.0, 1, 4.0))
        assert outcome.wait_seconds == [255.0]
        assert outcome.answer_seconds == [259.0]
        assert outcome.peak_nodes == outcome.peak_workers == 1
        # The last activity is at 315 s. So the cool-down ends at 615 s, and the node is empty from
        # 630 s on.
        # The node was requested at 60 s, and is removed ten minutes after it became empty.
        assert outcome.node_seconds == 630.0 + 600.0 - 60.0

    def test_minimum_node_avoids_node_start(self) -> None:
        warm = Cluster(min_nodes=1)
        outcome = run(JobLoad.at_once(1), cluster=warm, times=BatchTimes(4.0, 1, 4.0))
        assert outcome.wait_seconds == [15.0]
        assert outcome.node_hours == 1.0

    def test_minimum_worker_avoids_cold_start(self) -> None:
        kept = ScaledObject(min_replica_count=1, max_replica_count=1)
        outcome = run(JobLoad.at_once(3), scaling=kept, cluster=Cluster(min_nodes=1))
        # The first job starts on arrival. The other jobs share the next batch.
        assert outcome.wait_seconds == pytest.approx([0.0, 0.2, 0.2])

    def test_batch_time_is_linear(self) -> None:
        work = BatchTimes(job_seconds=0.2, batch_size=8, batch_seconds=0.9)
        assert [round(work.seconds(n), 3) for n in (1, 2, 8)] == [0.2, 0.3, 0.9]
        outcome = run(JobLoad.at_once(12), cluster=NO_DELAYS, times=work)
        assert outcome.busy_seconds == pytest.approx(work.seconds(8) + work.seconds(4))

    def test_target_hardly_changes_cold_start(self) -> None:
        medians = set()
        for target in (1, 4, 10):
            scaling = ScaledObject(message_count=target, max_replica_count=8)
            found = run(JobLoad.at_once(200), scaling=scaling, times=BatchTimes(4.0, 1, 4.0))
            medians.add(percentiles(found.wait_seconds)["p50"])
        assert max(medians) - min(medians) < 20
        assert min(medians) > 300

    def test_several_workers_share_node(self) -> None:
        outcome = run(JobLoad.at_once(100), cluster=Cluster(workers_per_node=4))
        assert outcome.peak_nodes == 2

    @settings(max_examples=30)
    @given(
        burst=st.integers(1, 150),
        least=st.integers(0, 2),
        most=st.integers(2, 6),
        nodes=st.integers(1, 6),
        batch=st.integers(1, 8),
    )
    def test_every_job_runs_once(
        self, burst: int, least: int, most: int, nodes: int, batch: int
    ) -> None:
        scaling = ScaledObject(min_replica_count=least, max_replica_count=most)
        outcome = run(
            JobLoad.at_once(burst),
            hours=2,
            scaling=scaling,
            cluster=Cluster(max_nodes=nodes),
            times=BatchTimes(2.0, batch, 2.0 * batch),
        )
        assert outcome.jobs == burst
        assert len(outcome.wait_seconds) == len(outcome.answer_seconds) == burst
        assert outcome.unanswered == 0
        assert outcome.peak_workers <= min(most, nodes)
        assert outcome.peak_nodes <= nodes
        assert outcome.busy_seconds == pytest.approx(2.0 * burst)
        assert outcome.node_seconds >= outcome.busy_seconds
        if least == 0:
            assert outcome.samples[-1].nodes == outcome.samples[-1].wanted == 0

    def test_stopped_workers_lose_no_job(self) -> None:
        at_once = Behavior(
            scale_down=ScalingRules(0.0, (ScalingPolicy(PolicyType.PERCENT, 100, 15.0),))
        )
        scaling = ScaledObject(cooldown_period_seconds=0.0, max_replica_count=4, behavior=at_once)
        outcome = run(
            JobLoad.at_once(40), scaling=scaling, cluster=NO_DELAYS, times=BatchTimes(90, 1, 90)
        )
        assert outcome.jobs == len(outcome.answer_seconds) + outcome.unanswered == 40


class TestPool:
    """Test the simulated node pool without the other parts of the simulation.

    The test sets how many workers need a node.
    """

    def test_empty_node_stays_for_ten_minutes(self) -> None:
        timeline = SimulationClock()
        homeless = [0]
        pool = NodePool(Cluster(), timeline, lambda: homeless[0])

        def want(number: int) -> None:
            homeless[0] = number
            pool.request(number)

        sizes = {}

        def look() -> None:
            sizes[timeline.now_seconds] = len(pool)

        timeline.at(5.0, lambda: want(1))
        timeline.at(200.0, lambda: want(0))
        timeline.at(605.0, lambda: want(1))
        for at in (5.5, 10.5, 609.0, 611.0, 795.0, 1205.0, 1215.0):
            timeline.at(at, look)
        timeline.run(3000.0)
        # The node is requested at 10 s, and empty from 190 s on. Without the request at 610 s it
        # would be removed at 790 s.
        assert sizes == {5.5: 0, 10.5: 1, 609.0: 1, 611.0: 2, 795.0: 2, 1205.0: 2, 1215.0: 1}


class TestLoad:
    def test_arrivals_follow_hourly_rate(self) -> None:
        load = JobLoad.parse("office:600")
        arrivals = list(load.arrivals(86400))
        assert arrivals == sorted(arrivals)
        assert len(arrivals) == pytest.approx(load.jobs_per_day, rel=0.05)
        in_the_tenth_hour = sum(9 * 3600 <= at < 10 * 3600 for at in arrivals)
        assert in_the_tenth_hour == pytest.approx(600, rel=0.15)
        assert not [at for at in arrivals if at < 7 * 3600]

    def test_same_seed_gives_same_arrivals(self) -> None:
        first, again, other = (
            list(JobLoad.parse("flat:60", seed).arrivals(86400)) for seed in (1, 1, 2)
        )
        assert first == again != other

    @pytest.mark.parametrize(
        "text", ["", "office", "office:", "office:x", "lunch:5", "1,2,3", "flat:-1", "flat:0"]
    )
    def test_invalid_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"expected|jobs"):
            JobLoad.parse(text)

    @pytest.mark.parametrize("text", ["flat:nan", "flat:inf", "flat:1e9"])
    def test_infinite_or_huge_load_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"load|jobs"):
            JobLoad.parse(text)

    def test_24_hourly_rates_are_accepted(self) -> None:
        assert JobLoad.parse(",".join(["10"] * 24)).jobs_per_day == 240


class TestChart:
    SAMPLES = tuple(SimulationSample(60.0 * n, n, n, min(n, 3), 1) for n in range(61))

    def test_text_shows_series_and_time_axis(self) -> None:
        lines = draw_text(self.SAMPLES, columns=30)
        assert lines[0].startswith("jobs waiting        60 │")
        assert lines[0].endswith("█")
        assert lines[-1].split() == ["0", "15", "min", "30", "min", "45", "min", "60", "min"]

    def test_picture_is_png(self, tmp_path: Path) -> None:
        draw_picture(self.SAMPLES, "an hour", tmp_path / "hour.png")
        assert (tmp_path / "hour.png").read_bytes().startswith(b"\x89PNG")


def test_percentiles_are_nearest_rank() -> None:
    assert percentiles([]) == {}
    found = percentiles([float(n) for n in range(1, 101)])
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


class TestCost:
    def deployment(
        self, load: str = "flat:60", gpu: str = "T4", seconds: float = 0.1
    ) -> PlannedDeployment:
        kept = ScaledObject(min_replica_count=1, max_replica_count=1)
        machines = Cluster(min_nodes=1, max_nodes=1)
        return PlannedDeployment(
            JobLoad.parse(load), kept, machines, BatchTimes(seconds, 1, seconds), gpu
        )

    def test_bill_equals_calculation_by_hand(self) -> None:
        """One job arrives per second, and runs for 0.1 s. One node runs for the whole month."""
        found = estimate_cost(self.deployment("flat:3600"), Prices.load(PRICES))
        spot, on_demand, _, always = found.bills
        assert spot.gpu_hours == on_demand.gpu_hours == always.gpu_hours == MONTH_HOURS
        assert spot.by_item()["GPU"] == pytest.approx(MONTH_HOURS * 0.063)
        assert on_demand.by_item()["GPU"] == always.total == pytest.approx(MONTH_HOURS * 0.526)
        assert spot.by_item()["cluster"] == pytest.approx(
            MONTH_HOURS * (0.10 + 2 * 0.172 + 0.025 + 0.005)
        )
        assert spot.by_item()["disks"] == pytest.approx(19.71 * (2 + 1))
        # 2.63 million jobs need 7.88 million operations and 0.35 million checks.
        # The plan includes 13 million.
        assert spot.by_item()["Service Bus"] == pytest.approx(10.0)
        assert spot.by_item()["registry"] == pytest.approx(DAYS * 0.167)
        # Two ready instances of 2 GB; on average one request per second, open for 0.1 s.
        jobs = 3600 * 24 * DAYS
        busy = 3600 * 24 * DAYS * (1 - math.exp(-found.on_nodes.mean_answer_seconds))
        assert spot.by_item()["Functions"] == pytest.approx(
            2 * 2 * MONTH_HOURS * 3600 * 0.000004 + busy * 2 * 0.000016 + jobs * 4 / 1e6 * 0.4,
            rel=0.01,
        )

    def test_storage_includes_reads_of_the_log(self) -> None:
        found = estimate_cost(self.deployment("flat:3600"), Prices.load(PRICES))
        jobs = 3600 * 24 * DAYS
        waiting = 1 - math.exp(-found.on_nodes.mean_answer_seconds)  # a request per second
        reads = 4 + count_looks(found.on_nodes.mean_answer_seconds) + 40 * waiting
        kept_gb = 3600 * 24 * 3 * 0.2 / 1000
        assert found.bills[0].by_item()["storage"] == pytest.approx(
            kept_gb * 0.0184 + jobs / 1e4 * (5 * 0.05 + reads * 0.004)
        )

    @pytest.mark.parametrize(
        ("seconds", "count"), [(0, 0), (1, 0), (1.1, 1), (7, 2), (20, 4), (31, 5)]
    )
    def test_pause_doubles_to_8_s(self, seconds: float, count: int) -> None:
        """A request looks after 1, 3, 7, 15, 23 and 31 s."""
        assert count_looks(seconds) == count

    def test_pauses_are_those_of_gateway(self) -> None:
        assert FIRST_PAUSE_SECONDS == cost.FIRST_PAUSE_SECONDS
        assert LONGEST_PAUSE_SECONDS == cost.LONGEST_PAUSE_SECONDS
        assert pytest.approx(1 / (FOLLOW_SECONDS + 0.005)) == cost.FOLLOW_READS_PER_SECOND

    def test_unknown_prices_have_no_cost(self) -> None:
        found = estimate_cost(self.deployment(), Prices.load(PRICES))
        assert found.bills[0].by_item()["durable"] is None
        assert found.bills[0].unknown == ["million actions", "10,000 web tests"]

    def test_container_apps_need_their_gpu(self) -> None:
        found = estimate_cost(self.deployment(gpu="H100"), Prices.load(PRICES))
        assert [bill.name for bill in found.bills] == [
            *("AKS, spot", "AKS, on demand", "always on, 1 GPU")
        ]

    def test_always_on_covers_busiest_hour(self) -> None:
        found = estimate_cost(self.deployment("flat:360", seconds=20.0), Prices.load(PRICES))
        # A job of 20 s every 10 s needs 2 GPUs, but each GPU may be busy for only 0.7 of the time.
        assert found.bills[-1].name == "always on, 3 GPUs"

    def test_free_grant_costs_nothing(self) -> None:
        document = yaml.safe_load(PRICES.read_text())
        document["usage"]["ready_instances"] = 0
        found = estimate_cost(self.deployment("flat:10"), Prices(document))
        assert found.bills[0].by_item()["Functions"] == 0.0

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("prices", "node_hour_spot", "Standard_NC4as_T4_v3", "amount"), "dear", "expected a"),
            (("prices", "logs", "gb", "basis"), "rumour", "expected quoted or assumed"),
            (("usage", "executions_per_job"), -1, "usage.executions_per_job"),
            (("usage", "retention_days"), True, "usage.retention_days"),
            (("prices", "registry"), {}, "prices.registry.day is missing"),
            (("gpus",), {}, "the price list has no GPU 'T4'"),
            (("prices",), [], "unexpected structure"),
        ],
    )
    def test_invalid_price_names_entry(
        self, path: tuple[str, ...], value: object, message: str
    ) -> None:
        document = yaml.safe_load(PRICES.read_text())
        *parents, last = path
        place = document
        for name in parents:
            place = place[name]
        place[last] = value
        with pytest.raises(PricesUnusable, match=message):
            estimate_cost(self.deployment(), Prices(document))

    @pytest.mark.parametrize("text", ["", "[", "- a", "\x00"])
    def test_unreadable_price_list_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "prices.yaml").write_text(text)
        with pytest.raises(PricesUnusable):
            Prices.load(tmp_path / "prices.yaml")

    def test_prices_have_source_and_date(self) -> None:
        prices = Prices.load(PRICES)
        assert prices.dated >= "2026-11-24"
        document = yaml.safe_load(PRICES.read_text())
        for entries in document["prices"].values():
            for entry in entries.values():
                assert entry["source"]
        for gpu in prices.gpus.values():
            for kind in ("spot", "on_demand"):
                assert prices.price(f"node_hour_{kind}.{gpu.node}").amount


def test_manifests_have_simulated_settings() -> None:
    manifests = ROOT / "infra" / "k8s" / "base" / "workers" / "models.yaml"
    scaled = [
        document["spec"]
        for document in yaml.safe_load_all(manifests.read_text())
        if document["kind"] == "ScaledObject"
    ]
    assert scaled
    for spec in scaled:
        assert spec["pollingInterval"] == DEPLOYED.polling_interval_seconds
        assert spec["cooldownPeriod"] == DEPLOYED.cooldown_period_seconds
        assert spec["triggers"][0]["metadata"]["messageCount"] == str(DEPLOYED.message_count)
        set_ = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        for name, direction in (
            ("scaleUp", DEPLOYED.behavior.scale_up),
            ("scaleDown", DEPLOYED.behavior.scale_down),
        ):
            assert set_[name] == {
                "stabilizationWindowSeconds": direction.stabilization_window_seconds,
                "policies": [
                    {"type": p.unit.value, "value": p.value, "periodSeconds": p.period_seconds}
                    for p in direction.policies
                ],
            }
