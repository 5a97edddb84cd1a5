"""HTTP to strangers' addresses: through the guard, to the very address that it checked.

On the standard library's client, whose connections can be given a socket of our own. A request has
one time limit for all of it, since a peer that sends a byte now and then would outlast any other.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from contract.guard import AddressGuard, Target
from worker.errors import OutboundFailed

_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `location` is where a redirect points, as it was written."""

    status: int
    media_type: str
    location: str | None
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an exchange may cost: the bytes of the answer, and the time of all of it.

    With no bytes the status is all that is looked at, and an answer is whole without its body.
    """

    bytes: int
    seconds: float


class Outbound:
    """One request at a time and connection, from any thread. No proxies, cookies or redirects."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._tls = ssl.create_default_context()

    def check(self, url: str) -> None:
        """Raise ForbiddenAddress where the URL's text alone says that it must not be called."""
        self._guard.check_form(url)

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        limits: Limits,
    ) -> Answer:
        """Send one request; ForbiddenAddress, or OutboundFailed where no whole answer came.

        An answer's body is read to the limit, and is one byte longer where there is more.
        """
        target = self._guard.check_form(url)
        ends_at = time.monotonic() + limits.seconds
        connection = _Connection(target, self._guard.resolve(target), self._tls, ends_at)
        watchdog = threading.Timer(limits.seconds, connection.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            # Some answer, as with 410, and hang up before they have read the body.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target.path, body, dict(headers))
            response = connection.getresponse()
            answer = Answer(
                response.status,
                (response.getheader("content-type") or "").partition(";")[0].strip().lower(),
                response.getheader("location"),
                _read(response, limits.bytes),
            )
        except TimeoutError:
            raise OutboundFailed("did not answer in time") from None
        except ssl.SSLError:
            raise OutboundFailed("has no certificate that can be trusted") from None
        # A watchdog that closed the socket shows as any of these.
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            late = time.monotonic() >= ends_at
            raise OutboundFailed("did not answer in time" if late else "cannot be read") from None
        finally:
            watchdog.cancel()
            connection.close()
        # Broken off among the headers, it looks like an answer that ends there.
        if time.monotonic() >= ends_at:
            raise OutboundFailed("did not answer in time")
        return answer


class _Connection(http.client.HTTPConnection):
    """A connection to addresses that were checked, with the URL's own name for TLS and Host."""

    def __init__(
        self, target: Target, addresses: tuple[str, ...], tls: ssl.SSLContext, ends_at: float
    ) -> None:
        super().__init__(target.host, target.port)
        # What the base class compares the port with to leave it out of the Host header.
        self.default_port = 443 if target.scheme == "https" else 80
        self._target = target
        self._addresses = addresses
        self._context = tls
        self._ends_at = ends_at
        self._open: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the first address that answers."""
        self._open = self.sock = self._connected()
        # As the base class does: else a body waits until the headers before it are acknowledged.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._target.scheme == "https":
            # The handshake comes after the assignment, so that it can be broken off, too.
            self._open = self.sock = self._context.wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()

    def abort(self) -> None:
        """Break off, from another thread."""
        # Not `sock`, which the base class gives up once an answer is the connection's last.
        if self._open is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)

    def _connected(self) -> socket.socket:
        failure: OSError | None = None
        for address in self._addresses:
            left_seconds = self._ends_at - time.monotonic()
            if left_seconds <= 0:
                break
            try:
                return socket.create_connection((address, self._target.port), left_seconds)
            except OSError as error:
                failure = error
        raise failure or TimeoutError


def _read(response: http.client.HTTPResponse, limit_bytes: int) -> bytes:
    if not limit_bytes:
        return b""
    pieces, size_bytes = [], 0
    while size_bytes <= limit_bytes and (piece := response.read1(_PIECE_BYTES)):
        pieces.append(piece)
        size_bytes += len(piece)
    data = b"".join(pieces)
    if size_bytes <= limit_bytes and response.length:
        raise http.client.IncompleteRead(data, response.length)
    return data[: limit_bytes + 1]
