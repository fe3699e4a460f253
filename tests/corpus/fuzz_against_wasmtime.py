"""Random sequences of calls under the Wasmtime CLI and under Limpet: the same must come of them.

    PYTHONPATH=src python tests/corpus/fuzz_against_wasmtime.py --seconds 60 --seed 1

Leaves out what README.md says differs on purpose. Exits with 1, after writing the first line that
differs to standard error.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from itertools import count, zip_longest

from corpus_cases import WORK, fill_work
from guest_builds import build_guest
from side_by_side import Setup, run_limpet, run_reference

LENGTH = 30
PATHS = (
    "a.txt", "d", "d/x", "nope", "l", "ld", "out", "loop", "new", "d/new", "n2", ".", "..", "d/", "new/",
    "up/x", "ld/x", "", "/x", "f1", "f2", "d/back/a.txt", "a.txt/", "./d/../f1",
)  # fmt: skip
OPENED = ("a.txt", "f1", "f2", "d", "d/x", "l", "new", ".")
DESCRIPTORS = ("*0", "*0", "*0", "*1", "*1", "0", "2", "3", "4", "5", "6", "7", "9", "4294967295")
OFFSETS = (0, 1, 3, 5, 10, 100, 5000, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TIMES = (0, 5, 10**18)
RIGHTS = (2, 64, 66, 66, 66, 66, 0)


class Lines:
    """Makes one line of a script; the names of methods don't matter, each is a kind of call."""

    def __init__(self, rng: random.Random) -> None:
        self.one_of = rng.choice
        self.kinds = (
            *[self._open] * 7, *[self._write] * 2, *[self._read] * 2, self._pread, self._pwrite,
            self._seek, self._descriptor, self._descriptor, self._flags, self._size, self._times,
            self._close, self._advise, self._path, self._path, self._two_paths, self._two_paths,
            self._link, self._stat, self._list, self._path_times, self._socket, self._other,
        )  # fmt: skip

    def next(self) -> str:
        return self.one_of(self.kinds)()

    def _fd(self) -> str:
        return self.one_of(DESCRIPTORS)

    def _name(self) -> str:
        return f'"{self.one_of(PATHS)}"'

    def _contents(self) -> str:
        texts = [self.one_of(("", "a", "ab", "ab%00c", "abcdefgh")) for _ in range(4)]
        return "[" + ",".join(f'"{text}"' for text in texts[: self.one_of(range(5))]) + "]"

    def _lengths(self) -> str:
        # At least one that is not zero: reading nothing is one of the differences.
        return f"[0,{self.one_of((1, 3, 8, 100, 4000))},{self.one_of((0, 1, 5))}]"

    def _open(self) -> str:
        place = self.one_of((0, 1))
        return (
            f'path_open {self.one_of(("3", "3", "3", "*0"))} {place} "{self.one_of(OPENED)}" '
            f"{self.one_of((0, 1, 1, 1, 2, 4, 5, 8, 9))} {self.one_of(RIGHTS)} 0 "
            f"{self.one_of((0, 0, 0, 1, 4, 2, 8, 16))} @{place} > @0:4 @1:4"
        )

    def _write(self) -> str:
        return f"fd_write {self._fd()} {self._contents()} @2 > @2:4"

    def _read(self) -> str:
        return f"fd_read {self._fd()} {self._lengths()} @2 > @2:4 v"

    def _pread(self) -> str:
        return f"fd_pread {self._fd()} {self._lengths()} {self.one_of(OFFSETS)} @2 > @2:4 v"

    def _pwrite(self) -> str:
        offset = self.one_of((0, 1, 5, 20, 1 << 63, (1 << 64) - 1))
        return f"fd_pwrite {self._fd()} {self._contents()} {offset} @2 > @2:4"

    def _seek(self) -> str:
        delta = self.one_of((0, 1, -1, 5, -5, 100, -100, (1 << 63) - 1, -(1 << 63)))
        return f"fd_seek {self._fd()} {delta} {self.one_of((0, 1, 2, 2))} @2 > @2:8"

    def _descriptor(self) -> str:
        return self.one_of(
            (
                f"fd_tell {self._fd()} @2 > @2:8",
                f"fd_fdstat_get {self._fd()} @3 > fdstat@3",
                f"fd_filestat_get {self._fd()} @4 > stat@4",
                f"fd_prestat_get {self._fd()} @5",
                f"fd_prestat_dir_name {self._fd()} @5 {self.one_of((0, 4, 5, 10))} > @5'5",
                f"fd_sync {self._fd()}",
                f"fd_datasync {self._fd()}",
                f"fd_allocate {self._fd()} 0 10",
            )
        )

    def _flags(self) -> str:
        return self.one_of(
            (
                f"fd_fdstat_set_flags {self._fd()} {self.one_of((0, 1, 4, 5, 2, 8, 16))}",
                f"fd_fdstat_set_rights {self._fd()} {self.one_of((0, 1, 1 << 29))} 0",
            )
        )

    def _size(self) -> str:
        size = self.one_of((0, 1, 5, 100, 1 << 63, (1 << 64) - 1))
        return f"fd_filestat_set_size {self._fd()} {size}"

    def _times(self) -> str:
        return (
            f"fd_filestat_set_times {self._fd()} {self.one_of(TIMES)} {self.one_of(TIMES)} "
            f"{self.one_of((0, 1, 4, 5, 3, 12, 2, 10))}"
        )

    def _close(self) -> str:
        return self.one_of((f"fd_close {self._fd()}", f"fd_renumber {self._fd()} {self._fd()}"))

    def _advise(self) -> str:
        span = f"{self.one_of(OFFSETS)} {self.one_of(OFFSETS)}"
        return f"fd_advise {self._fd()} {span} {self.one_of(range(6))}"

    def _path(self) -> str:
        call = self.one_of(("path_create_directory", "path_remove_directory", "path_unlink_file"))
        return f"{call} 3 {self._name()}"

    def _two_paths(self) -> str:
        return self.one_of(
            (
                f"path_rename 3 {self._name()} 3 {self._name()}",
                f"path_link 3 {self.one_of((0, 0, 0, 1))} {self._name()} 3 {self._name()}",
                f"path_symlink {self._name()} 3 {self._name()}",
            )
        )

    def _link(self) -> str:
        length = self.one_of((0, 1, 3, 100))
        return f"path_readlink 3 {self._name()} @6 {length} @2 > @2:4 @6:12"

    def _stat(self) -> str:
        return f"path_filestat_get 3 {self.one_of((0, 1))} {self._name()} @4 > stat@4"

    def _list(self) -> str:
        length, cookie = self.one_of((0, 10, 24, 25, 30, 50)), self.one_of((0, 1))
        return f"fd_readdir {self.one_of(('*0', '*1', '5'))} @7 {length} {cookie} @2 > @2:4"

    def _path_times(self) -> str:
        return (
            f"path_filestat_set_times 3 {self.one_of((0, 1))} {self._name()} "
            f"{self.one_of(TIMES)} {self.one_of(TIMES)} {self.one_of((0, 1, 4, 5, 3))}"
        )

    def _socket(self) -> str:
        return self.one_of(
            (
                f"sock_accept {self._fd()} {self.one_of((0, 1, 4))} @2",
                f"sock_shutdown {self._fd()} {self.one_of((0, 3))}",
                f"sock_recv {self._fd()} {self._lengths()} 0 @2 @3",
                f"sock_send {self._fd()} {self._contents()} 0 @2",
            )
        )

    def _other(self) -> str:
        return self.one_of(
            (f"clock_res_get {self.one_of(range(4))} @2 > @2:8", "sched_yield", "proc_raise 2")
        )


