"""Store the measured values of Loosely and its peers in a JSON file, and compute their medians."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

Values = dict[str, float | None]
"""Measured values by name. None means that the value is infinite: no response ever came."""


@dataclass(frozen=True, slots=True)
class PeerRun:
    """The measured values of one run of a system, or the error of the run.

    `round` is the number of the round of measurements. `key` is the id of the system's
    configuration, for example `celery/polling`. `task` is the name of the task, for example `noop`.
    If the run failed, `values` is empty and `error` is the text of the error.
    """

    round: int
    key: str
    task: str
    values: Values
    error: str = ""


@dataclass(slots=True)
class Comparison:
    """All runs of Loosely and its peers (other ways to serve a model), and facts about the runs.

    The facts include the date and the machine.
    """

    facts: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    is_quick: bool = False
    runs: list[PeerRun] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the comparison as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """Read a comparison that `write` has written."""
        document = json.loads(path.read_text("utf-8"))
        document["runs"] = [PeerRun(**run) for run in document["runs"]]
        return cls(**document)

    def medians(self, key: str, task: str) -> Values:
        """Return the median of each measured value over all rounds, by the name of the value.

        The medians are computed from the successful runs of the configuration `key` with the task
        `task`.
        """
        runs = [run for run in self.runs if run.key == key and run.task == task and not run.error]
        names = dict.fromkeys(name for run in runs for name in run.values)
        return {
            name: median_or_none([run.values[name] for run in runs if name in run.values])
            for name in names
        }


def median_or_none(values: Sequence[float | None]) -> float | None:
    """Return the median of `values`. None, as a value or as the result, means infinite."""
    found = median(math.inf if value is None else value for value in values)
    return None if math.isinf(found) else found
