"""What native code tries once it has escaped from the engine. Every function here runs in a worker.

`run` calls one by name. Results are JSON's types: a system call's number, or its errno's name as text.
Where a call ends the process there is no result. The same functions run outside a worker as controls.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import encodings.idna  # noqa: F401 - behind the walls there are no files to import from
import errno
import fcntl
import functools
import hashlib
import json
import mmap
import os
import select
import socket
import stat
import threading
import time
from typing import Any

from limpet.linux.calls import libc, number_of

preopens: list[int] = []
"""The open directories of the run in progress."""

_GRIP: list[object] = []
_F_GET_SEALS = 1034
_SO_PEERPIDFD = 77
_ANSWER_SECONDS = 90


def run(name: str, arguments: dict[str, Any]) -> Any:
    return globals()[name](**arguments)


# System calls


def call(name: str, *, args: list[Any] | None = None) -> int | str:
    """Make a system call. Arguments: numbers, text, None; `{"room": N}` is N bytes to write to."""
    number = number_of(name) if not name.isdigit() else int(name)
    result = libc.syscall(ctypes.c_long(number), *map(_argument, args or []))
    if result == 0 and name in ("fork", "vfork", "clone"):
        os._exit(0)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


def _argument(value: Any) -> object:
    if isinstance(value, dict):
        room = ctypes.create_string_buffer(value["room"])
        _GRIP.append(room)
        return ctypes.addressof(room)
    if isinstance(value, int):
        return ctypes.c_long(value)
    return value.encode() if isinstance(value, str) else value


def calls(wanted: list[list[Any]]) -> list[int | str]:
    """Make several, each a name and its arguments."""
    return [call(name, args=args) for name, *args in wanted]


def foreign_gate() -> int:
    """getpid through the gate for 32-bit programs, which numbers its calls differently (x86 only)."""
    code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20; int 0x80; ret
    area = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def run_memory() -> bool:
    """Map memory that can be written and executed: that is left to workers."""
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    return True


# Files


def read_path(path: str, *, at: int | None = None) -> str:
    """Return what a file begins with, or the error. `at` counts the preopens."""
    where = -100 if at is None else preopens[at]
    descriptor = call("openat", args=[where, path, os.O_RDONLY | os.O_CLOEXEC, 0])
    if isinstance(descriptor, str):
        return descriptor
    try:
        return os.read(descriptor, 256).decode("latin-1")
    except IsADirectoryError:
        return "directory: " + " ".join(sorted(os.listdir(descriptor)))
    finally:
        os.close(descriptor)


def read_paths(paths: list[str]) -> dict[str, str]:
    """Try each path by itself and, as far up as there is anything, from each preopen."""
    found = {path: read_path(path) for path in paths}
    for number in range(len(preopens)):
        for path in paths:
            upwards = "../" * 20 + path.lstrip("/")
            found[f"{number}:{upwards}"] = read_path(upwards, at=number)
    return found


def write_path(path: str, *, at: int | None = None) -> str:
    where = -100 if at is None else preopens[at]
    descriptor = call("openat", args=[where, path, os.O_WRONLY | os.O_CREAT, 0o666])
    if isinstance(descriptor, str):
        return descriptor
    try:
        os.write(descriptor, b"written from behind the walls")
    finally:
        os.close(descriptor)
    return "written"


def put(text: str, *, name: str, at: int | None) -> int:
    """Write a file into a volume to the disk, or text into the log."""
    if at is None:
        return os.write(2, text.encode())
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o666, dir_fd=preopens[at])
    try:
        written = os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return written


def make_traps() -> list[int | str]:
    """Make links that WASI would not let a guest make."""
    links = {
        "absolute": "/etc/passwd",
        "relative": "../../../../../../etc/passwd",
        "up": "..",
        "loop": "loop",
        "magic": "/proc/self/fd/0",
        "proc": "/proc/self/root/etc/passwd",
    }
    made = [call("symlinkat", args=[to, preopens[0], name]) for name, to in links.items()]
    return [*made, call("mkdirat", args=[preopens[0], "inner", 0o777])]


def make_race() -> list[int | str]:
    """Make a directory, and a link that leads up, to be swapped."""
    return [
        call("mkdirat", args=[preopens[0], "d", 0o777]),
        call("symlinkat", args=["../../../..", preopens[0], "l"]),
    ]


def through_link(target: str, *, at: int) -> list[Any]:
    """Make a link in a volume and open what it leads to."""
    name = f"link-{os.urandom(4).hex()}"
    made = call("symlinkat", args=[target, preopens[at], name])
    return [made, read_path(name, at=at)]


def across(old: int, new: int) -> dict[str, Any]:
    """Move and link a file and a directory from one volume into another."""
    results: dict[str, Any] = {}
    write_path("moved", at=old)
    results["mkdir"] = call("mkdirat", args=[preopens[old], "folder", 0o777])
    for what, name in (("file", "moved"), ("folder", "folder")):
        results[f"rename {what}"] = call(
            "renameat", args=[preopens[old], name, preopens[new], name]
        )
    results["link"] = call("linkat", args=[preopens[old], "moved", preopens[new], "moved", 0])
    return results


def swap_and_climb(rounds: int) -> list[str]:
    """Open `x/../../..` while another thread moves `x` about; returns what was seen that is no error."""
    directory = preopens[0]
    call("mkdirat", args=[directory, "a", 0o777])
    call("mkdirat", args=[directory, "a/x", 0o777])
    is_over = threading.Event()

    def move() -> None:
        while not is_over.is_set():
            call("renameat", args=[directory, "a/x", directory, "x"])
            call("renameat", args=[directory, "x", directory, "a/x"])

    mover = threading.Thread(target=move)
    mover.start()
    seen = set()
    for _ in range(rounds):
        for path in ("a/x/../../../../../../etc/passwd", "a/x/../../../../../../../"):
            seen.add(read_path(path, at=0))
    is_over.set()
    mover.join()
    return sorted(seen)


def fill(at: int) -> list[Any]:
    """Write until it is refused; return how many bytes went in and why no more."""
    descriptor = os.open("filled", os.O_WRONLY | os.O_CREAT, 0o666, dir_fd=preopens[at])
    total = 0
    block = bytes(1 << 18)
    try:
        while True:
            total += os.write(descriptor, block)
            if total % (1 << 22) == 0:
                os.fsync(descriptor)
    except OSError as error:
        return [total, errno.errorcode[error.errno or 0]]
    finally:
        os.close(descriptor)


def fill_inodes(at: int) -> list[Any]:
    """Make files until it is refused."""
    count = 0
    try:
        while True:
            os.close(os.open(f"f{count}", os.O_WRONLY | os.O_CREAT, 0o666, dir_fd=preopens[at]))
            count += 1
    except OSError as error:
        return [count, errno.errorcode[error.errno or 0]]


# Descriptors


def descriptors() -> list[dict[str, Any]]:
    """Describe everything that this process has open."""
    found = []
    for number in range(1024):
        try:
            status = os.fstat(number)
        except OSError:
            continue
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        access = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "both"}[
            flags & os.O_ACCMODE
        ]
        found.append({"number": number, "access": access, **_describe(number, status)})
    return found


def _describe(number: int, status: os.stat_result) -> dict[str, Any]:
    mode = status.st_mode
    if stat.S_ISSOCK(mode):
        with socket.socket(fileno=os.dup(number)) as found:
            is_listening = found.family != socket.AF_UNIX and found.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            )
            name = {socket.AF_UNIX: "unix", socket.AF_INET: "inet", socket.AF_INET6: "inet6"}
            return {"kind": f"{name[found.family]} {'listener' if is_listening else 'socket'}"}
    if stat.S_ISREG(mode):
        try:
            return {"kind": "memory file", "seals": fcntl.fcntl(number, _F_GET_SEALS)}
        except OSError:
            return {"kind": "file"}
    kinds = {
        stat.S_IFIFO: "pipe",
        stat.S_IFDIR: "directory",
        stat.S_IFCHR: f"device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}",
        0: "anonymous",  # epoll, eventfd
    }
    return {"kind": kinds.get(stat.S_IFMT(mode), oct(mode))}


def own_files() -> list[dict[str, Any]]:
    """Describe what this process has open, where even asking which kind a socket is ends it."""
    ways = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "both"}
    found = []
    for number in range(3, 1024):
        try:
            status = os.fstat(number)
        except OSError:
            continue
        access = ways[fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE]
        is_socket = stat.S_ISSOCK(status.st_mode)
        told = {"kind": "socket"} if is_socket else _describe(number, status)
        found.append({"number": number, "access": access, **told})
    return found


def outgrow_files(size: int) -> dict[str, list[int | str]]:
    """Make every file that can be written larger than that: by a byte at its end, and by truncating."""
    return {
        str(each["number"]): [
            call("pwrite64", args=[each["number"], "x", 1, size]),
            call("ftruncate", args=[each["number"], 1 << 40]),
        ]
        for each in own_files()
        if each["kind"] in ("memory file", "file") and each["access"] != "read"
    }


def standard_streams() -> list[list[Any]]:
    """Whether standard input, output and error are a device, and how they are open."""
    ways = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "both"}
    return [
        [stat.S_ISCHR(os.fstat(n).st_mode), ways[fcntl.fcntl(n, fcntl.F_GETFL) & os.O_ACCMODE]]
        for n in range(3)
    ]


def write_inherited() -> dict[str, str]:
    """Overwrite, with what is there, every file that came with the fork."""
    results = {}
    for each in descriptors():
        if each["kind"] in ("memory file", "file"):
            number = each["number"]
            try:
                first = os.pread(number, 1, 0)
                os.pwrite(number, first, 0)
                results[str(number)] = "written"
            except OSError as error:
                results[str(number)] = errno.errorcode[error.errno or 0]
    return results


def spoil_inherited() -> int:
    """Overwrite whatever files came with the fork; return how many."""
    count = 0
    for each in descriptors():
        if each["kind"] in ("memory file", "file"):
            with contextlib.suppress(OSError):
                size = os.fstat(each["number"]).st_size
                os.pwrite(each["number"], b"\xcc" * size, 0)
                count += 1
    return count


@functools.cache
def _control() -> int:
    """The control socket. A compiler has no other, and may not ask what kind it is."""
    found = []
    for number in range(64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                found.append(number)
    return found[0] if len(found) == 1 else _sockets("unix socket")[0]


def _sockets(kind: str) -> list[int]:
    return [each["number"] for each in descriptors() if each["kind"] == kind]


def peer_handle() -> dict[str, Any]:
    """Get a descriptor of the agent's process from the control socket, and try what it is good for."""
    control = _control()
    with socket.socket(fileno=os.dup(control)) as channel:
        try:
            handle = channel.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            return {"handle": errno.errorcode[error.errno or 0]}
    # PIDFD_GET_NET_NAMESPACE is ioctl(0xFF04): it would open the agent's own.
    return {"handle": handle, "namespace": call("ioctl", args=[handle, 0xFF04, 0])}


