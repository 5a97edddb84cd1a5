"""Command-line options, logging, sockets and exit statuses that the emulator's services share.

Each error class is shown with the exit status of the program:

StartError                1   the program cannot start, or cannot continue
├── SettingError          2   an option, a settings file or the data directory cannot be used
└── PortInUse            98   another program listens on the port
"""

import argparse
import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, ClassVar

try:
    import uvloop as loops
except ImportError:  # uvloop does not support Windows
    import asyncio as loops  # type: ignore[no-redef] # both have new_event_loop


class StartError(Exception):
    """The program cannot start, or cannot continue. The message is one line for the user."""

    exit_code: ClassVar[int] = 1


class SettingError(StartError):
    """An option, a settings file or the data directory cannot be used."""

    exit_code = 2


class PortInUse(StartError):
    """Another program listens on the port. The message names the port."""

    exit_code = 98


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of a service for its HTTP clients."""

    allowed_hosts: tuple[str, ...] = ()
    head_seconds: float = 30.0
    # Longer than the limit of the blob service, which answers with an error of its own.
    body_silence_seconds: float = 130.0


def options_parser(
    name: str,
    description: str,
    port: int,
    port_help: str,
    port_names: Sequence[str] = ("--port",),
) -> argparse.ArgumentParser:
    """Return a parser for the options that every service has."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument(
        *port_names, type=port_number, default=port, help=f"{port_help} (default: {port})"
    )
    parser.add_argument(
        "--host",
        help="address to listen on (default: 127.0.0.1, and ::1 if this machine has IPv6)",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="directory in which the service keeps its state"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer also requests whose Host header has this name, without a port; by default "
        "only loopback names are served; may be repeated",
    )
    parser.add_argument(
        "--head-timeout",
        type=_positive_seconds,
        default=HttpLimits().head_seconds,
        metavar="SECONDS",
        help="time limit for the headers of an HTTP request (default: 30)",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        type=str.lower,
        choices=["debug", "info", "warning", "error"],
        help="lowest severity of the messages to log (default: info)",
    )
    return parser


def port_number(text: str) -> int:
    """Parse a TCP port for argparse; 0 means any free port. Raises ArgumentTypeError."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {port}")
    return port


def http_limits(options: argparse.Namespace) -> HttpLimits:
    """Return the HTTP limits from the options; the address of `--host` is allowed, too."""
    hosts = [*options.allow_host, *([options.host] if options.host else [])]
    return HttpLimits(tuple(hosts), options.head_timeout)


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(
            f"expected more than 0 and at most 3600 seconds, got {text}"
        )
    return seconds


_OTHERS = 0o077


def make_private_directory(directory: Path) -> None:
    """Create a data directory that only its owner can read; also its files, if it exists.

    A directory with the sticky bit, such as /tmp, and files of other users stay as they are. Raises
    OSError if the directory cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not directory.stat().st_mode & stat.S_ISVTX:
        _restrict(directory, directory.stat())
        for entry in os.scandir(directory):
            if entry.is_file(follow_symlinks=False):
                _restrict(Path(entry.path), entry.stat(follow_symlinks=False))


def make_private_file(path: Path) -> None:
    """Let only the owner read an SQLite database and its WAL files. Ignore missing files."""
    for each in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        with contextlib.suppress(FileNotFoundError):
            _restrict(each, each.stat())


