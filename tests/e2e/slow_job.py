"""Jobs that continue when a test says so."""

import json
from pathlib import Path
from typing import Any

from gateway.jobs.model import JobStatus
from tests.e2e.system import System, until

CATALOGUE = """
[slow]
description = "Continues when the test says so."
implementation = "tests.e2e.slow_model"
media_types = ["text/plain"]
deadline_seconds = 120
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5
reports_progress = true
"""


class SlowJob:
    """A job of the model `slow`. A step of the job is finished only when the test calls `step`."""

    def __init__(self, system: System, folder: Path, steps: int = 3, **query: Any) -> None:
        folder.mkdir()
        self.folder, self.system = folder, system
        answer = system.http.post(
            "/v1/models/slow/jobs",
            params=query,
            content=json.dumps({"folder": str(folder), "steps": steps}),
            headers={"content-type": "text/plain", "prefer": "respond-async"},
        )
        assert answer.status_code == 202, answer.text
        self.id = answer.json()["id"]
        self.statuses = [answer.json()["status"]]

    def look(self) -> dict[str, Any]:
        job = self.system.job(self.id)
        self.statuses.append(job["status"])
        return job

    def step(self, number: int) -> None:
        (self.folder / f"step-{number}").touch()

    def is_running(self) -> bool:
        return (self.folder / "running").exists()

    def wait_for(self, status: str, fraction: float | None = None) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            job = self.look()
            known = (job["progress"] or {}).get("fraction")
            return job if job["status"] == status and known == fraction else None

        return dict(until(found, 15, f"{status} at {fraction}"))

    def check_statuses(self) -> None:
        ranks = [min(list(JobStatus).index(JobStatus(each)), 3) for each in self.statuses]
        assert ranks == sorted(ranks), self.statuses
        assert len({each for each in self.statuses if JobStatus(each).is_final}) <= 1