# The network


def accepted() -> int:
    """The connection that this request came on."""
    return _sockets("inet socket")[0]


def through_accepted(how: str, *, port: int) -> int | str:
    """Turn the client's connection, shut down, into one of our own choice."""
    number = accepted()
    address = _address(port)
    if how == "disconnect":
        return call("connect", args=[number, {"room": 16}, 16])
    if how == "reconnect":
        return _with_address("connect", number, address)
    if how == "fastopen":
        call("shutdown", args=[number, socket.SHUT_RDWR])
        return _send_to(number, socket.MSG_FASTOPEN, address)
    if how == "fastopen alone":
        call("shutdown", args=[number, socket.SHUT_RDWR])
        return call("sendto", args=[number, "x", 1, socket.MSG_FASTOPEN, 0, 0])
    return _send_to(number, 0, address)


def listener_connects(port: int) -> int | str:
    [listener] = _sockets("inet listener")
    call("shutdown", args=[listener, socket.SHUT_RDWR])
    return _with_address("connect", listener, _address(port))


def shut_listener() -> int | str:
    [listener] = _sockets("inet listener")
    return call("shutdown", args=[listener, socket.SHUT_RDWR])


def _address(port: int) -> ctypes.Array[ctypes.c_char]:
    packed = array.array("H", [socket.AF_INET]).tobytes() + port.to_bytes(2, "big")
    return ctypes.create_string_buffer(packed + b"\x7f\0\0\1" + bytes(8), 16)


