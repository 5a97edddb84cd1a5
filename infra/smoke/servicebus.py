"""Check that Service Bus behaves as the worker and the gateway expect.

Each check creates a queue, uses it with the worker's own code, and deletes it.

    python -m infra.smoke.servicebus check --host HOST --namespace NAME --group GROUP
    python -m infra.smoke.servicebus send --host HOST --queue QUEUE --id ID

Both sign in with SERVICE_BUS_CONNECTION if it is set, otherwise as DefaultAzureCredential does.
`send` sends a message that is not a job request, and exits with 3 if it fails.
"""

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue

from contract.settings import AzureEndpoint
from infra.smoke.findings import Finding, FindingResult, Observation, print_findings
from worker.brokers.port import LockedMessage
from worker.brokers.servicebus.link import SDK_ERRORS, QueueLink, make_client
from worker.errors import BrokerUnavailable, LockLost, Settlement, error_text
from worker.processes.lock_journal import LockJournals

LOCK_SECONDS: Final = 60
"""How long a lock on a message of the created queues lasts."""

_WAIT_SECONDS: Final = 20.0
"""How long a check waits for a message: less than `LOCK_SECONDS`."""

_EMPTY_SECONDS: Final = 5.0
"""A queue from which no message arrives for so long is empty."""

_RANGE_LENGTH: Final = 6
_NOT_SENT: Final = 3
_REASON: Final = "smoke-test"
_DESCRIPTION: Final = "dead-lettered by the smoke test"


class CheckError(Exception):
    """Raised if a check cannot be carried out. The message contains the reason."""


class QueueAdministration(Protocol):
    """Creates and deletes queues, and counts messages. Each method may raise CheckError."""

    def create(self, name: str) -> None:
        """Create a queue that detects duplicates and whose locks last for LOCK_SECONDS."""

    def count_active(self, name: str) -> int:
        """Return the number of active messages of a queue. KEDA scales workers by this number."""

    def delete(self, name: str) -> None:
        """Delete a queue."""


@dataclass(frozen=True, slots=True)
class AzQueues:
    """Creates and deletes queues, and counts their messages, with the program az."""

    namespace: str
    group: str

    def create(self, name: str) -> None:
        """Create a queue that detects duplicates and whose locks last for LOCK_SECONDS."""
        options = ["--lock-duration", f"PT{LOCK_SECONDS}S", "--enable-duplicate-detection", "true"]
        # Azure deletes the queue if this program cannot do it.
        self._run("create", name, *options, "--auto-delete-on-idle", "PT10M", "--output", "none")

    def count_active(self, name: str) -> int:
        """Return the number of active messages of a queue. KEDA scales workers by this number."""
        query = "countDetails.activeMessageCount"
        text = self._run("show", name, "--query", query, "--output", "tsv").strip()
        if not text.isdecimal():
            raise CheckError(
                f"az should return the number of messages, but returned {text[:100]!r}"
            )
        return int(text)

    def delete(self, name: str) -> None:
        """Delete a queue."""
        self._run("delete", name, "--output", "none")

    def _run(self, action: str, name: str, *options: str) -> str:
        place = ["--namespace-name", self.namespace, "--resource-group", self.group]
        command = ["az", "servicebus", "queue", action, *place, "--name", name, *options]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if ended.returncode:
            lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise CheckError(f"az servicebus queue {action} failed: {lines[-1][:200]}")
        return ended.stdout


@dataclass(frozen=True, slots=True)
class CheckedNamespace:
    """The Service Bus namespace to check, and the object that manages its queues."""

    endpoint: AzureEndpoint
    queues: QueueAdministration
    count_seconds: float
    """How long a check waits for a count of messages, which Azure updates late."""

    def send(self, queue: str, *message_ids: str) -> None:
        """Send one message with each of these ids, in this order."""
        send(self.endpoint, queue, *message_ids)

    @contextmanager
    def link(self, queue: str, journals: Path | None = None) -> Iterator[QueueLink]:
        """Open the worker's link to a queue, perhaps with a lock journal in `journals`."""
        opener = LockJournals(journals) if journals is not None else None
        link = QueueLink(self.endpoint, queue, journals=opener)
        try:
            link.connect()
            yield link
        finally:
            link.disconnect()

    def count(self, queue: str, expected: int) -> int:
        """Read the number of active messages until it is `expected`, or for `count_seconds`."""
        end = time.monotonic() + self.count_seconds
        while (found := self.queues.count_active(queue)) != expected and time.monotonic() < end:
            time.sleep(1.0)
        return found

    def count_changes(self, queue: str, expected: int, seconds: float) -> int:
        """Return the first number of active messages that is not `expected` within `seconds`."""
        end = time.monotonic() + seconds
        while (found := self.queues.count_active(queue)) == expected and time.monotonic() < end:
            time.sleep(1.0)
        return found


@dataclass(frozen=True, slots=True)
class Check:
    """A claim about Service Bus, and the function that checks the claim with an empty queue."""

    claim: str
    run: Callable[[CheckedNamespace, str], Observation]


