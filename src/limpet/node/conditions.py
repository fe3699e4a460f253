"""The node's conditions, with the names that the kubelet has for them.

https://kubernetes.io/docs/reference/node/node-status/#condition
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Whether something holds; `since` is when that changed last, seconds since 1970."""

    type: str
    is_true: bool
    reason: str
    message: str
    since: float


class Conditions:
    """What holds of the node now."""

    def __init__(self) -> None:
        self._by_type: dict[str, Condition] = {}

    def set(self, kind: str, reason: str, message: str, *, is_true: bool) -> bool:
        """Note a condition; whether it holds now and did not before, or the other way round.

        What is false and was never true is no change.
        """
        last = self._by_type.get(kind)
        is_changed = is_true != (last is not None and last.is_true)
        since = time.time() if last is None or is_changed else last.since
        self._by_type[kind] = Condition(
            type=kind, is_true=is_true, reason=reason, message=message, since=since
        )
        return is_changed

    def is_true(self, kind: str) -> bool:
        """Whether a condition holds."""
        found = self._by_type.get(kind)
        return found is not None and found.is_true

    def all(self) -> list[Condition]:
        """Return every condition, by name."""
        return [self._by_type[kind] for kind in sorted(self._by_type)]
