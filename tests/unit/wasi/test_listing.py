"""Reading directories piece by piece, with every size of buffer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from limpet.engine.protocol import Invocation, Preopen
from limpet.wasi import abi, errnos
from limpet.wasi.control import Control
from limpet.wasi.listing import fd_readdir
from limpet.wasi.memory import GuestMemory
from limpet.wasi.run import WasiRun
from limpet.wasi.streams import BufferOutput, NullInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 1 << 16


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WasiRun]:
    for number in range(300):
        (tmp_path / f"{'n' * (number % 50)}{number}").touch()
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    output = BufferOutput(0)
    data = bytearray(SIZE)
    run = WasiRun(
        Invocation(Strings(), Strings(), NullInput(), output, output, (Preopen(b"/", directory),)),
        GuestMemory(lambda: memoryview(data)),
        Control(),
        0,
    )
    yield run
    run.close()
    os.close(directory)


def _read(run: WasiRun, length: int, cookie: int) -> bytes:
    assert fd_readdir(run, 3, 8, length, cookie, 0) == errnos.SUCCESS
    used = int.from_bytes(run.memory.read(0, 4), "little")
    assert used <= length
    return run.memory.read(8, used)


def _entries(records: bytes) -> list[tuple[int, bytes]]:
    """(cookie of the next, name) of each whole record."""
    found = []
    at = 0
    while at + abi.DIRENT.size <= len(records):
        following, _, length, _ = abi.DIRENT.unpack_from(records, at)
        name = records[at + abi.DIRENT.size : at + abi.DIRENT.size + length]
        if len(name) < length:
            break
        found.append((following, name))
        at += abi.DIRENT.size + length
    return found


@pytest.mark.parametrize("length", [80, 100, 333, 4096, 60_000])
def test_all_entries_once_with_any_buffer(run: WasiRun, tmp_path: Path, length: int) -> None:
    names: list[bytes] = []
    cookie = 0
    while True:
        records = _read(run, length, cookie)
        entries = _entries(records)
        names += [name for _, name in entries]
        if entries:
            cookie = entries[-1][0]
        if len(records) < length:
            break
    assert names[:2] == [b".", b".."]
    assert sorted(names[2:]) == sorted(os.listdir(os.fsencode(tmp_path)))


def test_going_back_and_starting_again(run: WasiRun) -> None:
    first = _entries(_read(run, 4096, 0))
    assert _entries(_read(run, 4096, 0)) == first
    cookie = first[10][0]
    after = _entries(_read(run, 4096, cookie))
    assert after[0] == first[11]
    assert _entries(_read(run, 500, cookie))[0] == first[11]
    far = _entries(_read(run, 50_000, 250))
    assert _entries(_read(run, 4096, first[5][0]))[0] == first[6]
    assert _entries(_read(run, 50_000, 250)) == far


def test_past_the_end_there_is_nothing(run: WasiRun) -> None:
    for cookie in (302, 303, 1000, (1 << 64) - 1):
        assert _read(run, 4096, cookie) == b""


def test_what_is_kept_is_bounded_by_the_buffer(run: WasiRun) -> None:
    cookie = 0
    for _ in range(20):
        cookie = _entries(_read(run, 200, cookie))[-1][0]
        directory = run.files.directory(3)
        assert directory.listing is None or len(directory.listing.recent) <= 10


def test_removing_while_reading_removes_everything(run: WasiRun, tmp_path: Path) -> None:
    cookie = 0
    while True:
        entries = _entries(_read(run, 500, cookie))
        if not entries:
            break
        cookie = entries[-1][0]
        for _, name in entries:
            if name not in {b".", b".."}:
                os.unlink(os.path.join(os.fsencode(tmp_path), name))
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_not_utf8(run: WasiRun, tmp_path: Path) -> None:
    from limpet.wasi.errnos import WasiError

    (tmp_path / os.fsdecode(b"\xff")).touch()
    with pytest.raises(WasiError) as caught:
        _read(run, 60_000, 0)
    assert caught.value.number == errnos.ILSEQ
