"""Create the file Config.json of Microsoft's Service Bus emulator from the model catalogue.

`python -m contract.queues [--served NAMES] [CATALOGUE]` prints Config.json with the queues of all
models. NAMES are the models and versions that the workers serve, separated by commas. The program
fails if one of these models has a version that gets jobs, and neither this version nor its fallback
is in NAMES. Our own Service Bus emulator reads the same file.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from contract.catalogue import DEFAULT_PATH, Catalogue, ModelEntry, check_workers
from contract.errors import ContractError
from contract.names import low_priority_queue

DUPLICATE_WINDOW = "PT10M"

CLOUD_LOCK_SECONDS = 60
"""The least lock duration of a queue in Azure, in seconds.

A throttled namespace may refuse the renewal of a lock for minutes. A longer lock survives more of
that. But if a node dies, its jobs wait until their locks expire.
"""

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
    """Return whether replies may be sent to this queue.

    `own` contains the names of the models' queues. Replies must not be sent to these queues,
    because a worker would read a reply as a request. A name that is too long or contains `$` is
    not allowed either.
    """
    return queue.lower() not in own and len(queue) <= _NAME_CHARACTERS and "$" not in queue


def config(catalogue: Catalogue) -> dict[str, Any]:
    """Return the content of Config.json, which lists all queues of the catalogue."""
    queues = [
        _queue(name, model)
        for model in catalogue.values()
        for name in (model.queue, low_priority_queue(model.queue))
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
    """Return the maximum delivery count of a model's queues.

    It is much larger than the model's `max_delivery_count`. Service Bus counts each delivery, also
    if the worker was killed by another job or from outside. The workers count the deliveries that
    failed because of the job, and dead-letter the message. The queue's count is the last limit, for
    deliveries that no worker can judge.
    """
    return min(max(10 * model.max_delivery_count, _LEAST_DELIVERY_COUNT), _LARGEST_DELIVERY_COUNT)


def _queue(name: str, model: ModelEntry) -> dict[str, Any]:
    return {
        "Name": name,
        "Properties": {
            "LockDuration": f"PT{model.lock_seconds}S",
            "MaxDeliveryCount": queue_delivery_count(model),
            "DefaultMessageTimeToLive": f"PT{model.max_deadline_seconds}S",
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


def main(arguments: list[str]) -> int:
    """Print Config.json for a Service Bus emulator.

    Return the exit status: 0, or 2 if the catalogue is not valid or if `check_workers` fails.
    """
    parser = argparse.ArgumentParser(
        prog="python -m contract.queues", description="Print the queues of all models."
    )
    parser.add_argument("catalogue", nargs="?", type=Path, default=DEFAULT_PATH)
    parser.add_argument(
        "--served",
        default="",
        help="the models that the workers serve, separated by commas; fail if a version that gets "
        "jobs is missing; by default the workers serve all models",
    )
    parsed = parser.parse_args(arguments)
    try:
        catalogue = Catalogue.load(parsed.catalogue)
        served = [name.strip() for name in parsed.served.split(",") if name.strip()]
        check_workers(catalogue, served or list(catalogue))
    except ContractError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(config(catalogue), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
