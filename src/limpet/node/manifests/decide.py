"""What is to change when files of the folder did. Pure.

An object belongs to one file. It is applied when what the file says about it changes, and only then: what
was changed, deleted or rolled back on the node stays so until the file says something new.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from limpet.store.manifest_files import Held

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from limpet.store.database import ObjectKey

# Deleting a claim deletes what was written to it: that is left to people.
_KEPT_KINDS = frozenset({"PersistentVolumeClaim"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An object as a file has it; `digest` is its module's, when that is a file, too.

    `mark` tells apart what files say, `where` is `file:line`.
    """

    key: ObjectKey
    object: dict[str, object]
    digest: str | None
    mark: str
    where: str


Files: TypeAlias = "Mapping[str, tuple[Entry, ...]]"
"""What each file holds, by its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of the node.

    `apply` and `remove` are of objects, `keep` are those that lose their file and stay, `put` and `drop`
    are of rows of `manifest_files`, `refused` says why files have to wait.
    """

    apply: tuple[Entry, ...] = ()
    remove: tuple[ObjectKey, ...] = ()
    keep: tuple[ObjectKey, ...] = ()
    put: Mapping[ObjectKey, Held] = field(default_factory=dict)
    drop: tuple[ObjectKey, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.apply or self.put or self.drop)


def decide_change(
    files: Files,
    *,
    gone: AbstractSet[str],
    held: Mapping[ObjectKey, Held],
    existing: AbstractSet[ObjectKey],
    refused: Mapping[str, str] | None = None,
) -> Change:
    """Return what is to change when these files hold what they do and those that are `gone` are not there.

    `held` is what each object came from so far, `existing` are the node's objects. Files that are not in
    `files` keep what they have, and so do those that are `refused`, for a reason found before or here: an
    object that another file has.
    """
    turned_away = dict(refused or {})
    while True:
        accepted = {path: files[path] for path in sorted(files) if path not in turned_away}
        owners, conflicts = _assign(accepted, gone=gone, held=held)
        if not conflicts:
            break
        turned_away |= conflicts
    entries = {entry.key: entry for found in accepted.values() for entry in found}
    put = {key: Held(owners[key], entry.mark) for key, entry in entries.items()}
    put = {key: held_now for key, held_now in put.items() if held.get(key) != held_now}
    drop = tuple(
        key
        for key, before in held.items()
        if key not in entries and (before.path in gone or before.path in accepted)
    )
    leaving = [key for key in drop if key in existing]
    return Change(
        apply=tuple(
            entry
            for key, entry in entries.items()
            if key not in held or held[key].mark != entry.mark
        ),
        remove=tuple(key for key in leaving if key[0] not in _KEPT_KINDS),
        keep=tuple(key for key in leaving if key[0] in _KEPT_KINDS),
        put=put,
        drop=drop,
        refused=turned_away,
    )


def _assign(
    accepted: Files, *, gone: AbstractSet[str], held: Mapping[ObjectKey, Held]
) -> tuple[dict[ObjectKey, str], dict[str, str]]:
    """Return each object's file, and why files can't have what they hold."""
    claims: dict[ObjectKey, list[tuple[str, Entry]]] = {}
    conflicts: dict[str, str] = {}
    for path, entries in accepted.items():
        for entry in entries:
            claims.setdefault(entry.key, []).append((path, entry))
    owners: dict[ObjectKey, str] = {}
    for key, claimants in claims.items():
        before = held.get(key)
        paths = [path for path, _ in claimants]
        if before is not None and before.path not in gone and before.path not in accepted:
            owner, where = before.path, before.path  # a file that is left as it is
        elif before is not None and before.path in paths:
            owner = before.path
            where = next(entry.where for path, entry in claimants if path == owner)
        else:
            owner, where = paths[0], claimants[0][1].where
        owners[key] = owner
        for at, (path, entry) in enumerate(claimants):
            if path != owner or (at and paths[at - 1] == path):
                conflicts.setdefault(
                    path,
                    f"{entry.where}: {key[0]} {key[1]}/{key[2]} is already in {where}; "
                    "keep one of them",
                )
    return owners, conflicts
