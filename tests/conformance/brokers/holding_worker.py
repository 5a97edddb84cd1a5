"""Run a process that receives messages, notes how far their jobs have come, and waits.

The arguments are the broker's kind, its URL, the catalogue, the queue, the folder of the lock
journals, the number of messages, and the state to note.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.catalogue import Catalogue
from contract.settings import AzureEndpoint, BrokerEndpoint, BrokerKind
from tests.conformance.brokers.broker_cases import LOCK_SECONDS, QueueOfTest, receive
from worker.brokers.factory import make_broker
from worker.processes.history import LockState
from worker.processes.lock_journal import LockJournals

_ROOT = Path(__file__).parents[3]


@contextmanager
def holding(queue: QueueOfTest, count: int, state: LockState) -> Iterator[subprocess.Popen[bytes]]:
    """Run the process until it holds `count` messages of the queue. Kill it at the end."""
    number = queue.name.removeprefix("q")
    catalogue = queue.case.folder / f"models-{number}-{number}.toml"
    arguments = (
        *(queue.case.kind.value, queue.case.server.url, catalogue, queue.name),
        *(queue.journals_folder, count, state.value),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.brokers.holding_worker", *map(str, arguments)],
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'functions'}"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"holding\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def main(arguments: list[str]) -> None:
    kind, url, catalogue, name, folder, count, state = arguments
    endpoint = (
        BrokerEndpoint(BrokerKind.SERVICE_BUS, AzureEndpoint(url))
        if kind == BrokerKind.SERVICE_BUS
        else BrokerEndpoint(BrokerKind(kind), None, url)
    )
    broker = make_broker(endpoint, Catalogue.load(Path(catalogue)))
    link = broker.open_link(name, LOCK_SECONDS, LockJournals(Path(folder)))
    link.connect()
    for each in receive(link, int(count)):
        each.note_state(LockState(int(state)))
    sys.stdout.write("holding\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
