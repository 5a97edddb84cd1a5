"""Check that a job is still wanted, and read, decode and preprocess its input."""

import io
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from contract.catalogue import ModelEntry
from contract.messages import InlineBytes, InlineJson, InputPayload, PayloadUrl
from worker.clock import utc_now
from worker.errors import HandedBack, InvalidInput, LockLost, NotWaitedFor, WorkerError
from worker.inference.loaded_model import LoadedModel, dump_json
from worker.inference.model_manager import ModelManager
from worker.inputs.decoder_process import Data, DecoderProcesses
from worker.inputs.memory import InputMemory
from worker.inputs.opened import OpenedInput, naming_input
from worker.inputs.payloads import BlobPayloads, as_file
from worker.inputs.urls import UrlFetcher
from worker.pipeline.receive import ReceivedJob
from worker.pipeline.suspects import RunLimit, RunningJobs
from worker.replies import GatewayClient, UnwantedLines
from worker.retries import Wait, backoff_seconds

# If the gateway cannot be reached, a job waits at most this long before it runs without an answer.
_MAX_CHECK_SECONDS = 30.0
# If blob storage cannot be reached, a job is abandoned after this time, because jobs whose inputs
# are not in blobs can still run.
_MAX_READ_SECONDS = 20.0
# How old an answer about a batch may be, and for how many batches one is kept.
_BATCH_CHECK_SECONDS = 1.0
_MAX_BATCHES = 1024


class RetryPolicy:
    """Limits how long a job's failed network call is repeated."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def check_stopping(self) -> None:
        """Raise HandedBack if this worker is shutting down."""
        if self._stopping.is_set():
            raise HandedBack("this worker is shutting down")

    def start_retries(self, job: ReceivedJob, seconds: float) -> Wait:
        """Return a function that sleeps before a failed call is repeated.

        The function takes the seconds to sleep. It returns False if the job's lock is lost or
        `seconds` have passed since now. It raises HandedBack if this worker is shutting down.
        """
        ends_at = time.monotonic() + seconds

        def wait(pause_seconds: float) -> bool:
            self.check_stopping()
            return time.monotonic() < ends_at and job.lock.wait(pause_seconds)

        return wait


class BatchChecks:
    """Asks the gateway at most once a second for each batch which of its lines must not run.

    Any thread may call the methods. Threads that need the same answer wait for one request.
    """

    def __init__(self, gateway: GatewayClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway = gateway
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, _BatchAnswer] = OrderedDict()

    def must_ask(self, batch: str) -> bool:
        """Return whether the last answer about the batch is too old."""
        return self._clock() >= self._answer_of(batch).asked_at + _BATCH_CHECK_SECONDS

    def is_wanted(self, batch: str, job_id: str, url: str) -> bool | None:
        """Return whether a line is still wanted; None if the gateway was asked in vain."""
        answer = self._answer_of(batch)
        with answer.asking:
            if self.must_ask(batch):
                answer.unwanted = self._gateway.find_unwanted(url)
                answer.asked_at = self._clock()
            unwanted = answer.unwanted
        if unwanted is None:
            return None
        return not unwanted.is_whole_batch and job_id not in unwanted.job_ids

    def _answer_of(self, batch: str) -> "_BatchAnswer":
        with self._lock:
            answer = self._answers.setdefault(batch, _BatchAnswer())
            self._answers.move_to_end(batch)
            if len(self._answers) > _MAX_BATCHES:
                self._answers.popitem(last=False)
            return answer


@dataclass(slots=True)
class _BatchAnswer:
    """The gateway's last answer about a batch; None if it did not answer."""

    unwanted: UnwantedLines | None = None
    asked_at: float = -math.inf
    asking: threading.Lock = field(default_factory=threading.Lock)


class CancellationCheck:
    """Asks the gateway whether a job is still wanted, so that cancelled jobs do not run.

    The lines of a batch share one answer, except that a redelivered line first asks for itself, as
    it may have ended.
    """

    def __init__(self, gateway: GatewayClient, retries: RetryPolicy) -> None:
        self._gateway = gateway
        self._retries = retries
        self._batches = BatchChecks(gateway)

    def must_ask(self, job: ReceivedJob, now: datetime) -> bool:
        """Return whether `is_wanted` would send a request for this job."""
        if (batch := self._shared_batch(job)) is not None:
            return self._batches.must_ask(batch)
        return job.is_stale(now)

    @staticmethod
    def _shared_batch(job: ReceivedJob) -> str | None:
        """Return the batch for which to ask instead of for the job; None to ask for the job."""
        is_unknown = job.checked_at is None and job.delivery.delivery_count > 0
        return None if is_unknown else job.request.batch

    def is_wanted(self, job: ReceivedJob) -> bool | None:
        """Return whether the job is still wanted; None if the gateway was asked in vain."""
        url, now = job.request.reply_url, utc_now()
        if url is not None and job.is_wanted and (batch := self._shared_batch(job)) is not None:
            return self._batches.is_wanted(batch, job.request.job_id, url)
        if url is None or not job.is_stale(now):
            return job.is_wanted
        is_wanted = self._gateway.is_wanted(url)
        if is_wanted is not None:
            job.checked_at, job.is_wanted = now, is_wanted
        return is_wanted

    def reason_to_skip(self, job: ReceivedJob) -> WorkerError | None:
        """Return why a job that has not run must not run; None if it may."""
        reason = job.reason_to_skip()
        if reason is None and self.is_wanted(job) is False:
            return NotWaitedFor("the caller no longer waits for this job")
        return reason

    def require_wanted(self, job: ReceivedJob) -> None:
        """Raise NotWaitedFor, LockLost or HandedBack if the job must not run.

        If the gateway does not answer for 30 s, the job may run.
        """
        self._retries.check_stopping()
        wait, attempt = self._retries.start_retries(job, _MAX_CHECK_SECONDS), 0
        while (is_wanted := self.is_wanted(job)) is None and wait(backoff_seconds(attempt)):
            attempt += 1
        if job.lock.is_lost:
            raise LockLost("the message lock was lost before the job ran")
        if is_wanted is False:
            raise NotWaitedFor("the caller no longer waits for this job")


