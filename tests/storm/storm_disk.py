"""The small disk that a storm's node lives on: ext4 in a file, mounted through a loop device."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from running_node import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

DISK_MEGABYTES = 128
_BALLAST = "ballast"


def run(*command: str | Path) -> None:
    """Run a tool; what it says is in the error."""
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"


class SmallDisk:
    """An ext4 file system of its own; `folder` is where it is seen."""

    def __init__(self, directory: Path, *, image: Path | None = None) -> None:
        self.image = image or directory / "disk.img"
        self.folder = directory / "disk"

    def make(self) -> None:
        """Make the file system; whatever was there is gone."""
        self.image.unlink(missing_ok=True)
        with self.image.open("wb") as file:
            file.truncate(DISK_MEGABYTES << 20)
        run("mkfs.ext4", "-q", "-m0", "-O", "encrypt", self.image)

    def mount(self, *, checked: bool = False) -> None:
        """Mount it, as a device does at boot: after a check, when it may need one."""
        if checked:
            # 1: it had errors, and they are mended; the journal is replayed.
            done = subprocess.run(["e2fsck", "-p", str(self.image)], capture_output=True, text=True)
            assert done.returncode in (0, 1), done.stdout + done.stderr
        self.folder.mkdir(exist_ok=True)
        run("mount", "-o", "loop,noatime", self.image, self.folder)

    @property
    def is_mounted(self) -> bool:
        return self.folder.is_mount()

    def unmount(self) -> None:
        """Unmount it, and see that its loop device goes: nobody has kept it."""
        if self.is_mounted:
            run("umount", self.folder)
        wait_for(lambda: not loop_devices(self.image), "the disk's loop device to go", 5)

    def fill(self, *, left_bytes: int = 0) -> None:
        """Leave no free block, here and nowhere else, or so much."""
        assert self.is_mounted
        path = self.folder / _BALLAST
        with path.open("ab") as file:
            found = os.statvfs(self.folder)
            if left_bytes:
                size = found.f_bavail * found.f_frsize - left_bytes
                os.posix_fallocate(file.fileno(), 0, size)
                return
            for chunk in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        end = os.fstat(file.fileno()).st_size
                        os.posix_fallocate(file.fileno(), end, chunk)

    def free(self) -> None:
        """Give everything back."""
        (self.folder / _BALLAST).unlink(missing_ok=True)


def loop_devices(below: Path) -> Sequence[str]:
    """Return the loop devices that are made of files in or at a path."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = backing.read_text().strip().removesuffix(" (deleted)")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
                continue  # it went meanwhile
            raise
        if Path(name).is_relative_to(below):
            found.append(f"{backing.parts[3]}: {name}")
    return found