def _with_address(name: str, number: int, address: ctypes.Array[ctypes.c_char]) -> int | str:
    return call(name, args=[number, ctypes.addressof(address), 16])


def _send_to(number: int, flags: int, address: ctypes.Array[ctypes.c_char]) -> int | str:
    return call("sendto", args=[number, "x", 1, flags, ctypes.addressof(address), 16])


def connect(port: int) -> str:
    """Open a connection as any process does."""
    with socket.create_connection(("127.0.0.1", port), 5) as opened:
        return opened.recv(64).decode()


def connect_path(path: str) -> str:
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as found:
        try:
            found.connect(path)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "connected"


def ask(host: str, port: int, *, protocol: str = "tcp", times: int = 1) -> list[Any]:
    """Ask the agent for connections; return its last error and what the last connection says first."""
    error, heard = "", ""
    for number in range(times):
        tell(
            [
                {
                    "type": "Connect",
                    "request": number,
                    "host": host,
                    "port": port,
                    "protocol": protocol,
                }
            ]
        )
        error, opened = _connected(number)
        if opened is not None:
            if protocol == "udp":
                os.write(opened, b"hello")
            select.select([opened], [], [], 10)
            heard = os.read(opened, 64).decode()
            os.close(opened)
    return [error, heard]


def pester(first: int, times: int) -> int:
    """Ask for connections that are denied, each to another port; return how many were."""
    denied = 0
    for port in range(first, first + times):
        denied += ask("192.0.2.1", port)[0] not in ("", "no answer")
    return denied


