"""Test the simulated KEDA and Kubernetes autoscaler, partly with Kubernetes' own test cases."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely.local.autoscaler import Activation, Autoscaler, Scaler, propose_replicas
from loosely.local.scaling import Behavior, PolicyType, ScaledObject, ScalingPolicy, ScalingRules

AT_ONCE = Behavior(scale_down=ScalingRules(0.0, (ScalingPolicy(PolicyType.PERCENT, 100, 15.0),)))


class TestProposal:
    """Check proposed numbers of workers with cases of Kubernetes' replica_calculator_test.go.

    The cases are those for external metrics whose target is an average value per pod."""

    @pytest.mark.parametrize(
        ("replicas", "metric", "target", "expected"),
        [
            pytest.param(3, 8600, 2150, 4, id="TestReplicaCalcScaleUpPerPodCMExternal"),
            pytest.param(5, 8600, 2867, 3, id="TestReplicaCalcScaleDownPerPodCMExternal"),
            pytest.param(3, 8600, 2900, 3, id="TestReplicaCalcTolerancePerPodCMExternal"),
        ],
    )
    def test_matches_cases_of_kubernetes(
        self, replicas: int, metric: int, target: int, expected: int
    ) -> None:
        assert propose_replicas(replicas, metric, target, 0.1) == expected

    @pytest.mark.parametrize(("metric", "expected"), [(200, 2), (50, 1), (105, 1), (111, 2)])
    def test_matches_documentation_of_kubernetes(self, metric: int, expected: int) -> None:
        """The tolerance is 10 %, so a replica is added at 111 % of the target, but not at 105 %."""
        assert propose_replicas(1, metric, 100, 0.1) == expected

    @given(st.integers(1, 1000), st.integers(0, 100_000), st.integers(1, 1000))
    def test_is_metric_per_target_rounded_up(self, replicas: int, metric: int, target: int) -> None:
        found = propose_replicas(replicas, metric, target, 0.1)
        assert found in {replicas, math.ceil(metric / target)}
        assert abs(metric - found * target) <= max(target, 0.1 * target * replicas)


def decisions(scaling: ScaledObject, start: int, count: int, times: range) -> list[int]:
    """Return the number of replicas after each time, with `count` messages in the queue."""
    autoscaler, seen = Autoscaler(scaling), [start]
    for now in times:
        seen.append(autoscaler.decide(float(now), seen[-1], [count]))
    return seen[1:]


class TestAutoscaler:
    def test_scale_down_matches_documented_example(self) -> None:
        """Each minute, the autoscaler may stop 10 % of the pods, or 4 pods if that is more."""
        policies = (
            ScalingPolicy(PolicyType.PODS, 4, 60.0),
            ScalingPolicy(PolicyType.PERCENT, 10, 60.0),
        )
        scaling = ScaledObject(behavior=Behavior(scale_down=ScalingRules(0.0, policies)))
        seen = decisions(scaling, 80, 50, range(0, 1200, 60))
        assert seen[:3] == [72, 64, 57]
        below = [n for n in seen if n < 40]
        steps = [before - after for before, after in itertools.pairwise(below)]
        assert steps[:5] == [4] * 5
        assert seen[-1] == 10

    def test_policy_limits_removals_in_each_period(self) -> None:
        policies = (ScalingPolicy(PolicyType.PODS, 4, 60.0),)
        scaling = ScaledObject(behavior=Behavior(scale_down=ScalingRules(0.0, policies)))
        seen = decisions(scaling, 20, 5, range(0, 135, 15))
        assert seen == [16, 16, 16, 16, 12, 12, 12, 12, 8]

    def test_default_scale_up_adds_four_or_doubles(self) -> None:
        seen = decisions(ScaledObject(), 1, 5 * 90, range(0, 75, 15))
        assert seen == [5, 10, 20, 40, 80]

    def test_scale_down_keeps_highest_of_five_minutes(self) -> None:
        autoscaler, replicas, seen = Autoscaler(ScaledObject()), 4, {}
        for now in range(0, 450, 15):
            replicas = autoscaler.decide(now, replicas, [{0: 20, 60: 11}.get(now, 1)])
            seen[now] = replicas
        assert seen[285] == 4
        assert seen[300] == 3, "the recommendation of 4 is five minutes old"
        assert seen[345] == 3
        assert seen[360] == 1, "the recommendation of 3 is five minutes old, too"

    def test_scale_up_stops_at_lowest_in_window(self) -> None:
        slow = Behavior(scale_up=ScalingRules(60.0, (ScalingPolicy(PolicyType.PODS, 10, 15.0),)))
        autoscaler = Autoscaler(ScaledObject(behavior=slow))
        seen = [autoscaler.decide(15.0 * sync, 1, [20 if sync else 30]) for sync in range(6)]
        assert seen == [1, 1, 1, 1, 4, 4], "the first recommendation is the present number"

    def test_zero_replicas_stay_zero(self) -> None:
        assert Autoscaler(ScaledObject()).decide(0.0, 0, [1000]) == 0

    def test_longest_queue_decides(self) -> None:
        assert Autoscaler(ScaledObject()).decide(0.0, 1, [7, 14, 0]) == 3

    def test_unknown_length_prevents_only_scale_down(self) -> None:
        scaling = ScaledObject(behavior=AT_ONCE)
        assert Autoscaler(scaling).decide(0.0, 4, [5, None]) == 4
        assert Autoscaler(scaling).decide(0.0, 4, [None]) == 4
        assert Autoscaler(scaling).decide(0.0, 4, [30, None]) == 6

    @given(
        st.integers(1, 20),
        st.lists(st.one_of(st.none(), st.integers(0, 500)), min_size=1, max_size=60),
    )
    def test_replicas_stay_within_bounds(self, start: int, counts: list[int | None]) -> None:
        scaling = ScaledObject(min_replica_count=2, max_replica_count=15)
        autoscaler, replicas = Autoscaler(scaling), start
        for sync, count in enumerate(counts):
            before = replicas
            replicas = autoscaler.decide(15.0 * sync, replicas, [count])
            assert 2 <= replicas <= 15
            assert replicas <= max(before + 4, 2 * before)


class TestActivation:
    def test_empty_queues_keep_minimum(self) -> None:
        assert Activation(ScaledObject(min_replica_count=2), 0.0).decide(0.0, 0, [0]) == 2
        assert Activation(ScaledObject(min_replica_count=2), 0.0).decide(900.0, 5, [0]) == 5

    def test_cooldown_starts_at_last_activity(self) -> None:
        activation = Activation(ScaledObject(), 0.0)
        assert activation.decide(0.0, 0, [9]) == 1
        assert activation.decide(30.0, 1, [9]) == 1
        assert activation.decide(60.0, 1, [0]) == 1
        assert activation.decide(330.0, 1, [0]) == 1
        assert activation.decide(330.1, 1, [0]) == 0

    def test_unknown_length_changes_nothing(self) -> None:
        activation = Activation(ScaledObject(), 0.0)
        assert activation.decide(900.0, 3, [None]) == 3
        assert activation.decide(900.0, 0, [None, 1]) == 1, "another queue has work"

    def test_unknown_length_does_not_restart_cooldown(self) -> None:
        activation = Activation(ScaledObject(), 0.0)
        assert activation.decide(0.0, 0, [1, 0]) == 1
        assert activation.decide(200.0, 1, [1, None]) == 1
        assert activation.decide(301.0, 1, [0, 0]) == 0


class TestScaler:
    def test_burst_scales_from_zero_and_back(self) -> None:
        """KEDA decides every 30 s, and the autoscaler decides every 15 s."""
        scaler, seen, now = Scaler(ScaledObject(max_replica_count=8), 0.0), {}, 0.0
        while now <= 1000.0:
            seen[now] = scaler.step(now, [100 if 30.0 <= now < 200.0 else 0])
            now = scaler.next_at_seconds
        assert [seen[at] for at in (0.0, 15.0, 30.0, 45.0, 60.0)] == [0, 0, 1, 5, 8]
        assert seen[480.0] == 8, "the last activity was at 180 s"
        assert seen[510.0] == 0

    @given(st.lists(st.one_of(st.none(), st.integers(0, 300)), min_size=1, max_size=80))
    def test_replicas_end_at_zero_on_empty_queue(self, counts: list[int | None]) -> None:
        scaler = Scaler(ScaledObject(max_replica_count=7), 0.0)
        for second, count in enumerate(counts):
            replicas = scaler.step(10.0 * second, [count])
            assert 0 <= replicas <= 7
        now = 10.0 * len(counts)
        for later in range(24):
            replicas = scaler.step(now + 15.0 * later, [0])
        assert replicas == 0


@pytest.mark.parametrize(
    "numbers",
    [
        {"message_count": 0},
        {"min_replica_count": 3, "max_replica_count": 2},
        {"min_replica_count": -1},
        {"max_replica_count": 0},
        {"polling_interval_seconds": 0},
    ],
)
def test_invalid_settings_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"messages|replicas|interval"):
        ScaledObject(**numbers)
