"""The guest's standard streams, as seen from the host.

A trigger hands three of these to a run. Reading and writing go through one `Waiter`, so that a
guest blocked on a pipe still obeys its deadline and an interrupt.
"""

from __future__ import annotations

import os
from stat import S_ISREG
from typing import Protocol

# A pipe that polls as writable takes this many bytes without blocking (POSIX's PIPE_BUF on Linux).
_PIPE_BUF_BYTES = 4096
_READ_MAX_BYTES = 64 * 1024


class Waiter(Protocol):
    """Waits for descriptors on behalf of a run; raises a `GuestEnd` when the run is over."""

    def wait_readable(self, descriptor: int) -> None:
        """Return once a read of `descriptor` would not block."""
        ...

    def wait_writable(self, descriptor: int) -> None:
        """Return once a write to `descriptor` would not block."""
        ...


class StreamFullError(Exception):
    """More was written than the stream takes; the run ends with a trap that names the stream."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes


class InputStream(Protocol):
    """What a guest reads as its descriptor 0. Subclass it: only `read` must be written."""

    __slots__ = ()

    def read(self, length: int, waiter: Waiter) -> bytes:
        """Return 1 to `length` bytes, or none at the end. Raise OSError for what the guest sees."""
        ...

    def poll_descriptor(self) -> int:
        """The descriptor whose readiness is the stream's, or -1 when it is always ready."""
        return -1

    def is_terminal(self) -> bool:
        return False


class OutputStream(Protocol):
    """What a guest writes as its descriptor 1 or 2. Subclass it: only `write` must be written."""

    __slots__ = ()

    def write(self, data: bytes, waiter: Waiter) -> None:
        """Take all of `data`, or raise: OSError for what the guest sees, StreamFullError."""
        ...

    def poll_descriptor(self) -> int:
        """The descriptor whose readiness is the stream's, or -1 when it is always ready."""
        return -1

    def is_terminal(self) -> bool:
        return False


class NullInput(InputStream):
    """At its end from the start, as /dev/null is."""

    __slots__ = ()

    def read(self, length: int, waiter: Waiter) -> bytes:  # noqa: ARG002 - the protocol's shape
        return b""


class BytesInput(InputStream):
    """Reads out of bytes that are already here: a request's body."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def read(self, length: int, waiter: Waiter) -> bytes:  # noqa: ARG002
        start = self._position
        chunk = self._data[start : start + length]
        self._position = start + len(chunk)
        return chunk


class BufferOutput(OutputStream):
    """Collects what is written, up to `limit_bytes`; beyond that the guest traps."""

    __slots__ = ("_chunks", "_limit", "_room")

    def __init__(self, limit_bytes: int) -> None:
        self._chunks: list[bytes] = []
        self._limit = limit_bytes
        self._room = limit_bytes

    def write(self, data: bytes, waiter: Waiter) -> None:  # noqa: ARG002
        self._room -= len(data)
        if self._room < 0:
            self._chunks.append(data[: self._room])
            self._room = 0
            raise StreamFullError(self._limit)
        self._chunks.append(data)

    def getvalue(self) -> bytes:
        """Everything written so far."""
        chunks = self._chunks
        if len(chunks) == 1:
            return chunks[0]
        return b"".join(chunks)


class DescriptorInput(InputStream):
    """Reads from a descriptor that the caller owns."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, length: int, waiter: Waiter) -> bytes:
        while True:
            waiter.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, min(length, _READ_MAX_BYTES))
            except BlockingIOError:  # somebody else was faster on a shared descriptor
                continue

    def poll_descriptor(self) -> int:
        return self._descriptor

    def is_terminal(self) -> bool:
        return os.isatty(self._descriptor)


class DescriptorOutput(OutputStream):
    """Writes to a descriptor that the caller owns, and whose flags it leaves alone.

    A blocking pipe or socket gets one page at a time, each after it polled as writable: a longer
    write could block where neither deadline nor interrupt reach. A non-blocking one is written to
    at once and waited for when it is full. Files take everything.
    """

    __slots__ = ("_chunk_bytes", "_descriptor", "_must_poll")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._chunk_bytes = 0
        self._must_poll = True

    def write(self, data: bytes, waiter: Waiter) -> None:
        if not self._chunk_bytes:
            self._inspect()
        descriptor = self._descriptor
        position = 0
        while position < len(data):
            if self._must_poll:
                waiter.wait_writable(descriptor)
            try:
                position += os.write(descriptor, data[position : position + self._chunk_bytes])
            except BlockingIOError:
                waiter.wait_writable(descriptor)

    def _inspect(self) -> None:
        is_file = S_ISREG(os.fstat(self._descriptor).st_mode)
        can_block = os.get_blocking(self._descriptor) and not is_file
        self._must_poll = can_block
        self._chunk_bytes = _PIPE_BUF_BYTES if can_block else 1 << 20

    def poll_descriptor(self) -> int:
        return self._descriptor

    def is_terminal(self) -> bool:
        return os.isatty(self._descriptor)