def _connected(request: int) -> tuple[str, int | None]:
    control = _control()
    with socket.socket(fileno=os.dup(control)) as channel:
        while True:
            if not select.select([control], [], [], _ANSWER_SECONDS)[0]:
                return "no answer", None
            packet, carried, _, _ = channel.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            message = json.loads(packet)
            if message["type"] == "Connected" and message["request"] == request:
                numbers = array.array("i", carried[0][2] if carried else b"")
                return message["error"], numbers[0] if numbers else None


# The control socket


def tell(messages: list[Any]) -> int:
    """Send messages to the agent; text goes as it is."""
    control = _control()
    for message in messages:
        packet = message.encode() if isinstance(message, str) else json.dumps(message).encode()
        while True:
            try:
                os.write(control, packet)
                break
            except BlockingIOError:
                select.select([], [control], [])
    return len(messages)


def tell_and_wait(messages: list[Any]) -> None:
    """Say something and wait for what comes of it."""
    tell_at_once(messages)
    time.sleep(30)


def tell_at_once(messages: list[Any]) -> None:
    """Say something; what is too large for the socket is cut where it fits."""
    control = _control()
    for message in messages:
        os.write(
            control, message.encode() if isinstance(message, str) else json.dumps(message).encode()
        )


def tell_and_say(message: Any, *, times: int) -> str:
    tell([message] * times)
    return "done"


def tell_and_end(messages: list[Any], *, name: str, args: list[Any]) -> int | str:
    """Say something first, and then make a call that kills."""
    tell(messages)
    return call(name, args=args)


def flood(message: Any, *, seconds: float) -> int:
    """Send one message as fast as the agent takes it."""
    control = _control()
    packet = json.dumps(message).encode()
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(100):
            try:
                os.write(control, packet)
                count += 1
            except BlockingIOError:
                select.select([], [control], [], 0.1)
    return count


def stuff_descriptors() -> int | str:
    """Send the agent descriptors: with sendmsg, the only call that can."""
    control = _control()
    with socket.socket(fileno=os.dup(control)) as channel:
        rights = array.array("i", [0] * 64)
        return channel.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


# Resources


def fill_memory(megabytes: int) -> int:
    """Touch so much memory, and keep it."""
    for _ in range(megabytes):
        area = mmap.mmap(-1, 1 << 20)
        _GRIP.append(area)
        for offset in range(0, 1 << 20, mmap.PAGESIZE):
            area[offset] = 1
    return megabytes


def fill_memory_files(megabytes: int) -> int:
    """Fill memory that belongs to files: pipes and memory files count too."""
    for _ in range(megabytes):
        descriptor = os.memfd_create("filled")
        os.write(descriptor, b"x" * (1 << 20))
    return megabytes


def bomb(most: int) -> int:
    """Start threads until the kernel refuses; return how many there were."""
    threading.stack_size(256 << 10)  # the least differs between architectures
    gate = threading.Event()
    count = 0
    try:
        for _ in range(most):
            threading.Thread(target=gate.wait, daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    gate.set()
    return count


def hold(seconds: float, *, threads: int) -> int:
    """Use as many processors as there are, outside of the interpreter's lock."""
    end = time.monotonic() + seconds

    def burn() -> None:
        block = bytes(1 << 20)
        while time.monotonic() < end:
            hashlib.blake2b(block)

    started = [threading.Thread(target=burn, daemon=True) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return threads


def nothing() -> None:
    """Only answer."""


def large(size: int) -> str:
    return "x" * size


def write_log(megabytes: int, *, stream: int = 2, newline: bool = True) -> int:
    block = (b"x" * 1023 + (b"\n" if newline else b"x")) * 64
    written = 0
    while written < megabytes << 20:
        try:
            written += os.write(stream, block)
        except BlockingIOError:
            select.select([], [stream], [])
    return written


# Looking about


def identity() -> dict[str, Any]:
    return {
        "uid": [os.getuid(), os.geteuid()],
        "gid": [os.getgid(), os.getegid()],
        "pid": os.getpid(),
        "parent": os.getppid(),
        "root": read_path("/"),
    }
