"""Find free TCP ports of the loopback interface."""

import itertools
import os
import socket
import time
from urllib.parse import urlsplit

# Below 32768, the start of the ephemeral range: no client's socket gets one of these ports. So a
# service that was killed can be started on the same port again.
_FIRST_PORT, _PORT_COUNT = 8000, 12_000
_numbers = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """Return a port on which no program listens, and which this process has not returned before.

    Raises RuntimeError if there is no such port.
    """
    for _ in range(_PORT_COUNT):
        port = _FIRST_PORT + next(_numbers) % _PORT_COUNT
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port from {_FIRST_PORT} to {_FIRST_PORT + _PORT_COUNT - 1} is free")


def wait_until_refused(url: str) -> None:
    """Wait until no program listens at the host and port of `url`.

    Raises AssertionError after 60 s.
    """
    deadline = time.monotonic() + 60
    address = urlsplit(url).hostname, urlsplit(url).port
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(address) != 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"a service still listens at {url}")
