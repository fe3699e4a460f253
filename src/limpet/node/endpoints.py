"""Where clients reach apps: the addresses that are open, and what the ingress router leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.model import Ingress
from limpet.node.state import Want
from limpet.plan import Listener, compile_listeners

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.node.apps import AppRuntime
    from limpet.node.listeners import Listeners
    from limpet.node.objects import Objects
    from limpet.node.router import RouterProcess
    from limpet.plan import AppKey


class Endpoints:
    """Keeps them as the objects and the releases in force say."""

    def __init__(
        self,
        apps: Mapping[AppKey, AppRuntime],
        *,
        objects: Objects,
        listeners: Listeners,
        router: RouterProcess,
    ) -> None:
        self._apps = apps
        self._objects = objects
        self._listeners = listeners
        self._router = router

    def update(self) -> None:
        """Lead clients to what is to serve, and close the sockets that nothing needs."""
        catalog = self._objects.catalog
        running = [
            runtime.rollout.serving_app
            for runtime in self._apps.values()
            if runtime.want is Want.RUNNING
        ]
        self._router.update(catalog.all(Ingress), catalog, running)
        self.close_unused()

    def close_unused(self) -> None:
        """Close the sockets that nothing needs."""
        wanted: list[Listener] = []
        for runtime in self._apps.values():
            for plan in runtime.plans():
                wanted += plan.listeners
            if runtime.want is Want.RUNNING:  # also what is not prepared yet, or not again
                for app in runtime.rollout.apps():
                    wanted += compile_listeners(app, self._objects.catalog)
        self._listeners.close_unused([*wanted, *self._router.listeners])

    def stop(self) -> None:
        """End the router after its requests in flight."""
        self._router.stop()
