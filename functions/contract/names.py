"""Every string that two processes must spell alike."""

from typing import Final

# The orchestration, named in start_new, and its activities.
ORCHESTRATOR_JOB: Final = "job"
ACTIVITY_ENQUEUE: Final = "enqueue"
ACTIVITY_CONCLUDE: Final = "conclude"

# The delivery of webhooks: an orchestration, started and served by an activity each.
ORCHESTRATOR_WEBHOOK: Final = "webhook"
ACTIVITY_ANNOUNCE_WEBHOOK: Final = "announce_webhook"
ACTIVITY_DELIVER_WEBHOOK: Final = "deliver_webhook"
ACTIVITY_DELIVER_REPLY: Final = "deliver_reply"

# External events: lower case, since the .NET host ignores case and the Python SDK does not.
EVENT_REPLY: Final = "reply"
EVENT_CANCEL: Final = "cancel"
EVENT_STOPPED: Final = "stopped"

# App settings, also read by bindings: a connection string, or NAME__fullyQualifiedNamespace.
SETTING_SERVICE_BUS: Final = "SERVICE_BUS"
SETTING_PAYLOAD_STORAGE: Final = "PAYLOAD_STORAGE"
SETTING_CATALOGUE: Final = "MODEL_CATALOGUE"

PROPERTY_TRACEPARENT: Final = "traceparent"
PROPERTY_TRACESTATE: Final = "tracestate"

PAYLOAD_CONTAINER: Final = "payloads"
REPLY_EXPIRES_PARAMETER: Final = "expires"
REPLY_QUEUE_PARAMETER: Final = "queue"
REPLY_TOKEN_PARAMETER: Final = "token"  # noqa: S105  the name of it, not a secret


UPLOADS: Final = "uploads/"
"""How the names of uploads' blobs begin."""


OUTCOMES: Final = "outcomes/"
"""How the names of the blobs with jobs' outcomes begin."""


def input_blob(job_id: str) -> str:
    """Name of the blob that holds a job's input."""
    return f"inputs/{job_id}"


def upload_blob(upload_id: str, owner: str) -> str:
    """Name of the blob that an upload slot is for; `owner` is what the upload belongs to."""
    return f"{UPLOADS}{upload_id}.{owner}"


def result_blob(job_id: str) -> str:
    """Name of the blob that holds a job's result."""
    return f"results/{job_id}"


def outcome_blob(job_id: str) -> str:
    """Return the name of the blob that holds how a job ended."""
    return f"{OUTCOMES}{job_id}"


def low_priority_queue(queue: str) -> str:
    """Name of the queue beside a model's own whose jobs wait until that one has none to give."""
    return f"{queue}-low"


def dead_letter_queue(queue: str) -> str:
    """Address of a queue's dead-letter sub-queue."""
    return f"{queue}/$DeadLetterQueue"


def webhook_instance(job_id: str) -> str:
    """Instance id of the orchestration that delivers a job's webhook."""
    return f"webhook-{job_id}"


def job_path(job_id: str) -> str:
    """Path of the job resource on the gateway."""
    return f"/v1/jobs/{job_id}"


def reply_path(job_id: str) -> str:
    """Path that a worker's reply goes to."""
    return f"/v1/jobs/{job_id}/reply"


def progress_url(reply_url: str) -> str | None:
    """Where to report on a long job, by the reply's token; None where replies go elsewhere."""
    path, question_mark, query = reply_url.partition("?")
    base, slash, last = path.rpartition("/")
    return f"{base}/progress?{query}" if slash and question_mark and last == "reply" else None


def progress_blob(job_id: str) -> str:
    """Name of the blob that holds how far a running job is."""
    return f"progress/{job_id}"
