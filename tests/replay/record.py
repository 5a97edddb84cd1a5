"""Record histories of orchestrations for a test: `python -m tests.replay.record`.

Each history is written to a file. Existing files stay unchanged, because they contain what older
versions have recorded. The folder `histories/outcomes` contains histories of jobs whose outcome is
recorded in a blob. The files directly in `histories` are from an older version, which did not
record outcomes in blobs.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from contract.catalogue import Priority
from contract.messages import InlineJson, JobError, JobReply, JobRequest, Stage, Timing
from gateway.errors import Unavailable
from gateway.jobs.model import JobOutcome, outcome_from_json, outcome_to_json, write_ticket
from gateway.webhooks.orchestrator import NO_PLACE
from tests.unit.gateway.batch_generation import LINES, Generation
from tests.unit.gateway.memory import ManualClock, MemoryDurable, run_orchestrator
from tests.unit.gateway.webhook_delivery import Delivery, tried

FOLDER = Path(__file__).parent / "histories"
OUTCOMES = FOLDER / "outcomes"
WEBHOOKS = FOLDER / "webhooks"
BATCHES = FOLDER / "batches"
JOB_ID = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Scene:
    """Runs the orchestration of one job in memory, and stores the job's outcome."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.durable = MemoryDurable(self.clock, self._enqueue, self._conclude)
        self.failures = 0
        self.failed_checks = 0
        self.refusal: str | None = None
        self.early_reply: JobOutcome | None = None
        self.outcome: JobOutcome | None = None
        self.stopping: dict[str, Any] | None = None

    async def _enqueue(self, text: str) -> str | None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("queue", "away")
        if self.early_reply is not None:
            await self.tell(self.early_reply)
        return self.refusal

    async def _conclude(self, asked_text: str) -> str:
        if self.failed_checks:
            self.failed_checks -= 1
            raise Unavailable("blobs", "away")
        proposed = json.loads(asked_text)["propose"]
        if self.outcome is None and proposed is not None:
            self.outcome = outcome_from_json(proposed)
        if self.outcome is not None:
            return json.dumps({"outcome": outcome_to_json(self.outcome)})
        return json.dumps({"stopping": self.stopping} if self.stopping else {})

    async def tell(self, outcome: JobOutcome) -> None:
        """Record the outcome of the job, and send its orchestration the external event `reply`."""
        self.outcome = outcome
        await self.durable.raise_event(JOB_ID, "reply", outcome_to_json(outcome))

    async def start(
        self,
        deadline_seconds: int = 60,
        priority: Priority = Priority.NORMAL,
        webhook_url: str | None = None,
        label: str | None = None,
    ) -> None:
        now = self.clock()
        deadline = now + timedelta(seconds=deadline_seconds)
        request = JobRequest(JOB_ID, "noop", InlineJson({"a": 1}), now, deadline)
        written = write_ticket(
            request, TRACE, webhook_url=webhook_url, priority=priority, label=label
        )
        await self.durable.start(JOB_ID, written.text)

    def reply(self, result: InlineJson | JobError) -> JobOutcome:
        now = self.clock()
        return JobOutcome.replied(JobReply(JOB_ID, result, now, now, Timing(1, 2, 3)), now)


async def succeeded(scene: Scene) -> None:
    await scene.start()
    await scene.durable.advance(1.5)
    await scene.tell(scene.reply(InlineJson({"n": 1})))


async def reply_before_the_activity_ends(scene: Scene) -> None:
    scene.early_reply = scene.reply(InlineJson([1]))
    await scene.start()


async def failed(scene: Scene) -> None:
    await scene.start()
    error = JobError("inference-failed", "it broke", Stage.RUN, retryable=True)
    await scene.tell(scene.reply(error))


async def succeeded_with_low_priority(scene: Scene) -> None:
    await scene.start(priority=Priority.LOW)
    await scene.durable.advance(1.5)
    await scene.tell(scene.reply(InlineJson({"n": 1})))


async def succeeded_with_label(scene: Scene) -> None:
    await scene.start(label="order 4711")
    await scene.durable.advance(1.5)
    await scene.tell(scene.reply(InlineJson({"n": 1})))


async def succeeded_after_two_checks(scene: Scene) -> None:
    await scene.start()
    await scene.durable.advance(35)
    await scene.tell(scene.reply(InlineJson({"n": 1})))


async def reply_whose_event_was_lost(scene: Scene) -> None:
    await scene.start()
    scene.outcome = scene.reply(InlineJson({"n": 1}))
    await scene.durable.advance(10)


async def reply_recorded_just_before_the_deadline(scene: Scene) -> None:
    await scene.start(5)
    scene.outcome = scene.reply(InlineJson({"n": 1}))
    await scene.durable.advance(5)


async def cancelled(scene: Scene) -> None:
    await scene.start()
    await scene.tell(JobOutcome.cancelled(scene.clock()))


async def cancelled_by_an_older_gateway(scene: Scene) -> None:
    await scene.start()
    await scene.durable.raise_event(JOB_ID, "cancel", None)
    await scene.durable.advance(1)


async def expired(scene: Scene) -> None:
    await scene.start(5)
    await scene.durable.advance(5)


async def expired_while_the_storage_was_away(scene: Scene) -> None:
    await scene.start(5)
    scene.failed_checks = 2
    await scene.durable.advance(30)


async def sent_at_the_third_attempt(scene: Scene) -> None:
    scene.failures = 2
    await scene.start()
    await scene.durable.advance(3)
    await scene.tell(scene.reply(InlineJson("late")))


async def never_sent(scene: Scene) -> None:
    scene.failures = 1000
    await scene.start(600)
    await scene.durable.advance(300)


