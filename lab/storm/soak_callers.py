"""The programs that call the system during a soak, a long test under load.

They submit jobs, upload inputs, measure how long small jobs take, put messages on queues as a
producer does, or redrive dead letters.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError
from azure.servicebus.management import ServiceBusAdministrationClient

from lab.storm.callers import StormCallers
from lab.storm.jobs import JobKind, StormJob
from lab.storm.soak_jobs import DEADLINE_SECONDS, Form, ProducerJob, SoakCaller, SoakJob

REPLY_QUEUE = "soak-replies"
_RETRY_SECONDS = 0.3
_SEND_SECONDS = 30.0
_MAX_REFUSALS = 100
_LETTERS_ON_A_PAGE = 50


class SoakCallers(StormCallers):
    """Simulates callers of several tenants.

    If a response is unexpected, the callers record the response, and continue.
    """

    def __init__(self, url: str, ran_path: Path, count: int = 8) -> None:
        # Responses with status 503 ask for a pause of at least one second.
        super().__init__(url, ran_path, count, retry_seconds=1.0)
        #: The first responses that the gateway must not have sent.
        self.refusals: list[str] = []
        #: The number of jobs that were shown to another tenant.
        self.leaks = 0

    def refuse(self, text: str) -> None:
        """Record an unexpected response of the gateway, which counts as a failure of the soak."""
        if len(self.refusals) < _MAX_REFUSALS:
            self.refusals.append(text)

    async def submit(self, job: StormJob) -> None:
        """Submit a job. If the input of the job is an upload, upload the input first."""
        if isinstance(job, SoakJob) and job.form is Form.UPLOAD:
            _, data = job.data(self._ran_path, 1)
            job.upload = await self.upload(job.caller, job.model, job.media_type, data)
        await super().submit(job)

    async def upload(self, caller: SoakCaller, model: str, media_type: str, data: bytes) -> str:
        """Upload an input, and return the id of the upload.

        Ask the gateway for a signed URL, and send the input to this URL in the blob storage. If one
        of these two requests fails, repeat both.
        """
        wanted = json.dumps({"model": model, "media_type": media_type}).encode()
        while True:
            slot = await self._once(
                "POST",
                "/v1/uploads",
                content=wanted,
                headers={**caller.headers, "content-type": "application/json"},
            )
            if slot is not None and slot.status_code == 201:
                found = slot.json()
                sent = await self._once("PUT", found["url"], content=data, headers=found["headers"])
                if sent is not None and sent.status_code == 201:
                    return str(found["upload"])
            await asyncio.sleep(_RETRY_SECONDS)

    async def ask(self, method: str, path: str, caller: SoakCaller) -> httpx.Response | None:
        """Send a request, and return the response; None for none and for status 429 or 5xx."""
        return await self._once(method, path, headers=caller.headers)

    async def attack(self, path: str, content: bytes, headers: dict[str, str]) -> str | None:
        """Send a hostile body once. Return the id of the job, or None if no job was created."""
        try:
            response = await self._http.post(path, content=content, headers=headers)
            body = response.json()
        except (httpx.HTTPError, ValueError):
            return None
        if not isinstance(body, dict):
            return None
        shown = body.get("job") or body
        return shown.get("id") if isinstance(shown, dict) else None

    async def cross_tenants(
        self, jobs: Callable[[], Sequence[SoakJob]], callers: Sequence[SoakCaller]
    ) -> None:
        """Ask for a job of another tenant once a second, until this task is cancelled.

        `jobs` returns the jobs that have been submitted so far. If the response has a status other
        than 404, record that a job was shown to another tenant.
        """
        chance = random.Random("tenants")
        while True:
            await asyncio.sleep(1.0)
            accepted = [job for job in jobs()[-200:] if job.is_accepted]
            if not accepted:
                continue
            job, stranger = chance.choice(accepted), chance.choice(callers)
            if stranger.tenant == job.caller.tenant:
                continue
            response = await self.ask("GET", f"/v1/jobs/{job.ids[0]}", stranger)
            if response is not None and response.status_code != 404:
                self.leaks += 1
                self.refuse(f"job {job.number} was shown to another tenant")


@dataclass(frozen=True)
class Wait:
    """How long the neighbour, a caller of small jobs, waited for one job.

    `begin` and `end` are in seconds since the start of the soak. `attack` has the names of the
    attacks at the beginning of the wait.
    """

    model: str
    begin: float
    end: float
    attack: str
    has_fault: bool

    @property
    def seconds(self) -> float:
        """How many seconds the neighbour waited for the job."""
        return self.end - self.begin


class SoakNeighbour:
    """A caller that submits one small job after another, and measures how long each job takes."""

    def __init__(
        self,
        callers: SoakCallers,
        register: Callable[[SoakJob], None],
        describe: Callable[[float], tuple[str, bool]],
        clock: Callable[[], float],
    ) -> None:
        """Create a caller that uses the system while others attack it.

        `describe` returns the attacks at a time, and whether there was a fault.
        """
        self._callers = callers
        self._register = register
        self._describe = describe
        self._clock = clock
        self.waits: list[Wait] = []

    async def run(self, caller: SoakCaller, model: str, pause_seconds: float, first: int) -> None:
        """Submit one job after another, and wait for each job, until this task is cancelled.

        The jobs are numbered from `first + 1`.
        """
        number = first
        while True:
            number += 1
            job = SoakJob(
                number, JobKind.WAIT, 5, model=model, caller=caller, size_bytes=100, seed=first
            )
            job.picture = "chelsea.jpg"
            begin = self._clock()
            self._register(job)
            await self._callers.submit(job)
            while job.is_open:
                await asyncio.sleep(0.1)
                await self._callers.read(job)
            self.waits.append(Wait(model, begin, self._clock(), *self._describe(begin)))
            await asyncio.sleep(pause_seconds)


class _HttpTransport(RequestsTransport):  # type: ignore[misc]  # loaded lazily, so untyped
    """Sends the requests of Service Bus's administration client by http, not https."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def create_reply_queue(connection: str, admin_port: int) -> None:
    """Create the queue for the replies to the producers' jobs."""
    before, _, rest = connection.partition("localhost:")
    address = f"{before}localhost:{admin_port}{rest[rest.index(';') :]}"
    with ServiceBusAdministrationClient.from_connection_string(
        address, transport=_HttpTransport()
    ) as client:
        client.create_queue(REPLY_QUEUE)


