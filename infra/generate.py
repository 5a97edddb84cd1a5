"""Generate the deployment files that depend on the model catalogue or on pyproject.toml.

`./dev infra` writes infra/catalogue.json for Bicep, infra/k8s/base/workers/models.yaml and
infra/k8s/overlays/on-premises/scalers.yaml for Kubernetes, infra/weights.txt for
fetch-weights.sh, and worker/requirements.txt for the image.
"""

import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from contract.catalogue import Catalogue, ModelEntry
from contract.errors import CatalogueError, ContractError
from contract.names import low_priority_queue
from contract.queues import (
    LONGEST_BATCH_SECONDS,
    LOW_PRIORITY_MESSAGES_PER_WORKER,
    MESSAGES_PER_WORKER,
    cloud_lock_seconds,
    config,
)
from contract.weights import list_hub_files
from infra.manifests import (
    ENGINE,
    count_max_workers,
    make_cron_triggers,
    make_queue_trigger,
    render_manifests,
    render_rabbitmq_scalers,
)

FOLDER = Path(__file__).parent
ON_PREMISES = FOLDER / "k8s" / "overlays" / "on-premises"

# The longest name of a container app. It must also not contain two hyphens in a row.
_LONGEST_APP_NAME = 32
# Seconds for the start of the drain, and for the end of the process after the drain.
_MARGIN_SECONDS = 20
# The largest queue of the Standard tier. 1 GB holds about 31,000 jobs of 24 KiB.
MAX_QUEUE_MEGABYTES = 5120


def compute_grace_seconds(model: ModelEntry) -> int:
    """Return the grace period of a model's pods: a deadline, the lock duration and a margin."""
    longest = model.max_deadline_seconds if model.reports_progress else model.deadline_seconds
    return longest + model.lock_seconds + _MARGIN_SECONDS


def make_app_name(model: ModelEntry) -> str:
    """Return the name of a model's container app: `worker-NAME`, shortened if Azure refuses it."""
    name = f"worker-{model.resource_name}"
    if len(name) <= _LONGEST_APP_NAME and "--" not in name:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:7]
    short = re.sub("-+", "-", name)[: _LONGEST_APP_NAME - len(digest) - 1].rstrip("-")
    return f"{short}-{digest}"


def make_scaled_queues(model: ModelEntry) -> list[dict[str, Any]]:
    """Return the settings of KEDA's triggers: one dict for each queue of the model."""
    # The messages of running jobs count, too, and one engine runs many.
    running = model.max_concurrent_jobs if model.implementation == ENGINE else 0
    counts = {
        model.queue: MESSAGES_PER_WORKER,
        low_priority_queue(model.queue): LOW_PRIORITY_MESSAGES_PER_WORKER,
    }
    return [
        {"name": queue, "messageCount": max(count, running), "activationMessageCount": 0}
        for queue, count in counts.items()
    ]


def make_scale_rules(model: ModelEntry) -> list[dict[str, Any]]:
    """Return the scale rules of a model's container app: one for each of KEDA's triggers."""
    queues = [
        {"name": queue["name"], "type": "azure-servicebus", "metadata": make_queue_trigger(queue)}
        for queue in make_scaled_queues(model)
    ]
    periods = [
        {"name": f"warm-{number}", "type": "cron", "metadata": metadata}
        for number, metadata in enumerate(make_cron_triggers(model), start=1)
    ]
    return queues + periods


def make_bicep_document(catalogue: Catalogue) -> dict[str, Any]:
    """Return the content of catalogue.json: limits, the queues and the models."""
    [namespace] = config(catalogue)["UserConfig"]["Namespaces"]
    lock_seconds = {
        queue["name"]: cloud_lock_seconds(model)
        for model in catalogue.values()
        for queue in make_scaled_queues(model)
    }
    return {
        "bodyLimitBytes": catalogue.body_limit_bytes,
        "queues": [
            {
                "name": queue["Name"],
                "lockDuration": f"PT{lock_seconds[queue['Name']]}S",
                "maxDeliveryCount": queue["Properties"]["MaxDeliveryCount"],
                "defaultMessageTimeToLive": queue["Properties"]["DefaultMessageTimeToLive"],
                "deadLetteringOnMessageExpiration": queue["Properties"][
                    "DeadLetteringOnMessageExpiration"
                ],
                "duplicateDetectionHistoryTimeWindow": queue["Properties"][
                    "DuplicateDetectionHistoryTimeWindow"
                ],
                "maxSizeInMegabytes": MAX_QUEUE_MEGABYTES,
            }
            for queue in namespace["Queues"]
        ],
        "mostGpus": max(model.gpus if model.uses_gpu else 0 for model in catalogue.values()),
        "longestDeadlineSeconds": max(model.max_deadline_seconds for model in catalogue.values()),
        "longestBatchSeconds": LONGEST_BATCH_SECONDS,
        "models": [
            {
                "name": model.resource_name,
                "appName": make_app_name(model),
                "model": model.name,
                "device": "gpu" if model.uses_gpu else "cpu",
                "graceSeconds": compute_grace_seconds(model),
                "minWorkers": model.min_workers,
                "warmWorkers": model.warm_workers,
                "maxWorkers": count_max_workers(model),
                "scaleRules": make_scale_rules(model),
            }
            for model in catalogue.values()
        ],
    }


def make_requirements() -> str:
    """Return the text of the worker's requirements.txt, made from the extras in pyproject.toml."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    names = [*extras["worker-loop"], *extras["telemetry"], *extras["worker"]]
    wanted = sorted({name for name in names if not name.startswith("loosely[")})
    return "# Generated by infra/generate.py from pyproject.toml.\n" + "\n".join(wanted) + "\n"


def make_weights_list(catalogue: Catalogue) -> str:
    """Return the text of weights.txt: the files that fetch-weights.sh copies from the hub."""
    lines = list_hub_files((model.weights, model.weights_sha256) for model in catalogue.values())
    header = "# Generated by `./dev infra` from the model catalogue: digest and path on the hub."
    return "\n".join([header, *lines, ""])


def make_files(catalogue: Catalogue) -> dict[Path, str]:
    """Return a dict from the path of each generated file to its text.

    Raises CatalogueError if a model demands more workers than a deployment may have.
    """
    for model in catalogue.values():
        for key in ("min_workers", "warm_workers"):
            if (count := getattr(model, key)) > (limit := count_max_workers(model)):
                raise CatalogueError(
                    f"{model.name}.{key}: a deployment allows at most {limit} workers of this "
                    f"model, found {count}"
                )
    models = [
        (model, make_scaled_queues(model), compute_grace_seconds(model))
        for model in catalogue.values()
    ]
    files = {
        FOLDER / "catalogue.json": json.dumps(make_bicep_document(catalogue), indent=2) + "\n",
        FOLDER / "k8s" / "base" / "workers" / "models.yaml": render_manifests(models),
        ON_PREMISES / "scalers.yaml": render_rabbitmq_scalers(models),
        FOLDER / "weights.txt": make_weights_list(catalogue),
    }
    # A project that `loosely deploy` has written has no pyproject.toml.
    if (FOLDER.parent / "pyproject.toml").exists():
        files[FOLDER.parent / "worker" / "requirements.txt"] = make_requirements()
    return files


def main() -> int:
    """Write the generated files, and return 0, or 2 if the catalogue is not valid."""
    try:
        files = make_files(Catalogue.load())
    except ContractError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(FOLDER.parent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
