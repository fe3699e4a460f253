"""The apps' logs: one bounded set of files per app, written by the agent from its workers' pipes.

A record is one line: time, stream (`o` or `e`), worker, its start (milliseconds since 1970, which
tells incarnations apart), text. Rotation keeps the newest files; logs are not synced.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.store.files import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from limpet.settings import LogSettings

MAX_LINE_BYTES = 16 << 10
_STREAMS = {b"o": "stdout", b"e": "stderr"}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an app's log; `time` is seconds since 1970, `incarnation` the worker's start."""

    time: float
    stream: str
    worker: str
    incarnation: int
    line: str


class AppLog:
    """One app's log."""

    def __init__(self, directory: Path, settings: LogSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._file: int | None = None
        self._size = 0
        self._partial: dict[tuple[str, int, bytes], bytes] = {}
        self._followers: list[Callable[[Record], None]] = []

    def append(self, data: bytes, *, stream: bytes, worker: str, incarnation: int) -> None:
        """Add what a worker wrote; an unfinished line waits for its rest."""
        key = (worker, incarnation, stream)
        lines = (self._partial.pop(key, b"") + data).split(b"\n")
        if any(len(line) > MAX_LINE_BYTES for line in lines):
            lines = [piece for line in lines for piece in _pieces(line)]
        rest = lines.pop()
        if rest:
            self._partial[key] = rest
        self._write(lines, stream=stream, worker=worker, incarnation=incarnation)

    def end(self, *, stream: bytes, worker: str, incarnation: int) -> None:
        """Finish a worker's stream: what it left without a newline becomes a line."""
        rest = self._partial.pop((worker, incarnation, stream), b"")
        if rest:
            self._write([rest], stream=stream, worker=worker, incarnation=incarnation)

    def _write(self, lines: list[bytes], *, stream: bytes, worker: str, incarnation: int) -> None:
        if not lines:
            return
        now = time.time()
        head = b"%.6f %s %s %d " % (now, stream, worker.encode(), incarnation)
        text = b"".join([head + line + b"\n" for line in lines])
        descriptor = self._open(len(text))
        view = memoryview(text)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            self.close()  # opening it again mends what is half written
            raise
        self._size += len(text)
        for follower in self._followers:
            for line in lines:
                follower(
                    Record(
                        now, _STREAMS[stream], worker, incarnation, line.decode("utf-8", "replace")
                    )
                )

    def _open(self, needed: int) -> int:
        if (
            self._file is not None
            and self._size + needed > self._settings.file_bytes
            and self._size
        ):
            os.close(self._file)
            self._file = None
            self._rotate()
        if self._file is None:
            make_directory(self._directory)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._path(0), flags, 0o600)
            self._size = os.fstat(self._file).st_size
            if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
                self._size += os.write(self._file, b"\n")  # a crash cut the last line short
        return self._file

    def _rotate(self) -> None:
        kept = max(self._settings.files, 1)
        self._path(kept - 1).unlink(missing_ok=True)
        for index in range(kept - 2, -1, -1):
            if self._path(index).exists():
                self._path(index).replace(self._path(index + 1))

    def _path(self, index: int) -> Path:
        return self._directory / (f"log.{index}" if index else "log")

    def follow(self, follower: Callable[[Record], None]) -> Callable[[], None]:
        """Call `follower` with every record from now on; the returned function ends that."""
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    def read(
        self, *, tail: int | None = None, since: float | None = None, previous: bool = False
    ) -> Iterator[Record]:
        """Return records, oldest first: the last `tail`, newer than `since`, of the last run but one."""
        records = self._records()
        if previous:
            everything = list(records)
            chosen = _previous_runs(everything)
            records = (r for r in everything if (r.worker, r.incarnation) in chosen)
        if since is not None:
            records = (record for record in records if record.time >= since)
        if tail is not None:
            return iter(deque(records, maxlen=tail))
        return records

    def _records(self) -> Iterator[Record]:
        for index in range(max(self._settings.files, 1) - 1, -1, -1):
            try:
                file = self._path(index).open("rb")
            except FileNotFoundError:
                continue
            with file:
                for line in file:
                    record = _parse(line)
                    if record is not None:
                        yield record

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Delete the log."""
        self.close()
        for path in self._directory.glob("log*"):  # also what more files, once set, have left
            path.unlink()
        if self._directory.exists():
            self._directory.rmdir()


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line that is too long for one record."""
    return [line[at : at + MAX_LINE_BYTES] for at in range(0, len(line) or 1, MAX_LINE_BYTES)]


def _previous_runs(records: list[Record]) -> set[tuple[str, int]]:
    """Return each worker's last run but one, as (worker, incarnation)."""
    runs: dict[str, set[int]] = {}
    for record in records:
        runs.setdefault(record.worker, set()).add(record.incarnation)
    return {(worker, sorted(found)[-2]) for worker, found in runs.items() if len(found) > 1}


def _parse(line: bytes) -> Record | None:
    """Read one record; None for a line that a crash cut short."""
    parts = line.rstrip(b"\n").split(b" ", 4)
    if len(parts) != 5 or parts[1] not in _STREAMS:
        return None
    try:
        return Record(
            float(parts[0]),
            _STREAMS[parts[1]],
            parts[2].decode(),
            int(parts[3]),
            parts[4].decode("utf-8", "replace"),
        )
    except ValueError:
        return None
