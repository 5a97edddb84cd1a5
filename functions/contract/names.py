"""Names that several processes use: names of functions, events, settings, blobs and queues."""

import hashlib
import re
import secrets
from typing import Final

# The orchestrator function of a job, and the activities that it calls.
ORCHESTRATOR_JOB: Final = "job"
ACTIVITY_ENQUEUE: Final = "enqueue"
ACTIVITY_CONCLUDE: Final = "conclude"

# The orchestrator function that delivers a webhook, and the activities that start it and that send.
ORCHESTRATOR_WEBHOOK: Final = "webhook"
ACTIVITY_ANNOUNCE_WEBHOOK: Final = "announce_webhook"
ACTIVITY_DELIVER_WEBHOOK: Final = "deliver_webhook"

# The orchestrator function of a batch, and the activity that does its work.
ORCHESTRATOR_BATCH: Final = "batch"
ACTIVITY_STEP_BATCH: Final = "step_batch"

# External events. They are lower case because only the Python SDK distinguishes case.
EVENT_REPLY: Final = "reply"
EVENT_CANCEL: Final = "cancel"
EVENT_STOPPED: Final = "stopped"
EVENT_LINES: Final = "lines"

# The Service Bus bindings also read this setting, which is a connection string. If it is not set,
# they read SERVICE_BUS__fullyQualifiedNamespace.
SETTING_SERVICE_BUS: Final = "SERVICE_BUS"

PROPERTY_TRACEPARENT: Final = "traceparent"
PROPERTY_TRACESTATE: Final = "tracestate"
# How the worker process ended that held a message. A worker adds the property when it abandons a
# message that a dead process has left locked while it ran the message's job.
PROPERTY_WORKER_DEATH: Final = "worker-death"
# Which earlier deliveries count against a message's job: docs/reference/message-contract.md.
PROPERTY_DELIVERY_HISTORY: Final = "delivery-history"

PAYLOAD_CONTAINER: Final = "payloads"
REPLY_EXPIRES_PARAMETER: Final = "expires"
REPLY_QUEUE_PARAMETER: Final = "queue"
REPLY_SHARE_PARAMETER: Final = "share"
REPLY_START_PARAMETER: Final = "start"
REPLY_TOKEN_PARAMETER: Final = "token"  # noqa: S105  a parameter name, not a secret

# The prefixes of the names of blobs. The sums are the counts of jobs of gateway processes.
UPLOADS: Final = "uploads/"
FILES: Final = "files/"
OUTCOMES: Final = "outcomes/"
DELIVERIES: Final = "deliveries/"
ENDS: Final = "ends/"
HEARTBEATS: Final = "heartbeats/"
SUMS: Final = "sums/"


def heartbeat_blob(worker: str) -> str:
    """Return the name of the blob that contains a worker's heartbeat."""
    return f"{HEARTBEATS}{worker}"


def input_blob(job_id: str, name: str | None = None) -> str:
    """Return the name of the blob that contains a job's input, or its named input `name`."""
    return f"inputs/{job_id}" if name is None else f"inputs/{job_id}/{name}"


def upload_blob(upload_id: str, owner: str) -> str:
    """Return the name of the blob of an upload. `owner` identifies the tenant."""
    return f"{UPLOADS}{upload_id}.{owner}"


_RESULT_PART = re.compile("(?:/[0-9a-f]{32})?")


def result_blob(job_id: str) -> str:
    """Return a new name, so that a producer's message cannot replace another job's result."""
    return f"results/{job_id}/{secrets.token_hex(16)}"


def is_result_blob(job_id: str, blob: str) -> bool:
    """Return whether a blob may be a result of this job. Older workers omit the random part."""
    prefix = f"results/{job_id}"
    return blob.startswith(prefix) and _RESULT_PART.fullmatch(blob, len(prefix)) is not None


def delivery_notes(job_id: str, reply_token: str) -> str:
    """Return the name prefix of the notes about a job, to which no producer can add a note."""
    digest = hashlib.sha256(reply_token.encode("utf-8", "replace")).hexdigest()
    return f"{DELIVERIES}{job_id}/{digest[:32]}/"


def low_priority_queue(queue: str) -> str:
    """Return the name of the low-priority queue beside a model's normal queue."""
    return f"{queue}-low"


def dead_letter_queue(queue: str) -> str:
    """Return the address of the dead-letter queue that belongs to a queue."""
    return f"{queue}/$DeadLetterQueue"


def webhook_instance(job_id: str) -> str:
    """Return the instance id of the orchestration that delivers a job's webhook."""
    return f"webhook-{job_id}"


def batch_instance(batch_id: str) -> str:
    """Return the instance id of the orchestration of a batch."""
    return f"batch-{batch_id}"


WORKER_ROUTE: Final = re.compile(
    r"((?:/[A-Za-z0-9._~-]+)*)/v1/jobs/[A-Za-z0-9][A-Za-z0-9._-]{0,99}/(?:reply|progress|children)"
)
"""Matches the URL paths of the routes for workers. The first group is the path before `/v1`."""

GATHERED_REPLIES_PATH: Final = "/v1/replies"
"""The path of the route for the replies to several jobs, relative to the gateway's address."""

MAX_GATHERED_REPLIES: Final = 64
"""How many replies one request to that route may contain."""

MAX_GATHERED_BYTES: Final = 512 * 1024
"""How many bytes the body of such a request may have."""


def progress_url(reply_url: str) -> str | None:
    """Return the URL for a job's progress reports; None for a foreign reply URL."""
    return _sibling_url(reply_url, "progress")


def children_url(reply_url: str) -> str | None:
    """Return the URL for a job's child jobs; None for a foreign reply URL."""
    return _sibling_url(reply_url, "children")


def _sibling_url(reply_url: str, name: str) -> str | None:
    path, question_mark, query = reply_url.partition("?")
    base, slash, last = path.rpartition("/")
    return f"{base}/{name}?{query}" if slash and question_mark and last == "reply" else None


def progress_blob(job_id: str) -> str:
    """Return the name of the blob that contains a running job's progress."""
    return f"progress/{job_id}"
