"""The queue of one model, as its waiting room sees it: its length, its window, and its messages."""

import math
from dataclasses import dataclass
from datetime import timedelta

from contract.brokers import BrokerMessage
from contract.catalogue import ModelEntry, Priority, queue_of
from contract.names import PROPERTY_TRACEPARENT
from gateway.brokers.port import Queues
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.queues.estimates import WaitEstimates
from gateway.queues.model_states import ModelStates
from gateway.shares.room import Entry
from gateway.shares.window import correct_seconds, window
from gateway.telemetry import GatewayTracing


@dataclass(frozen=True, slots=True)
class RoomQueue:
    """Sends the messages of held jobs, and says how many jobs the queue should have."""

    model: ModelEntry
    queues: Queues
    estimates: WaitEstimates
    states: ModelStates
    tracing: GatewayTracing
    clock: Clock

    def length(self, priority: Priority) -> int:
        """Return how many jobs the queue has at least, as far as this process knows."""
        return self.estimates.least_length(self.model, priority)

    async def count(self, priority: Priority) -> int:
        """Return how many messages the queue has, as `length` if they cannot be counted."""
        try:
            return (await self.queues.count(queue_of(self.model, priority))).active
        except Unavailable:
            return self.length(priority)

    async def window(self, priority: Priority, ends_a_second: float | None = None) -> int:
        """Return how many jobs with this priority may be in flight.

        `ends_a_second` is the rate of all instances, if it is known.
        """
        ready = await self.states.ready_count(self.model.model_name)
        at_once = await self.states.jobs_at_once(self.model)
        seconds = self.estimates.seconds_per_job(self.model.name)
        if ends_a_second is not None and seconds is not None:
            seconds = correct_seconds(seconds, ends_a_second)
        return window(at_once, priority, ready, seconds)

    async def send(self, entry: Entry, body: bytes) -> None:
        """Send the message of a held job. The queue drops a repeat. Raises Unavailable."""
        left = entry.deadline - self.clock()
        # Rounded up, because a broker truncates to seconds and 0 s would prevent the delivery.
        time_to_live = timedelta(seconds=max(1, math.ceil(left.total_seconds())))
        queue = queue_of(self.model, entry.priority)
        with self.tracing.sending(queue, entry.job_id, entry.traceparent) as trace:
            message = BrokerMessage(
                body,
                message_id=entry.job_id,
                correlation_id=entry.job_id,
                properties={PROPERTY_TRACEPARENT: trace} if trace else {},
                time_to_live=time_to_live,
            )
            await self.queues.send(queue, message)
        # A position is computed from this time.
        self.estimates.record_accepted(self.model.name, self.clock(), entry.priority)
