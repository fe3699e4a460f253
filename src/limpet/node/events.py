"""What happened, for people: kept in memory, folded when it repeats, written in batches."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from limpet.store.database import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.store.database import Database

_KEPT = 1000
_FOLD_SECONDS = 600.0


class Events:
    """The node's recent history."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._unwritten: deque[Event] = deque(maxlen=_KEPT)

    def load(self) -> None:
        """Read what earlier runs of the node wrote."""
        self._events.extend(self._database.load_events()[-_KEPT:])

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
        last = self._unwritten[-1] if self._unwritten else None
        if last is not None and _is_repeat(last, event):
            event = dataclasses.replace(event, count=last.count + 1)
            self._unwritten.pop()
            self._events.pop()
        if len(self._events) == _KEPT:
            self._events.remove(self._oldest_of_the_busiest())
        self._events.append(event)
        self._unwritten.append(event)

    def _oldest_of_the_busiest(self) -> Event:
        """The event to forget: who has most of them must not push others out."""
        counts = Counter((event.kind, event.namespace, event.name) for event in self._events)
        [(busiest, _)] = counts.most_common(1)
        return next(e for e in self._events if (e.kind, e.namespace, e.name) == busiest)

    def flush(self) -> None:
        """Write what is new. Raises the store's error; nothing is forgotten then."""
        if self._unwritten:
            self._database.write_events(self._unwritten)
            self._unwritten.clear()

    def select(self, *, namespace: str | None, name: str | None, limit: int) -> Sequence[Event]:
        """Return the newest `limit` matching events, oldest first."""
        chosen = [
            event
            for event in self._events
            if (namespace is None or event.namespace == namespace)
            and (name is None or event.name == name)
        ]
        return chosen[-limit:] if limit else []


def _is_repeat(last: Event, event: Event) -> bool:
    return (
        (last.type, last.reason, last.kind, last.namespace, last.name, last.message)
        == (event.type, event.reason, event.kind, event.namespace, event.name, event.message)
    ) and event.time - last.time < _FOLD_SECONDS