@dataclass(frozen=True, slots=True)
class PrepareStep:
    """Reads and preprocesses the inputs of jobs: `read_inputs`, then `decode_input`."""

    model: ModelEntry
    manager: ModelManager
    payloads: BlobPayloads
    urls: UrlFetcher
    cancellation: CancellationCheck
    retries: RetryPolicy
    memory: InputMemory
    processes: DecoderProcesses
    running: RunningJobs
    runs: RunLimit

    def read_inputs(self, job: ReceivedJob) -> OpenedInput | None:
        """Read the job's inputs, and return them opened, for `decode_input`.

        Return None if the model reads the input itself; then `job.item` is the prepared input.
        Raises a WorkerError if the job must not run, or any error of the model's code.
        """
        if job.is_expired(utc_now()):
            raise job.expiry_error("the deadline passed before the job was prepared")
        with job.span.record_step("prepare"):
            self.cancellation.require_wanted(job)
            loaded = self._loaded()
            loaded.check_input_names(job.request.inputs)
            if loaded.reads_files:
                job.item = self._prepare_file(job, loaded)
                job.cost = loaded.cost(job.item)
                job.mark_step("decoded_ms")
                return None
            first = self._read(job, job.request.input, self.model)
            named = {}
            for name, payload in job.request.inputs.items():
                with naming_input(name):
                    named[name] = self._read(job, payload, self.model.entry_of_input(name))
            job.mark_step("fetched_ms")
            with self.running.noting_run(job.delivery):
                return loaded.open_inputs(first, named, self.processes)

    def decode_input(self, job: ReceivedJob, opened: OpenedInput) -> None:
        """Decode and preprocess an opened input into `job.item`, and store its size in `job.cost`.

        This may wait for memory or a child process, and stops if the job is cancelled or expires.
        """

        check = partial(self.check_held, job)
        with job.span.record_step("prepare"):
            try:
                with self.running.noting_run(job.delivery):
                    size_bytes = opened.measure(check)
                # The memory comes first, and then a child process. In the other order, jobs that
                # hold the children could wait forever for jobs that hold the memory.
                job.memory = self.memory.reserve(size_bytes, check)
                with self.running.noting_run(job.delivery):
                    decoded = opened.decode(check)
                    loaded = self._loaded()
                    parameters = job.request.parameters
                    with self.runs.timing_run(job):
                        job.item = loaded.preprocess(decoded.first, parameters, decoded.named)
                        job.cost = loaded.cost(job.item)
                job.mark_step("decoded_ms")
            except BaseException:
                job.release_input()
                raise
            if loaded.preprocesses and job.memory is not None:
                job.memory.release()

    def _loaded(self) -> LoadedModel:
        if (loaded := self.manager.loaded) is None:
            raise HandedBack("the model was unloaded before the job ran")
        return loaded

    def check_held(self, job: ReceivedJob) -> None:
        """Raise an error if the job must not wait any longer for memory, a child or the device."""
        self.retries.check_stopping()
        if (reason := self.cancellation.reason_to_skip(job)) is not None:
            raise reason

    def _prepare_file(self, job: ReceivedJob, loaded: LoadedModel) -> object:
        """Open the job's input as a file, let the model preprocess it, and return the item."""
        payload, parameters = job.request.input, job.request.parameters
        if isinstance(payload, InlineBytes | InlineJson | PayloadUrl):
            data, media_type = self._read(job, payload, self.model)
            job.mark_step("fetched_ms")
            file = io.BytesIO(data) if isinstance(data, bytes) else as_file(data)
        else:
            file, media_type = (
                self.payloads.fetch_file(payload, self.model, self._wait(job)),
                payload.media_type,
            )
            job.mark_step("fetched_ms")
        with self.running.noting_run(job.delivery), self.runs.timing_run(job):
            return loaded.prepare_file(file, media_type, parameters)

    def _read(self, job: ReceivedJob, payload: InputPayload, model: ModelEntry) -> tuple[Data, str]:
        """Return the bytes and the media type of an input, whose limits `model` has."""
        if isinstance(payload, InlineBytes | InlineJson):
            return read_inline(payload, model), payload.media_type
        if isinstance(payload, PayloadUrl):
            return self.urls.fetch_url(payload, model)
        return self.payloads.fetch_input(payload, model, self._wait(job)), payload.media_type

    def _wait(self, job: ReceivedJob) -> Wait:
        return self.retries.start_retries(job, _MAX_READ_SECONDS)


def read_inline(payload: InlineBytes | InlineJson, model: ModelEntry) -> bytes:
    """Return the bytes of an input in the message. Raises InvalidInput if they are too many."""
    data = dump_json(payload.value) if isinstance(payload, InlineJson) else payload.data
    if len(data) > model.max_input_bytes:
        raise InvalidInput(
            f"the input has {len(data)} bytes; at most {model.max_input_bytes} bytes are accepted"
        )
    return data
