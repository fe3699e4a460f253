"""What happened, for people: kept in memory, folded when it repeats, written in batches."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from limpet.store.database import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.store.database import Database

_KEPT = 1000
_FOLD_SECONDS = 600.0
# Good news may wait this long, for the flash's sake: a write of one event costs some 20 KB.
_PATIENCE_SECONDS = 60.0


class Events:
    """The node's recent history."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._serial = count()
        # Each object's events with their place in the history, oldest first.
        self._by_object: dict[tuple[str, str, str], deque[tuple[int, Event]]] = {}
        self._kept = 0
        self._unwritten: deque[Event] = deque(maxlen=_KEPT)
        self._waits_since: float | None = None  # monotonic
        self._is_urgent = False

    def load(self) -> None:
        """Read what earlier runs of the node wrote."""
        for event in self._database.load_events()[-_KEPT:]:
            self._keep(event)

    def record(
        self, reason: str, message: str, *, of: tuple[str, str, str], is_warning: bool = False
    ) -> None:
        """Add an event of the object `of` (kind, namespace, name)."""
        kind, namespace, name = of
        event = Event(
            time=time.time(),
            type="Warning" if is_warning else "Normal",
            reason=reason,
            kind=kind,
            namespace=namespace,
            name=name,
            message=message[:2000],
        )
        last = self._last(of)
        is_repeat = last is not None and _is_repeat(last, event)
        if last is not None and is_repeat:
            event = dataclasses.replace(event, count=last.count + 1)
            with contextlib.suppress(ValueError):  # it is written: what follows it says so
                self._unwritten.remove(last)
        self._keep(event)
        self._unwritten.append(event)
        self._is_urgent |= is_warning and not is_repeat
        if self._waits_since is None:
            self._waits_since = time.monotonic()

    def _last(self, key: tuple[str, str, str]) -> Event | None:
        events = self._by_object.get(key)
        return events[-1][1] if events else None

    def _keep(self, event: Event) -> None:
        """Remember an event in place of the one that it repeats, and forget one when there are too many.

        That is the oldest of the object that has most of them: it must not push others out.
        """
        key = (event.kind, event.namespace, event.name)
        events = self._by_object.setdefault(key, deque())
        last = self._last(key)
        if last is not None and last.count < event.count and _is_repeat(last, event):
            events.pop()
            self._kept -= 1
        events.append((next(self._serial), event))
        self._kept += 1
        if self._kept > _KEPT:
            busiest = max(self._by_object, key=lambda each: len(self._by_object[each]))
            self._by_object[busiest].popleft()
            self._kept -= 1
            if not self._by_object[busiest]:
                del self._by_object[busiest]

    def flush(self) -> None:
        """Write what is new. Raises the store's error; nothing is forgotten then."""
        if self._unwritten:
            self._database.write_events(self._unwritten)
            self._unwritten.clear()
            self._waits_since = None
            self._is_urgent = False

    def flush_when_due(self) -> None:
        """Write what is new if a warning is among it, or something has waited long. As `flush`."""
        since = self._waits_since
        if self._is_urgent or (since is not None and time.monotonic() - since > _PATIENCE_SECONDS):
            self.flush()

    def select(self, *, namespace: str | None, name: str | None, limit: int) -> Sequence[Event]:
        """Return the newest `limit` matching events, oldest first."""
        chosen = [
            numbered
            for (_, its_namespace, its_name), events in self._by_object.items()
            if namespace in (None, its_namespace) and name in (None, its_name)
            for numbered in events
        ]
        ordered = [event for _, event in sorted(chosen, key=lambda numbered: numbered[0])]
        return ordered[-limit:] if limit else []


def _is_repeat(last: Event, event: Event) -> bool:
    return (
        (last.type, last.reason, last.kind, last.namespace, last.name, last.message)
        == (event.type, event.reason, event.kind, event.namespace, event.name, event.message)
    ) and event.time - last.time < _FOLD_SECONDS
