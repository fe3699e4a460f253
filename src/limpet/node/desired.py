"""What this node is to run: objects, and for each that is an app a runtime that wants what it says."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from limpet.errors import ConflictError, LimpetError
from limpet.manifest.model import App, PersistentVolumeClaim
from limpet.node.progress import Progress
from limpet.node.state import Want
from limpet.plan import app_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.manifest.model import Resource
    from limpet.node.apps import AppRuntime
    from limpet.node.completions import Completions
    from limpet.node.endpoints import Endpoints
    from limpet.node.objects import Objects
    from limpet.node.preparing import Preparer
    from limpet.node.rollouts import Rollouts
    from limpet.node.volumes import Volumes
    from limpet.plan import AppKey
    from limpet.store.database import ObjectKey, StoredObject


class Desired:
    """Changes what is wanted, and alone puts apps into `apps` and takes them out.

    `make_runtime` gives a new app's runtime; `on_change` hears that all apps are to be looked at.
    """

    def __init__(
        self,
        apps: dict[AppKey, AppRuntime],
        *,
        objects: Objects,
        completions: Completions,
        rollouts: Rollouts,
        preparer: Preparer,
        volumes: Volumes,
        endpoints: Endpoints,
        make_runtime: Callable[[App, StoredObject], AppRuntime],
        on_change: Callable[[], None],
    ) -> None:
        self._apps = apps
        self._objects = objects
        self._completions = completions
        self._rollouts = rollouts
        self._preparer = preparer
        self._volumes = volumes
        self._endpoints = endpoints
        self._make_runtime = make_runtime
        self._on_change = on_change

    def load(self) -> None:
        """Want what the objects on disk say, but for what has ended for good."""
        self._completions.load()
        for key in self._objects.resources:
            runtime = self._adopt(key)
            if runtime is not None:
                self._completions.restore(runtime)

    def change(
        self,
        requested: Sequence[tuple[dict[str, object], str | None]],
        *,
        removed: Sequence[ObjectKey] = (),
        alongside: Callable[[], None] | None = None,
        dry_run: bool = False,
        carries_over: bool = True,
    ) -> list[dict[str, object]]:
        """Create, change and delete objects, all or none; durable on return. Raises LimpetError.

        `alongside` is for what else belongs to the same transaction.
        """
        leaving = [self._objects.resources.get(key) for key in removed]
        results, changed = self._objects.apply(
            requested,
            dry_run=dry_run,
            removed=removed,
            alongside=alongside,
            carries_over=carries_over,
        )
        if dry_run:
            return results
        for resource in leaving:
            self._retire(resource)
        for key in changed:
            self._adopt(key)
        if changed or removed:
            self.replan()
        return results

    def delete(self, key: ObjectKey) -> None:
        """Delete an object; durable on return. Raises `NotFoundError`, `ConflictError`."""
        resource = self._objects.require(key)
        if isinstance(resource, PersistentVolumeClaim):
            self._check_unused(resource)
        self._objects.delete(key)
        self._retire(resource)
        self.replan()

    def replan(self) -> None:
        """Look at everything again: what an app refers to may have changed."""
        for runtime in self._apps.values():
            if runtime.want is Want.RUNNING:
                self._preparer.prepare(runtime)
        self._endpoints.update()
        self._on_change()

    def forget(self, runtime: AppRuntime) -> None:
        """Remove a deleted app of which nothing runs any more."""
        self._preparer.cancel(runtime.key)
        runtime.close()
        runtime.forget()
        with contextlib.suppress(LimpetError):  # a full disk: they go when others need the room
            runtime.log.remove()
        self._volumes.remove_app(runtime.key)
        del self._apps[runtime.key]
        self._remove_retired_volumes()
        self._endpoints.close_unused()

    def _adopt(self, key: ObjectKey) -> AppRuntime | None:
        """Want what an object says, when it is an app."""
        stored, resource = self._objects.stored[key], self._objects.resources[key]
        if not isinstance(resource, App):
            return None
        runtime = self._apps.get(app_key(resource))
        if runtime is None:
            runtime = self._make_runtime(resource, stored)
            self._apps[runtime.key] = runtime
        runtime.want = Want.RUNNING
        self._rollouts.adopt(runtime, resource)
        runtime.generation = stored.generation
        runtime.slots.reset()
        self._preparer.forgive(runtime.key)
        return runtime

    def _retire(self, resource: Resource | None) -> None:
        """Want no longer what a deleted object said."""
        if isinstance(resource, App):
            runtime = self._apps[app_key(resource)]
            runtime.want = Want.DELETED
            runtime.rollout.progress = Progress()
            runtime.unprepare()
        elif isinstance(resource, PersistentVolumeClaim):
            self._volumes.retire_claim(resource.namespace, resource.name)
            self._remove_retired_volumes()

    def _remove_retired_volumes(self) -> None:
        """Remove the data of deleted claims, once no app is left that drains."""
        if all(runtime.want is Want.RUNNING for runtime in self._apps.values()):
            self._volumes.remove_retired()

    def _check_unused(self, claim: PersistentVolumeClaim) -> None:
        for runtime in self._apps.values():
            apps = runtime.rollout.apps() if runtime.want is Want.RUNNING else []
            for mount in (mount for app in apps for mount in app.mounts):
                if (
                    mount.kind == "PersistentVolumeClaim"
                    and mount.source == claim.name
                    and runtime.key.namespace == claim.namespace
                ):
                    raise ConflictError(
                        f"volume {claim.namespace}/{claim.name} is used by app {runtime.key}; "
                        "delete that app first"
                    )