def _restrict(path: Path, found: os.stat_result) -> None:
    if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def run(
    name: str,
    log_level: str,
    program: Callable[[], None],
    formatter: logging.Formatter | None = None,
) -> int:
    """Configure logging, run a program whose files only its user can read, return its exit status.

    A StartError is written to standard error and gives its `exit_code`.
    """
    logging.basicConfig(
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    if formatter is not None:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(formatter)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    previous = os.umask(_OTHERS)
    try:
        program()
    except StartError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return error.exit_code
    finally:
        os.umask(previous)
    return 0


_GC_THRESHOLD = 10_000
"""How many more objects are created than freed between two collections of the youngest ones."""


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop, or on asyncio's loop without it, and trim memory meanwhile."""
    # Exclude the imported modules from later garbage collections, to make these faster.
    gc.freeze()
    # Most garbage has no cycles. With Python's 700, collections take 6 % of a busy host's time.
    gc.set_threshold(_GC_THRESHOLD)
    start_trimming()
    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(main)


def start_trimming(interval_seconds: float = 60.0) -> None:
    """Start a daemon thread that regularly returns free memory with malloc_trim(3).

    glibc keeps freed memory between used blocks, so the resident memory would rise with each new
    combination of large bodies. Without glibc, do nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return

    def trim_repeatedly() -> None:
        waiting = threading.Event()
        while not waiting.wait(interval_seconds):
            library.malloc_trim(0)

    threading.Thread(target=trim_repeatedly, name="trimming", daemon=True).start()


LOOPBACK_HOSTS = ("127.0.0.1", "::1")
_PORT_ATTEMPTS = 20


def is_remote(host: str | None) -> bool:
    """Return whether other machines can reach `host`. Raises SettingError if it is no address."""
    return host is not None and not _parse_address(host).is_loopback


def bind(host: str, port: int, *, allow_remote: bool = False) -> socket.socket:
    """Return a TCP socket that is bound to an IP address or `localhost`, but does not listen.

    With `allow_remote`, the service must require a secret key. Raises SettingError if the host is
    not allowed or cannot be bound, and PortInUse if another program uses the port.
    """
    address = _parse_address(host)
    if is_remote(host) and not allow_remote:
        raise SettingError(f"--host {host} is not a loopback address: use 127.0.0.1 or ::1")
    bound = socket.socket(
        socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM
    )
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((str(address), port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(port) from error
        raise SettingError(f"cannot listen on port {port} of {host}: {error}") from error
    return bound


def bind_all(host: str | None, port: int, *, allow_remote: bool = False) -> list[socket.socket]:
    """Return a bound TCP socket for each address of `host`, all with the same port number.

    None means 127.0.0.1 and, on a machine with IPv6, ::1. Port 0 means any free port. Raises
    SettingError and PortInUse as `bind` does.
    """
    if host is not None:
        return [bind(host, port, allow_remote=allow_remote)]
    attempts = 1 if port else _PORT_ATTEMPTS
    while True:
        bound: list[socket.socket] = []
        attempts -= 1
        try:
            for each in LOOPBACK_HOSTS if has_ipv6() else LOOPBACK_HOSTS[:1]:
                bound.append(bind(each, bound[0].getsockname()[1] if bound else port))
        except StartError as error:
            for each_socket in bound:
                each_socket.close()
            # The port that the system chose for 127.0.0.1 may be in use on ::1.
            if attempts and isinstance(error, PortInUse):
                continue
            raise
        return bound


def has_ipv6() -> bool:
    """Return whether this machine has the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _parse_address(host: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise SettingError(f"--host {host} is not an IP address: use 127.0.0.1 or ::1") from None


def format_url(bound: socket.socket, scheme: str = "http") -> str:
    """Return the URL of a bound socket, without a trailing slash."""
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def listen_all(
    host: str | None, port: int, backlog: int, *, allow_remote: bool = False
) -> list[socket.socket]:
    """Return listening TCP sockets on the addresses that `bind_all` binds."""
    listeners = bind_all(host, port, allow_remote=allow_remote)
    listen(listeners, port, backlog)
    return listeners


def listen(listeners: Sequence[socket.socket], port: int, backlog: int) -> None:
    """Make sockets listen, or close them all. Raises PortInUse or SettingError."""
    try:
        for listener in listeners:
            listener.listen(backlog)
    except OSError as error:
        for listener in listeners:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            # With SO_REUSEADDR two programs can bind the same port; only the first program can
            # listen on it.
            raise port_in_use(port) from error
        raise SettingError(f"cannot listen on port {port}: {error}") from error


def port_in_use(port: int) -> PortInUse:
    """Return the error for a port that another program uses."""
    return PortInUse(f"port {port} is in use by another program")
