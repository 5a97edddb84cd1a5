"""Describe the catalogue's queues as Config.json of Microsoft's Service Bus emulator.

Our own Service Bus emulator reads the same file.
"""

from typing import Any

from contract.catalogue import Catalogue, ModelEntry
from contract.names import low_priority_queue

DUPLICATE_WINDOW = "PT10M"

LONGEST_BATCH_SECONDS = 7 * 24 * 3600
"""The longest time from the creation of a batch to its deadline."""

MESSAGES_PER_WORKER = 5
"""The number of waiting jobs for which KEDA starts one worker. KEDA's default is 5."""

LOW_PRIORITY_MESSAGES_PER_WORKER = 100
"""How many messages of a low-priority queue a worker has on average. Low-priority jobs may wait."""

CLOUD_LOCK_SECONDS = 60
"""The least lock duration of a queue in Azure, in seconds.

A throttled namespace may refuse the renewal of a lock for minutes. A longer lock survives more of
that. But if a node dies, its jobs wait until their locks expire.
"""

# The queues allow many more deliveries than `max_delivery_count`, because Service Bus also counts
# those to workers that something else has killed. Workers count those that the job let fail.
_LEAST_DELIVERY_COUNT = 100
_LARGEST_DELIVERY_COUNT = 2000

_NAME_CHARACTERS = 260


def names(catalogue: Catalogue) -> frozenset[str]:
    """Return the names of all models' normal and low-priority queues."""
    return frozenset(
        name
        for model in catalogue.values()
        for name in (model.queue, low_priority_queue(model.queue))
    )


def may_take_replies(queue: str, own: frozenset[str]) -> bool:
    """Return whether a queue may get replies. Workers read requests from our `own` queues."""
    return queue.lower() not in own and len(queue) <= _NAME_CHARACTERS and "$" not in queue


def config(catalogue: Catalogue) -> dict[str, Any]:
    """Return the content of Config.json."""
    queues = [
        _queue(name, model, seconds)
        for model in catalogue.values()
        for name, seconds in (
            (model.queue, model.max_deadline_seconds),
            # A line of a batch may wait until the deadline of its batch.
            (
                low_priority_queue(model.queue),
                max(model.max_deadline_seconds, LONGEST_BATCH_SECONDS),
            ),
        )
    ]
    return {
        "UserConfig": {
            "Namespaces": [{"Name": "sbemulatorns", "Queues": queues, "Topics": []}],
            "Logging": {"Type": "File"},
        }
    }


def cloud_lock_seconds(model: ModelEntry) -> int:
    """Return the lock duration of a model's queues in Azure, in seconds."""
    return max(model.lock_seconds, CLOUD_LOCK_SECONDS)


def queue_delivery_count(model: ModelEntry) -> int:
    """Return the maximum delivery count of a model's queues."""
    return min(max(10 * model.max_delivery_count, _LEAST_DELIVERY_COUNT), _LARGEST_DELIVERY_COUNT)


def _queue(name: str, model: ModelEntry, longest_seconds: int) -> dict[str, Any]:
    return {
        "Name": name,
        "Properties": {
            "LockDuration": f"PT{model.lock_seconds}S",
            "MaxDeliveryCount": queue_delivery_count(model),
            "DefaultMessageTimeToLive": f"PT{longest_seconds}S",
            # The gateway's dead-letter trigger then informs the producer of an expired message.
            "DeadLetteringOnMessageExpiration": True,
            # A request that is sent twice has the same message id, so the second is dropped.
            "RequiresDuplicateDetection": True,
            "DuplicateDetectionHistoryTimeWindow": DUPLICATE_WINDOW,
            "RequiresSession": False,
            "ForwardTo": "",
            "ForwardDeadLetteredMessagesTo": "",
        },
    }
