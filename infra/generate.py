"""What the deployment takes from the model catalogue, so that it is said once.

`python -m infra.generate` (by `./dev infra`) writes infra/catalogue.json, which Bicep reads,
infra/k8s/base/workers/models.yaml, and the image's requirements from pyproject.toml. A test
compares the files with what this would write.
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from contract.catalogue import Catalogue, Model
from contract.names import low_priority_queue
from contract.queues import config
from infra.manifests import documents

FOLDER = Path(__file__).parent

# Jobs that a worker should have waiting for it before another is started; KEDA's default is 5.
MESSAGES_PER_WORKER = 5
# Low-priority jobs wait by definition: few workers are started for them.
LOW_PRIORITY_MESSAGES_PER_WORKER = 100
# For the process to start its drain, and to end after it.
_MARGIN_SECONDS = 20
_MAX_SIZE_MEGABYTES = 1024


def grace_seconds(model: Model) -> int:
    """How long a leaving pod may take: its longest job in the ordinary case, and a lock."""
    longest = model.max_deadline_seconds if model.reports_progress else model.deadline_seconds
    return longest + model.lock_seconds + _MARGIN_SECONDS


def scaled_queues(model: Model) -> list[dict[str, Any]]:
    """The queues that bring up a model's workers."""
    return [
        {"name": model.queue, "messageCount": MESSAGES_PER_WORKER, "activationMessageCount": 0},
        {
            "name": low_priority_queue(model.queue),
            "messageCount": LOW_PRIORITY_MESSAGES_PER_WORKER,
            "activationMessageCount": 0,
        },
    ]


def bicep_document(catalogue: Catalogue) -> dict[str, Any]:
    """The catalogue as Bicep reads it."""
    [namespace] = config(catalogue)["UserConfig"]["Namespaces"]
    return {
        "queues": [
            {
                "name": queue["Name"],
                "lockDuration": queue["Properties"]["LockDuration"],
                "maxDeliveryCount": queue["Properties"]["MaxDeliveryCount"],
                "defaultMessageTimeToLive": queue["Properties"]["DefaultMessageTimeToLive"],
                "deadLetteringOnMessageExpiration": queue["Properties"][
                    "DeadLetteringOnMessageExpiration"
                ],
                "duplicateDetectionHistoryTimeWindow": queue["Properties"][
                    "DuplicateDetectionHistoryTimeWindow"
                ],
                "maxSizeInMegabytes": _MAX_SIZE_MEGABYTES,
            }
            for queue in namespace["Queues"]
        ],
        "models": [
            {
                "name": model.name,
                "device": "gpu" if model.uses_gpu else "cpu",
                "graceSeconds": grace_seconds(model),
                "queues": scaled_queues(model),
            }
            for model in catalogue.values()
        ],
    }


def requirements() -> str:
    """What the worker's image installs: its extras in pyproject.toml, without the command line."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    names = [*extras["worker-loop"], *extras["telemetry"], *extras["worker"]]
    wanted = sorted({name for name in names if not name.startswith("loosely[")})
    return "# Made by infra/generate.py from pyproject.toml.\n" + "\n".join(wanted) + "\n"


def files(catalogue: Catalogue) -> dict[Path, str]:
    """Every generated file and its text."""
    manifests = documents(
        (model, scaled_queues(model), grace_seconds(model)) for model in catalogue.values()
    )
    return {
        FOLDER / "catalogue.json": json.dumps(bicep_document(catalogue), indent=2) + "\n",
        FOLDER / "k8s" / "base" / "workers" / "models.yaml": manifests,
        FOLDER.parent / "worker" / "requirements.txt": requirements(),
    }


def main() -> int:
    """Write the files."""
    for path, text in files(Catalogue.load()).items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(FOLDER.parent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
