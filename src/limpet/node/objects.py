"""What was asked for: every object of the node, on disk first and then in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

from limpet.errors import ConflictError, InvalidInputError, LimpetError, NotFoundError
from limpet.manifest.model import App, PersistentVolumeClaim, Resource, Secret
from limpet.manifest.parse import parse_object
from limpet.manifest.quantity import format_bytes
from limpet.manifest.template import carry_over
from limpet.node.releases import Releases, is_same_release, warn_of_failure
from limpet.plan import Catalog
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
        self._catalog: Catalog | None = None

    @property
    def catalog(self) -> Catalog:
        """What apps refer to, as it is now."""
        if self._catalog is None:
            self._catalog = Catalog(self.resources.values())
        return self._catalog

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
        self._catalog = None
        self._number_first_releases()

    def _number_first_releases(self) -> None:
        """Number the apps that an earlier version of Limpet stored: what each is, is its first one."""
        changes = [
            self.releases.plan_change(self.stored[key], None, resource)
            for key, resource in self.resources.items()
            if isinstance(resource, App) and resource.has_releases and not self.releases.of(key)
        ]
        # A full disk: the numbers hold until the next start, which gives them again.
        with contextlib.suppress(StoreFullError):
            self.releases.write_changes(changes)
        self.releases.commit(changes)

    def apply(
        self,
        requested: Sequence[tuple[dict[str, object], str | None]],
        *,
        dry_run: bool,
        removed: Sequence[ObjectKey] = (),
        alongside: Callable[[], None] | None = None,
        carries_over: bool = True,
    ) -> tuple[list[dict[str, object]], list[ObjectKey]]:
        """Create or change objects and delete those `removed`, all or none; durable on return.

        An app's change is a release. With `carries_over` a pause or restart that the new object does not
        speak of stays. `alongside` writes what else belongs to the same transaction.
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
                digest = self._check_app(resource, uploaded, seen, removed, dry_run=dry_run)
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
        if dry_run or not (changes or removed or alongside):
            return results, []
        self._write(changes, removed, alongside)
        return results, [stored.key for stored, _ in changes]

    def _write(
        self,
        changes: Sequence[tuple[StoredObject, Resource]],
        removed: Sequence[ObjectKey],
        alongside: Callable[[], None] | None,
    ) -> None:
        """Have a change on disk, then in memory."""
        releases = [
            self.releases.plan_change(stored, self.stored.get(stored.key), resource)
            for stored, resource in changes
            if isinstance(resource, App) and resource.has_releases
        ]

        def write() -> None:
            self._database.write_objects([stored for stored, _ in changes])
            self.releases.write_changes(releases)
            for key in removed:
                self._database.delete_object(*key)
            if alongside is not None:
                alongside()

        self._database.transact(write)
        self.releases.commit(releases)
        for key in removed:
            self._forget(key)
        for stored, resource in changes:
            self.stored[stored.key] = stored
            self.resources[stored.key] = resource
        self._catalog = None

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
        self,
        app: App,
        digest: str | None,
        seen: set[ObjectKey],
        removed: Sequence[ObjectKey],
        *,
        dry_run: bool,
    ) -> str | None:
        for kind in _APP_KINDS:
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
        """Return the module of a source that needs a network; `digest` is of one that was brought along, or
        that the app or a release of it has, which is pulled again where it was lost.

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
        key = (app.kind, app.namespace, app.name)
        stored = self.stored.get(key)
        known = {release.digest for release in self.releases.of(key)}
        if digest in known or (stored is not None and digest == stored.digest):
            return digest
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
        self._forget(key)

    def _forget(self, key: ObjectKey) -> None:
        del self.stored[key]
        self.resources.pop(key, None)
        self.releases.forget(key)
        self._catalog = None

    def require(self, key: ObjectKey) -> Resource | None:
        """Return what an object means. Raises `NotFoundError` when there is none."""
        if key not in self.stored:
            raise NotFoundError(f"{show_key(key)} does not exist; see `limpet get all -A`")
        return self.resources.get(key)

    def remember_digest(self, key: ObjectKey, digest: str, *, release: int) -> None:
        """Note which module an app's source turned out to be, if this is its newest release (0: has none)."""
        stored, known = self.stored.get(key), self.releases.of(key)
        if stored is not None and release == (known[-1].number if known else 0):
            changed = dataclasses.replace(stored, digest=digest)
            change = self.releases.with_digest(key, digest)
            releases = [] if change is None else [change]

            def write() -> None:
                self._database.write_objects([changed])
                self.releases.write_changes(releases)

            self._database.transact(write)
            self.stored[key] = changed
            self.releases.commit(releases)


def is_app(key: ObjectKey) -> bool:
    """Whether objects of this kind are apps."""
    return key[0] in _APP_KINDS


def show_key(key: ObjectKey) -> str:
    """Name an object for people."""
    return f"{key[0]} {key[1]}/{key[2]}"
