"""`wasi:io/error` and `wasi:io/streams`, and the streams that are the run's own.

A stream's `read` and `write` never wait; what blocks waits through the run's `Control`, so that
deadlines and interrupts hold.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from limpet.wasi.endings import GuestTrap
from limpet.wasi.errnos import WasiError
from limpet.wasi.preview2.interface import Interface, Refused
from limpet.wasi.preview2.polling import DescriptorPollable, Pollable, wait_for
from limpet.wasi.preview2.resources import Resource
from limpet.wasi.preview2.types import BYTES, STRING, U64, Borrow, Own, Result, Variant
from limpet.wasi.streams import StreamFullError

if TYPE_CHECKING:
    from limpet.wasi import streams
    from limpet.wasi.preview2.run import ComponentRun

# What one call moves at most: each byte costs 64 bytes of the host's memory on its way.
CHUNK_BYTES = 64 * 1024
CLOSED = ("closed", None)


class ErrorResource(Resource):
    """`wasi:io/error`: what went wrong with a stream. `error` is the host's, if it has a number."""

    __slots__ = ("error",)

    def __init__(self, error: OSError | WasiError) -> None:
        self.error = error

    def describe(self) -> str:
        if isinstance(self.error, OSError):
            return os.strerror(self.error.errno or 0)
        return f"WASI error {self.error.number}"


def _explain(error: Exception) -> object:
    if isinstance(error, Refused):
        return error.value
    if isinstance(error, BrokenPipeError):
        return CLOSED
    if isinstance(error, (OSError, WasiError)):
        return ("last-operation-failed", ErrorResource(error.with_traceback(None)))
    raise error


class InputStream(Resource):
    """What a guest reads from."""

    __slots__ = ()

    def read(self, run: ComponentRun, length: int) -> bytes:
        """Up to `length` bytes that are there already; raises `Refused(CLOSED)` at the end."""
        raise NotImplementedError

    def subscribe(self) -> Pollable:
        """What to wait for until `read` returns something."""
        return Pollable()

    def read_some(self, run: ComponentRun, length: int) -> bytes:
        """As `read`, but it waits for a byte at least."""
        while length:
            data = self.read(run, length)
            if data:
                return data
            wait_for(run, [self.subscribe()])
        return b""


class OutputStream(Resource):
    """What a guest writes to."""

    __slots__ = ()

    def room(self, run: ComponentRun) -> int:  # noqa: ARG002 - others look at it
        """How many bytes `write` takes now without waiting."""
        return CHUNK_BYTES

    def write(self, run: ComponentRun, data: bytes) -> None:
        """Take all of it."""
        raise NotImplementedError

    def flush(self, run: ComponentRun) -> None:
        """Wait until what was written is where it belongs."""

    def subscribe(self) -> Pollable:
        """What to wait for until there is room."""
        return Pollable()

    def write_and_flush(self, run: ComponentRun, data: bytes) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            while self.room(run) < len(piece):
                wait_for(run, [self.subscribe()])
            self.write(run, piece)
        self.flush(run)


class StandardInput(InputStream):
    __slots__ = ("stream",)

    def __init__(self, stream: streams.InputStream) -> None:
        self.stream = stream

    def read(self, run: ComponentRun, length: int) -> bytes:
        if not length:
            return b""
        if not wait_for(run, [self.subscribe()], until_ns=0):
            return b""
        return self.read_some(run, length)

    def read_some(self, run: ComponentRun, length: int) -> bytes:
        if not length:
            return b""
        data = self.stream.read(length, run.control)  # waits by itself
        if not data:
            raise Refused(CLOSED)
        return data

    def subscribe(self) -> Pollable:
        return DescriptorPollable(self.stream.poll_descriptor, select.POLLIN)


class StandardOutput(OutputStream):
    """Writing may wait for whoever reads, within the run's deadline."""

    __slots__ = ("name", "stream")

    def __init__(self, stream: streams.OutputStream, name: str) -> None:
        self.stream = stream
        self.name = name

    def room(self, run: ComponentRun) -> int:
        return CHUNK_BYTES if wait_for(run, [self.subscribe()], until_ns=0) else 0

    def write(self, run: ComponentRun, data: bytes) -> None:
        try:
            self.stream.write(data, run.control)
        except StreamFullError as full:
            raise GuestTrap(f"wrote more than {full.limit_bytes} bytes to {self.name}") from None

    def write_and_flush(self, run: ComponentRun, data: bytes) -> None:
        run.control.check()
        self.write(run, data)

    def subscribe(self) -> Pollable:
        return DescriptorPollable(self.stream.poll_descriptor, select.POLLOUT)


ERROR = Interface("error")
STREAMS = Interface("input-stream", "output-stream", explain=_explain)
_ERROR = Borrow("error")
_INPUT, _OUTPUT = Borrow("input-stream"), Borrow("output-stream")
_STREAM_ERROR = Variant((("last-operation-failed", Own("error")), ("closed", None)))
_NOTHING = Result(None, _STREAM_ERROR)
_DATA = Result(BYTES, _STREAM_ERROR)
_COUNT = Result(U64, _STREAM_ERROR)


