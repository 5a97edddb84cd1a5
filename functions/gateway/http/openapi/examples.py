"""Example responses for the OpenAPI document: those of the routes for jobs, batches and models."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.batches.model import BatchSpec, BatchState, BatchStatus
from gateway.batches.resource import BatchResource, batch_resource
from gateway.batches.store import input_blob
from gateway.jobs.model import JobResource, JobStatus
from gateway.keys import OPEN_TENANT

JOB_ID: Final = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"
BATCH_ID: Final = "01982f0c-5f0e-8d4a-9a53-0d2c1b3f0000"

_PATH: Final = f"/v1/jobs/{JOB_ID}"
TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"

SUCCEEDED_JOB: Final[JobResource] = {
    "id": JOB_ID,
    "model": "classifier",
    "version": "1",
    "label": "order 4711",
    "status": JobStatus.SUCCEEDED,
    "created_at": "2026-03-01T12:00:00.000Z",
    "started_at": "2026-03-01T12:00:00.004Z",
    "finished_at": "2026-03-01T12:00:00.039Z",
    "deadline": "2026-03-01T12:01:00.000Z",
    "attempt": 1,
    "progress": None,
    "queue": {"position": None, "eta_seconds": None, "phase": None},
    "result": {"labels": [{"label": "Egyptian cat", "index": 285, "score": 0.72}]},
    "results": {},
    "error": None,
    "timing": {"queued_ms": 4, "inference_ms": 21, "batch_size": 4, "total_ms": 39},
    "trace_id": TRACE_ID,
    "links": {"self": _PATH, "result": f"{_PATH}/result", "cancel": _PATH},
}
QUEUED_JOB: Final[JobResource] = {
    **SUCCEEDED_JOB,
    "status": JobStatus.QUEUED,
    "started_at": None,
    "finished_at": None,
    "queue": {"position": 3, "eta_seconds": 0.4, "phase": "queued"},
    "result": None,
    "timing": None,
}
_CANCELLED_JOB: Final[JobResource] = {
    **QUEUED_JOB,
    "status": JobStatus.CANCELLED,
    "finished_at": "2026-03-01T12:00:01.500Z",
    "queue": {"position": None, "eta_seconds": None, "phase": None},
}
_CANCELLING_JOB: Final[JobResource] = {**_CANCELLED_JOB, "status": JobStatus.CANCELLING}
_CANCELLING_JOB["finished_at"] = None

_NEW_BATCH: Final = batch_resource(
    BatchSpec(
        BATCH_ID,
        OPEN_TENANT,
        "classifier",
        "2026-03-01T12:00:00.000Z",
        "2026-03-02T12:00:00.000Z",
        input_blob(BATCH_ID),
        label="holiday pictures",
    ),
    BatchState(),
)
_RUNNING_BATCH: Final[BatchResource] = {
    **_NEW_BATCH,
    "status": BatchStatus.RUNNING,
    "started_at": "2026-03-01T12:00:00.400Z",
    "counts": {
        "total": 2000,
        "waiting": 1300,
        "running": 100,
        "succeeded": 597,
        "failed": 3,
        "expired": 0,
        "cancelled": 0,
    },
    "progress": {"fraction": 0.3},
    "estimate": {"rate_per_second": 41.5, "eta_seconds": 33.7},
    "error_codes": {"invalid-input": 3},
}
_CANCELLING_BATCH: Final[BatchResource] = {**_RUNNING_BATCH, "status": BatchStatus.CANCELLING}

_MODEL: Final[Mapping[str, Any]] = {
    "name": "classifier",
    "version": "1",
    "versions": {"1": 100},
    "task": "image-classification",
    "description": "The most probable labels of a picture.",
    "media_types": ["image/jpeg", "image/png", "image/webp"],
    "result_media_type": "application/json",
    "results": {},
    "limits": {
        "input_bytes": 10_485_760,
        "upload_bytes": 10_485_760,
        "pixels": 50_000_000,
        "deadline_seconds": 3600,
    },
    "defaults": {"deadline_seconds": 60},
    "parameters": None,
    "inputs": {},
    "streams": False,
    "openai": [],
    "queue_length": 0,
    "estimated_wait_seconds": 0.1,
    "links": {"self": "/v1/models/classifier", "jobs": "/v1/models/classifier/jobs"},
}

EXAMPLES: Final[Mapping[tuple[str, str], object]] = {
    ("submit_job", "200"): SUCCEEDED_JOB,
    ("submit_job", "202"): QUEUED_JOB,
    ("create_batch", "202"): _NEW_BATCH,
    ("get_batch", "200"): _RUNNING_BATCH,
    ("cancel_batch", "200"): {**_RUNNING_BATCH, "status": BatchStatus.CANCELLED},
    ("cancel_batch", "202"): _CANCELLING_BATCH,
    ("list_batches", "200"): {
        "batches": [_RUNNING_BATCH],
        "next_cursor": None,
        "links": {"next": None},
    },
    ("get_job", "200"): SUCCEEDED_JOB,
    ("get_result", "200"): SUCCEEDED_JOB["result"],
    ("get_result", "202"): QUEUED_JOB,
    ("get_named_result", "200"): {"polygons": [[[0, 0], [0, 9], [9, 9]]]},
    ("get_named_result", "202"): QUEUED_JOB,
    ("cancel_job", "200"): _CANCELLED_JOB,
    ("cancel_job", "202"): _CANCELLING_JOB,
    ("list_jobs", "200"): {
        "jobs": [SUCCEEDED_JOB],
        "searched_back_to": "2026-02-26T11:00:00.000Z",
        "next_cursor": None,
        "links": {"next": None},
    },
    ("list_models", "200"): {"models": [_MODEL]},
    ("get_model", "200"): _MODEL,
}
"""Examples of JSON responses, by operation id and HTTP status."""
