"""Encrypting a volume anew: a copy beside it, then the two change places.

The file system's encryption binds each file to the key it was made with, so a new key takes a new volume.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import TYPE_CHECKING

from limpet.errors import TemporaryError
from limpet.linux import loop, mount

if TYPE_CHECKING:
    from pathlib import Path

    from limpet.store.images import VolumeImage

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_COPY_SECONDS = 24 * 3600

_libc = ctypes.CDLL(None, use_errno=True)


class RewriteError(TemporaryError):
    """A volume could not be encrypted anew; it is as it was."""

    reason = "VolumeNotReencrypted"


def is_in_use(image: Path) -> bool:
    """Whether somebody has the image's file system mounted."""
    descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        attached = loop.find_attached(descriptor)
    finally:
        os.close(descriptor)
    if attached is None:
        return False
    attached.close()
    return True


def copy_volume(old: VolumeImage, new: VolumeImage) -> None:
    """Copy everything from one closed volume to another, durably. Raises LimpetError.

    Hard links, holes and times stay what they are.
    """
    source = old.open()
    try:
        target = new.open()
        try:
            # Through our own descriptors: the mounts of a node are nobody else's.
            command = ["cp", "--archive", "--sparse=always", "--", f"/proc/self/fd/{source}/."]
            done = subprocess.run(
                [*command, f"/proc/self/fd/{target}"],
                check=False,
                capture_output=True,
                pass_fds=(source, target),
                timeout=_COPY_SECONDS,
            )
            if done.returncode:
                text = done.stderr.decode("utf-8", "replace").strip().splitlines()
                # Names of files in the volume are the app's: only what went wrong is told.
                why = text[-1].rpartition(": ")[2] if text else f"cp ended with {done.returncode}"
                raise RewriteError(f"volume {old.name} can't be copied: {why}")
            mount.sync(target)
        finally:
            os.close(target)
            new.close()
    finally:
        os.close(source)
        old.close()


def exchange(one: Path, other: Path) -> None:
    """Let two folders change their names, at once and durably (renameat2(2), RENAME_EXCHANGE)."""
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))
    for parent in {one.parent, other.parent}:
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
