"""The file system inside a volume's image: its size, making, checking and growing it.

mke2fs and e2fsck do the work (Debian: package e2fsprogs); they are given every feature and size that
matters, so that distributions' defaults change nothing. Source of the format: the kernel's
Documentation/filesystems/ext4.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import TemporaryError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 4096
_GROUP_BLOCKS = 8 * BLOCK_BYTES  # what one bitmap block covers
_INODE_BYTES = 256
_INODES_PER_BLOCK = BLOCK_BYTES // _INODE_BYTES
_DESCRIPTOR_BYTES = 64
# One inode per 16 KB as is usual; small volumes hold small files, so one per block up to this many.
_GROUP_INODES = 8192
_SPARE_TABLE_BLOCKS = 4  # the first inodes are the file system's own
_SMALL_JOURNAL_BLOCKS = 1024  # the least that the kernel takes
_LARGE_JOURNAL_BLOCKS = 4096
_LARGE_BYTES = 256 << 20
# mke2fs wants no journal on less than 8 MiB.
_MIN_BLOCKS = 2048
# Room in the group descriptors is set aside so that the file system can grow online to this size.
_GROWTH_BYTES = 64 << 30
# Root directory, lost+found, the resize inode; then our folder, and tree blocks of a few large files.
_ROOT_BLOCKS = 1 + 4 + 1
_SPARE_BLOCKS = 16
# The kernel keeps 2 % free for its own needs, at most 4096 blocks (ext4_calculate_resv_clusters).
_KERNEL_SHARE = 50
_KERNEL_MAX_BLOCKS = 4096
# mke2fs, resize2fs and the kernel leave out a last group that would hold less than this.
_MIN_LAST_GROUP_BLOCKS = 50

_FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize,metadata_csum,resize_inode"
)
_SUPERBLOCK_OFFSET = 1024
_MAGIC = 0xEF53
_RESIZE_FS = 0x40086610  # EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64)
# Administrators' tools are not on every user's path.
_TOOL_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class ToolMissingError(UnavailableError):
    """A program of e2fsprogs is not installed."""

    reason = "ToolMissing"


class ToolFailedError(TemporaryError):
    """A program of e2fsprogs did not do what it was asked for."""

    reason = "ToolFailed"


class DamagedError(UnavailableError):
    """A file system that e2fsck can't repair."""

    reason = "VolumeDamaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What decides how much of a file system is left for files, besides its size."""

    inodes_per_group: int
    journal_blocks: int
    reserved_descriptor_blocks: int

    def capacity_bytes(self, blocks: int) -> int:
        """How many bytes guests can store in a file system of this many blocks."""
        rest = blocks % _GROUP_BLOCKS
        last = blocks // _GROUP_BLOCKS
        needed = self._group_blocks() + _MIN_LAST_GROUP_BLOCKS
        if _has_superblock(last):
            needed += self._copy_blocks(blocks)
        if last and rest < needed:
            blocks -= rest
        groups = -(-blocks // _GROUP_BLOCKS)
        overhead = groups * self._group_blocks()
        overhead += _count_superblocks(groups) * self._copy_blocks(blocks)
        overhead += self.journal_blocks + _ROOT_BLOCKS + _SPARE_BLOCKS
        overhead += min(blocks // _KERNEL_SHARE, _KERNEL_MAX_BLOCKS)
        return max(blocks - overhead, 0) * BLOCK_BYTES

    def blocks_for(self, size_bytes: int) -> int:
        """The fewest blocks, or nearly, whose capacity is at least `size_bytes`."""
        blocks = max(-(-size_bytes // BLOCK_BYTES), _MIN_BLOCKS)
        while (missing := size_bytes - self.capacity_bytes(blocks)) > 0:
            blocks += -(-missing // BLOCK_BYTES)
        return blocks

    def _group_blocks(self) -> int:
        """Two bitmaps and the inodes."""
        return 2 + self.inodes_per_group // _INODES_PER_BLOCK

    def _copy_blocks(self, blocks: int) -> int:
        """A superblock and what follows it: descriptors, and room for more of them."""
        groups = -(-blocks // _GROUP_BLOCKS)
        return 1 + -(-groups * _DESCRIPTOR_BYTES // BLOCK_BYTES) + self.reserved_descriptor_blocks


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a file system says of itself."""

    blocks: int
    layout: Layout

    @property
    def capacity_bytes(self) -> int:
        """How many bytes guests can store in it."""
        return self.layout.capacity_bytes(self.blocks)


def decide_layout(size_bytes: int) -> Layout:
    """Choose for a new volume in which guests store `size_bytes`."""
    table_blocks = size_bytes // BLOCK_BYTES // _INODES_PER_BLOCK + _SPARE_TABLE_BLOCKS
    is_large = size_bytes >= _LARGE_BYTES
    growth = max(_GROWTH_BYTES, 4 * size_bytes)
    return Layout(
        inodes_per_group=min(_GROUP_INODES, table_blocks * _INODES_PER_BLOCK),
        journal_blocks=_LARGE_JOURNAL_BLOCKS if is_large else _SMALL_JOURNAL_BLOCKS,
        reserved_descriptor_blocks=growth // _descriptor_block_covers(),
    )


def make(path: Path, *, blocks: int, layout: Layout, is_encrypted: bool) -> None:
    """Make a file system in a file that has this size and only holes: next to nothing is written.

    `discard` punches what mke2fs would otherwise fill with zeros, now or in the background: inode
    tables and journal. Raises `ToolMissingError`, `ToolFailedError`.
    """
    groups = -(-blocks // _GROUP_BLOCKS)
    descriptors = -(-groups * _DESCRIPTOR_BYTES // BLOCK_BYTES)
    growable = (descriptors + layout.reserved_descriptor_blocks) * _descriptor_block_covers()
    code, output = _run(
        "mkfs.ext4",
        "-q",
        "-F",
        *("-b", str(BLOCK_BYTES)),
        *("-m", "0"),
        *("-I", str(_INODE_BYTES)),
        *("-N", str(layout.inodes_per_group * groups)),
        *("-J", f"size={layout.journal_blocks * BLOCK_BYTES >> 20}"),
        *("-E", f"discard,lazy_journal_init=1,resize={growable // BLOCK_BYTES}"),
        *("-e", "remount-ro"),
        *("-O", _FEATURES + (",encrypt" if is_encrypted else "")),
        str(path),
    )
    if code:
        raise ToolFailedError(f"mkfs.ext4 failed on {path} (exit code {code}): {output}")


def read_superblock(descriptor: int) -> Superblock:
    """Read it from an open device or image. Raises ValueError if none of `make`'s kind is there."""
    raw = os.pread(descriptor, 1024, _SUPERBLOCK_OFFSET)
    if len(raw) < 1024 or struct.unpack_from("<H", raw, 0x38)[0] != _MAGIC:
        raise ValueError("no ext4 file system")
    (log_block_bytes,) = struct.unpack_from("<I", raw, 0x18)
    if log_block_bytes != 2:
        raise ValueError(f"blocks of {1024 << log_block_bytes} bytes, not {BLOCK_BYTES}")
    (low,), (high,) = struct.unpack_from("<I", raw, 0x4), struct.unpack_from("<I", raw, 0x150)
    (journal_bytes,) = struct.unpack_from("<I", raw, 0x10C + 16 * 4)
    return Superblock(
        high << 32 | low,
        Layout(
            inodes_per_group=struct.unpack_from("<I", raw, 0x28)[0],
            journal_blocks=journal_bytes // BLOCK_BYTES,
            reserved_descriptor_blocks=struct.unpack_from("<H", raw, 0xCE)[0],
        ),
    )


def check(device: str, *, is_thorough: bool = False) -> str | None:
    """Check a device that is not mounted, mending what can be mended without loss.

    Returns None, or what e2fsck did if more had to be done: some data may be lost then. Raises
    `DamagedError` when that didn't help either.
    """
    code, _ = _run("e2fsck", "-p", *(["-f"] if is_thorough else []), device)
    if _is_sound(code):
        return None
    code, output = _run("e2fsck", "-f", "-y", device)
    if _is_sound(code):
        return output
    raise DamagedError(f"e2fsck could not repair it (exit code {code}): {output}")


def grow_mounted(descriptor: int, blocks: int) -> None:
    """Let a mounted file system, given any open file of it, take `blocks` blocks.

    The kernel adds group by group through its journal: whenever it ends, the file system is whole.
    Raises OSError, EPERM without CAP_SYS_RESOURCE.
    """
    fcntl.ioctl(descriptor, _RESIZE_FS, struct.pack("=Q", blocks))


def grow_unmounted(device: str, blocks: int) -> str | None:
    """Let the file system of a device or image, not mounted, take `blocks` blocks; returns as `check`.

    Killed midway it can leave a superblock that no e2fsck accepts: give it a copy.
    """
    repaired = check(device, is_thorough=True)  # resize2fs insists on it
    code, output = _run("resize2fs", device, str(blocks))
    if code:
        raise ToolFailedError(f"resize2fs failed on {device} (exit code {code}): {output}")
    return repaired


def _descriptor_block_covers() -> int:
    """How many bytes of file system one block of group descriptors describes: 8 GiB."""
    return BLOCK_BYTES // _DESCRIPTOR_BYTES * _GROUP_BLOCKS * BLOCK_BYTES


def _has_superblock(group: int) -> bool:
    return _count_superblocks(group + 1) > _count_superblocks(group)


def _count_superblocks(groups: int) -> int:
    """How many of the first groups keep a copy: 0, 1 and the powers of 3, 5 and 7 (`sparse_super`)."""
    count = min(groups, 2)
    for base in (3, 5, 7):
        power = base
        while power < groups:
            count += 1
            power *= base
    return count


def _is_sound(code: int) -> bool:
    """Codes of e2fsck(8): 1 and 2 say that errors were corrected."""
    return 0 <= code < 4


def _run(tool: str, *arguments: str) -> tuple[int, str]:
    """Return the exit code, negative for a signal, and what was printed, on one line."""
    import subprocess  # only when a volume is made, opened or grown

    try:
        done = subprocess.run(
            [tool, *arguments],
            env={"PATH": _TOOL_PATH, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolMissingError(
            f"{tool} is not installed: install e2fsprogs (apt-get install e2fsprogs)"
        ) from error
    text = done.stdout.decode(errors="replace")
    return done.returncode, "; ".join(line.strip() for line in text.splitlines() if line.strip())