def send(endpoint: AzureEndpoint, queue: str, *message_ids: str) -> None:
    """Send one message with each of these ids. Raises CheckError if one cannot be sent."""
    try:
        with make_client(endpoint) as client, client.get_queue_sender(queue) as sender:
            for message_id in message_ids:
                sender.send_messages(ServiceBusMessage(b"not a job", message_id=message_id))
    except SDK_ERRORS as error:
        raise CheckError(f"a message could not be sent: {error_text(error)}") from None


def check_duplicates(broker: CheckedNamespace, queue: str) -> Observation:
    """Check that Service Bus drops a second message with the same id."""
    broker.send(queue, "first", "first", "second")
    found: list[str] = []
    with broker.link(queue) as link:
        while deliveries := link.receive_messages(3, _EMPTY_SECONDS):
            found += [delivery.message_id for delivery in deliveries]
    text = f"{len(found)} messages after two with the same id and one with another id were sent"
    is_held = sorted(found) == ["first", "second"]
    return FindingResult.HELD if is_held else FindingResult.FAILED, text


def check_locked_count(broker: CheckedNamespace, queue: str) -> Observation:
    """Check that locked messages count as active, although Azure updates the count late."""
    broker.send(queue, "first", "second")
    before = broker.count(queue, 2)
    if before != 2:
        return FindingResult.FAILED, f"{before} of 2 sent messages count as active"
    with broker.link(queue) as link:
        _receive(link, 2)
        found = broker.count_changes(queue, 2, min(broker.count_seconds, LOCK_SECONDS / 2))
    text = f"{found} of 2 locked messages count as active"
    return FindingResult.HELD if found == 2 else FindingResult.FAILED, text


def check_range(broker: CheckedNamespace, queue: str) -> Observation:
    """Check that one AMQP frame can complete several messages, as busy workers do."""
    broker.send(queue, *map(str, range(_RANGE_LENGTH)))
    with broker.link(queue) as link:
        deliveries = _receive(link, _RANGE_LENGTH)
        try:
            completed = sum(link.complete_messages(deliveries))
        except BrokerUnavailable as error:
            return FindingResult.DOES_NOT_HOLD, f"workers complete messages one by one: {error}"
    text = f"{completed} of {_RANGE_LENGTH} messages were completed together"
    return FindingResult.HELD if completed == _RANGE_LENGTH else FindingResult.FAILED, text


def check_release(broker: CheckedNamespace, queue: str) -> Observation:
    """Check that a released message comes again with an unchanged delivery count."""
    broker.send(queue, "released")
    with broker.link(queue) as link:
        (delivery,) = _receive(link, 1)
        link.settle_message(delivery, Settlement.RELEASE, "", "")
        (again,) = _receive(link, 1)
        link.settle_message(again, Settlement.COMPLETE, "", "")
    text = f"after its release the message had {again.delivery_count} earlier deliveries"
    return FindingResult.HELD if again.delivery_count == 0 else FindingResult.DOES_NOT_HOLD, text


def check_lock_token(broker: CheckedNamespace, queue: str) -> Observation:
    """Check that a new connection can abandon a killed process's message by its lock token."""
    delivery = _receive_after_kill(broker, queue)
    if delivery is None:
        return FindingResult.DOES_NOT_HOLD, _LOCKED
    text = f"a killed process's message came back with {delivery.delivery_count} earlier deliveries"
    return FindingResult.HELD if delivery.delivery_count == 1 else FindingResult.FAILED, text


def check_delivery_history(broker: CheckedNamespace, queue: str) -> Observation:
    """Check that abandoning a message by its lock token sets the properties of the message."""
    delivery = _receive_after_kill(broker, queue)
    if delivery is None:
        return FindingResult.DOES_NOT_HOLD, _LOCKED
    if not delivery.history.waiting_count:
        return (
            FindingResult.DOES_NOT_HOLD,
            "the message has no delivery history, so each delivery counts against its job",
        )
    return FindingResult.HELD, "the message has the delivery history"


_LOCKED: Final = "a killed worker's messages wait until their locks expire"


def _receive_after_kill(broker: CheckedNamespace, queue: str) -> LockedMessage | None:
    """Receive a message of a killed process; None if it cannot be abandoned or does not come."""
    broker.send(queue, "held")
    with tempfile.TemporaryDirectory() as folder:
        # The process has no copy of this one's connections.
        holder = multiprocessing.get_context("spawn").Process(
            target=_hold_until_killed, args=(broker.endpoint, queue, Path(folder))
        )
        holder.start()
        holder.join(_WAIT_SECONDS * 3)
        if holder.exitcode != -signal.SIGKILL:
            holder.kill()
            raise CheckError(
                f"the process that should receive a message did not receive it within "
                f"{_WAIT_SECONDS * 3:.0f} s"
            )
        try:
            with broker.link(queue, Path(folder)) as link:
                deliveries = link.receive_messages(1, _WAIT_SECONDS)
                for delivery in deliveries:
                    link.settle_message(delivery, Settlement.COMPLETE, "", "")
        except BrokerUnavailable:
            return None
    return deliveries[0] if deliveries else None


