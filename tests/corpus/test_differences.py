"""Limpet's side of the table in README.md: where it differs from Wasmtime on purpose."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from corpus_cases import WORK, fill_work
from guest_builds import build_guest
from side_by_side import Result, Setup, run_limpet

if TYPE_CHECKING:
    from pathlib import Path


def _call(*lines: str, stdin: bytes = b"") -> list[str]:
    setup = Setup(
        tuple(line.encode() for line in lines),
        stdin=stdin,
        directories={WORK: False},
        fill=_fill,
    )
    result: Result = run_limpet(build_guest("calls"), setup)
    assert result.ending == "exit 0"
    return result.stdout.decode().splitlines()


def _fill(root: Path, guest_path: str) -> None:
    fill_work(root, guest_path)
    (root / "big").write_bytes(bytes(200_000))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))


def test_reading_no_bytes_is_no_interruption() -> None:
    assert _call(
        "fd_read 0 [] @0 > @0:4",
        "fd_read 0 [0,0] @0 > @0:4",
        'path_open 3 0 "a.txt" 0 2 0 0 @1 >',
        "fd_pread *1 [] 0 @0 > @0:4",
        stdin=b"x",
    ) == [
        "fd_read = 0 00000000",
        "fd_read = 0 00000000",
        "path_open = 0",
        "fd_pread = 0 00000000",
    ]


def test_a_fifo_opens_at_once_and_can_not_be_sought() -> None:
    assert _call('path_open 3 0 "fifo" 0 2 0 0 @0 > @0:4', "fd_read *0 [1] @1") == [
        "path_open = 0 04000000",
        "fd_read = 70",
    ]


def test_a_socket_is_one() -> None:
    assert _call('path_filestat_get 3 0 "socket" @0 > stat@0') == [
        "path_filestat_get = 0 dev=1 type=6 nlink=1 size=0"
    ]


def test_long_reads_are_not_cut() -> None:
    lines = _call(
        'path_open 3 0 "big" 0 2 0 0 @1 >', "fd_pread *1 [60000] 0 @0 > @0:4", "fd_read 0 [60000] @0 > @0:4",
        stdin=bytes(100_000),
    )  # fmt: skip
    assert lines[1:] == ["fd_pread = 0 60ea0000", "fd_read = 0 60ea0000"]


def test_all_that_is_ready_is_reported() -> None:
    assert _call(
        'path_open 3 0 "a.txt" 0 66 0 0 @2 >',
        "poll_oneoff %read:0+write:1+read:4+write:4+clock:1:0:0 @0 5 @1 > events@0:1",
    )[1] == ("poll_oneoff = 0 5: 100,0,1,1,0 101,0,2,1,0 102,0,1,1,0 103,0,2,1,0 104,0,0,0,0")
    assert _call("poll_oneoff @0 @1 4097 @2") == ["poll_oneoff = 48"]


def test_status_changes_are_what_ctim_tells() -> None:
    import time

    before = time.time_ns()
    ctim = bytes.fromhex(_call('path_filestat_get 3 0 "a.txt" @0 > @0:64')[0].split()[-1])[56:64]
    assert int.from_bytes(ctim, "little") >= before - 10**9
    assert os.stat(__file__).st_ctime_ns > 0
