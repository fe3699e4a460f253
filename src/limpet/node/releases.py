"""The releases of the node's apps: numbered when an app is applied, decided as they are rolled out.

Memory follows the disk: what is written here is durable before anything acts on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError, NotFoundError
from limpet.manifest.model import App
from limpet.manifest.parse import parse_object
from limpet.manifest.template import encode_template
from limpet.node.progress import Target
from limpet.node.rollout import (
    Status,
    decide_forgotten,
    decide_in_force,
    find_fallback,
)
from limpet.store.database import now
from limpet.store.releases import (
    Release,
    delete_releases,
    load_body,
    load_releases,
    write_decisions,
    write_release,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.manifest.template import Document
    from limpet.store.database import Database, ObjectKey, StoredObject


class ReleaseUnusableError(InvalidInputError):
    """A release that this version of Limpet can't read any more."""

    reason = "ReleaseUnusable"


@dataclass(frozen=True, slots=True)
class Change:
    """What an apply does to an app's releases: all that are kept, which of them are to be written."""

    kept: tuple[Release, ...]
    newest_body: str
    superseded: tuple[Release, ...] = ()
    forgotten: tuple[Release, ...] = ()


class Releases:
    """Every app's releases, oldest first; their objects stay on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_key: dict[ObjectKey, tuple[Release, ...]] = {}

    def load(self) -> None:
        """Read what is on disk."""
        for release in load_releases(self._database):
            self._by_key[release.object_key] = (*self.of(release.object_key), release)

    def of(self, key: ObjectKey) -> tuple[Release, ...]:
        """Return an app's releases; none for what has none."""
        return self._by_key.get(key, ())

    def plan_change(self, stored: StoredObject, previous: StoredObject | None, app: App) -> Change:
        """Return what applying an app makes of its releases, before anything is written."""
        key = stored.key
        known = self.of(key)
        superseded: tuple[Release, ...] = ()
        if known and previous is not None and is_same_release(stored, previous):
            newest = replace(known[-1], digest=stored.digest or known[-1].digest)
            kept = (*known[:-1], newest)
        else:
            number = known[-1].number + 1 if known else 1
            if known and known[-1].status == Status.PROGRESSING:
                told = f"release {number} came before it was complete"
                superseded = (
                    replace(
                        known[-1], status=Status.SUPERSEDED.value, message=told, decided_at=now()
                    ),
                )
                known = (*known[:-1], *superseded)
            newest = Release(
                kind=stored.kind,
                namespace=stored.namespace,
                name=stored.name,
                number=number,
                created_at=now(),
                digest=stored.digest,
                status=Status.PROGRESSING.value,
            )
            kept = (*known, newest)
        forgotten = tuple(decide_forgotten(kept, limit=app.rollout.history_limit))
        kept = tuple(release for release in kept if release not in forgotten)
        return Change(kept, stored.body, superseded, forgotten)

    def write_changes(self, changes: Sequence[Change]) -> None:
        """Write what was planned, all or none; `commit` follows when it is on disk."""

        def write() -> None:
            for change in changes:
                write_decisions(self._database, change.superseded)
                delete_releases(self._database, change.forgotten)
                write_release(self._database, change.kept[-1], change.newest_body)

        self._database.transact(write)

    def commit(self, changes: Sequence[Change]) -> None:
        """Take up what has been written."""
        for change in changes:
            self._by_key[change.kept[-1].object_key] = change.kept

    def forget(self, key: ObjectKey) -> None:
        """Forget a deleted app's releases; its rows went with it."""
        self._by_key.pop(key, None)

    def decide(self, key: ObjectKey, status: Status, message: str) -> None:
        """Write down what became of the newest release; durable on return."""
        newest = replace(self.of(key)[-1], status=status.value, message=message, decided_at=now())
        write_decisions(self._database, [newest])
        self._by_key[key] = (*self.of(key)[:-1], newest)

    def with_digest(self, key: ObjectKey, digest: str) -> Change | None:
        """Return the change that notes the newest release's digest; None for what has no releases."""
        known = self.of(key)
        if not known:
            return None
        body = self.body(key, known[-1].number)
        return Change((*known[:-1], replace(known[-1], digest=digest)), body)

    def body(self, key: ObjectKey, number: int) -> str:
        """Return the object as it was with a release. Raises `NotFoundError`."""
        found = load_body(self._database, key, number)
        if found is None:
            kept = ", ".join(str(release.number) for release in self.of(key)) or "none"
            raise NotFoundError(
                f"{key[0]} {key[1]}/{key[2]} has no release {number}; kept are: {kept}"
            )
        return found

    def targets(self, stored: StoredObject, app: App) -> tuple[Target, Target | None]:
        """Return what is to run, and what runs until then and after a failure, if anything.

        Raises `ReleaseUnusableError` when the release in force can't be read.
        """
        key = stored.key
        known = self.of(key)
        if not known or not app.has_releases:
            return Target(app, stored.digest), None
        newest = Target(app, stored.digest, known[-1].number)
        in_force = decide_in_force(known, is_paused=app.rollout.is_paused)
        if in_force is not known[-1]:
            return self._target(in_force, app), None
        fallback = find_fallback(known)
        if fallback is None or known[-1].status != Status.PROGRESSING:
            return newest, None
        return newest, self._target(fallback, app)

    def _target(self, release: Release, app: App) -> Target:
        """Return an earlier release with what is not part of a release: replicas, how to roll out."""
        try:
            earlier = parse_object(json.loads(self.body(release.object_key, release.number)))
        except InvalidInputError as error:
            raise ReleaseUnusableError(
                f"release {release.number} can't be used by this version of Limpet: {error}"
            ) from error
        if not isinstance(earlier, App):
            raise ReleaseUnusableError(f"release {release.number} is no app")
        earlier = replace(earlier, replicas=app.replicas, rollout=app.rollout)
        return Target(earlier, release.digest, release.number)


def is_same_release(stored: StoredObject, previous: StoredObject) -> bool:
    """Whether an object differs from the previous one in nothing that makes a release."""
    return is_unchanged(json.loads(stored.body), stored.digest, previous)


def is_unchanged(document: Document, digest: str | None, previous: StoredObject) -> bool:
    """Whether a document with this module's digest, as far as it is known, is the stored release."""
    is_same_module = digest in (None, previous.digest) or previous.digest is None
    return is_same_module and encode_template(document) == encode_template(
        json.loads(previous.body)
    )


def warn_of_failure(releases: Sequence[Release]) -> list[str]:
    """Return what somebody is to know who applies what is there already."""
    if not releases or releases[-1].status != Status.FAILED:
        return []
    newest, in_force = releases[-1], decide_in_force(releases)
    served = "" if in_force is newest else f" and release {in_force.number} serves"
    return [
        f"release {newest.number} failed{served}: {newest.message}; change it, or "
        f"`limpet rollout restart {newest.kind.lower()}/{newest.name}` tries it again"
    ]