class ProducerSender:
    """Sends messages to queues with Microsoft's SDK, as a producer does."""

    def __init__(self, connection: str) -> None:
        self._connection = connection

    async def send(self, queue: str, messages: Sequence[ServiceBusMessage]) -> bool:
        """Send messages in one attempt. Return whether Service Bus has accepted them."""
        try:
            async with (
                asyncio.timeout(_SEND_SECONDS),
                ServiceBusClient.from_connection_string(self._connection, retry_total=0) as client,
                client.get_queue_sender(queue) as sender,
            ):
                await sender.send_messages(list(messages))
        except (ServiceBusError, TimeoutError, OSError):
            return False
        return True


class Producers:
    """Producers that put jobs on the queues of the model noop, and read replies from a queue."""

    def __init__(self, connection: str, seed: int) -> None:
        self._connection = connection
        self._sender = ProducerSender(connection)
        self._chance = random.Random(f"producers {seed}")
        self.jobs: list[ProducerJob] = []
        self._by_id: dict[str, ProducerJob] = {}

    async def send(self, pause_seconds: float) -> None:
        """Send jobs, with a pause after each job, until this task is cancelled.

        Each message is sent again until Service Bus accepts it.
        """
        number = 0
        while True:
            number += 1
            job = ProducerJob(number, JobKind.ASYNC, 0, label=f"producer {number}")
            job.is_wrong_queue = self._chance.random() < 0.1
            queue = self._chance.choice(("noop", "noop", "noop-low"))
            await self._send(job, queue)
            await asyncio.sleep(pause_seconds)

    async def _send(self, job: ProducerJob, queue: str) -> None:
        job_id, now = str(uuid.uuid4()), datetime.now(UTC)
        self._by_id[job_id] = job
        request = {
            "schema": 1,
            "job_id": job_id,
            "model": "counting" if job.is_wrong_queue else "noop",
            "input": {"json": job.body()},
            "created_at": now.isoformat(),
            "deadline": (now + timedelta(seconds=DEADLINE_SECONDS)).isoformat(),
            "reply_to": {"queue": REPLY_QUEUE},
        }
        message = ServiceBusMessage(json.dumps(request), message_id=job_id, correlation_id=job_id)
        # Each attempt sends the same message id, so Service Bus drops duplicates.
        while True:
            if await self._sender.send(queue, [message]):
                break
            await asyncio.sleep(_RETRY_SECONDS)
        self.jobs.append(job)
        job.accept(job_id, job.label)

    async def receive(self) -> None:
        """Receive and record the replies to the producers' jobs until this task is cancelled."""
        while True:
            try:
                await self._receive()
            except (ServiceBusError, TimeoutError, OSError):
                await asyncio.sleep(_RETRY_SECONDS)

    async def _receive(self) -> None:
        async with (
            ServiceBusClient.from_connection_string(self._connection, retry_total=0) as client,
            client.get_queue_receiver(REPLY_QUEUE) as receiver,
        ):
            while True:
                async with asyncio.timeout(_SEND_SECONDS):
                    replies = await receiver.receive_messages(20, max_wait_time=5)
                for reply in replies:
                    job = self._by_id.get(str(reply.correlation_id))
                    if job is not None:
                        job.see_reply(json.loads(str(reply)))
                    async with asyncio.timeout(_SEND_SECONDS):
                        await receiver.complete_message(reply)


