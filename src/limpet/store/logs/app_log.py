"""One app's log: lines from what its workers write, records for those who read."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from limpet.store.logs.records import Choice, LogFullError, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limpet.store.logs.log_store import LogStore

MAX_LINE_BYTES = 16 << 10
_STREAMS = {b"o": "stdout", b"e": "stderr"}


class AppLog:
    """One app's log."""

    def __init__(self, store: LogStore, namespace: str, name: str) -> None:
        self._store = store
        self._key = (namespace, name)
        self._partial: dict[tuple[str, int, bytes], bytes] = {}
        self._followers: list[Callable[[Record], None]] = []

    def append(self, data: bytes, *, stream: bytes, worker: str, incarnation: int) -> None:
        """Add what a worker wrote; an unfinished line waits for its rest. Raises `LogFullError`."""
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
        name = _STREAMS[stream]
        app = self._store.add_app(*self._key)
        self._store.add(app, lines, now, name, worker, incarnation)
        for follower in self._followers:
            for line in lines:
                follower(Record(now, name, worker, incarnation, line.decode("utf-8", "replace")))

    def follow(self, follower: Callable[[Record], None]) -> Callable[[], None]:
        """Call `follower` with every record from now on; the returned function ends that."""
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    def read(
        self,
        *,
        tail: int | None = None,
        since: float | None = None,
        previous: bool = False,
        runs: Sequence[tuple[str, int]] | None = None,
    ) -> Iterator[Record]:
        """Return records, oldest first: the last `tail`, newer than `since`, of the last run but one,
        of these runs (worker, incarnation).

        What is written after the first was returned is not among them. Raises `LogFullError`.
        """
        with contextlib.suppress(LogFullError):  # what is written can be read on a full disk, too
            self._store.flush()
        app = self._store.app_id(*self._key)
        if app is None or tail == 0:
            return
        choice = Choice(app, until=self._store.last_id, runs=runs)
        if previous:
            choice = replace(choice, runs=_previous_runs(self._store.runs(app)))
        if since is not None:
            choice = replace(choice, since=since)
        after, skipped = (0, 0) if tail is None else self._store.find_last(choice, tail)
        while rows := self._store.select(choice, after=after):
            for after, _, when, stream, worker, run, text in rows:  # noqa: B007 - goes on there
                for line in text.split(b"\n")[skipped:]:
                    yield Record(when, stream, worker, run, line.decode("utf-8", "replace"))
                skipped = 0

    def last_run(self) -> int:
        """Return the greatest incarnation that has lines here; 0 for none. Raises `LogFullError`."""
        app = self._store.app_id(*self._key)
        return self._store.last_run(app) if app is not None else 0

    def remove(self) -> None:
        """Delete the log. Raises `LogFullError`."""
        app = self._store.app_id(*self._key)
        if app is not None:
            self._store.remove_app(app)


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line that is too long for one record."""
    return [line[at : at + MAX_LINE_BYTES] for at in range(0, len(line) or 1, MAX_LINE_BYTES)]


def _previous_runs(runs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return each worker's last run but one, as (worker, incarnation)."""
    found: dict[str, list[int]] = {}
    for worker, run in runs:
        found.setdefault(worker, []).append(run)
    return [(worker, sorted(each)[-2]) for worker, each in found.items() if len(each) > 1]