def fuzz(*, seed: int, seconds: float, scripts: int | None = None) -> int:
    """How many scripts were run."""
    rng = random.Random(seed)
    lines = Lines(rng)
    module = build_guest("calls")
    end = time.monotonic() + seconds
    for done in count():
        if time.monotonic() >= end or done == scripts:
            return done
        script = [
            'path_open 3 1 "a.txt" 0 66 0 0 @0 > @0:4',
            'path_open 3 1 "." 2 2 0 0 @1 > @1:4',
            *(lines.next() for _ in range(LENGTH)),
        ]
        setup = Setup(
            tuple(line.encode() for line in script),
            stdin=b"some input\nfor the guest",
            directories={WORK: False},
            fill=fill_work,
        )
        expected, found = run_reference(module, setup), run_limpet(module, setup)
        if expected != found:
            _explain(script, expected.stdout, found.stdout)
            raise AssertionError(f"seed {seed}, script {done}: {expected} and {found} differ")
    raise AssertionError("unreachable")


def _explain(script: list[str], expected: bytes, found: bytes) -> None:
    both = zip_longest(script, expected.decode().splitlines(), found.decode().splitlines())
    for line, one, other in both:
        if one != other:
            sys.stderr.write(f"{line}\n  Wasmtime: {one}\n  Limpet:   {other}\n")
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done = fuzz(seed=options.seed, seconds=options.seconds)
    print(f"{done} scripts of {LENGTH} calls, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
