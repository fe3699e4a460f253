"""Clients that keep on asking through a storm: one counts failures, others have records written."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from running_node import ask

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUEST_SECONDS = 3.0


class _Client:
    """A thread that asks until it is stopped."""

    def __init__(self, ask_once: Callable[[], object], pause_seconds: float) -> None:
        self._ask_once = ask_once
        self._pause_seconds = pause_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stopping.wait(self._pause_seconds):
            self._ask_once()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@dataclass
class Load:
    """A client of the app that is served throughout."""

    port: int
    answered: int = 0
    failures: list[str] = field(default_factory=list)  # with the time since the start
    started_at: float = field(default_factory=time.monotonic)
    _clients: list[_Client] = field(default_factory=list)

    def start(self) -> None:
        self.started_at = time.monotonic()
        self._clients = [_Client(self._ask, 0.01).start()]

    def stop(self) -> None:
        for client in self._clients:
            client.stop()
        self._clients = []

    def _ask(self) -> None:
        try:
            answer = ask(self.port, seconds=_REQUEST_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            self._fail(repr(error))
            return
        if answer.status == 200:
            self.answered += 1
        else:
            self._fail(f"{answer.status} {answer.body[:100]!r}")

    def _fail(self, what: str) -> None:
        self.failures.append(f"{time.monotonic() - self.started_at:.2f} s: {what}")


@dataclass
class Ledger:
    """Two clients of the app that keeps records on a volume; none is ever sent twice."""

    port: int
    acknowledged: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)
    # Where the disk's log was when each was acknowledged, for disks that have one.
    positions: dict[str, int] = field(default_factory=dict)
    position: Callable[[], int] = lambda: 0
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _clients: list[_Client] = field(default_factory=list)

    def start(self) -> None:
        self._clients = [_Client(self.write, 0.02).start() for _ in range(2)]

    def stop(self) -> None:
        for client in self._clients:
            client.stop()
        self._clients = []

    def write(self) -> int:
        """Have one record written; return the answer's status, 0 without an answer."""
        record = f"r{next(self._numbers)}"
        try:
            answer = ask(self.port, f"/?id={record}", method="POST", seconds=_REQUEST_SECONDS)
        except (OSError, http.client.HTTPException):
            self.in_doubt.append(record)
            return 0
        if answer.status == 201:
            self.positions[record] = self.position()
            self.acknowledged.append(record)
        else:
            self.in_doubt.append(record)
        return answer.status

    def read(self) -> str:
        """Return the whole book."""
        answer = ask(self.port)
        assert answer.status == 200, answer.text
        return answer.text


def find_faults(book: str, *, acknowledged: list[str], in_doubt: list[str]) -> list[str]:
    """Return what is wrong with a book: a record that is lost, there twice, or written beside another."""
    lines = [line.removesuffix(";").split() for line in book.splitlines() if line.endswith(";")]
    entries = [(each[0], each[1]) for each in lines if len(each) == 3 and each[0] in "BE"]
    ended = [record for what, record in entries if what == "E"]
    count = {record: ended.count(record) for record in {*ended, *acknowledged}}
    wrong = [f"acknowledged record {each} is lost" for each in acknowledged if not count[each]]
    wrong += [f"record {each} is there {n} times" for each, n in count.items() if n > 1]
    known = {*acknowledged, *in_doubt}
    wrong += [f"record {each} was never sent" for each in ended if each not in known]
    last_end = {record: at for at, (what, record) in enumerate(entries) if what == "E"}
    begun: str | None = None
    for at, (what, record) in enumerate(entries):
        if what == "B":
            if begun is not None and last_end.get(begun, -1) > at:
                wrong.append(f"record {record} was begun while {begun} was being written")
            begun = record
    return wrong
