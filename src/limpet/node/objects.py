"""What was asked for: every object of the node, on disk first and then in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

from limpet.errors import ConflictError, InvalidInputError, LimpetError, NotFoundError
from limpet.manifest.model import App, PersistentVolumeClaim, Resource
from limpet.manifest.parse import parse_object
from limpet.manifest.quantity import format_bytes
from limpet.manifest.template import carry_over
from limpet.node.releases import Releases, is_same_release, warn_of_failure
from limpet.store.database import StoredObject, StoreFullError, encode_body, now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.store.database import Database, ObjectKey
    from limpet.store.modules import ModuleStore

_APP_KINDS = ("Deployment", "Pod", "Job")


class Objects:
    """The node's objects. `stored` is what was applied, `resources` what it means.

    An object that only another version of Limpet understands is stored and means nothing.
    """

    def __init__(self, database: Database, modules: ModuleStore) -> None:
        self._database = database
        self._modules = modules
        self.releases = Releases(database)
        self.stored: dict[ObjectKey, StoredObject] = {}
        self.resources: dict[ObjectKey, Resource] = {}

    def load(self, on_invalid: Callable[[ObjectKey, str], None]) -> None:
        """Read what is on disk."""
        self.releases.load()
        for stored in self._database.load_objects():
            key = (stored.kind, stored.namespace, stored.name)
            self.stored[key] = stored
            try:
                self.resources[key] = parse_object(json.loads(stored.body))
            except LimpetError as error:
                on_invalid(key, f"this version can't use it: {error}")
        self._number_first_releases()

    def _number_first_releases(self) -> None:
        """Number the apps that an earlier version of Limpet stored: what each is, is its first one."""
        changes = [
            self.releases.plan_change(self.stored[key], None, resource)
            for key, resource in self.resources.items()
            if isinstance(resource, App) and resource.has_releases and not self.releases.of(key)
        ]
        # A full disk: the numbers hold until the next start, which gives them again.
        with contextlib.suppress(StoreFullError), self._database.transaction():
            self.releases.write_changes(changes)
        self.releases.commit(changes)

    def apply(
        self,
        requested: Sequence[tuple[dict[str, object], str | None]],
        *,
        dry_run: bool,
        carries_over: bool = True,
    ) -> tuple[list[dict[str, object]], list[ObjectKey]]:
        """Create or change objects, all or none; durable on return. An app's change is a release.

        With `carries_over` a pause or restart that the new object does not speak of stays.
        Returns what is to be answered for each, and the keys of those that differ. Raises LimpetError.
        """
        changes: list[tuple[StoredObject, Resource]] = []
        results: list[dict[str, object]] = []
        seen: set[ObjectKey] = set()
        for document, uploaded in requested:
            resource = parse_object(document)
            key = (resource.kind, resource.namespace, resource.name)
            if key in seen:
                raise ConflictError(f"{show_key(key)} is given twice; keep one of them")
            seen.add(key)
            kept, digest = document, None
            if isinstance(resource, App):
                digest = self._check_app(resource, uploaded, seen, dry_run=dry_run)
            elif isinstance(resource, PersistentVolumeClaim):
                self._check_claim(resource)
            if isinstance(resource, App) and key in self.resources and carries_over:
                kept = carry_over(document, json.loads(self.stored[key].body))
                resource = parse_object(kept)
            change, action = self._compare(key, encode_body(kept), digest)
            warnings = warn_of_failure(self.releases.of(key)) if change is None else []
            results.append(
                {
                    "kind": key[0],
                    "namespace": key[1],
                    "name": key[2],
                    "action": action,
                    "warnings": warnings,
                }
            )
            if change is not None:
                changes.append((change, resource))
        if dry_run or not changes:
            return results, []
        releases = [
            self.releases.plan_change(stored, self.stored.get(stored.key), resource)
            for stored, resource in changes
            if isinstance(resource, App) and resource.has_releases
        ]
        with self._database.transaction():
            self._database.write_objects([stored for stored, _ in changes])
            self.releases.write_changes(releases)
        self.releases.commit(releases)
        for stored, resource in changes:
            key = (stored.kind, stored.namespace, stored.name)
            self.stored[key] = stored
            self.resources[key] = resource
        return results, [(s.kind, s.namespace, s.name) for s, _ in changes]

    def _compare(
        self, key: ObjectKey, body: str, digest: str | None
    ) -> tuple[StoredObject | None, str]:
        """Return what is to be stored, None when nothing differs, and the word for it."""
        old = self.stored.get(key)
        if old is not None and old.body == body and (digest or old.digest) == old.digest:
            return None, "unchanged"
        stored = StoredObject(
            kind=key[0],
            namespace=key[1],
            name=key[2],
            generation=old.generation + 1 if old else 1,
            created_at=old.created_at if old else now(),
            body=body,
            digest=digest,
        )
        if old is not None and digest is None and is_app(key) and is_same_release(stored, old):
            stored = dataclasses.replace(stored, digest=old.digest)  # it needs no new download
        return stored, "configured" if old else "created"

    def _check_app(
        self, app: App, digest: str | None, seen: set[ObjectKey], *, dry_run: bool
    ) -> str | None:
        for kind in _APP_KINDS:
            other = (kind, app.namespace, app.name)
            if kind != app.kind and (other in self.stored or other in seen):
                raise ConflictError(
                    f"{app.kind} {app.namespace}/{app.name} has the name of an existing {kind}; "
                    f"delete that one or choose another name"
                )
        if app.source.scheme != "file":
            return app.source.digest or digest  # which an earlier release of it was found to have
        if digest is None:
            raise InvalidInputError(
                f"{app.kind} {app.namespace}/{app.name}: the image is a file, so its digest must come "
                "along; `limpet apply` uploads it"
            )
        if app.source.digest not in (None, digest):
            raise InvalidInputError(
                f"{app.kind} {app.namespace}/{app.name}: {app.source.location} is {digest}, but the "
                f"manifest pins {app.source.digest}"
            )
        if not dry_run and not self._modules.has_module(digest):
            raise NotFoundError(f"the node has no module {digest}; upload it first")
        return digest

    def _check_claim(self, claim: PersistentVolumeClaim) -> None:
        old = self.resources.get((claim.kind, claim.namespace, claim.name))
        if isinstance(old, PersistentVolumeClaim) and claim.size_bytes < old.size_bytes:
            raise ConflictError(
                f"PersistentVolumeClaim {claim.namespace}/{claim.name}: spec.resources.requests.storage: "
                f"a volume can't shrink from {format_bytes(old.size_bytes)} to "
                f"{format_bytes(claim.size_bytes)}; make another one and copy the files"
            )

    def delete(self, key: ObjectKey) -> None:
        """Delete an object that is there; durable on return."""
        self._database.delete_object(*key)
        del self.stored[key]
        self.resources.pop(key, None)
        self.releases.forget(key)

    def require(self, key: ObjectKey) -> Resource | None:
        """Return what an object means. Raises `NotFoundError` when there is none."""
        if key not in self.stored:
            raise NotFoundError(f"{show_key(key)} does not exist; see `limpet get all -A`")
        return self.resources.get(key)

    def remember_digest(self, stored: StoredObject, digest: str) -> None:
        """Note which module an app's source turned out to be, unless the app has changed meanwhile."""
        key = (stored.kind, stored.namespace, stored.name)
        if self.stored.get(key) is stored:
            changed = dataclasses.replace(stored, digest=digest)
            change = self.releases.with_digest(key, digest)
            releases = [] if change is None else [change]
            with self._database.transaction():
                self._database.write_objects([changed])
                self.releases.write_changes(releases)
            self.stored[key] = changed
            self.releases.commit(releases)


def is_app(key: ObjectKey) -> bool:
    """Whether objects of this kind are apps."""
    return key[0] in _APP_KINDS


def show_key(key: ObjectKey) -> str:
    """Name an object for people."""
    return f"{key[0]} {key[1]}/{key[2]}"
