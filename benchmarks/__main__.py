"""`./dev bench [VERB]`: figures with their targets; exit code 1 where one was missed.

all      latency, throughput, efficiency, start-up and memory of the whole system; the default
worker   the worker at saturation beside a bare loop, without a gateway
memory   two models that do not fit together, with their memory admitted and without
"""

import sys
from collections.abc import Callable, Sequence

from benchmarks import memory, saturation, whole

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "all": whole.main,
    "worker": saturation.main,
    "memory": memory.main,
}


def main(arguments: list[str]) -> int:
    """Run one benchmark."""
    name, *rest = arguments or ["all"]
    if name not in VERBS:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    return VERBS[name](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