class Operator:
    """An operator who redrives each dead letter of the system once, and then deletes it."""

    def __init__(
        self, callers: SoakCallers, caller: SoakCaller, register: Callable[[SoakJob], None]
    ) -> None:
        self._callers = callers
        self._caller = caller
        self._register = register
        self._redriven: set[str] = set()
        self.redriven_count = 0
        self.refused_count = 0

    async def run(self, jobs_by_id: Callable[[str], SoakJob | None], pause_seconds: float) -> None:
        """Redrive and delete dead letters until this task is cancelled.

        `jobs_by_id` returns the job with an id, or None if the soak has no job with this id.
        """
        while True:
            await asyncio.sleep(pause_seconds)
            path = f"/v1/admin/dead-letters?limit={_LETTERS_ON_A_PAGE}"
            page = await self._callers.ask("GET", path, self._caller)
            if page is None or page.status_code != 200:
                continue
            for letter in page.json()["dead_letters"]:
                await self._redrive(letter, jobs_by_id)

    async def _redrive(
        self, letter: dict[str, Any], jobs_by_id: Callable[[str], SoakJob | None]
    ) -> None:
        path = f"/v1/admin/dead-letters/{letter['model']}/{letter['id']}"
        # A producer's message with the wrong model is dead-lettered again after a redrive. So
        # redrive each job only once.
        job_id = str(letter["job_id"])
        if job_id not in self._redriven:
            sent = await self._callers.ask("POST", f"{path}/redrive", self._caller)
            if sent is None:
                return
            if sent.is_success:
                self._redriven.add(job_id)
                self.redriven_count += 1
                self._watch(sent.json(), jobs_by_id(job_id))
            else:
                self.refused_count += 1
        await self._callers.ask("DELETE", path, self._caller)

    def _watch(self, sent: dict[str, Any], old: SoakJob | None) -> None:
        """Register the job that a redrive has created, so that the report checks this job.

        `sent` is the response to the redrive. The new job has the input of the job `old`. If the
        redrive has not created a job, or if `old` is None, do nothing.
        """
        if not sent["is_new_job"] or old is None:
            return
        job = SoakJob(old.number, JobKind.ASYNC, old.model_ms, model=old.model, caller=old.caller)
        job.seed, job.size_bytes, job.picture = old.seed, old.size_bytes, old.picture
        job.is_hostile, job.is_redriven = old.is_hostile, True
        job.deadline_seconds = old.deadline_seconds
        job.accept(str(sent["job_id"]), old.label)
        self._redriven.add(job.ids[0])
        self._register(job)
