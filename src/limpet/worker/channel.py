"""One packet socket between two processes: messages and descriptors, whole or not at all.

AF_UNIX SOCK_SEQPACKET keeps message boundaries and order and carries descriptors (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

from limpet.worker.messages import (
    MAX_MESSAGE_BYTES,
    Message,
    MessageError,
    decode_message,
    encode_message,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DESCRIPTORS = 64


class Channel:
    """One end. `send` and `receive` never return part of a message."""

    __slots__ = ("_socket",)

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Make two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Channel:
        """Wrap an inherited or received descriptor, which the channel then owns."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._socket.fileno()

    def set_blocking(self, flag: bool) -> None:  # noqa: FBT001 - mirrors socket.setblocking
        """Choose whether `send` and `receive` wait."""
        self._socket.setblocking(flag)

    def send_at_once(self, message: Message) -> bool:
        """Send one message unless the peer's queue is full; whether it was sent. Raises OSError."""
        try:
            self._socket.send(encode_message(message), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message. Raises OSError when the peer is gone or its queue is full."""
        if not descriptors:
            # Workers may not use sendmsg: it takes an address, which no filter can look at.
            self._socket.send(encode_message(message), socket.MSG_NOSIGNAL)
            return
        if len(descriptors) > MAX_DESCRIPTORS:
            raise MessageError(f"{len(descriptors)} descriptors are too many for one message")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        self._socket.sendmsg([encode_message(message)], ancillary, socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[Message, list[int]] | None:
        """Receive one message and its descriptors (close-on-exec, owned by the caller).

        None means that the peer has closed. Raises `MessageError` for a packet that is not a
        message, BlockingIOError when there is none yet.
        """
        try:
            packet, ancillary, flags, _ = self._socket.recvmsg(
                MAX_MESSAGE_BYTES,
                socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize),
                socket.MSG_CMSG_CLOEXEC,
            )
        except ConnectionResetError:
            return None
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if not packet:
            close_all(descriptors)
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise MessageError("a packet was larger than any message may be")
            return decode_message(packet), list(descriptors)
        except MessageError:
            close_all(descriptors)
            raise

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def close_all(descriptors: Sequence[int] | array.array[int]) -> None:
    """Close descriptors that this process owns."""
    for descriptor in descriptors:
        os.close(descriptor)
