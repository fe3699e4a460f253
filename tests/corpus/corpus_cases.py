"""The cases of the corpus: which guests run, with what, in which directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guest_builds import CORPUS
from side_by_side import Setup

if TYPE_CHECKING:
    from pathlib import Path

WORK = "/work"


def fill_work(root: Path, guest_path: str) -> None:
    """What every directory of a case holds: files, links that lead in, out and in circles."""
    (root / "a.txt").write_text("hello world")
    (root / "victim").write_text("victim")
    (root / "d").mkdir()
    (root / "d" / "x").write_text("x")
    (root / "empty").mkdir()
    links = {
        "l": "a.txt",
        "ld": "d",
        "chain": "ld",
        "out": "/etc/passwd",
        "up": "../..",
        "loop": "loop",
        "proc": "/proc",
        "dangling": "made",
        "d/back": "..",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    for path in (root / "a.txt", root / "d" / "x"):
        os.utime(path, (1_000_000_000, 1_000_000_000))


@dataclass(frozen=True)
class Case:
    name: str
    guest: str
    setup: Setup

    def __str__(self) -> str:
        return self.name


def _program(guest: str, *args: bytes, name: str = "", stdin: bytes = b"") -> Case:
    setup = Setup(
        args=args,
        env=(b"NAME=value", b"EMPTY=", b"SPACES=a b  c"),
        stdin=stdin,
        directories={WORK: False},
        fill=fill_work,
    )
    return Case(name or guest, guest, setup)


def programs() -> list[Case]:
    """C programs and hand-written modules."""
    with_input = {"arguments", "calls", "echo", "exit_code", "lines", "trap"}
    sources = sorted((CORPUS / "guests").glob("*.[cw]*"))
    return [
        *(_program(each.stem) for each in sources if each.stem not in with_input),
        _program("arguments", b"one", b"", b"two words", b"\xc3\xa9", b"--flag=x"),
        _program("echo", stdin=b"some input\n" * 5000),
        _program("echo", stdin=b"", name="echo-nothing"),
        _program("lines", stdin=b"first\nsecond\n" + b"long" * 40 + b"\nno newline"),
        *(_program("exit_code", b"%d" % code, name=f"exit-{code}") for code in (0, 1, 42, 125)),
        *(_program("exit_code", b"%d" % code, name=f"exit-{code}") for code in (126, 255)),
        *(_program("trap", kind.encode(), name=f"trap-{kind}") for kind in "autmdscf"),
    ]


def call_scripts() -> list[Case]:
    """Raw calls, one case for each section of each script."""
    cases = []
    for path in sorted((CORPUS / "calls").glob("*.calls")):
        for section in path.read_text().split("--- ")[1:]:
            title, *lines = section.splitlines()
            calls = tuple(line.encode() for line in lines if line)
            stdin = b"0123456789"
            cases.append(
                Case(
                    f"{path.stem}: {title}",
                    "calls",
                    Setup(calls, (b"A=b",), stdin, {WORK: False}, fill_work),
                )
            )
    return cases


def read_only_scripts() -> list[Case]:
    """What a guest may do in a directory that is read-only, and between it and another."""
    attempts = (
        'path_open 3 0 "a.txt" 0 2 0 0 @0 > @0:4',
        "fd_read *0 [5] @1 > v",
        'fd_write *0 ["x"] @1',
        "fd_filestat_set_size *0 0",
        "fd_filestat_set_times *0 0 0 5",
        'path_open 3 0 "a.txt" 0 66 0 0 @0',
        'path_open 3 0 "a.txt" 0 64 0 0 @0',
        'path_open 3 0 "a.txt" 8 2 0 0 @0',
        'path_open 3 0 "new" 1 2 0 0 @0',
        'path_open 3 0 "d" 2 2 0 0 @0 > @0:4',
        'path_open *0 0 "new" 1 66 0 0 @1',
        'path_create_directory *0 "new"',
        'path_create_directory 3 "new"',
        'path_remove_directory 3 "empty"',
        'path_unlink_file 3 "a.txt"',
        'path_unlink_file 3 "absent"',
        'path_rename 3 "a.txt" 3 "b.txt"',
        'path_rename 3 "a.txt" 4 "b.txt"',
        'path_rename 4 "a.txt" 3 "b.txt"',
        'path_link 3 0 "a.txt" 3 "b.txt"',
        'path_link 3 0 "a.txt" 4 "b.txt"',
        'path_link 4 0 "a.txt" 3 "b.txt"',
        'path_link 3 1 "a.txt" 3 "b.txt"',
        'path_symlink "a.txt" 3 "new"',
        'path_symlink "/abs" 3 "new"',
        'path_filestat_set_times 3 0 "a.txt" 0 0 5',
        'path_filestat_get 3 0 "a.txt" @0 > stat@0',
        'path_readlink 3 "l" @0 10 @1 > @1:4',
        "fd_readdir 3 @0 24 0 @1 > @1:4",
        "fd_sync *0",
    )
    setup = Setup(
        tuple(line.encode() for line in attempts),
        directories={"/fixed": True, WORK: False},
        fill=fill_work,
    )
    return [Case("read-only", "calls", setup)]
