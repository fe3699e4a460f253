"""Folders of files that are made from ConfigMaps and Secrets, named by what is in them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from limpet.store.files import make_directory, remove_tree, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def content_mark(files: Sequence[tuple[str, bytes]]) -> str:
    """Name files by their content: guests that run keep theirs when the configuration changes."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(b"%d %s %d " % (len(name), name.encode(), len(content)) + content)
    return digest.hexdigest()[:16]


def write_files(folder: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """Return a folder with exactly these files."""
    if folder.exists():
        return folder
    staged = folder.with_name(f".{folder.name}.part")
    remove_tree(staged)
    make_directory(staged.parent)
    make_directory(staged).chmod(0o755)
    for name, content in files:
        path = staged / name
        make_directory(path.parent).chmod(0o755)
        write_atomically(path, content, mode=0o444)
    staged.rename(folder)
    return folder
