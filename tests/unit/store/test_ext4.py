"""Layouts against what mke2fs really makes, in plain files: nothing is mounted, and no root is needed."""

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limpet.store import ext4

_MEBI = 1 << 20
_GIBI = 1 << 30
_MAX_RESERVED_BLOCKS = 4096
# The folder that guests see, and tree blocks of a few large files.
_SPARE_BLOCKS = 16

pytestmark = pytest.mark.skipif(
    shutil.which("mkfs.ext4", path=ext4._TOOL_PATH) is None, reason="needs e2fsprogs"
)


def _make(path, size_bytes, *, is_encrypted=False):
    """Make what a volume of this size is made of; return its layout and its blocks."""
    layout = ext4.decide_layout(size_bytes)
    blocks = layout.blocks_for(size_bytes)
    with path.open("xb") as file:
        file.truncate(blocks * ext4.BLOCK_BYTES)
    ext4.make(path, blocks=blocks, layout=layout, is_encrypted=is_encrypted)
    return layout, blocks


def _read_superblock(path):
    with path.open("rb") as file:
        return ext4.read_superblock(file.fileno())


def _free_blocks(path):
    """What mke2fs says is free, less what the kernel keeps for itself."""
    with path.open("rb") as file:
        raw = os.pread(file.fileno(), 1024, 1024)
    blocks, free = struct.unpack_from("<I", raw, 0x4)[0], struct.unpack_from("<I", raw, 0xC)[0]
    return free - min(blocks // 50, _MAX_RESERVED_BLOCKS)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    _make(path, 16 * _MEBI)
    return path


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Return a function that puts a shell script in a tool's place."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setattr(ext4, "_TOOL_PATH", f"{folder}:/bin:/usr/bin")

    def write(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


# Layouts


# Group boundaries, the journal's step, a last group too small to be used, more than 64 GiB.
@settings(max_examples=40)
@given(st.integers(4 * _MEBI, 2 * _GIBI) | st.integers(4 * _MEBI, 200 * _GIBI))
@example(4 * _MEBI)
@example(120 * _MEBI)
@example(124 * _MEBI)
@example(126 * _MEBI)
@example(256 * _MEBI - 1)
@example(256 * _MEBI)
@example(70_000 * _MEBI)
@example(1000 * _GIBI)
def test_a_file_system_has_the_declared_size_and_says_so(size_bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        layout, blocks = _make(path, size_bytes)
        found = _read_superblock(path)
        assert found.layout == layout
        # Of a last group that would hold next to nothing mke2fs makes none.
        assert found.capacity_bytes == layout.capacity_bytes(blocks)
        assert _free_blocks(path) - _SPARE_BLOCKS == found.capacity_bytes // ext4.BLOCK_BYTES
        assert size_bytes <= found.capacity_bytes <= size_bytes * 1.01 + ext4.BLOCK_BYTES
        assert path.stat().st_blocks * 512 < 4 * _MEBI + size_bytes // 32768, "hardly anything"


@given(st.integers(4 * _MEBI, 1 << 44))
def test_the_fewest_blocks_that_hold_a_size_are_chosen_or_nearly(size_bytes):
    layout = ext4.decide_layout(size_bytes)
    blocks = layout.blocks_for(size_bytes)
    assert layout.capacity_bytes(blocks) >= size_bytes
    # A whole group's tables more at most; below 8 MiB mke2fs would make no journal.
    group = 2 + layout.inodes_per_group // 16 + 50 + 1 + layout.reserved_descriptor_blocks + 40
    smaller = blocks - group
    assert smaller < 2048 or layout.capacity_bytes(smaller) < size_bytes


@given(st.integers(4 * _MEBI, 1 << 40), st.integers(4 * _MEBI, 1 << 40))
def test_what_was_made_small_can_hold_any_larger_size(made_bytes, grown_bytes):
    layout = ext4.decide_layout(made_bytes)
    assert layout.capacity_bytes(layout.blocks_for(grown_bytes)) >= grown_bytes
    assert layout.inodes_per_group % 16 == 0, "whole blocks of inodes"


@pytest.mark.parametrize("size_bytes", [4 * _MEBI, 100 * _MEBI, 300 * _MEBI])
def test_growing_reaches_what_the_layout_promises(tmp_path, size_bytes):
    path = tmp_path / "image"
    layout, _ = _make(path, size_bytes)
    for larger in (size_bytes + _MEBI, 3 * size_bytes, _GIBI):
        blocks = layout.blocks_for(larger)
        os.truncate(path, blocks * ext4.BLOCK_BYTES)
        assert ext4.grow_unmounted(str(path), blocks) is None
        found = _read_superblock(path)
        assert found.capacity_bytes >= larger
        assert found.layout.inodes_per_group == layout.inodes_per_group
        assert (_free_blocks(path) - _SPARE_BLOCKS) * ext4.BLOCK_BYTES >= larger


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_the_features_are_ours_whatever_the_distribution_prefers(tmp_path, is_encrypted):
    path = tmp_path / "image"
    _make(path, 16 * _MEBI, is_encrypted=is_encrypted)
    done = subprocess.run(
        ["dumpe2fs", "-h", path],
        env={"PATH": ext4._TOOL_PATH, "LC_ALL": "C"},
        check=True,
        capture_output=True,
        text=True,
    )
    said = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    wanted = set(ext4._FEATURES.split(",")) - {"none"} | ({"encrypt"} if is_encrypted else set())
    assert set(said["Filesystem features"].split()) == wanted
    assert said["Errors behavior"].strip() == "Remount read-only"
    assert said["Reserved block count"].strip() == "0"


# Superblocks


def test_more_blocks_than_32_bits_count_are_read(image):
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<I", 3), 1024 + 0x150)
        low = _read_superblock(image).blocks & 0xFFFF_FFFF
        assert ext4.read_superblock(file.fileno()).blocks == 3 << 32 | low


@pytest.mark.parametrize("content", [b"", bytes(1500), bytes(1 << 20), b"\xff" * (1 << 20)])
def test_what_is_no_file_system_is_told(tmp_path, content):
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no ext4 file system"):
        _read_superblock(path)


def test_a_file_system_of_another_kind_is_told(tmp_path):
    path = tmp_path / "image"
    with path.open("xb") as file:
        file.truncate(8 * _MEBI)
    code, output = ext4._run("mkfs.ext4", "-q", "-F", "-b", "1024", str(path))
    assert code == 0, output
    with pytest.raises(ValueError, match="blocks of 1024 bytes, not 4096"):
        _read_superblock(path)


# Checking


def test_a_sound_file_system_is_left_alone(image):
    before = image.read_bytes()
    assert ext4.check(str(image)) is None
    assert image.read_bytes() == before
    assert ext4.check(str(image), is_thorough=True) is None


def test_a_repair_that_may_cost_files_is_told(image):
    # The root directory's inode, which `e2fsck -p` does not dare to mend.
    code, output = ext4._run("debugfs", "-w", "-R", "clri <2>", str(image))
    assert code == 0, output
    repaired = ext4.check(str(image), is_thorough=True)
    assert repaired is not None
    assert "\n" not in repaired
    assert ext4.check(str(image), is_thorough=True) is None


def test_what_cannot_be_repaired_is_told(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(8 * _MEBI))
    with pytest.raises(ext4.DamagedError, match=r"could not repair it \(exit code 8\)"):
        ext4.check(str(path))
    assert path.read_bytes() == bytes(8 * _MEBI)


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_what_was_mended_without_loss_needs_no_second_look(tools, code):
    tools("e2fsck", f'[ "$1" = -p ] || exit 8; exit {code}')
    assert ext4.check("/dev/none") is None


@pytest.mark.parametrize("first", ["exit 4", "exit 8", "exit 12", "kill -9 $$"])
def test_a_careful_look_that_fails_is_followed_by_a_thorough_one(tools, first):
    tools("e2fsck", f'[ "$1" = -p ] && {first}\necho "  Fixed. "; echo; echo "$@"; exit 1')
    assert ext4.check("/dev/none") == "Fixed.; -f -y /dev/none"


@pytest.mark.parametrize(
    ("second", "code"), [("exit 4", 4), ("exit 5", 5), ("exit 8", 8), ("kill -9 $$", -9)]
)
def test_damage_that_stays_is_told_with_the_exit_code(tools, second, code):
    tools("e2fsck", f'[ "$1" = -p ] && exit 4\necho no luck; {second}')
    with pytest.raises(ext4.DamagedError, match=rf"\(exit code {code}\): no luck"):
        ext4.check("/dev/none")


# Tools


def test_tools_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ext4, "_TOOL_PATH", str(tmp_path))
    with pytest.raises(ext4.ToolMissingError, match=r"e2fsck is not installed: install e2fsprogs"):
        ext4.check("/dev/none")


def test_tools_that_fail_are_told_with_what_they_said(tools, tmp_path):
    tools("mkfs.ext4", "echo no room; exit 1")
    tools("e2fsck", "exit 0")
    tools("resize2fs", "echo no room either >&2; exit 3")
    with pytest.raises(ext4.ToolFailedError, match=r"mkfs.ext4 .* \(exit code 1\): no room"):
        _make(tmp_path / "image", 16 * _MEBI)
    with pytest.raises(ext4.ToolFailedError, match=r"resize2fs .* code 3\): no room either"):
        ext4.grow_unmounted("/dev/none", 4096)
