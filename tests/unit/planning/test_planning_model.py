"""The model of scaling and of cost: what always holds, and what can be reckoned by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.jobs.lifecycle import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from loosely.planning import cost
from loosely.planning.chart import chart
from loosely.planning.cost import DAYS, MONTH_HOURS, Deployment, estimate, looks
from loosely.planning.load import Load
from loosely.planning.machines import Machines, Work
from loosely.planning.outcome import Outcome, Sample, percentiles
from loosely.planning.picture import draw
from loosely.planning.pool import Pool
from loosely.planning.prices import Prices, PricesUnusable
from loosely.planning.simulation import simulate
from loosely.planning.timeline import Timeline
from loosely.scaling.deployed import DEPLOYED
from loosely.scaling.rules import Behavior, Direction, Policy, Scaling, Unit

ROOT = Path(__file__).parents[3]
PRICES = ROOT / "infra" / "prices.yaml"
NO_DELAYS = Machines(0.0, 0.0, 0.0, scan_interval_seconds=0.0)


def run(load: Load, hours: float = 1.0, **given: Any) -> Outcome:
    usual: dict[str, Any] = {"scaling": DEPLOYED, "machines": Machines(), "work": Work()}
    return simulate(load, **{**usual, **given}, duration_seconds=hours * 3600)


class TestSimulation:
    def test_one_job_waits_for_everything_in_turn(self) -> None:
        """Comes at 60 s, seen at 60, node asked at 60, up at 240, image 300, model 315."""
        outcome = run(Load.at_once(1), work=Work(4.0, 1, 4.0))
        assert outcome.waits_seconds == [255.0]
        assert outcome.answers_seconds == [259.0]
        assert outcome.most_nodes == outcome.most_ready == 1
        # Seen active last at 315, so cool after 615 and empty from 630 on; ten minutes later
        # the node goes, which was asked for at 60.
        assert outcome.node_seconds == 630.0 + 600.0 - 60.0

    def test_kept_nodes_spare_the_start(self) -> None:
        warm = Machines(least_nodes=1)
        outcome = run(Load.at_once(1), machines=warm, work=Work(4.0, 1, 4.0))
        assert outcome.waits_seconds == [15.0]
        assert outcome.node_hours == 1.0

    def test_a_kept_worker_spares_all(self) -> None:
        kept = Scaling(min_replica_count=1, max_replica_count=1)
        outcome = run(Load.at_once(3), scaling=kept, machines=Machines(least_nodes=1))
        # The first begins as it comes, the others share the next batch.
        assert outcome.waits_seconds == pytest.approx([0.0, 0.2, 0.2])

    def test_a_batch_takes_between_one_job_and_a_full_one(self) -> None:
        work = Work(job_seconds=0.2, batch_size=8, batch_seconds=0.9)
        assert [round(work.seconds(n), 3) for n in (1, 2, 8)] == [0.2, 0.3, 0.9]
        outcome = run(Load.at_once(12), machines=NO_DELAYS, work=work)
        assert outcome.busy_seconds == pytest.approx(work.seconds(8) + work.seconds(4))

    def test_the_number_of_messages_for_a_worker_hardly_matters_where_the_start_is_cold(
        self,
    ) -> None:
        medians = set()
        for target in (1, 4, 10):
            scaling = Scaling(message_count=target, max_replica_count=8)
            found = run(Load.at_once(200), scaling=scaling, work=Work(4.0, 1, 4.0))
            medians.add(percentiles(found.waits_seconds)["p50"])
        assert max(medians) - min(medians) < 20
        assert min(medians) > 300

    def test_several_workers_share_a_node(self) -> None:
        outcome = run(Load.at_once(100), machines=Machines(workers_per_node=4))
        assert outcome.most_nodes == 2

    @settings(max_examples=30)
    @given(
        burst=st.integers(1, 150),
        least=st.integers(0, 2),
        most=st.integers(2, 6),
        nodes=st.integers(1, 6),
        batch=st.integers(1, 8),
    )
    def test_whatever_comes_every_job_is_answered_once(
        self, burst: int, least: int, most: int, nodes: int, batch: int
    ) -> None:
        scaling = Scaling(min_replica_count=least, max_replica_count=most)
        outcome = run(
            Load.at_once(burst),
            hours=2,
            scaling=scaling,
            machines=Machines(most_nodes=nodes),
            work=Work(2.0, batch, 2.0 * batch),
        )
        assert outcome.jobs == burst
        assert len(outcome.waits_seconds) == len(outcome.answers_seconds) == burst
        assert outcome.unanswered == 0
        assert outcome.most_ready <= min(most, nodes)
        assert outcome.most_nodes <= nodes
        assert outcome.busy_seconds == pytest.approx(2.0 * burst)
        assert outcome.node_seconds >= outcome.busy_seconds
        if least == 0:
            assert outcome.samples[-1].nodes == outcome.samples[-1].asked == 0

    def test_workers_that_are_busy_finish_their_batch(self) -> None:
        at_once = Behavior(scale_down=Direction(0.0, (Policy(Unit.PERCENT, 100, 15.0),)))
        scaling = Scaling(cooldown_period_seconds=0.0, max_replica_count=4, behavior=at_once)
        outcome = run(Load.at_once(40), scaling=scaling, machines=NO_DELAYS, work=Work(90, 1, 90))
        assert outcome.jobs == len(outcome.answers_seconds) + outcome.unanswered == 40


class TestPool:
    """The cluster autoscaler alone, with its ten minutes."""

    def test_an_empty_node_stays_until_ten_minutes_after_the_last_new_one(self) -> None:
        timeline = Timeline()
        homeless = [0]
        pool = Pool(Machines(), timeline, lambda: homeless[0])

        def want(number: int) -> None:
            homeless[0] = number
            pool.want(number)

        sizes = {}

        def look() -> None:
            sizes[timeline.now_seconds] = len(pool)

        timeline.at(5.0, lambda: want(1))
        timeline.at(200.0, lambda: want(0))
        timeline.at(605.0, lambda: want(1))
        for at in (5.5, 10.5, 609.0, 611.0, 795.0, 1205.0, 1215.0):
            timeline.at(at, look)
        timeline.run(3000.0)
        # Asked for at 10 and up at 190, empty: it would go at 790, but another came at 610.
        assert sizes == {5.5: 0, 10.5: 1, 609.0: 1, 611.0: 2, 795.0: 2, 1205.0: 2, 1215.0: 1}


class TestLoad:
    def test_as_many_come_as_the_hours_say(self) -> None:
        load = Load.parse("office:600")
        arrivals = list(load.arrivals(86400))
        assert arrivals == sorted(arrivals)
        assert len(arrivals) == pytest.approx(load.jobs_per_day, rel=0.05)
        in_the_tenth_hour = sum(9 * 3600 <= at < 10 * 3600 for at in arrivals)
        assert in_the_tenth_hour == pytest.approx(600, rel=0.15)
        assert not [at for at in arrivals if at < 7 * 3600]

    def test_the_same_seed_gives_the_same_day(self) -> None:
        first, again, other = (
            list(Load.parse("flat:60", seed).arrivals(86400)) for seed in (1, 1, 2)
        )
        assert first == again != other

    @pytest.mark.parametrize(
        "text", ["", "office", "office:", "office:x", "lunch:5", "1,2,3", "flat:-1", "flat:0"]
    )
    def test_refuses_what_is_no_load(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"expected|jobs"):
            Load.parse(text)

    @pytest.mark.parametrize("text", ["flat:nan", "flat:inf", "flat:1e9"])
    def test_refuses_what_never_ends(self, text: str) -> None:
        with pytest.raises(ValueError, match="jobs"):
            Load.parse(text)

    def test_reads_one_number_for_each_hour(self) -> None:
        assert Load.parse(",".join(["10"] * 24)).jobs_per_day == 240


class TestChart:
    SAMPLES = tuple(Sample(60.0 * n, n, n, min(n, 3), 1) for n in range(61))

    def test_shows_each_band_and_the_time(self) -> None:
        lines = chart(self.SAMPLES, columns=30)
        assert lines[0].startswith("jobs waiting        60 │")
        assert lines[0].endswith("█")
        assert lines[-1].split() == ["0", "15", "min", "30", "min", "45", "min", "60", "min"]

    def test_draws_a_picture(self, tmp_path: Path) -> None:
        draw(self.SAMPLES, "an hour", tmp_path / "hour.png")
        assert (tmp_path / "hour.png").read_bytes().startswith(b"\x89PNG")


def test_percentiles_are_by_the_nearest_rank() -> None:
    assert percentiles([]) == {}
    found = percentiles([float(n) for n in range(1, 101)])
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


class TestCost:
    def deployment(
        self, load: str = "flat:60", gpu: str = "T4", seconds: float = 0.1
    ) -> Deployment:
        kept = Scaling(min_replica_count=1, max_replica_count=1)
        machines = Machines(least_nodes=1, most_nodes=1)
        return Deployment(Load.parse(load), kept, machines, Work(seconds, 1, seconds), gpu)

    def test_what_can_be_reckoned_by_hand(self) -> None:
        """One node all month, one job a second of a tenth of a second."""
        found = estimate(self.deployment("flat:3600"), Prices.load(PRICES))
        spot, on_demand, _, always = found.bills
        assert spot.gpu_hours == on_demand.gpu_hours == always.gpu_hours == MONTH_HOURS
        assert spot.by_item()["GPU"] == pytest.approx(MONTH_HOURS * 0.063)
        assert on_demand.by_item()["GPU"] == always.total == pytest.approx(MONTH_HOURS * 0.526)
        assert spot.by_item()["cluster"] == pytest.approx(MONTH_HOURS * 0.196)
        # 2.63 million jobs: 7.88 million operations and 0.35 million looks, under the included 13.
        assert spot.by_item()["Service Bus"] == pytest.approx(10.0)
        assert spot.by_item()["registry"] == pytest.approx(DAYS * 0.167)
        # Two instances of 2 GB ready; one request open for 0.1 s each second, by chance.
        jobs = 3600 * 24 * DAYS
        busy = 3600 * 24 * DAYS * (1 - math.exp(-found.on_nodes.mean_answer_seconds))
        assert spot.by_item()["Functions"] == pytest.approx(
            2 * 2 * MONTH_HOURS * 3600 * 0.000004 + busy * 2 * 0.000016 + jobs * 6 / 1e6 * 0.4,
            rel=0.01,
        )

    def test_storage_is_what_jobs_write_and_what_their_requests_look(self) -> None:
        found = estimate(self.deployment("flat:3600"), Prices.load(PRICES))
        jobs = 3600 * 24 * DAYS
        reads = 2 + looks(found.on_nodes.mean_answer_seconds)
        kept_gb = 3600 * 24 * 3 * 0.2 / 1000
        assert found.bills[0].by_item()["storage"] == pytest.approx(
            kept_gb * 0.0184 + jobs / 1e4 * (4 * 0.05 + reads * 0.004)
        )

    @pytest.mark.parametrize(
        ("seconds", "count"), [(0, 0), (0.02, 1), (0.1, 3), (0.775, 5), (0.8, 6), (10, 24)]
    )
    def test_a_request_looks_at_pauses_that_double(self, seconds: float, count: int) -> None:
        """After 25, 75, 175, 375 and 775 ms, and then each half second."""
        assert looks(seconds) == count

    def test_the_pauses_are_those_of_the_gateway(self) -> None:
        assert FIRST_PAUSE_SECONDS == cost.FIRST_PAUSE_SECONDS
        assert LONGEST_PAUSE_SECONDS == cost.LONGEST_PAUSE_SECONDS

    def test_what_has_no_price_is_left_out_and_named(self) -> None:
        found = estimate(self.deployment(), Prices.load(PRICES))
        assert found.bills[0].by_item()["durable"] is None
        assert found.bills[0].unknown == ["million actions"]

    def test_a_card_that_container_apps_lacks_has_no_such_bill(self) -> None:
        found = estimate(self.deployment(gpu="H100"), Prices.load(PRICES))
        assert [bill.name for bill in found.bills] == [
            *("AKS, spot", "AKS, on demand", "always on, 1 GPU")
        ]

    def test_always_on_has_enough_for_the_busiest_hour(self) -> None:
        found = estimate(self.deployment("flat:360", seconds=20.0), Prices.load(PRICES))
        # A job of 20 s every 10 s are 2 GPUs of work, at 0.7 of the time.
        assert found.bills[-1].name == "always on, 3 GPUs"

    def test_what_comes_on_demand_has_free_grants(self) -> None:
        document = yaml.safe_load(PRICES.read_text())
        document["usage"]["ready_instances"] = 0
        found = estimate(self.deployment("flat:10"), Prices(document))
        assert found.bills[0].by_item()["Functions"] == 0.0

    @pytest.mark.parametrize(
        ("path", "value", "said"),
        [
            (("prices", "node_hour_spot", "Standard_NC4as_T4_v3", "amount"), "dear", "expected a"),
            (("prices", "logs", "gb", "basis"), "heard", "expected quoted or assumed"),
            (("usage", "executions_per_job"), -1, "usage.executions_per_job"),
            (("usage", "retention_days"), True, "usage.retention_days"),
            (("prices", "registry"), {}, "prices.registry.day: is missing"),
            (("gpus",), {}, "there is no GPU 'T4'"),
            (("prices",), [], "another shape"),
        ],
    )
    def test_a_file_that_is_wrong_is_refused_by_place(
        self, path: tuple[str, ...], value: object, said: str
    ) -> None:
        document = yaml.safe_load(PRICES.read_text())
        *parents, last = path
        place = document
        for name in parents:
            place = place[name]
        place[last] = value
        with pytest.raises(PricesUnusable, match=said):
            estimate(self.deployment(), Prices(document))

    @pytest.mark.parametrize("text", ["", "[", "- a", "\x00"])
    def test_a_file_that_is_none_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "prices.yaml").write_text(text)
        with pytest.raises(PricesUnusable):
            Prices.load(tmp_path / "prices.yaml")

    def test_every_price_has_a_source_and_the_file_a_date(self) -> None:
        prices = Prices.load(PRICES)
        assert prices.dated >= "2026-11-24"
        document = yaml.safe_load(PRICES.read_text())
        for entries in document["prices"].values():
            for entry in entries.values():
                assert entry["source"]
        for gpu in prices.gpus.values():
            for kind in ("spot", "on_demand"):
                assert prices.price(f"node_hour_{kind}.{gpu.node}").amount


def test_the_manifests_set_the_rules_that_the_model_has() -> None:
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
