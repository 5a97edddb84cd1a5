"""A batch whose jobs must be asked about: the device does not wait for one answer after another."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from contract.catalogue import Catalogue
from contract.guard import AddressGuard
from contract.messages import InlineBytes, JobRequest, ReplyUrl
from tests.conformance.worker.worker_gateway import Gateway
from worker.errors import DeviceLost, Settlement
from worker.inference.residence import Residence
from worker.inference.runner import Runner
from worker.jobs.ending import Endings
from worker.jobs.ledger import Ledger
from worker.jobs.patience import Patience
from worker.jobs.running import Running
from worker.jobs.wanted import Wanted
from worker.memory.place import Occupant
from worker.memory.settings import MemorySettings
from worker.memory.sharing import Sharing
from worker.messages.job import Job
from worker.messages.lease import Leases
from worker.messages.receiver import Ending
from worker.messages.servicebus import Delivery
from worker.observed.metrics import Metrics
from worker.observed.tracing import JobSpan
from worker.outcomes.kept import KeptReplies
from worker.outcomes.outlets import Outlets, ReplyQueues, Webhooks
from worker.outcomes.replies import Replies
from worker.remote.outbound import Outbound
from worker.settings import Endpoint

MODEL = Catalogue.load()["noop"]


@dataclass
class Desk:
    """A consumer that notes how its jobs end, and which of them are answered."""

    endings: list[Ending] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def settle(self, ending: Ending) -> None:
        self.endings.append(ending)

    def has_run(self, job: Job) -> None: ...

    def lost_device(self, error: DeviceLost) -> None: ...


def job_of(gateway: Gateway, ledger: Ledger, leases: Leases, name: str) -> Job:
    """One that has waited for long."""
    now = datetime.now(UTC)
    since = now - timedelta(seconds=10)
    delivery = Delivery(b"", 0, since, None, {}, name, cast(Any, None), "noop")
    reply_to, deadline = ReplyUrl(gateway.url(name)), now + timedelta(seconds=60)
    request = JobRequest(name, "noop", InlineBytes("", b""), since, deadline, reply_to=reply_to)
    lease = leases.hold(delivery, lambda delivery, timeout_seconds: 60.0, 60.0, 1e9)
    job = Job(request, delivery, lease, JobSpan("-"), item=b"")
    ledger.received(delivery)
    ledger.opened(job)
    return job


def test_all_of_a_batch_are_asked_about_at_once(gateway: Gateway, tmp_path: Path) -> None:
    desk, ledger = Desk(), Ledger("noop", Metrics().of("noop"))
    replies = Replies(frozenset({gateway.host}))
    outlets = Outlets(
        replies,
        ReplyQueues(Endpoint(address="unused"), Catalogue.load()),
        Webhooks(Outbound(AddressGuard("")), ()),
    )
    endings = Endings("noop", ledger, desk, outlets, KeptReplies())
    occupant = Occupant("noop", lambda: 0, lambda: False, lambda: None, ())
    sharing = Sharing(MemorySettings(None, tmp_path))
    residence = Residence(MODEL, lambda model: Runner.load(model, 1), sharing, occupant)
    assert residence.enter(threading.Event())
    running = Running(
        residence,
        Wanted(replies, Patience(threading.Event())),
        endings,
        None,
        lambda job, finish: desk.answered.append(job.request.job_id),
    )
    names = [f"job-{number}" for number in range(8)]
    leases = Leases()
    batch = [job_of(gateway, ledger, leases, name) for name in names]
    gateway.meeting = threading.Barrier(len(batch))
    gateway.asked_status["job-3"] = 410
    running.run(batch)
    assert desk.answered == [name for name in names if name != "job-3"], "in their order"
    assert [(end.delivery.message_id, end.how) for end in desk.endings] == [
        ("job-3", Settlement.COMPLETE)
    ]
    replies.close()