@ERROR.function("[method]error.to-debug-string", _ERROR, returns=STRING)
def error_to_debug_string(_run: ComponentRun, error: ErrorResource) -> str:
    return error.describe()


@STREAMS.function("[method]input-stream.read", _INPUT, U64, returns=_DATA)
def input_stream_read(run: ComponentRun, stream: InputStream, length: int) -> bytes:
    return stream.read(run, min(length, CHUNK_BYTES))


@STREAMS.function("[method]input-stream.blocking-read", _INPUT, U64, returns=_DATA)
def input_stream_blocking_read(run: ComponentRun, stream: InputStream, length: int) -> bytes:
    return stream.read_some(run, min(length, CHUNK_BYTES))


@STREAMS.function("[method]input-stream.skip", _INPUT, U64, returns=_COUNT)
def input_stream_skip(run: ComponentRun, stream: InputStream, length: int) -> int:
    return len(stream.read(run, min(length, CHUNK_BYTES)))


@STREAMS.function("[method]input-stream.blocking-skip", _INPUT, U64, returns=_COUNT)
def input_stream_blocking_skip(run: ComponentRun, stream: InputStream, length: int) -> int:
    return len(stream.read_some(run, min(length, CHUNK_BYTES)))


@STREAMS.function("[method]input-stream.subscribe", _INPUT, returns=Own("pollable"))
def input_stream_subscribe(_run: ComponentRun, stream: InputStream) -> Pollable:
    return stream.subscribe()


@STREAMS.function("[method]output-stream.check-write", _OUTPUT, returns=_COUNT)
def output_stream_check_write(run: ComponentRun, stream: OutputStream) -> int:
    return stream.room(run)


@STREAMS.function("[method]output-stream.write", _OUTPUT, BYTES, returns=_NOTHING)
def output_stream_write(run: ComponentRun, stream: OutputStream, data: bytes) -> None:
    _require_permit(data_bytes=len(data))
    stream.write(run, data)


@STREAMS.function(
    "[method]output-stream.blocking-write-and-flush", _OUTPUT, BYTES, returns=_NOTHING
)
def output_stream_blocking_write_and_flush(
    run: ComponentRun, stream: OutputStream, data: bytes
) -> None:
    stream.write_and_flush(run, data)


@STREAMS.function("[method]output-stream.flush", _OUTPUT, returns=_NOTHING)
def output_stream_flush(run: ComponentRun, stream: OutputStream) -> None:
    stream.room(run)  # says what went wrong meanwhile; the rest goes out by itself


@STREAMS.function("[method]output-stream.blocking-flush", _OUTPUT, returns=_NOTHING)
def output_stream_blocking_flush(run: ComponentRun, stream: OutputStream) -> None:
    stream.flush(run)


@STREAMS.function("[method]output-stream.subscribe", _OUTPUT, returns=Own("pollable"))
def output_stream_subscribe(_run: ComponentRun, stream: OutputStream) -> Pollable:
    return stream.subscribe()


@STREAMS.function("[method]output-stream.write-zeroes", _OUTPUT, U64, returns=_NOTHING)
def output_stream_write_zeroes(run: ComponentRun, stream: OutputStream, length: int) -> None:
    _require_permit(data_bytes=length)
    stream.write(run, bytes(length))


@STREAMS.function(
    "[method]output-stream.blocking-write-zeroes-and-flush", _OUTPUT, U64, returns=_NOTHING
)
def output_stream_blocking_write_zeroes_and_flush(
    run: ComponentRun, stream: OutputStream, length: int
) -> None:
    _require_permit(data_bytes=length)
    stream.write_and_flush(run, bytes(length))


@STREAMS.function("[method]output-stream.splice", _OUTPUT, _INPUT, U64, returns=_COUNT)
def output_stream_splice(
    run: ComponentRun, stream: OutputStream, source: InputStream, length: int
) -> int:
    data = source.read(run, min(length, stream.room(run)))
    if data:
        stream.write(run, data)
    return len(data)


@STREAMS.function("[method]output-stream.blocking-splice", _OUTPUT, _INPUT, U64, returns=_COUNT)
def output_stream_blocking_splice(
    run: ComponentRun, stream: OutputStream, source: InputStream, length: int
) -> int:
    data = source.read_some(run, min(length, CHUNK_BYTES))
    stream.write_and_flush(run, data)
    return len(data)


def _require_permit(*, data_bytes: int) -> None:
    """More than `check-write` ever permits is the guest's error, which WASI answers with a trap."""
    if data_bytes > CHUNK_BYTES:
        raise GuestTrap(f"wrote {data_bytes} bytes at once, {CHUNK_BYTES} are the most permitted")
