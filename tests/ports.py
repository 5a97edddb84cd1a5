"""Ports for what a test starts: on loopback, and nobody else's."""

import os
import socket

# What this process holds of each block that it took, so that no other test process takes it too.
_claims: list[socket.socket] = []


def free_ports(count: int) -> int:
    """The first of up to 15 neighbouring ports that nobody listens on, and no other test uses."""
    # Below 32768 and 30000: clear of the ephemeral range, so no client's socket takes one of them.
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
    raise RuntimeError("no free ports")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
