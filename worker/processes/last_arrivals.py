"""Store the lock tokens of the messages that Service Bus sends to a worker that was just killed.

When a process is killed, the operating system first frees its memory and then closes its sockets.
This takes 10 to 200 ms. Meanwhile Service Bus locks and sends the messages that the process had
requested (link credit). The dead process cannot note these messages in its lock journal.

The worker is the child of a parent process, which has a copy of each socket on which messages
arrive. After the worker's death, the parent shuts the connections down, reads all data that has
arrived, and writes the lock tokens into a new lock journal. The next worker reads this journal and
abandons the messages. The parent cannot read the tokens if the connection is encrypted, because the
keys were in the worker's memory. In this case, the messages stay locked until their locks expire.

The parent cannot read data that the worker has already read. So, if the connection is not
encrypted, the worker notes the lock token of a message before it reads the message.
"""

import contextlib
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from worker.processes.lock_journal import write_journal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ_SECONDS: Final = 0.2
_READ_BYTES: Final = 64 * 1024
_MAX_PATH_BYTES: Final = 4096
_HEADER_BYTES: Final = 8
_LONGEST_BEGIN_BYTES: Final = 64

# An AMQP transfer: its descriptor, the header of its list, the link's handle, the delivery id and
# the delivery tag. In Service Bus the delivery tag is the lock token.
_TRANSFER: Final = re.compile(
    rb"\x00\x53\x14"  # the descriptor
    rb"(?:\xc0..|\xd0.{8})"  # list8 or list32: size and count
    rb"(\x43|\x52.|\x70.{4})"  # uint0, smalluint or uint
    rb"(?:\x43|\x52.|\x70.{4})"
    rb"\xa0\x10(.{16})",  # vbin8 of 16 bytes
    re.DOTALL,
)


def make_noting_socket(
    connection: socket.socket, handle: int, note: Callable[[bytes], None]
) -> socket.socket:
    """Return a socket that notes the lock token of a message before the message is read.

    The returned socket takes over the file descriptor of `connection`.

    Args:
        connection: The unencrypted socket of an AMQP connection. It cannot be used afterwards.
        handle: The number that Service Bus has given the link on which messages arrive.
        note: Called with the lock token of each message that begins to arrive on this link.
    """
    timeout = connection.gettimeout()
    noting = _NotingSocket(fileno=connection.detach())
    noting.settimeout(timeout)
    noting.handle = handle
    noting.note = note
    return noting


class _NotingSocket(socket.socket):
    handle: int
    note: Callable[[bytes], None]
    _has_read_header = False

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """Note the lock token of a message that begins to arrive, and read bytes into `buffer`.

        The arguments and the result are those of `socket.recv_into`. The SDK first reads the header
        of an AMQP frame, which has 8 bytes, and then reads the rest of the frame. A message begins
        with a frame whose type is transfer. The type and the lock token are at the beginning of the
        rest, so this method finds them before the SDK has read the rest.
        """
        size_bytes = len(memoryview(buffer))
        if self._has_read_header and size_bytes > _HEADER_BYTES:
            data = self.recv(_LONGEST_BEGIN_BYTES, socket.MSG_PEEK)
            found = _TRANSFER.match(data)
            # The first byte of the encoded handle is its type.
            if found is not None and int.from_bytes(found[1][1:], "big") == self.handle:
                self.note(found[2])
        count = super().recv_into(buffer, nbytes, flags)
        self._has_read_header = count == size_bytes <= _HEADER_BYTES
        return count


class SocketSender:
    """Sends copies of sockets from the child process to its parent. Any thread may use it."""

    def __init__(self, channel: socket.socket, parent: int) -> None:
        """Store the channel to the parent, and the parent's process id."""
        self._channel = channel
        self._parent = parent
        channel.setblocking(False)

    def send(self, connection: Any, path: Path) -> None:
        """Send a copy of a connection's socket to the parent process.

        Do nothing if the connection is encrypted.

        Args:
            connection: The socket of the connection.
            path: The lock journal in which this process notes the messages of the connection.
        """
        if not isinstance(connection, socket.socket) or isinstance(connection, ssl.SSLSocket):
            return
        # The worker also runs without this copy, so an error is ignored.
        with contextlib.suppress(OSError):
            socket.send_fds(self._channel, [os.fsencode(path)], [connection.fileno()])
            os.kill(self._parent, signal.SIGUSR1)


class SocketReceiver:
    """Receives and keeps copies of a child's sockets, in the parent process.

    Each child needs a new object.
    """

    def __init__(self) -> None:
        # SOCK_SEQPACKET keeps the boundaries of messages, as datagrams do.
        self._own, self._for_child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._own.setblocking(False)
        self._copies: dict[Path, socket.socket] = {}

    def make_sender(self, parent: int) -> SocketSender:
        """Return the object with which the child sends copies of its sockets to the parent.

        Only the child may call this method.

        Args:
            parent: The process id of the parent.
        """
        self._own.close()
        return SocketSender(self._for_child, parent)

    def receive(self) -> None:
        """Receive the copies of sockets that the child has sent.

        Each copy belongs to one lock journal of the child. For each journal, keep only the newest
        copy.
        """
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._own, _MAX_PATH_BYTES, 1)
            except OSError:
                return
            if not data:
                return
            for descriptor in descriptors:
                path = Path(os.fsdecode(data))
                if path in self._copies:
                    self._copies[path].close()
                self._copies[path] = socket.socket(fileno=descriptor)

    def note_arrivals(self) -> None:
        """Find the messages that the dead child did not read, and note their locks.

        Shut down each connection of the child, and read all data that has arrived on it. Write the
        lock tokens of the messages in this data to new lock journals.
        """
        self._for_child.close()
        self.receive()
        copies = self._copies
        for copy in copies.values():
            # After this shutdown, Service Bus sends nothing more.
            with contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_WR)
        ends_at = time.monotonic() + _READ_SECONDS
        for path, copy in copies.items():
            if tokens := lock_tokens(_read_to_end(copy, ends_at)):
                # The locks expire if the disk is full.
                with contextlib.suppress(OSError):
                    write_journal(path, tokens)

    def close(self) -> None:
        """Close all copies of sockets, and the channel to the child process."""
        for copy in self._copies.values():
            copy.close()
        self._copies.clear()
        self._own.close()
        self._for_child.close()


def lock_tokens(data: bytes) -> list[bytes]:
    """Return the lock tokens of the AMQP transfers in `data`. `data` may begin within a frame."""
    return [found[2] for found in _TRANSFER.finditer(data)]


def _read_to_end(connection: socket.socket, ends_at: float) -> bytes:
    """Return the bytes that arrive until the broker closes the connection or the read fails.

    Stop reading when `time.monotonic()` reaches `ends_at`.
    """
    parts = []
    try:
        while (left_seconds := ends_at - time.monotonic()) > 0:
            connection.settimeout(left_seconds)
            part = connection.recv(_READ_BYTES)
            if not part:
                break
            parts.append(part)
    except OSError:
        pass
    return b"".join(parts)
