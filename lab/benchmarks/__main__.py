"""Run a benchmark (`./dev bench [VERB]`). The exit code is 1 if a target was missed.

The model `noop` of the benchmarks does nothing. VERB is one of:

all         the whole system: latency, throughput, efficiency, start-up and memory (the default)
cpu         the processor time of one `noop` job in each process; --layers: in each layer of it
hops        how many remote round trips the caller of a `noop` job waits for
operations  how many operations one job of each kind needs on each service
instances   one, two and three gateway processes: rates, late answers, operations, waiting
emulators   the local Service Bus alone: send, receive, complete, and round trips
worker      a busy worker without a gateway, compared with a loop that only runs the model
batches     batches beside single jobs and jobs with an orchestration each
memory      two models that together need more memory than the device has
bodies      how much memory the gateway needs for large request bodies
streams     streamed chats through the gateway, beside the engine alone
readers     500 readers of streams, on both stores, beside noop jobs
shares      fair shares: a tenant beside another's flood, weights, and what shares cost
silence     how long no job succeeds after a kill of the worker
hangups     how soon the gateway drops the waits of callers that disconnect
peers       other ways to serve a model, beside Loosely; writes docs/explanation/benchmarks.md
"""

import sys
from collections.abc import Callable, Sequence

from lab.benchmarks import (
    batches,
    bodies,
    cpu,
    emulators,
    hangups,
    hops,
    instances,
    memory,
    operations,
    readers,
    saturation,
    shares,
    silence,
    streams,
    whole,
)
from lab.benchmarks.peers import run as peers

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "all": whole.main,
    "batches": batches.main,
    "bodies": bodies.main,
    "cpu": cpu.main,
    "emulators": emulators.main,
    "hangups": hangups.main,
    "hops": hops.main,
    "instances": instances.main,
    "operations": operations.main,
    "readers": readers.main,
    "shares": shares.main,
    "silence": silence.main,
    "streams": streams.main,
    "worker": saturation.main,
    "memory": memory.main,
    "peers": peers.main,
}


def main(arguments: list[str]) -> int:
    """Run the benchmark whose name is the first argument, and return the exit code."""
    name, *rest = arguments or ["all"]
    if name not in VERBS:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    return VERBS[name](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