async def refused_by_the_activity(scene: Scene) -> None:
    scene.refusal = json.dumps(
        {"code": "unavailable", "message": "too large", "stage": "queue", "retryable": False}
    )
    await scene.start()
    await scene.durable.advance(1)


async def cancelled_while_it_cannot_be_sent(scene: Scene) -> None:
    scene.failures = 1000
    await scene.start()
    await scene.durable.advance(2)
    await scene.tell(JobOutcome.cancelled(scene.clock()))


RUNNING = {"started_at": "2026-03-01T12:00:01.000Z"}


async def cancelled_while_it_runs(scene: Scene) -> None:
    await scene.start()
    await scene.durable.raise_event(JOB_ID, "cancel", RUNNING)
    await scene.durable.advance(2)
    await scene.tell(JobOutcome.cancelled(scene.clock(), RUNNING["started_at"]))


async def cancelled_and_never_heard_of_again(scene: Scene) -> None:
    await scene.start()
    await scene.durable.raise_event(JOB_ID, "cancel", RUNNING)
    await scene.durable.advance(30)


async def order_to_stop_whose_event_was_lost(scene: Scene) -> None:
    await scene.start(100)
    scene.stopping = RUNNING
    await scene.durable.advance(40)


async def reply_overtakes_the_cancel(scene: Scene) -> None:
    await scene.start()
    await scene.durable.raise_event(JOB_ID, "cancel", RUNNING)
    await scene.tell(scene.reply(InlineJson("done")))


async def cancelled_just_before_its_deadline(scene: Scene) -> None:
    await scene.start(20)
    await scene.durable.advance(15)
    await scene.durable.raise_event(JOB_ID, "cancel", RUNNING)
    await scene.durable.advance(5)


async def succeeded_with_webhook(scene: Scene) -> None:
    await scene.start(webhook_url="https://receiver.example/jobs")
    await scene.tell(scene.reply(InlineJson({"n": 1})))


SCENES: tuple[Callable[[Scene], Awaitable[None]], ...] = (
    succeeded,
    reply_before_the_activity_ends,
    failed,
    cancelled,
    expired,
    sent_at_the_third_attempt,
    never_sent,
    refused_by_the_activity,
    cancelled_while_it_cannot_be_sent,
    cancelled_while_it_runs,
    cancelled_and_never_heard_of_again,
    reply_overtakes_the_cancel,
    cancelled_just_before_its_deadline,
    succeeded_with_low_priority,
    succeeded_with_label,
    succeeded_with_webhook,
    succeeded_after_two_checks,
    reply_whose_event_was_lost,
    reply_recorded_just_before_the_deadline,
    cancelled_by_an_older_gateway,
    expired_while_the_storage_was_away,
    order_to_stop_whose_event_was_lost,
)


DELIVERIES = {
    "delivered-at-the-third-try": (
        tried("pending", 500),
        tried("pending", None),
        tried("delivered", 200),
    ),
    "stopped-by-its-receiver": (tried("stopped", 410),),
    "refused-without-a-free-place": (
        {**tried("pending", None, 7.5), "error": NO_PLACE},
        tried("pending", 500),
        tried("delivered", 200),
    ),
}


def pauses_until_an_event(generation: Generation) -> None:
    generation.step(pause_seconds=10)
    generation.add(LINES)


def pauses_until_the_timer(generation: Generation) -> None:
    generation.step(pause_seconds=10)
    generation.fire(10)


def hears_an_event_during_the_step(generation: Generation) -> None:
    generation.step(LINES, pause_seconds=10)


def has_more_to_do(generation: Generation) -> None:
    generation.step(pause_seconds=0)


def cannot_reach_the_storage(generation: Generation) -> None:
    generation.step()
    generation.fire(5)


def ends(generation: Generation) -> None:
    generation.step(final="succeeded", has_webhook=False)


GENERATIONS = (
    pauses_until_an_event,
    pauses_until_the_timer,
    hears_an_event_during_the_step,
    has_more_to_do,
    cannot_reach_the_storage,
    ends,
)


async def main() -> None:
    """Run the orchestrations of the jobs in SCENES, and those in DELIVERIES and GENERATIONS.

    Write the history of each orchestration to a file. Existing files stay unchanged.
    """
    for name, outcomes in DELIVERIES.items():
        path = WEBHOOKS / f"{name}.json"
        if not path.exists():
            delivery = Delivery(*outcomes)
            delivery.play()
            write(path, delivery.episodes)
    for run in GENERATIONS:
        path = BATCHES / f"{run.__name__.replace('_', '-')}.json"
        if not path.exists():
            generation = Generation()
            run(generation)
            write(path, generation.episodes)
    for play in SCENES:
        path = OUTCOMES / f"{play.__name__.replace('_', '-')}.json"
        if path.exists():
            continue
        scene = Scene()
        await play(scene)
        contexts = [json.loads(text) for text in scene.durable.runs[JOB_ID].contexts]
        # Keep only the first three episodes and the last episode. The others repeat the retry.
        kept = contexts[:3] + contexts[3:][-1:]
        answers = [json.loads(run_orchestrator(json.dumps(episode))) for episode in kept]
        write(
            path,
            [
                {"context": episode, "answer": answer}
                for episode, answer in zip(kept, answers, strict=True)
            ],
        )


def write(path: Path, episodes: list[dict[str, Any]]) -> None:
    """Write the recorded history of an orchestration to a file, one line for each episode.

    An episode is one call of the orchestrator. Each item of `episodes` contains the orchestrator's
    input and its answer.
    """
    lines = ",\n".join(json.dumps(episode) for episode in episodes)
    path.write_text('{"turns": [\n' + lines + "\n]}\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    asyncio.run(main())
