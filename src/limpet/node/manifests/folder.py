"""The manifests folder's loop: wait for a change, look, read, have parsed, decide, apply.

A change is heard (`hearing.py`) and waited out; now and then the folder is looked at anyway. Whatever goes
wrong with a file leaves its objects as they were, is told once, and is tried again when something changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.node.background import in_thread
from limpet.node.manifests import scan
from limpet.node.manifests.decide import Change, Entry, decide_change
from limpet.node.manifests.hearing import PARENT, Hearing
from limpet.node.manifests.reading import Reader, Reading, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Protocol

    from limpet.node.manifests.managed import ManagedObjects
    from limpet.node.manifests.parsing import Parser
    from limpet.node.manifests.scan import Listing, Stamp
    from limpet.node.objects import Objects
    from limpet.store.database import ObjectKey
    from limpet.store.modules import ModuleStore

    class Applier(Protocol):
        """`Agent.change`."""

        def __call__(
            self,
            requested: Sequence[tuple[dict[str, object], str | None]],
            *,
            removed: Sequence[ObjectKey],
            alongside: Callable[[], None] | None,
            dry_run: bool,
        ) -> list[dict[str, object]]: ...


_MAX_TOLD_PROBLEMS = 100


class ManifestFolder:
    """The folder at `path`.

    `change` is `Agent.change`, `record` makes an event of the node (reason, message, is a warning),
    `record_object` one of an object.
    """

    def __init__(
        self,
        path: Path,
        *,
        rescan_seconds: float,
        retry_seconds: float,
        managed: ManagedObjects,
        objects: Objects,
        modules: ModuleStore,
        parser: Parser,
        change: Applier,
        record: Callable[[str, str, bool], None],
        record_object: Callable[[ObjectKey, str, str, bool], None],
    ) -> None:
        self.path = path
        self._rescan_seconds = rescan_seconds
        self._retry_seconds = min(retry_seconds, rescan_seconds)
        self._managed = managed
        self._objects = objects
        self._reader = Reader(path, modules, parser)
        self._change = change
        self._record = record
        self._record_object = record_object
        self._seen: dict[str, Seen] = {}
        self._problems: dict[str, str] = {}
        self._trouble = ""
        self._identity: Stamp = ()
        self._hearing = Hearing(path)
        self._is_unwatched = False
        self._task: asyncio.Task[None] | None = None

    # Life

    def start(self) -> None:
        """Begin to look at the folder."""
        try:
            self._hearing.open()
        except OSError as error:
            self._note_unwatched(error)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="manifests")

    def stop(self) -> None:
        """Stop looking; what is there stays."""
        self._reader.is_stopping = True
        if self._task is not None:
            self._task.cancel()
        self._hearing.close()

    def describe(self) -> dict[str, object]:
        """Return what the node's status says of the folder."""
        told = sorted(self._problems.items())[:_MAX_TOLD_PROBLEMS]
        return {
            "folder": str(self.path),
            "files": len(self._seen),
            "objects": len(self._managed.held),
            "message": self._trouble,
            "problems": [{"file": path, "message": message} for path, message in told],
        }

    # Looking

    async def _run(self) -> None:
        pause = 0.0
        while True:
            await self._hearing.wait(pause)
            try:
                is_finished = await self._look()
                self._note_trouble("")
            except scan.FolderError as error:
                self._note_trouble(str(error), reason=error.reason)
                is_finished = False
            except (LimpetError, OSError) as error:  # a full disk: later
                self._note_trouble(f"can't be applied now: {error}")
                is_finished = False
            except Exception as error:
                traceback.print_exc()
                self._note_trouble(f"a defect in Limpet: {error!r}; the node's log has more")
                is_finished = False
            pause = self._rescan_seconds if is_finished else self._retry_seconds

    async def _look(self) -> bool:
        """Make the node have what the folder says; False when something has to be tried again soon."""
        listing, unwatched = await in_thread(self._list, name="manifests")
        if self._hearing.is_open:
            self._note_unwatched(unwatched)
        self._check_identity(listing)
        gone = {path for path in self._known_paths() if self._is_gone(path, listing)}
        changed = await in_thread(lambda: self._find_changed(listing), name="manifests")
        if changed or gone:  # what was refused may be possible now
            refused = [path for path, seen in self._seen.items() if seen.is_refused]
            changed = sorted({*changed, *(path for path in refused if path in listing.files)})
        reading = await self._reader.read(changed, listing)
        self._apply(reading, gone)
        for path in gone:
            self._seen.pop(path, None)
        self._seen |= reading.seen
        refused_now = {path: why for path, why in self._problems.items() if path in self._seen}
        for path in reading.seen:
            refused_now.pop(path, None)
        self._note_problems({**refused_now, **listing.unreadable, **reading.refused})
        return not reading.is_unfinished

    def _list(self) -> tuple[Listing, OSError | None]:
        """List the folder and watch all of it; return what kept some of it from being watched, too."""
        watches = self._hearing.begin_watches()
        with contextlib.suppress(OSError):  # then only looking again finds out that the folder came
            parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            watches.add(parent, PARENT)
            os.close(parent)
        try:
            root = scan.open_folder(self.path)
            try:
                return scan.list_manifests(root, watch=watches.add), watches.problem
            finally:
                os.close(root)
        finally:
            self._hearing.end_watches(watches)

    def _note_unwatched(self, error: OSError | None) -> None:
        if error is not None and not self._is_unwatched:
            text = (
                f"can't watch all of {self.path} by inotify ({error.strerror}); raise the sysctl "
                "fs.inotify.max_user_watches or max_user_instances. Until then it is looked at "
                f"every {self._rescan_seconds:g} s"
            )
            self._record("ManifestsNotWatched", text, True)
        self._is_unwatched = error is not None

    def _check_identity(self, listing: Listing) -> None:
        """Tell an emptied folder from one whose file system is not mounted. Raises `FolderGoneError`."""
        if listing.files:
            self._identity = listing.identity
        elif self._managed.held and listing.identity != self._identity and not listing.unreadable:
            raise scan.FolderGoneError(
                f"{self.path} holds no manifest, though {len(self._managed.held)} objects came from "
                "there: it is taken for a folder whose file system is not mounted. Nothing is removed; if "
                "that is meant, `limpet delete` the objects"
            )

    def _known_paths(self) -> set[str]:
        return {*self._seen, *(held.path for held in self._managed.held.values())}

    def _is_gone(self, path: str, listing: Listing) -> bool:
        return path not in listing.files and listing.knows(path)

    def _find_changed(self, listing: Listing) -> list[str]:
        """Return the files that are not as they were when they were read."""
        writing = self._hearing.being_written()
        root = scan.open_folder(self.path)
        try:
            return [
                path
                for path, stamp in listing.files.items()
                if path not in writing and not self._is_as_seen(root, path, stamp)
            ]
        finally:
            os.close(root)

    def _is_as_seen(self, root: int, path: str, stamp: Stamp) -> bool:
        seen = self._seen.get(path)
        return (
            seen is not None
            and seen.stamp == stamp
            and all(scan.stamp_module(root, module) == known for module, known in seen.modules)
        )

    # Applying

    def _apply(self, reading: Reading, gone: set[str]) -> None:
        """Change the node once for all these files, without those that can't be applied."""
        decided = self._decide(reading.entries, gone, reading.refused)
        if not decided.is_empty:
            decided = self._carry_out(reading, gone, decided)
        for path, why in decided.refused.items():
            reading.refused[path] = why
            if path in reading.seen:
                reading.seen[path] = replace(reading.seen[path], is_refused=True)

    def _carry_out(self, reading: Reading, gone: set[str], decided: Change) -> Change:
        try:
            self._commit(decided)
        except LimpetError as error:
            if error.is_retryable:
                raise
            culprits = self._find_culprits(reading, gone, decided) or dict.fromkeys(
                reading.entries, str(error)
            )
            decided = self._decide(reading.entries, gone, {**decided.refused, **culprits})
            if not decided.is_empty:
                self._commit(decided)
        return decided

    def _decide(
        self,
        files: Mapping[str, tuple[Entry, ...]],
        gone: set[str],
        refused: Mapping[str, str],
    ) -> Change:
        return decide_change(
            files,
            gone=gone,
            held=self._managed.held,
            existing=self._objects.stored.keys(),
            refused=refused,
        )

    def _find_culprits(self, reading: Reading, gone: set[str], decided: Change) -> dict[str, str]:
        """Return why the node refuses files, each tried alone."""
        found: dict[str, str] = {}
        for path in reading.entries.keys() - decided.refused.keys():
            others = dict.fromkeys(reading.entries.keys() - {path}, "")
            alone = self._decide(reading.entries, gone, others)
            try:
                self._change(_requests(alone), removed=alone.remove, alongside=None, dry_run=True)
            except LimpetError as error:
                if error.is_retryable:
                    raise
                found[path] = f"{path}: {error}"
        return found

    def _commit(self, decided: Change) -> None:
        """Change objects and what came from where in one transaction. Raises LimpetError."""
        taken = [
            entry.key
            for entry in decided.apply
            if entry.key in self._objects.stored and entry.key not in self._managed.held
        ]
        results = self._change(
            _requests(decided),
            removed=decided.remove,
            alongside=lambda: self._managed.write(put=decided.put, drop=decided.drop),
            dry_run=False,
        )
        self._managed.take(put=decided.put, drop=decided.drop)
        self._tell(decided, results, taken)

    def _tell(
        self,
        decided: Change,
        results: Sequence[Mapping[str, object]],
        taken: Sequence[ObjectKey],
    ) -> None:
        for key in taken:
            path = self._managed.held[key].path
            text = f"{path} of the manifests folder has it now; it was applied by hand before"
            self._record_object(key, "ManifestTookOver", text, False)
        for key in decided.keep:
            text = (
                "no file of the manifests folder has it any more; it stays, for deleting it would "
                "delete its data: `limpet delete` does that"
            )
            self._record_object(key, "ManifestLetGo", text, True)
        counts = {
            word: sum(result["action"] == word for result in results)
            for word in ("created", "configured", "unchanged")
        } | {"removed": len(decided.remove)}
        told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        if told:
            self._record("ManifestsApplied", f"{self.path}: {told}", False)

    # Telling

    def _note_problems(self, problems: dict[str, str]) -> None:
        for path, why in sorted(problems.items()):
            if self._problems.get(path) != why:
                where = why if why.startswith(path) else f"{path}: {why}"
                self._record(
                    "ManifestInvalid", f"{where}; what it had before stays as it was", True
                )
        self._problems = problems

    def _note_trouble(self, message: str, *, reason: str = "ManifestsNotApplied") -> None:
        if message and message != self._trouble:
            self._record(reason, f"{message}. Everything stays as it was", True)
        elif self._trouble and not message:
            self._record("ManifestsBack", f"{self.path} can be used again", False)
        self._trouble = message


def _requests(decided: Change) -> list[tuple[dict[str, object], str | None]]:
    return [(entry.object, entry.digest) for entry in decided.apply]
