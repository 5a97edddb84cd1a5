"""Compute what the lines of batches need in Azure: operations, their price, and the first limit.

`./dev bench batches operations` counts the operations in a running system. Here no two outcomes
share an append, as when lines end slowly.
"""

from dataclasses import dataclass

from lab.capacity.limits import JobShape
from lab.capacity.prices import Prices

#: How often replies at one instance of the gateway let a batch run its next step
#: (`gateway.batches.wake`).
STEPS_PER_SECOND = 2.0
#: The start of a generation, the activity, its result, and the event.
ACTIONS_PER_STEP = 4
#: Three turns of the orchestrator and the activity.
EXECUTIONS_PER_STEP = 4
#: The state, the mark of a cancellation, and the logs of ends of three segments.
READS_PER_STEP = 5
#: The state.
WRITES_PER_STEP = 1
#: The lines, to send them and to compose the output; the log of ends.
READS_PER_SEGMENT = 3
#: The lines, the log of ends when it is created, the results, the errors, the state.
WRITES_PER_SEGMENT = 5
SEGMENT_LINES = 250
#: A worker asks for each batch once a second whether its lines are still wanted.
CHECKS_PER_SECOND = 1.0
#: Send, receive, complete.
SERVICE_BUS_OPERATIONS = 3
#: Processor time of the app and the host for a line, measured by `./dev bench batches lines`.
GATEWAY_SECONDS_PER_LINE = 0.0013


@dataclass(frozen=True, slots=True)
class LineUse:
    """The operations of one line in a batch whose lines end at a given rate."""

    blob_writes: float
    blob_reads: float
    service_bus: float
    executions: float
    actions: float

    @property
    def shape(self) -> JobShape:
        """The same as a kind of job, for which nobody waits."""
        return JobShape(
            "line of a batch",
            self.actions,
            self.service_bus,
            self.blob_writes + self.blob_reads,
            0.0,
            GATEWAY_SECONDS_PER_LINE,
        )

    def cost(self, prices: Prices) -> dict[str, float]:
        """Return the price of a million lines by item. Durable actions have no known price."""

        def price(name: str) -> float:
            return prices.price(name).amount or 0.0

        return {
            "blob writes": self.blob_writes * 100 * price("storage.ten_thousand_writes"),
            "blob reads": self.blob_reads * 100 * price("storage.ten_thousand_reads"),
            "Service Bus operations": self.service_bus * price("service_bus.million_operations"),
            "function executions": self.executions * price("functions.million_executions"),
        }


def compute_line_use(lines_per_second: float) -> LineUse:
    """Return what a line of a batch needs if so many of its lines end in a second."""
    steps = min(1.0, STEPS_PER_SECOND / lines_per_second)
    checks = min(1.0, CHECKS_PER_SECOND / lines_per_second)
    return LineUse(
        blob_writes=1 + steps * WRITES_PER_STEP + WRITES_PER_SEGMENT / SEGMENT_LINES,
        blob_reads=steps * READS_PER_STEP + READS_PER_SEGMENT / SEGMENT_LINES + checks,
        service_bus=SERVICE_BUS_OPERATIONS,
        executions=1 + steps * EXECUTIONS_PER_STEP + checks,
        actions=steps * ACTIONS_PER_STEP,
    )
