"""The strings that two processes must share: names of functions, events, settings, blobs, paths."""

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
"""The prefix of the blobs of uploads."""


OUTCOMES: Final = "outcomes/"
"""The prefix of the blobs with jobs' outcomes."""


def input_blob(job_id: str) -> str:
    """Return the name of the blob with a job's input."""
    return f"inputs/{job_id}"


def upload_blob(upload_id: str, owner: str) -> str:
    """Return the name of the blob of an upload; `owner` identifies its tenant."""
    return f"{UPLOADS}{upload_id}.{owner}"


def result_blob(job_id: str) -> str:
    """Return the name of the blob with a job's result."""
    return f"results/{job_id}"


def outcome_blob(job_id: str) -> str:
    """Return the name of the blob with a job's outcome."""
    return f"{OUTCOMES}{job_id}"


def low_priority_queue(queue: str) -> str:
    """Return the name of the queue for the jobs of low priority, beside a model's own queue."""
    return f"{queue}-low"


def dead_letter_queue(queue: str) -> str:
    """Return the address of a queue's dead-letter queue."""
    return f"{queue}/$DeadLetterQueue"


def webhook_instance(job_id: str) -> str:
    """Return the instance id of the orchestration that delivers a job's webhook."""
    return f"webhook-{job_id}"


def job_path(job_id: str) -> str:
    """Return the path of the job resource on the gateway."""
    return f"/v1/jobs/{job_id}"


def reply_path(job_id: str) -> str:
    """Return the path to which a worker sends its reply."""
    return f"/v1/jobs/{job_id}/reply"


def progress_url(reply_url: str) -> str | None:
    """Return the URL for progress reports that belongs to a reply URL; None if it has none."""
    path, question_mark, query = reply_url.partition("?")
    base, slash, last = path.rpartition("/")
    return f"{base}/progress?{query}" if slash and question_mark and last == "reply" else None


def progress_blob(job_id: str) -> str:
    """Return the name of the blob with a running job's progress."""
    return f"progress/{job_id}"
