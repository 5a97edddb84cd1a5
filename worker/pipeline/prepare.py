"""Prepare: check that the job is still wanted; read, decode and preprocess its input."""

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from contract.catalogue import ModelEntry
from contract.messages import InlineBytes, InlineJson, PayloadUrl
from worker.errors import HandedBack, InvalidInput, LockLost, NotWaitedFor
from worker.inference.loaded_model import LoadedModel, dump_json
from worker.inference.model_manager import ModelManager
from worker.inputs.payloads import BlobPayloads
from worker.inputs.urls import UrlFetcher
from worker.net.retries import Wait, backoff_seconds
from worker.pipeline.receive import ReceivedJob
from worker.replies import GatewayClient
from worker.servicebus.link import utc_now

# While the gateway is away, a job waits this long for the answer whether it is still wanted.
_MAX_CHECK_SECONDS = 30.0
# While blob storage is away, jobs with inputs elsewhere can run: this job is then abandoned.
_MAX_READ_SECONDS = 20.0


class RetryPolicy:
    """Limit the retries of a job's calls by time, by its lock and by the worker's shutdown."""

    def __init__(
        self, stopping: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stopping = stopping
        self._clock = clock

    def check(self) -> None:
        """Raise HandedBack if this worker is shutting down."""
        if self._stopping.is_set():
            raise HandedBack("this worker is shutting down")

    def start(self, job: ReceivedJob, seconds: float) -> Wait:
        """Return a function that sleeps between two tries.

        It returns False after `seconds` or when the lock is lost, and raises HandedBack if this
        worker is shutting down.
        """
        ends_at = self._clock() + seconds

        def wait(pause_seconds: float) -> bool:
            self.check()
            return self._clock() < ends_at and job.lock.wait(pause_seconds)

        return wait


class CancellationCheck:
    """Ask the gateway whether it still waits for a job, so that abandoned jobs do not run."""

    def __init__(self, gateway: GatewayClient, retries: RetryPolicy) -> None:
        self._gateway = gateway
        self._retries = retries

    def is_wanted(self, job: ReceivedJob) -> bool | None:
        """Return whether the job is still wanted; None if the gateway does not answer.

        Only stale jobs are asked about; see `ReceivedJob.is_stale`.
        """
        url, now = job.request.reply_url, utc_now()
        if url is None or not job.is_stale(now):
            return True
        is_wanted = self._gateway.is_wanted(url)
        if is_wanted is not None:
            job.checked_at = now
        return is_wanted

    def require_wanted(self, job: ReceivedJob) -> None:
        """Wait for the gateway's answer, for a limited time.

        While the gateway is away no reply could be delivered either: waiting costs little, and
        running cancelled jobs costs much.

        Raises:
            NotWaitedFor: The job was cancelled, or has ended.
            LockLost: The lock was lost meanwhile.
            HandedBack: This worker is shutting down.
        """
        self._retries.check()
        wait, attempt = self._retries.start(job, _MAX_CHECK_SECONDS), 0
        while (is_wanted := self.is_wanted(job)) is None and wait(backoff_seconds(attempt)):
            attempt += 1
        if job.lock.is_lost:
            raise LockLost("the lock was lost before the job ran")
        if is_wanted is False:
            raise NotWaitedFor("the caller does not wait for this job any more")


@dataclass(frozen=True, slots=True)
class PrepareStep:
    """Make the item of a batch from a job. Runs on several threads."""

    model: ModelEntry
    manager: ModelManager
    payloads: BlobPayloads
    urls: UrlFetcher
    cancellation: CancellationCheck
    retries: RetryPolicy

    def run(self, job: ReceivedJob) -> None:
        """Set the job's `item` and `cost`.

        Raises:
            WorkerError: The job has expired or was cancelled, or its input cannot be read.
            Exception: Whatever the model's own code raises.
        """
        if job.is_expired(utc_now()):
            raise job.expiry_error("the deadline passed before the job was prepared")
        with job.span.step("prepare"):
            self.cancellation.require_wanted(job)
            if (loaded := self.manager.loaded) is None:
                raise HandedBack("the model was unloaded")
            job.item = self._preprocess(job, loaded)
            job.cost = loaded.cost(job.item)

    def _preprocess(self, job: ReceivedJob, loaded: LoadedModel) -> object:
        payload, parameters = job.request.input, job.request.parameters
        if isinstance(payload, InlineBytes | InlineJson):
            data = read_inline(payload, self.model)
            if loaded.reads_files:
                return loaded.prepare_file(io.BytesIO(data), payload.media_type, parameters)
            return loaded.prepare(data, payload.media_type, parameters)
        if isinstance(payload, PayloadUrl):
            data, media_type = self.urls.fetch(payload, self.model)
            return loaded.prepare(data, media_type, parameters)
        wait = self.retries.start(job, _MAX_READ_SECONDS)
        if loaded.reads_files:
            file = self.payloads.open(payload, self.model, wait)
            return loaded.prepare_file(file, payload.media_type, parameters)
        data = self.payloads.fetch(payload, self.model, wait)
        return loaded.prepare(data, payload.media_type, parameters)


def read_inline(payload: InlineBytes | InlineJson, model: ModelEntry) -> bytes:
    """Return the bytes of an input that is in the message itself; raise InvalidInput if too many.

    JSON is serialized again.
    """
    data = dump_json(payload.value) if isinstance(payload, InlineJson) else payload.data
    if len(data) > model.max_input_bytes:
        raise InvalidInput(
            f"the input has {len(data)} bytes; at most {model.max_input_bytes} are accepted"
        )
    return data
