"""Test that lock tokens are found in the bytes that a dead process left unread in its sockets."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus._pyamqp._encode import encode_frame
from azure.servicebus._pyamqp.performatives import TransferFrame
from hypothesis import given
from hypothesis import strategies as st

from worker.processes.last_arrivals import SocketReceiver, lock_tokens, make_noting_socket
from worker.processes.lock_journal import LockJournal


def transfer(token: bytes, delivery_id: int = 1, handle: int = 0, size_bytes: int = 10) -> bytes:
    """Return an AMQP transfer frame with a message of `size_bytes`.

    `token` is the delivery tag, which is the lock token in Service Bus.
    """
    # The fields of a transfer, in their order. The types of the SDK allow no positional values.
    frame_type: Any = TransferFrame
    values = [handle, delivery_id, token, 0, False, False, None, None, None, None, False]
    header, performative = encode_frame(frame_type(*values, b"m" * size_bytes))
    assert performative is not None
    return bytes(header + b"\x00\x01" + performative)


@given(
    st.lists(
        st.builds(
            transfer,
            st.binary(min_size=16, max_size=16),
            st.integers(0, 2**32 - 1),
            st.integers(0, 255),
            st.integers(0, 100_000),
        ),
        max_size=3,
    )
)
def test_the_lock_token_in_each_amqp_transfer_frame_is_found(frames: list[bytes]) -> None:
    assert len(lock_tokens(b"".join(frames))) == len(frames)


def test_the_lock_token_of_a_frame_is_found_although_the_first_bytes_of_the_frame_are_missing() -> (
    None
):
    frames = transfer(b"1" * 16) + transfer(b"2" * 16)
    assert lock_tokens(frames[8:]) == [b"1" * 16, b"2" * 16]
    assert lock_tokens(frames[30:]) == [b"2" * 16], "the first frame was read in part"
    assert lock_tokens(b"") == []


@pytest.mark.parametrize("handle", [0, 1, 200, 70_000])
def test_a_lock_token_is_noted_before_its_message_has_been_read_from_the_socket(
    handle: int,
) -> None:
    peer, own = socket.socketpair()
    token = bytes(range(16))
    other = transfer(b"o" * 16, handle=handle + 1)
    frames = transfer(token, handle=handle) + other
    noted: list[tuple[bytes, bytes]] = []

    def note(found: bytes) -> None:
        noted.append((found, noting.recv(len(frames), socket.MSG_PEEK)))

    with peer, make_noting_socket(own, handle, note) as noting:
        peer.sendall(frames)
        for frame in (frames[: -len(other)], other):
            header, rest = bytearray(8), bytearray(len(frame) - 8)
            assert noting.recv_into(header) == 8
            assert noting.recv_into(memoryview(rest)) == len(rest)
            assert bytes(header + rest) == frame
    assert noted == [(token, frames[8:])]


def test_no_lock_token_is_noted_for_message_bytes_that_look_like_a_transfer_frame() -> None:
    peer, own = socket.socketpair()
    noted: list[bytes] = []
    hostile = transfer(b"h" * 16)[8:]
    with peer, make_noting_socket(own, 0, noted.append) as noting:
        peer.sendall(transfer(b"t" * 16)[:-10])
        frame = bytearray(len(transfer(b"t" * 16)) - 10 + len(hostile))
        assert noting.recv_into(memoryview(frame)[:8]) == 8
        read = 8 + noting.recv_into(memoryview(frame)[8:])
        peer.sendall(hostile)
        assert read + noting.recv_into(memoryview(frame)[read:]) == len(frame)
    assert noted == [b"t" * 16]


def test_a_socket_that_notes_lock_tokens_keeps_the_timeout_of_the_replaced_socket() -> None:
    peer, own = socket.socketpair()
    own.settimeout(0.01)
    with peer, make_noting_socket(own, 0, lambda _: None) as noting:
        with pytest.raises(TimeoutError):
            noting.recv_into(bytearray(9))
        peer.close()
        assert noting.recv_into(bytearray(9)) == 0


@pytest.fixture
def sockets() -> Iterator[SocketReceiver]:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    receiver = SocketReceiver()
    yield receiver
    receiver.close()
    signal.signal(signal.SIGUSR1, before)


def test_the_parent_stores_the_lock_tokens_of_messages_that_arrive_after_the_child_has_died(
    sockets: SocketReceiver, tmp_path: Path
) -> None:
    dead = LockJournal(tmp_path, "sb.example", "noop")
    broker, old = socket.socketpair()
    other, new = socket.socketpair()
    child = os.fork()
    if child == 0:
        sender = sockets.make_sender(os.getppid())
        sender.send(old, dead.path)
        sender.send(new, dead.path)
        os._exit(0)
    os.waitpid(child, 0)
    old.close()
    new.close()
    dead.close()
    sockets.receive()
    with broker, other:
        assert broker.recv(1) == b"", "a new connection replaces the old one"
        other.send(transfer(b"1" * 16) + transfer(b"2" * 16))
        other.shutdown(socket.SHUT_WR)
        sockets.note_arrivals()
        assert other.recv(1) == b"", "the connection has ended"
    successor = LockJournal(tmp_path, "sb.example", "noop")
    assert sorted(successor.take_over()) == [b"1" * 16, b"2" * 16]
    successor.close()


def test_the_parent_writes_no_lock_journal_if_the_dead_child_was_not_connected(
    sockets: SocketReceiver, tmp_path: Path
) -> None:
    sockets.note_arrivals()
    assert list(tmp_path.iterdir()) == []
