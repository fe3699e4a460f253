"""Options of sockets: `sock_getsockopt` and `sock_setsockopt` of WasmEdge's extension.

Only the level SOL_SOCKET exists, with the extension's own numbers. SO_LINGER reaches the kernel.
Timeouts are kept here, by whoever waits. The rest is remembered and answered: a worker may not
set it, and none of it changes what a guest can see. SO_BINDTODEVICE is not permitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi import errnos, linux_sockets, socket_abi
from limpet.wasi.errnos import WasiError, errno_from_number

if TYPE_CHECKING:
    from struct import Struct

    from limpet.wasi.run import WasiRun
    from limpet.wasi.socket_descriptors import OpenSocket

_OPTIONS = range(15)
_READ_ONLY = frozenset({socket_abi.SO_TYPE, socket_abi.SO_ERROR, socket_abi.SO_ACCEPTCONN})
_TIMEOUTS = frozenset({socket_abi.SO_RCVTIMEO, socket_abi.SO_SNDTIMEO})
# What Linux answers before anybody set them: net.core.*mem_default, for a socket without a kernel's.
_DEFAULTS = {
    socket_abi.SO_SNDBUF: 212992,
    socket_abi.SO_RCVBUF: 212992,
    socket_abi.SO_RCVLOWAT: 1,
}
_KERNEL_SIZES = {
    socket_abi.SO_SNDBUF: linux_sockets.SO_SNDBUF,
    socket_abi.SO_RCVBUF: linux_sockets.SO_RCVBUF,
}
_SECOND_NS = 1_000_000_000
_LONGEST_SECONDS = 1_000_000_000


def sock_setsockopt(
    run: WasiRun, number: int, level: int, name: int, value_at: int, length: int
) -> int:
    entry = run.files.socket(number)
    if level != socket_abi.LEVEL_SOCKET or name not in _OPTIONS:
        return errnos.INVAL
    if name == socket_abi.SO_BINDTODEVICE:
        return errnos.PERM
    if name in _READ_ONLY:
        return errnos.NOPROTOOPT
    layout = _layout(name)
    if length < layout.size:
        return errnos.INVAL
    values = layout.unpack(run.memory.read(value_at, layout.size))
    if name in _TIMEOUTS:
        _set_timeout(entry, name, *values)
    elif name == socket_abi.SO_LINGER:
        _set_linger(entry, *values)
    else:
        (entry.options[name],) = values
    return errnos.SUCCESS


def _layout(name: int) -> Struct:
    if name in _TIMEOUTS:
        return socket_abi.TIMEVAL
    return socket_abi.LINGER if name == socket_abi.SO_LINGER else socket_abi.INT


def _set_timeout(entry: OpenSocket, name: int, seconds: int, micros: int) -> None:
    """As in socket(7): zero means none, and so does a negative number of seconds."""
    if not 0 <= micros < 1_000_000:
        raise WasiError(errnos.INVAL)
    timeout_ns = max(min(seconds, _LONGEST_SECONDS) * _SECOND_NS + micros * 1000, 0)
    if name == socket_abi.SO_RCVTIMEO:
        entry.receive_timeout_ns = timeout_ns
    else:
        entry.send_timeout_ns = timeout_ns


def _set_linger(entry: OpenSocket, is_on: int, seconds: int) -> None:
    asked = seconds if seconds >= 0 else _LONGEST_SECONDS
    entry.options[socket_abi.SO_LINGER] = asked if is_on else -1
    apply_linger(entry)


def apply_linger(entry: OpenSocket) -> None:
    """Tell the kernel's socket, once there is one, what the guest asked for.

    Closing never waits: lingering for a while goes on behind the guest's back, as without the option;
    lingering for no time cuts the connection off.
    """
    seconds = entry.options.get(socket_abi.SO_LINGER)
    if entry.kernel is not None and seconds is not None and entry.is_stream:
        value = socket_abi.LINGER.pack(int(seconds == 0), 0)
        entry.kernel.setsockopt(linux_sockets.SOL_SOCKET, linux_sockets.SO_LINGER, value)


def sock_getsockopt(
    run: WasiRun, number: int, level: int, name: int, value_at: int, length_at: int
) -> int:
    entry = run.files.socket(number)
    if level != socket_abi.LEVEL_SOCKET or name not in _OPTIONS:
        return errnos.INVAL
    memory = run.memory
    memory.require(length_at, 4, 4)
    (room,) = socket_abi.INT.unpack_from(memory.view, length_at)
    if room < 0:
        return errnos.INVAL
    value = _read_option(entry, name)[:room]  # cut, as the kernel does
    memory.write(value_at, value)
    memory.write_u32(length_at, len(value))
    return errnos.SUCCESS


def _read_option(entry: OpenSocket, name: int) -> bytes:
    if name == socket_abi.SO_BINDTODEVICE:
        return b""
    if name in _TIMEOUTS:
        is_receive = name == socket_abi.SO_RCVTIMEO
        timeout_ns = entry.receive_timeout_ns if is_receive else entry.send_timeout_ns
        seconds, rest_ns = divmod(timeout_ns, _SECOND_NS)
        return socket_abi.TIMEVAL.pack(seconds, rest_ns // 1000)
    if name == socket_abi.SO_LINGER:
        seconds = entry.options.get(name, -1)
        return socket_abi.LINGER.pack(int(seconds >= 0), max(seconds, 0))
    return socket_abi.INT.pack(_read_number(entry, name))


def _read_number(entry: OpenSocket, name: int) -> int:
    if name == socket_abi.SO_TYPE:
        return entry.type
    if name == socket_abi.SO_ACCEPTCONN:
        return int(bool(entry.listening))
    kernel = entry.kernel
    if name == socket_abi.SO_ERROR:
        if kernel is None:
            return errnos.SUCCESS
        number = kernel.getsockopt(linux_sockets.SOL_SOCKET, linux_sockets.SO_ERROR)
        return errno_from_number(number) if number else errnos.SUCCESS
    if name in entry.options:
        return entry.options[name]
    if kernel is not None and name in _KERNEL_SIZES:
        return kernel.getsockopt(linux_sockets.SOL_SOCKET, _KERNEL_SIZES[name])
    return _DEFAULTS.get(name, 0)
