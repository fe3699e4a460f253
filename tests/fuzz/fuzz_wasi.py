"""Calls WASI's functions with hostile arguments: they may fail, and touch nothing they shouldn't.

    python tests/fuzz/fuzz_wasi.py --seconds 60 --seed 1

The guest's memory lies between two canaries, its directories beside one. Exits with 1, after
writing the call to standard error, when a canary changes, when anything but an error number or an
end of the guest comes out, when a call is slow, and when a descriptor is left open.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from itertools import count
from pathlib import Path
from struct import pack_into

from limpet.engine.protocol import Invocation, Preopen
from limpet.wasi import abi
from limpet.wasi.control import Control
from limpet.wasi.endings import GuestEnd
from limpet.wasi.errnos import WasiError
from limpet.wasi.memory import GuestMemory
from limpet.wasi.preview1 import FUNCTIONS
from limpet.wasi.run import WasiRun
from limpet.wasi.streams import BufferOutput, BytesInput

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
        self.directories = [
            os.open(root / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("work", "fixed")
        ]
        invocation = Invocation(
            args=(b"guest", b"argument"),
            env=(b"A=b", b"C=" + b"d" * rng.choice((0, 1, 100, 10_000))),
            stdin=BytesInput(os.urandom(rng.choice((0, 10, 10_000)))),
            stdout=BufferOutput(1 << 20),
            stderr=BufferOutput(1 << 16),
            preopens=(
                Preopen(b"/work", self.directories[0]),
                Preopen(b"/fixed", self.directories[1], is_read_only=True),
            ),
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
        for directory in self.directories:
            os.close(directory)


def make_root(root: Path) -> None:
    """Two directories that guests get, and beside them what they must not reach."""
    (root / "canary").write_text("alive")
    for name in ("work", "fixed"):
        directory = root / name
        (directory / "d").mkdir(parents=True)
        (directory / "a").write_text("content")
        (directory / "d" / "x").write_text("x")
        os.mkfifo(directory / "fifo")
        for link, target in {
            "l": "a", "ld": "d", "out": "../canary", "up": "..", "loop": "loop",
        }.items():  # fmt: skip
            (directory / link).symlink_to(target)


def choose_arguments(rng: random.Random, name: str, guest: Guest) -> list[int]:
    """Numbers for one call; names of paths are planted in the memory for it."""
    arguments = [
        rng.choice(NUMBERS) if code == "i" else _wide(rng, code) for code in abi.PARAMETERS[name]
    ]
    if arguments and not name.startswith(("args", "env", "clock", "random", "poll", "proc")):
        arguments[0] = rng.choice((0, 1, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 1023, 0xFFFFFFFF))
    if rng.random() < 0.9:
        for index in range(len(arguments) - 1):
            if name.startswith("path") and index and rng.random() < 0.5:
                path = rng.choice(PATHS)
                at = 8192 + 8192 * index
                guest.bytes[guest.start + at : guest.start + at + len(path)] = path
                arguments[index : index + 2] = [at, len(path)]
    if name == "poll_oneoff" and rng.random() < 0.8:
        arguments = [4096, 8192, rng.choice((0, 1, 2, 5, 20)), 16384]
    elif rng.random() < 0.6 and abi.PARAMETERS[name].endswith("i"):
        arguments[-1] = 8 * rng.randrange(4096)
    return arguments


def _wide(rng: random.Random, code: str) -> int:
    value = rng.choice(WIDE)
    return value - (1 << 64) if code == "s" and value >= 1 << 63 else value


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
            _one_run(rng, root, f"seed {seed}, run {done}")
            calls += RUN_CALLS
            assert (root / "canary").read_text() == "alive", "a file outside was changed"
            assert sorted(os.listdir(root)) == ["canary", "fixed", "work"], "something got out"
            assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left open"
            assert (root / "fixed" / "a").read_text() == "content", "a read-only file was changed"
    raise AssertionError("unreachable")


def _one_run(rng: random.Random, root: Path, label: str) -> None:
    guest = Guest(root, rng)
    names = list(FUNCTIONS)
    try:
        for number in range(RUN_CALLS):
            name = rng.choice(names)
            if number % 20 == 0:
                guest.fill(rng)
            arguments = choose_arguments(rng, name, guest)
            now = time.monotonic_ns()
            guest.control.begin(now + DEADLINE_NS)
            try:
                result = FUNCTIONS[name](guest.run, *arguments)
                assert isinstance(result, int)
                assert 0 <= result < 77
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        calls = fuzz(seed=options.seed, seconds=options.seconds)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{calls} calls, nothing touched that is not the guest's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
