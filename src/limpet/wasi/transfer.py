"""Reading, writing and seeking: the calls that most guests spend their time in.

Source: `fd_read`, `fd_write`, `fd_pread`, `fd_pwrite`, `fd_seek`, `fd_tell` in
`wasi_snapshot_preview1.witx`. As in Wasmtime, a vectored call moves the first buffer that is not
empty and reports a partial transfer: allowed by the interface, and no length that a guest makes up
is ever allocated. Sockets differ: `limpet.wasi.socket_transfer`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos
from limpet.wasi.arguments import check_enum
from limpet.wasi.descriptors import OpenFile, StandardInput, StandardOutput
from limpet.wasi.endings import GuestTrap
from limpet.wasi.errnos import WasiError
from limpet.wasi.socket_descriptors import OpenSocket
from limpet.wasi.socket_transfer import receive, send
from limpet.wasi.streams import StreamFullError

if TYPE_CHECKING:
    from limpet.wasi.run import WasiRun

_U64_END = 1 << 64
_OFFSET_END = 1 << 63
_IOVEC = abi.IOVEC
_unpack_iovec = _IOVEC.unpack_from
# Streams are copied in and out by pieces of this size: the copy is the host's memory.
_STREAM_BYTES = 1 << 20
# Between looks at the deadline while skipping empty buffers.
_VECTORS_PER_CHECK = 4096


def _first_buffer(run: WasiRun, vectors_at: int, count: int) -> tuple[int, int]:
    """The first buffer that is not empty, in bounds; (0, 0) when there is none."""
    if not count:
        return 0, 0
    memory = run.memory
    size = 8 * count
    if size > abi.CALL_MAX_BYTES:
        raise WasiError(errnos.NOMEM)
    if vectors_at & 3 or vectors_at + 8 > memory.size:
        memory.require(vectors_at, 8, 4)
    pointer, length = _unpack_iovec(memory.view, vectors_at)
    if not length:
        pointer, length = _skip_empty(run, vectors_at + 8, vectors_at + size)
    if length + size > abi.CALL_MAX_BYTES:
        raise WasiError(errnos.NOMEM)
    if pointer + length > memory.size:
        memory.require(pointer, length)
    return pointer, length


def _skip_empty(run: WasiRun, start: int, end: int) -> tuple[int, int]:
    """As `_first_buffer`, for the vectors from `start` to `end`; those behind it are not looked at.

    They may be many and all empty, so the deadline is looked at in between.
    """
    memory = run.memory
    while start < end:
        run.control.check()
        memory.require(start, 8, 4)
        stop = min(end, start + _VECTORS_PER_CHECK * 8, memory.size - (memory.size - start) % 8)
        for pointer, length in _IOVEC.iter_unpack(memory.view[start:stop]):
            if length:
                return pointer, length
        start = stop
    return 0, 0


def fd_write(run: WasiRun, number: int, vectors_at: int, count: int, written_at: int) -> int:
    entry = run.files.entries.get(number)
    if isinstance(entry, OpenSocket):
        run.memory.write_u32(written_at, send(run, entry, vectors_at, count))
        return errnos.SUCCESS
    pointer, length = _first_buffer(run, vectors_at, count)
    if isinstance(entry, StandardOutput):
        _write_stream(run, entry, pointer, length)
    elif isinstance(entry, OpenFile):
        length = _write_file(run, entry, pointer, length)
    else:
        return errnos.BADF
    run.memory.write_u32(written_at, length)
    return errnos.SUCCESS


def _write_stream(run: WasiRun, output: StandardOutput, pointer: int, length: int) -> None:
    view = run.memory.view
    end = pointer + length
    try:
        while pointer < end:
            stop = min(end, pointer + _STREAM_BYTES)
            output.stream.write(bytes(view[pointer:stop]), run.control)
            pointer = stop
    except StreamFullError as full:
        raise GuestTrap(f"wrote more than {full.limit_bytes} bytes to {output.name}") from None
    except BrokenPipeError:
        raise WasiError(errnos.IO) from None  # as Wasmtime reports a closed stream


def _write_file(run: WasiRun, file: OpenFile, pointer: int, length: int) -> int:
    with run.memory.slice(pointer, length) as data:
        if file.flags & abi.FDFLAGS_APPEND:
            written = os.pwritev(file.descriptor, (data,), 0, os.RWF_APPEND)
            file.position = os.fstat(file.descriptor).st_size
        else:
            written = os.pwrite(file.descriptor, data, _offset(file.position))
            file.position += written
    return written


def fd_read(run: WasiRun, number: int, vectors_at: int, count: int, read_at: int) -> int:
    entry = run.files.entries.get(number)
    if isinstance(entry, OpenSocket):
        run.memory.write_u32(read_at, receive(run, entry, vectors_at, count)[0])
        return errnos.SUCCESS
    pointer, length = _first_buffer(run, vectors_at, count)
    memory = run.memory
    if isinstance(entry, StandardInput):
        if length:
            data = entry.stream.read(min(length, _STREAM_BYTES), run.control)
            length = len(data)
            memory.write(pointer, data)
    elif isinstance(entry, OpenFile):
        with memory.slice(pointer, length) as buffer:
            length = os.preadv(entry.descriptor, (buffer,), _offset(entry.position))
        entry.position += length
    else:
        return errnos.BADF
    memory.write_u32(read_at, length)
    return errnos.SUCCESS


def fd_pread(
    run: WasiRun, number: int, vectors_at: int, count: int, offset: int, read_at: int
) -> int:
    pointer, length = _first_buffer(run, vectors_at, count)
    entry = run.files.entries.get(number)
    if isinstance(entry, (StandardInput, OpenSocket)):
        return errnos.SPIPE
    file = run.files.file(number)
    with run.memory.slice(pointer, length) as buffer:
        length = os.preadv(file.descriptor, (buffer,), _offset(offset))
    run.memory.write_u32(read_at, length)
    return errnos.SUCCESS


def fd_pwrite(
    run: WasiRun, number: int, vectors_at: int, count: int, offset: int, written_at: int
) -> int:
    pointer, length = _first_buffer(run, vectors_at, count)
    entry = run.files.entries.get(number)
    if isinstance(entry, (StandardOutput, OpenSocket)):
        return errnos.SPIPE
    file = run.files.file(number)
    with run.memory.slice(pointer, length) as data:
        if file.flags & abi.FDFLAGS_APPEND:  # Linux ignores the offset then; so does Wasmtime
            length = os.pwritev(file.descriptor, (data,), 0, os.RWF_APPEND)
        else:
            length = os.pwrite(file.descriptor, data, _offset(offset))
    run.memory.write_u32(written_at, length)
    return errnos.SUCCESS


def _offset(offset: int) -> int:
    """An offset that the kernel's signed type can hold; it refuses negative ones."""
    if offset >= _OFFSET_END:
        raise WasiError(errnos.INVAL)
    return offset


def fd_seek(run: WasiRun, number: int, offset: int, whence: int, position_at: int) -> int:
    check_enum("whence", whence, abi.WHENCE_COUNT)
    file = run.files.seekable(number)
    if whence == abi.WHENCE_CUR:
        offset += file.position
    elif whence == abi.WHENCE_END:
        offset += os.fstat(file.descriptor).st_size
    if not 0 <= offset < _U64_END:
        return errnos.INVAL
    file.position = offset
    run.memory.write_u64(position_at, offset)
    return errnos.SUCCESS


def fd_tell(run: WasiRun, number: int, position_at: int) -> int:
    run.memory.write_u64(position_at, run.files.seekable(number).position)
    return errnos.SUCCESS
