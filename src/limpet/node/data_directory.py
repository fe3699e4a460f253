"""A node is its data directory: one agent at a time has it, and its control groups are called after it."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from limpet.errors import ConflictError, UnavailableError
from limpet.store.files import make_directory

if TYPE_CHECKING:
    from pathlib import Path


def claim_directory(directory: Path) -> int:
    """Claim it for this process and return a lock's descriptor; the kernel gives it back at the end.

    Raises `UnavailableError` when it can't be used, `ConflictError` when another node has it.
    """
    try:
        path = make_directory(directory) / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"can't use the data directory {directory}: {error.strerror}; choose another with --data"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConflictError(
            f"another node runs on {directory}; stop it, or give this one its own --data"
        ) from error
    return descriptor


def group_name(directory: Path) -> str:
    """Return the name of the node's tree of control groups: nodes are told apart by their data."""
    import hashlib

    mark = hashlib.blake2b(os.fsencode(directory.absolute()), digest_size=4).hexdigest()
    return f"limpet-{mark}"
