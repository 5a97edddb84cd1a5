"""The scaling settings of our Kubernetes manifests."""

from contract.queues import MESSAGES_PER_WORKER
from loosely.local.scaling import Behavior, PolicyType, ScaledObject, ScalingPolicy, ScalingRules

#: The autoscaler may stop a busy pod. So it removes only one pod per minute, after ten minutes with
#: less work.
_DEPLOYED_BEHAVIOR = Behavior(
    scale_up=ScalingRules(0.0, (ScalingPolicy(PolicyType.PODS, 4, 15.0),)),
    scale_down=ScalingRules(600.0, (ScalingPolicy(PolicyType.PODS, 1, 60.0),)),
)
#: The scaling settings of our Kubernetes manifests.
DEPLOYED = ScaledObject(
    message_count=MESSAGES_PER_WORKER,
    polling_interval_seconds=15.0,
    cooldown_period_seconds=300.0,
    max_replica_count=8,
    behavior=_DEPLOYED_BEHAVIOR,
)
