"""The Celery worker. It acknowledges a message only after the task has ended.

If the process that runs a task is killed, Celery returns the message to the queue. While a task
runs, the worker reserves no other message. The broker is RabbitMQ if `PEER_RABBITMQ` is set. The
results are in Redis with both brokers, as the documentation of Celery recommends.
"""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_init

from lab.benchmarks.peers.job import PeerModel, import_libraries

app = Celery(
    "peers",
    broker=os.environ.get("PEER_RABBITMQ") or os.environ["PEER_REDIS"],
    backend=os.environ["PEER_REDIS"],
)
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_expires=300,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # A child that has not loaded its model after 4 s, the default, would be killed.
    worker_proc_alive_timeout=60,
)
_models: list[PeerModel] = []


@worker_init.connect
def import_in_parent(**_: Any) -> None:
    """Import torch before the fork, so that a new child process starts quickly after a kill."""
    import_libraries()


@worker_process_init.connect
def load(**_: Any) -> None:
    """Load the model in the child process that runs the tasks."""
    _models.append(PeerModel.load())


@app.task
def classify(picture: bytes) -> dict[str, Any]:
    """Run the model with one JPEG, and return the result. Celery sends the bytes as base64."""
    return _models[0](picture)
