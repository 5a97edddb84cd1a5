"""Find free TCP ports of the loopback interface."""

import socket
import time
from urllib.parse import urlsplit


def free_port() -> int:
    """Return a port on which no program listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


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