def check_dead_letter(broker: CheckedNamespace, queue: str) -> Observation:
    """Check that a dead-lettered message has its reason in its application properties."""
    broker.send(queue, "refused")
    with broker.link(queue) as link:
        (delivery,) = _receive(link, 1)
        link.settle_message(delivery, Settlement.DEAD_LETTER, _REASON, _DESCRIPTION)
    try:
        with (
            make_client(broker.endpoint) as client,
            client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver,
        ):
            letters = receiver.receive_messages(1, _WAIT_SECONDS)
    except SDK_ERRORS as error:
        raise CheckError(f"the dead-letter queue cannot be read: {error_text(error)}") from None
    if not letters:
        return FindingResult.FAILED, "the dead-lettered message is not in the dead-letter queue"
    found = letters[0].application_properties or {}
    expected = {b"DeadLetterReason": _REASON, b"DeadLetterErrorDescription": _DESCRIPTION}
    missing = [
        name.decode() for name, text in expected.items() if _as_text(found.get(name)) != text
    ]
    if missing:
        return FindingResult.FAILED, f"the dead letter lacks {' and '.join(missing)}"
    return FindingResult.HELD, "the dead letter has its reason and its description"


CHECKS: Final = (
    Check("Service Bus drops a second message with the same id", check_duplicates),
    Check("locked messages count as active", check_locked_count),
    Check("Service Bus completes ranges of messages", check_range),
    Check("a released message counts no delivery", check_release),
    Check("a lock token is enough to abandon a message", check_lock_token),
    Check(
        "an abandon over the management link changes properties of a message that another "
        "connection has received",
        check_delivery_history,
    ),
    Check("a dead letter has its reason among its properties", check_dead_letter),
)


def run_check(check: Check, broker: CheckedNamespace) -> Finding:
    """Create a queue, run one check with it, and delete the queue. Return the finding."""
    queue = f"smoke-test-{uuid.uuid4().hex[:12]}"
    try:
        broker.queues.create(queue)
    except CheckError as error:
        return Finding(check.claim, FindingResult.NOT_APPLICABLE, str(error))
    try:
        result, text = check.run(broker, queue)
    except (CheckError, BrokerUnavailable, LockLost) as error:
        result, text = FindingResult.FAILED, str(error)
    except Exception as error:  # noqa: BLE001  each claim must be in the report
        result, text = FindingResult.FAILED, f"the check itself failed: {type(error).__name__}"
    try:
        broker.queues.delete(queue)
    except CheckError as error:
        text += f"; delete the queue {queue} yourself: {error}"
    return Finding(check.claim, result, text)


def _hold_until_killed(endpoint: AzureEndpoint, queue: str, folder: Path) -> None:
    """Receive one message, note its lock token in a lock journal, and kill this process."""
    link = QueueLink(endpoint, queue, journals=LockJournals(folder))
    link.connect()
    _receive(link, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _receive(link: QueueLink, count: int) -> list[LockedMessage]:
    """Receive `count` messages. Raises CheckError if they do not arrive in time."""
    end = time.monotonic() + _WAIT_SECONDS
    found: list[LockedMessage] = []
    while len(found) < count and time.monotonic() < end:
        found += link.receive_messages(count - len(found), 1.0)
    if len(found) < count:
        raise CheckError(f"only {len(found)} of {count} messages arrived in {_WAIT_SECONDS:.0f} s")
    return found


def _as_text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks, or send one message. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="infra.smoke.servicebus", description=(__doc__ or "").splitlines()[0]
    )
    actions = parser.add_subparsers(dest="action", required=True)
    checking, sending = actions.add_parser("check"), actions.add_parser("send")
    for action in (checking, sending):
        action.add_argument("--host", required=True, help="the host name of the namespace")
    checking.add_argument("--namespace", required=True, help="the name of the namespace")
    checking.add_argument("--group", required=True, help="its resource group")
    checking.add_argument("--count-seconds", type=float, default=60, help="wait for a count")
    sending.add_argument("--queue", required=True)
    sending.add_argument("--id", required=True, help="the message id")
    given = parser.parse_args(arguments)
    connection = os.environ.get("SERVICE_BUS_CONNECTION")
    endpoint = AzureEndpoint(connection, None if connection else given.host)
    if given.action == "check":
        broker = CheckedNamespace(
            endpoint, AzQueues(given.namespace, given.group), given.count_seconds
        )
        print_findings(run_check(check, broker) for check in CHECKS)
        return 0
    try:
        send(endpoint, given.queue, given.id)
    except CheckError as error:
        sys.stderr.write(f"{error}\n")
        return _NOT_SENT
    return 0


if __name__ == "__main__":
    sys.exit(main())
