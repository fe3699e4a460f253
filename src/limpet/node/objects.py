"""What was asked for: every object of the node, on disk first and then in memory."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from limpet.errors import ConflictError, InvalidInputError, LimpetError, NotFoundError
from limpet.manifest.model import App, PersistentVolumeClaim, Resource, Secret
from limpet.manifest.parse import parse_object
from limpet.manifest.quantity import format_bytes
from limpet.store.database import StoredObject, encode_body, now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.store.database import Database, ObjectKey
    from limpet.store.modules import ModuleStore


class Objects:
    """The node's objects. `stored` is what was applied, `resources` what it means.

    An object that only another version of Limpet understands is stored and means nothing.
    """

    def __init__(self, database: Database, modules: ModuleStore) -> None:
        self._database = database
        self._modules = modules
        self.stored: dict[ObjectKey, StoredObject] = {}
        self.resources: dict[ObjectKey, Resource] = {}

    def load(self, on_invalid: Callable[[ObjectKey, str], None]) -> None:
        """Read what is on disk."""
        for stored in self._database.load_objects():
            key = (stored.kind, stored.namespace, stored.name)
            self.stored[key] = stored
            try:
                self.resources[key] = parse_object(json.loads(stored.body))
            except LimpetError as error:
                on_invalid(key, f"this version can't use it: {error}")

    def apply(
        self,
        requested: Sequence[tuple[dict[str, object], str | None]],
        *,
        dry_run: bool,
        removed: Sequence[ObjectKey] = (),
        alongside: Callable[[], None] | None = None,
    ) -> tuple[list[dict[str, object]], list[ObjectKey]]:
        """Create or change objects and delete those `removed`, all or none; durable on return.

        `alongside` writes what else belongs to the same transaction.
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
            digest = None
            if isinstance(resource, App):
                digest = self._check_app(resource, uploaded, seen, removed, dry_run=dry_run)
            elif isinstance(resource, PersistentVolumeClaim):
                self._check_claim(resource)
            change, action = self._compare(key, encode_body(document), digest)
            results.append(
                {
                    "kind": key[0],
                    "namespace": key[1],
                    "name": key[2],
                    "action": action,
                    "warnings": [],
                }
            )
            if change is not None:
                changes.append((change, resource))
        if dry_run or not (changes or removed or alongside):
            return results, []

        def write() -> None:
            self._database.write_objects([stored for stored, _ in changes])
            for key in removed:
                self._database.delete_object(*key)
            if alongside is not None:
                alongside()

        self._database.transact(write)
        for key in removed:
            del self.stored[key]
            self.resources.pop(key, None)
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
        return stored, "configured" if old else "created"

    def _check_app(
        self,
        app: App,
        digest: str | None,
        seen: set[ObjectKey],
        removed: Sequence[ObjectKey],
        *,
        dry_run: bool,
    ) -> str | None:
        for kind in ("Deployment", "Pod", "Job"):
            other = (kind, app.namespace, app.name)
            is_stored = other in self.stored and other not in removed
            if kind != app.kind and (is_stored or other in seen):
                raise ConflictError(
                    f"{app.kind} {app.namespace}/{app.name} has the name of an existing {kind}; "
                    f"delete that one or choose another name"
                )
        if app.source.scheme != "file":
            return self._check_brought(app, digest, dry_run=dry_run)
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

    def _check_brought(self, app: App, digest: str | None, *, dry_run: bool) -> str | None:
        """Return the module of a source that needs a network; `digest` is of one that was brought along.

        What an image reference pins is the image's manifest, not the module.
        """
        pinned = app.source.digest if app.source.scheme == "https" else None
        if digest is None:
            return pinned
        if pinned not in (None, digest):
            raise InvalidInputError(
                f"{app.kind} {app.namespace}/{app.name}: {digest} was brought along, but the manifest "
                f"pins {pinned}"
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

    def apps(self) -> list[App]:
        """Every app."""
        return [resource for resource in self.resources.values() if isinstance(resource, App)]

    def pull_secret(self, namespace: str, name: str) -> str | None:
        """Return a pull secret's text in docker's format; None when there is no such Secret."""
        secret = self.resources.get(("Secret", namespace, name))
        if not isinstance(secret, Secret) or secret.type != "kubernetes.io/dockerconfigjson":
            return None
        return secret.data.get(".dockerconfigjson", b"").decode("utf-8", "replace")

    def delete(self, key: ObjectKey) -> None:
        """Delete an object that is there; durable on return."""
        self._database.delete_object(*key)
        del self.stored[key]
        self.resources.pop(key, None)

    def require(self, key: ObjectKey) -> Resource | None:
        """Return what an object means. Raises `NotFoundError` when there is none."""
        if key not in self.stored:
            raise NotFoundError(f"{show_key(key)} does not exist; see `limpet get all -A`")
        return self.resources.get(key)

    def remember_digest(self, stored: StoredObject, digest: str) -> None:
        """Note which module an app's source turned out to be, unless the app has changed meanwhile."""
        key = (stored.kind, stored.namespace, stored.name)
        if self.stored.get(key) is stored:
            self.stored[key] = dataclasses.replace(stored, digest=digest)
            self._database.write_objects([self.stored[key]])


def show_key(key: ObjectKey) -> str:
    """Name an object for people."""
    return f"{key[0]} {key[1]}/{key[2]}"
