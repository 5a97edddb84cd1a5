"""The rules that our Kubernetes manifests set: they add at once, and take away late and slowly."""

from loosely.scaling.rules import Behavior, Direction, Policy, Scaling, Unit

#: The autoscaler may stop a busy pod, so it stops few: one a minute, after ten quiet minutes.
BEHAVIOR = Behavior(
    scale_up=Direction(0.0, (Policy(Unit.PODS, 4, 15.0),)),
    scale_down=Direction(600.0, (Policy(Unit.PODS, 1, 60.0),)),
)
DEPLOYED = Scaling(
    message_count=5,
    polling_interval_seconds=15.0,
    cooldown_period_seconds=300.0,
    max_replica_count=8,
    behavior=BEHAVIOR,
)
