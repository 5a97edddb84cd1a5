"""The ports of the components, and the processes that listen on these ports."""

import errno
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass

from loosely.local.errors import PortBusy

_HOST = "127.0.0.1"
_IPV6_HOST = "::1"
_SHORT_COMMAND_CHARACTERS = 60
_FIRST_SUGGESTION = 7171
_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Ports:
    """The port of each service. The defaults are those of Azure's tools for local development."""

    functions: int = 7071
    servicebus: int = 5672
    servicebus_admin: int = 5300
    blobs: int = 10000
    worker_health: int = 8081

    @classmethod
    def from_base(cls, base: int) -> "Ports":
        """Return five consecutive ports, so that several systems can run on one machine."""
        return cls(base, base + 1, base + 2, base + 3, base + 4)


PORT_COUNT = 5


def is_free(port: int) -> bool:
    """Return whether a server can listen on ``port`` of both loopback addresses, if IPv6 exists."""
    for family, host in ((socket.AF_INET, _HOST), (socket.AF_INET6, _IPV6_HOST)):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # the kernel does not support IPv6
            continue
        with probe:
            # As servers do, ignore closed connections that the kernel still remembers.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                    return False
                if host == _HOST:
                    raise
    return True


def next_free(first: int, taken: Collection[int]) -> int:
    """Return the lowest free port from ``first`` on that is not in ``taken``, or raise PortBusy."""
    for port in range(first, _HIGHEST_PORT + 1):
        if port not in taken and is_free(port):
            return port
    raise PortBusy(f"all ports from {first} to {_HIGHEST_PORT} are taken: use a lower port")


def free_base(first: int = _FIRST_SUGGESTION) -> int:
    """Return the first of five consecutive free ports from ``first`` on, or raise PortBusy."""
    for base in range(first, _HIGHEST_PORT - PORT_COUNT, 100):
        if all(is_free(port) for port in astuple(Ports.from_base(base))):
            return base
    raise PortBusy(
        f"no five consecutive ports between {first} and {_HIGHEST_PORT} are free: end programs "
        "that use ports in this range"
    )


def check_ports(ports: Mapping[str, int]) -> None:
    """Raise PortBusy if a port, given by its name, is in use. The message names its process."""
    busy = {name: port for name, port in ports.items() if not is_free(port)}
    if not busy:
        return
    owners = find_owners(busy.values())
    lines = [
        f"port {port} ({name}) is taken by {owners.get(port, 'a process of another user')}"
        for name, port in busy.items()
    ]
    lines.append(f"stop that process, or choose other ports: loosely up --port {free_base()}")
    raise PortBusy("\n".join(lines))


def find_owners(ports: Iterable[int]) -> dict[int, str]:
    """Describe the processes that listen on ``ports``, as far as this user may see them."""
    import psutil  # noqa: PLC0415 - needed for the error message only

    wanted = set(ports)
    found: dict[int, str] = {}
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS shows connections to root only
        return found
    for connection in connections:
        at = connection.laddr
        if connection.status != psutil.CONN_LISTEN or connection.pid is None or not at:
            continue
        port = at.port
        if port in wanted and port not in found:
            try:
                process = psutil.Process(connection.pid)
                command = _shorten(process.cmdline())
                found[port] = f"process {process.pid} ({process.name()}): {command}"
            except psutil.Error:
                continue
    return found


def _shorten(command: list[str]) -> str:
    text = " ".join(command)
    if len(text) <= _SHORT_COMMAND_CHARACTERS:
        return text
    return text[: _SHORT_COMMAND_CHARACTERS - 1] + "…"
