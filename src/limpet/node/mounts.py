"""The node's own mounts: in a namespace of its own, so that the device sees none and they end with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.store.files import make_directory

if TYPE_CHECKING:
    from pathlib import Path

_MEMORY_BYTES = 32 << 20


def mounts_directory(data_directory: Path) -> Path:
    """Return where the node mounts what is its own."""
    return data_directory / "mounts"


def make_private_mounts(data_directory: Path) -> str:
    """Leave the device's mount namespace and put a file system in memory into `mounts_directory`.

    What the device mounts is seen here, what is mounted here is not seen there. Volumes are mounted in
    it, and files made from secrets live in it. Returns why it could not be done, for people; then the
    node does without.
    """
    from limpet.linux import mount, namespaces

    if os.geteuid() != 0:
        return "the node does not run as root"
    directory = mounts_directory(data_directory)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.mount(None, "/", None, flags=mount.MS_REC | mount.MS_SLAVE)
        make_directory(directory)
        flags = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
        options = f"size={_MEMORY_BYTES},mode=0700"
        mount.mount("limpet", directory, "tmpfs", flags=flags, data=options)
    except OSError as error:
        return f"the kernel refused a mount: {error}"
    return ""
