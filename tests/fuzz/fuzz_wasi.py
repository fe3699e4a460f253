"""Calls WASI's functions with hostile arguments: they may fail, and touch nothing they shouldn't.

    python tests/fuzz/fuzz_wasi.py --seconds 60 --seed 1

The guest's memory lies between two canaries, its directories beside one. Exits with 1, after
writing the call to standard error, when a canary changes, when anything but an error number or an
end of the guest comes out, when a call is slow, and when a descriptor is left open.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from struct import pack_into

from fuzz_network import PORT, FuzzNetwork
from fuzzing import run

from limpet.engine.protocol import Invocation, Preopen
from limpet.wasi import abi, socket_abi
from limpet.wasi.control import Control
from limpet.wasi.endings import GuestEnd
from limpet.wasi.errnos import WasiError
from limpet.wasi.memory import GuestMemory
from limpet.wasi.preview1 import FUNCTIONS
from limpet.wasi.run import WasiRun
from limpet.wasi.socket_descriptors import OpenSocket
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

CANARY = bytes(range(256)) * 16
MEMORY_BYTES = 3 * 65536
SLOW_SECONDS = 5.0
RUN_CALLS = 200
DEADLINE_NS = 50_000_000
PATHS = (
    b"a", b"b", b"d", b"d/x", b"l", b"out", b"up", b"loop", b".", b"..", b"", b"/", b"d/", b"../canary",
    b"up/canary", b"out/x", b"/etc/passwd", b"d/../../canary", b"\xff", b"a\0b", b"n" * 256,
    b"d/" * 3000, b"ld/x", b"fifo", b"./a", b"a/.", b"d//x",
)  # fmt: skip
NAMES = (
    b"localhost", b"127.0.0.1", b"::1", b"example.org\0", b"denied", b"80", b"http\0", b"", b"\xff",
    b"n" * 300, b"fe80::1%lo", b"1.2.3.4.5", b"99999",
)  # fmt: skip
NUMBERS = (
    0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 31, 32, 63, 64, 100, 255, 256, 4095, 4096, 65535, 65536,
    MEMORY_BYTES - 8, MEMORY_BYTES - 1, MEMORY_BYTES, MEMORY_BYTES + 1, 1 << 24, (1 << 24) + 1,
    1 << 29, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFF8, 0xFFFFFFFF,
)  # fmt: skip
WIDE = (*NUMBERS, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 30, 10**18)


class Guest:
    """A run's state over a memory of ours, with canaries around it."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.bytes = bytearray(CANARY + bytes(MEMORY_BYTES) + CANARY)
        self.start = len(CANARY)
        self.control = Control()
        self.memory = GuestMemory(self._view)
        self.network = FuzzNetwork(rng)
        self.directories = [
            os.open(root / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("work", "fixed")
        ]
        invocation = Invocation(
            args=Strings([b"guest", b"argument"]),
            env=Strings([b"A=b", b"C=" + b"d" * rng.choice((0, 1, 100, 10_000))]),
            stdin=BytesInput(os.urandom(rng.choice((0, 10, 10_000)))),
            stdout=BufferOutput(1 << 20),
            stderr=BufferOutput(1 << 16),
            preopens=(
                Preopen(b"/work", self.directories[0]),
                Preopen(b"/fixed", self.directories[1], is_read_only=True),
            ),
            network=self.network,
        )
        self.run = WasiRun(invocation, self.memory, self.control, time.monotonic_ns())
        self.fill(rng)

    def _view(self) -> memoryview:
        return memoryview(self.bytes)[self.start : self.start + MEMORY_BYTES]

    def fill(self, rng: random.Random) -> None:
        """Pointers, lengths and records where calls will look for them."""
        for at in range(0, 4096, 8):
            pack_into("<II", self.bytes, self.start + at, rng.choice(NUMBERS), rng.choice(NUMBERS))
        for at in range(4096, 8192, 48):
            kind = rng.randrange(4)
            timeout = rng.choice((0, 1, 1000, 10**7, 10**12, (1 << 64) - 1))
            pack_into(
                "<QBxxxxxxxIxxxxQQH", self.bytes, self.start + at,
                at, kind, rng.randrange(8), timeout, 0, rng.randrange(4),
            )  # fmt: skip

    def check(self) -> None:
        assert self.bytes[: self.start] == CANARY, "the canary below the memory changed"
        assert self.bytes[-len(CANARY) :] == CANARY, "the canary above the memory changed"

    def close(self) -> None:
        self.run.close()
        self.memory.release()
        self.control.close()
        self.network.close()
        for directory in self.directories:
            os.close(directory)


def make_root(root: Path) -> None:
    """Two directories that guests get, and beside them what they must not reach."""
    (root / "canary").write_text("alive")
    for name in ("work", "fixed"):
        make_work(root / name)


def make_work(directory: Path) -> None:
    (directory / "d").mkdir(parents=True)
    (directory / "a").write_text("content")
    (directory / "d" / "x").write_text("x")
    os.mkfifo(directory / "fifo")
    for link, target in {
        "l": "a", "ld": "d", "out": "../canary", "up": "..", "loop": "loop",
    }.items():  # fmt: skip
        (directory / link).symlink_to(target)


# What each argument stands for: f descriptor, S one that may be a socket, o result's place, b buffer
# and length, p path and length, v vectors and count, s subscriptions, n number, a an address's
# record, h a name and its length, i hints and R records of a lookup, V where a length is, d r O F P
# x what CHOICES has, and digits small flags or enumerations up to there.
ROLES = {
    "args_get": "oo", "args_sizes_get": "oo", "clock_res_get": "5o", "clock_time_get": "5no",
    "environ_get": "oo", "environ_sizes_get": "oo", "fd_advise": "fnn7", "fd_allocate": "fnn",
    "fd_close": "f", "fd_datasync": "f", "fd_fdstat_get": "fo", "fd_fdstat_set_flags": "f6",
    "fd_fdstat_set_rights": "fnn", "fd_filestat_get": "fo", "fd_filestat_set_size": "fn",
    "fd_filestat_set_times": "fnn9", "fd_pread": "fvno", "fd_prestat_dir_name": "fb",
    "fd_prestat_get": "fo", "fd_pwrite": "fvno", "fd_read": "fvo", "fd_readdir": "fbno",
    "fd_renumber": "ff", "fd_seek": "fn4o", "fd_sync": "f", "fd_tell": "fo", "fd_write": "fvo",
    "path_create_directory": "dp", "path_filestat_get": "d2po",
    "path_filestat_set_times": "d2pnn9", "path_link": "d2pdp", "path_open": "d2pOrrFo",
    "path_readlink": "dpbo", "path_remove_directory": "dp", "path_rename": "dpdp",
    "path_symlink": "pdp", "path_unlink_file": "dp", "poll_oneoff": "so9o", "proc_exit": "n",
    "proc_raise": "n", "random_get": "b", "sched_yield": "", "sock_accept": "S6o",
    "sock_recv": "Sv4oo", "sock_send": "Svno", "sock_shutdown": "S5",
    "sock_accept_v1": "So", "sock_bind": "SaP", "sock_connect": "SaP",
    "sock_getaddrinfo": "hhiR9o", "sock_getlocaladdr": "Saoo", "sock_getlocaladdr_v2": "Sao",
    "sock_getpeeraddr": "Saoo", "sock_getpeeraddr_v2": "Sao", "sock_getsockopt": "S1xoV",
    "sock_listen": "Sn", "sock_open": "33o", "sock_recv_from": "Sva4oo",
    "sock_recv_from_v2": "Sva4ooo", "sock_send_to": "SvaPno", "sock_setsockopt": "S1xb",
}  # fmt: skip
CHOICES = {
    "d": (3, 3, 3, 4, 5, 6),
    "f": (0, 1, 2, 3, 4, 5, 5, 5, 6, 6, 7, 8, 9),
    "r": (0, abi.RIGHTS_FD_READ, abi.RIGHTS_FD_WRITE, 66, 66, 66, abi.RIGHTS_ALL),
    "O": (0, 0, 1, 1, 2, 4, 8, 9),
    "F": (0, 0, 0, 1, 4, 5, 2),
    "P": (PORT, PORT, PORT, 0, 80, 65535, 65536),
    "x": range(16),
}
# Calls that end what others need are made more rarely, the one that makes it more often.
WEIGHTS = {"fd_close": 0.1, "fd_renumber": 0.1, "path_open": 8, "fd_read": 3, "fd_write": 3,
           "sock_open": 8, "sock_bind": 4, "sock_listen": 4, "sock_accept": 3, "sock_connect": 4,
           "sock_shutdown": 0.5}  # fmt: skip


def choose_arguments(rng: random.Random, name: str, guest: Guest) -> list[int]:
    """Arguments of which each one makes sense, or is hostile with a chance of one in eight."""
    arguments: list[int] = []
    for role in ROLES[name]:
        code = abi.PARAMETERS[name][len(arguments)]
        if rng.random() < 0.125:
            pair = role in "bhpv"
            arguments += [_hostile(rng, code), *([rng.choice(NUMBERS)] if pair else [])]
        else:
            arguments += _sensible(rng, role, code, guest)
    assert len(arguments) == len(abi.PARAMETERS[name])
    return arguments


def _hostile(rng: random.Random, code: str) -> int:
    value = rng.choice(NUMBERS if code == "i" else WIDE)
    return value - (1 << 64) if code == "s" and value >= 1 << 63 else value


def _sensible(rng: random.Random, role: str, code: str, guest: Guest) -> list[int]:
    place = 8192 + 8 * rng.randrange(2048)
    if role == "o":
        return [place]
    if role in "SaiRV":
        return _for_sockets(rng, role, place, guest)
    if role == "s":
        return [4096 + 48 * rng.randrange(60)]
    if role == "b":
        return [place, rng.choice((0, 1, 23, 24, 25, 100, 1000, 100_000))]
    if role == "n":
        return [_hostile(rng, code) if rng.random() < 0.3 else rng.choice((0, 1, 2, 3, 10, 126))]
    if role in CHOICES:
        return [rng.choice(CHOICES[role])]
    if role in "hp":
        path = rng.choice(NAMES if role == "h" else PATHS)
        at = 32768 + 8192 * rng.randrange(8)
        guest.bytes[guest.start + at : guest.start + at + len(path)] = path
        return [at, len(path)]
    if role == "v":
        vectors = 4 * rng.randrange(16)
        for at in range(rng.randrange(4)):
            length = rng.choice((0, 0, 1, 5, 100, 5000))
            pack_into("<II", guest.bytes, guest.start + vectors + 8 * at, place, length)
        return [vectors, rng.randrange(5)]
    return [rng.randrange(int(role))]


def _for_sockets(rng: random.Random, role: str, place: int, guest: Guest) -> list[int]:
    if role == "S":
        entries = guest.run.files.entries.items()
        sockets = [number for number, entry in entries if isinstance(entry, OpenSocket)]
        return [rng.choice(sockets if sockets and rng.random() < 0.8 else CHOICES["f"])]
    if role == "a":
        length = rng.choice((4, 4, 4, 16, 16, 128, 128, 0, 5))
        pack_into("<II", guest.bytes, guest.start + 2048, place, length)
        pack_into("<H", guest.bytes, guest.start + place, rng.choice((0, 1, 2, 3)))
        return [2048]
    if role == "i":
        hints = [rng.choice((0, 1, 2, 4, 8, 128)), *[rng.randrange(4) for _ in range(3)]]
        socket_abi.ADDRINFO.pack_into(guest.bytes, guest.start + 2056, *hints, 0, 0, 0, 0, 0)
        return [2056]
    if role == "R":
        for at, following in ((2112, 2144), (2144, rng.choice((0, 2112, place)))):
            fields = (0, 0, 0, 0, 0, rng.choice((place, 2176)), 0, 0, following)
            socket_abi.ADDRINFO.pack_into(guest.bytes, guest.start + at, *fields)
        pack_into("<III", guest.bytes, guest.start + 2176, 0, 14, rng.choice((place, 1 << 30)))
        pack_into("<I", guest.bytes, guest.start + 2100, 2112)
        return [2100]
    pack_into("<I", guest.bytes, guest.start + place, rng.choice((0, 4, 4, 8, 16, 1 << 31)))
    return [place]


def fuzz(*, seed: int, seconds: float, runs: int | None = None) -> int:
    """How many calls were made."""
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    calls = 0
    with tempfile.TemporaryDirectory(prefix="limpet-") as name:
        root = Path(name)
        make_root(root)
        before = len(os.listdir("/proc/self/fd"))
        for done in count():
            if time.monotonic() >= end or done == runs:
                return calls
            if done % 20 == 0:
                shutil.rmtree(root / "work")
                make_work(root / "work")
            _one_run(rng, root, f"seed {seed}, run {done}")
            calls += RUN_CALLS
            assert (root / "canary").read_text() == "alive", "a file outside was changed"
            assert sorted(os.listdir(root)) == ["canary", "fixed", "work"], "something got out"
            assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left open"
            assert (root / "fixed" / "a").read_text() == "content", "a read-only file was changed"
    raise AssertionError("unreachable")


def _one_run(rng: random.Random, root: Path, label: str) -> None:
    guest = Guest(root, rng)
    names = rng.choices(list(FUNCTIONS), [WEIGHTS.get(name, 1) for name in FUNCTIONS], k=RUN_CALLS)
    try:
        for number, name in enumerate(names):
            if number % 20 == 0:
                guest.fill(rng)
            arguments = choose_arguments(rng, name, guest)
            now = time.monotonic_ns()
            guest.control.begin(now + DEADLINE_NS)
            try:
                result = FUNCTIONS[name](guest.run, *arguments)
                assert isinstance(result, int)
                assert 0 <= result < 88
            except (GuestEnd, WasiError, OSError):
                pass
            except BaseException:
                sys.stderr.write(f"{label}, call {number}: {name}{tuple(arguments)}\n")
                raise
            guest.check()
            took = (time.monotonic_ns() - now) / 1e9
            assert took < SLOW_SECONDS, f"{label}, {name}{tuple(arguments)} took {took:.1f} s"
    finally:
        guest.close()


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda calls: f"{calls} calls, nothing touched that is not the guest's",
    )
