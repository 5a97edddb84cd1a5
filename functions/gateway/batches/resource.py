"""The JSON object that the API shows of a batch."""

from collections.abc import Sequence
from typing import Annotated, Final, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import split_name
from gateway.batches.model import BatchSpec, BatchState, BatchStatus, LineProblem
from gateway.jobs.model import Time

PATH: Final = "/v1/batches"


class BatchCounts(TypedDict):
    """How many lines a batch has, in all and by their status."""

    total: Annotated[int, Field(description="0 until the lines are checked.")]
    waiting: Annotated[int, Field(description="Lines that were not sent to a queue yet.")]
    running: Annotated[int, Field(description="Lines in the model's queue or at a worker.")]
    succeeded: int
    failed: int
    expired: int
    cancelled: int


class BatchProgress(TypedDict):
    """How much of a batch has ended."""

    fraction: Annotated[float | None, Field(ge=0, le=1, examples=[0.4])]


class BatchEstimate(TypedDict):
    """When a running batch will probably have ended."""

    rate_per_second: float | None
    eta_seconds: float | None


class LineError(TypedDict):
    """Why a line of the file is refused. `line` is null if the whole file is."""

    line: Annotated[int | None, Field(ge=1, description="The number of the line in the file.")]
    custom_id: str | None
    code: Annotated[str, Field(examples=["duplicate-custom-id"])]
    message: str


class BatchLinks(TypedDict):
    """The paths of a batch, of its results and errors, and of its lines as jobs."""

    self: Annotated[str, Field(examples=["/v1/batches/01982f0c-5f0e-8d4a-9a53-0d2c1b3f0000"])]
    results: str
    errors: str
    cancel: str
    jobs: str


class BatchResource(TypedDict):
    """A batch: jobs for one model from the lines of a file. A final status never changes."""

    id: Annotated[str, Field(examples=["01982f0c-5f0e-8d4a-9a53-0d2c1b3f0000"])]
    model: Annotated[str, Field(examples=["classifier"])]
    version: Annotated[
        str | None,
        Field(description="The version of the model; null if each line chooses one, as a job."),
    ]
    label: Annotated[str | None, Field(examples=["holiday pictures"])]
    metadata: dict[str, str]
    tenant: NotRequired[
        Annotated[str, Field(description="The owner; only for a caller that sees all tenants.")]
    ]
    status: BatchStatus
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    deadline: Time
    counts: BatchCounts
    progress: BatchProgress
    estimate: BatchEstimate
    errors: Annotated[
        list[LineError],
        Field(description="Why the file was refused: up to 100 lines. Empty if it was not."),
    ]
    error_codes: Annotated[
        dict[str, int],
        Field(description="How many lines ended with each code.", examples=[{"expired": 3}]),
    ]
    links: BatchLinks


def batch_path(batch_id: str) -> str:
    """Return the URL path of a batch."""
    return f"{PATH}/{batch_id}"


def line_errors(problems: Sequence[LineProblem]) -> list[LineError]:
    """Return the JSON objects that say why lines are refused."""
    return [
        {
            "line": each.line or None,
            "custom_id": each.custom_id,
            "code": each.code,
            "message": each.message,
        }
        for each in problems
    ]


def batch_resource(spec: BatchSpec, state: BatchState) -> BatchResource:
    """Return the JSON object that represents a batch in all responses and in its webhook."""
    path, total, ended = batch_path(spec.id), state.total, state.ended
    running = min(state.in_flight, total - ended)
    model, version = split_name(spec.model)
    rate = state.rate if state.status is BatchStatus.RUNNING else None
    return {
        "id": spec.id,
        "model": model,
        "version": version if spec.is_pinned else None,
        "label": spec.label,
        "metadata": spec.metadata,
        "status": state.status,
        "created_at": spec.created_at,
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "deadline": spec.deadline,
        "counts": {
            "total": total,
            "waiting": total - ended - running,
            "running": running,
            "succeeded": state.succeeded,
            "failed": state.failed,
            "expired": state.expired,
            "cancelled": state.cancelled,
        },
        "progress": {"fraction": round(ended / total, 4) if total else None},
        "estimate": {
            "rate_per_second": rate and round(rate, 3),
            "eta_seconds": round((total - ended) / rate, 1) if rate else None,
        },
        "errors": line_errors(state.problems),
        "error_codes": state.error_codes,
        "links": {
            "self": path,
            "results": f"{path}/results",
            "errors": f"{path}/errors",
            "cancel": path,
            "jobs": f"/v1/jobs?batch={spec.id}",
        },
    }
