"""A server on loopback that answers every connection with the same bytes."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def answering(data: bytes, *, hangs: bool = False) -> Iterator[str]:
    """Yield the URL of a server that answers each connection with `data`, one after another.

    A client whose connection failed may connect again, and another program may connect first. If
    `hangs` is true, the server sends `data`, and then one byte every 0.05 s until the test ends.
    """
    released = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            while not released.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                answer(connection)

        def answer(connection: socket.socket) -> None:
            connection.settimeout(10.0)
            with connection, contextlib.suppress(TimeoutError):
                connection.recv(65536)
                connection.sendall(data)
                # One byte at a time: each read is within its own time limit.
                while hangs and not released.wait(0.05):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return
                # Without this, the operating system would reset the connection if the client has
                # sent more than the first read returned, and the client could lose the response.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/x"
        finally:
            released.set()
            thread.join(10)


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
