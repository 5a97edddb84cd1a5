"""Read from a catalogue how many workers of each model must run, even without jobs."""

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loosely.local.environment import find_root, shared_environment
from loosely.local.errors import CatalogueInvalid
from loosely.local.parts import python_command
from loosely.local.scaling import CronTrigger, ScaledObject


@dataclass(frozen=True, slots=True)
class ModelScaling:
    """How many workers of a model must run without jobs: always, and in periods of the week."""

    min_workers: int = 0
    periods: tuple[CronTrigger, ...] = ()


def read_model_scaling(catalogue: Path, user: Mapping[str, str]) -> dict[str, ModelScaling]:
    """Return the scaling of each model of a catalogue. Raises CatalogueInvalid."""
    done = subprocess.run(  # noqa: S603  our own module, without a shell
        python_command("contract", "scaling", str(catalogue)),
        env=shared_environment(find_root(), user),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CatalogueInvalid(done.stderr.strip())
    return {
        name: ModelScaling(
            found["min_workers"],
            tuple(
                CronTrigger(
                    tuple(period["days"]),
                    period["start_minutes"],
                    period["end_minutes"],
                    period["timezone"],
                    found["warm_workers"],
                )
                for period in found["warm"]
            ),
        )
        for name, found in json.loads(done.stdout).items()
    }


def keep_workers(scaling: ScaledObject, models: Iterable[ModelScaling]) -> ScaledObject:
    """Return `scaling`, changed to keep the workers that `models` need even without jobs.

    Each worker runs all of `models`, so the largest minimum applies, up to the maximum.
    """
    found, maximum = list(models), scaling.max_replica_count
    minimum = max([scaling.min_replica_count, *(model.min_workers for model in found)])
    periods = [period for model in found for period in model.periods]
    return replace(
        scaling,
        min_replica_count=min(minimum, maximum),
        cron=tuple(
            replace(period, desired_replicas=min(period.desired_replicas, maximum))
            for period in periods
        ),
    )
