"""The folders that guests see: claimed volumes, scratch space, and files made from configuration."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from limpet.store.files import make_directory, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from limpet.plan import AppKey, PlannedMount


_RETIRED = ".retired-"  # no claim can have such a name


class Volumes:
    """Makes, opens and removes the folders below a data directory.

    `volumes/NAMESPACE/CLAIM` outlives apps, `apps/NAMESPACE/NAME/...` goes with its app.
    """

    def __init__(self, directory: Path) -> None:
        self._claims = directory / "volumes"
        self._apps = directory / "apps"

    def open_mounts(self, key: AppKey, mounts: Sequence[PlannedMount]) -> list[int]:
        """Return one open directory per mount; the caller closes them."""
        opened: list[int] = []
        try:
            for index, mount in enumerate(mounts):
                path = self._folder(key, mount, index)
                opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return opened

    def _folder(self, key: AppKey, mount: PlannedMount, index: int) -> Path:
        if mount.kind == "PersistentVolumeClaim":
            return make_directory(self._claims / key.namespace / mount.source)
        own = self._apps / key.namespace / key.name
        if mount.kind == "EmptyDir":
            return make_directory(own / "empty" / mount.source)
        return _write_files(own / "files" / str(index), mount.files)

    def remove_app(self, key: AppKey) -> None:
        """Remove what was an app's own."""
        folder = self._apps / key.namespace / key.name
        _remove_tree(folder)

    def retire_claim(self, namespace: str, name: str) -> None:
        """Take a volume's name away at once; guests that still drain keep the folder they opened."""
        folder = self._claims / namespace / name
        if folder.exists():
            folder.rename(folder.with_name(f"{_RETIRED}{os.urandom(8).hex()}"))

    def remove_retired(self) -> None:
        """Remove the volumes whose names were taken away, and everything in them."""
        for folder in self._claims.glob(f"*/{_RETIRED}*"):
            _remove_tree(folder)


def _write_files(parent: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """Return a folder with exactly these files, named by their content: guests that run keep theirs."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(b"%d %s %d " % (len(name), name.encode(), len(content)) + content)
    folder = parent / digest.hexdigest()[:16]
    if folder.exists():
        return folder
    staged = parent / f".{folder.name}.part"
    _remove_tree(staged)
    make_directory(staged)
    for name, content in files:
        path = staged / name
        make_directory(path.parent)
        write_atomically(path, content, mode=0o400)
    staged.rename(folder)
    return folder


def _remove_tree(folder: Path) -> None:
    if folder.exists():
        import shutil  # brings in every compression library: only when there is something to remove

        shutil.rmtree(folder)
