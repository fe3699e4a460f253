"""Who an event is about: the node, an app, an object, or everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.node.apps import AppRuntime
    from limpet.node.events import Events
    from limpet.plan import AppKey
    from limpet.store.database import ObjectKey


class Reporter:
    """Makes events. Each has a reason (one word), a message for people, and is a warning or not."""

    def __init__(self, events: Events, node: str, apps: Mapping[AppKey, AppRuntime]) -> None:
        self._events = events
        self._node = ("Node", "", node)
        self._apps = apps

    def of_node(self, reason: str, message: str, is_warning: bool) -> None:  # noqa: FBT001 - a callback
        """Record an event of the node alone."""
        self._events.record(reason, message, of=self._node, is_warning=is_warning)

    def of_app(self, runtime: AppRuntime, reason: str, message: str, is_warning: bool) -> None:  # noqa: FBT001 - a callback
        """Record an event of an app."""
        self.of_object(runtime.object_key, reason, message, is_warning)

    def of_object(self, key: ObjectKey, reason: str, message: str, is_warning: bool) -> None:  # noqa: FBT001 - a callback
        """Record an event of any object."""
        self._events.record(reason, message, of=key, is_warning=is_warning)

    def to_all(self, reason: str, message: str) -> None:
        """Record a warning of the node, and of each app: people look there first."""
        self.of_node(reason, message, True)
        for runtime in self._apps.values():
            self.of_app(runtime, reason, message, True)
