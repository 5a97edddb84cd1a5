"""Find free loopback ports for the programs that a test starts."""

import os
import socket

# One port of each block stays bound, so that no other test process uses the block.
_claims: list[socket.socket] = []
_single_ports: list[int] = []


def free_ports(count: int) -> int:
    """Reserve `count` consecutive free ports for this test process, and return the first of them.

    `count` must be at most 15.
    """
    # Below 32768, the start of the ephemeral range: no client socket uses one of the ports.
    for base in range(20000 + os.getpid() % 250 * 16, 32000, 16):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", base + 15))
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return base
    raise RuntimeError("no block of free ports between 20000 and 32000 was found")


def free_port() -> int:
    """Reserve a free port for this test process, and return it.

    The operating system must not choose the port, or it could give the same port to a server of
    another test before the caller uses it. That server would get the requests of the caller.
    """
    if not _single_ports:
        first = free_ports(15)
        _single_ports.extend(range(first + 14, first - 1, -1))
    return _single_ports.pop()
