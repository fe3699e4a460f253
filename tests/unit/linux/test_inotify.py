"""What the kernel tells of a folder, and how its answer is read."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.linux import inotify
from limpet.linux.beneath import open_beneath


@pytest.fixture
def watched(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    watching = inotify.Inotify()
    watching.watch(folder)
    yield watching
    watching.close()
    os.close(folder)


def test_a_file_comes_changes_and_goes(watched, tmp_path):
    assert watched.read() == []
    file = tmp_path / "a"
    file.write_text("x")
    file.rename(tmp_path / "b")
    (tmp_path / "b").unlink()
    told = [(notice.mask, notice.name) for notice in watched.read()]
    assert told == [
        (inotify.CREATE, "a"),
        (inotify.MODIFY, "a"),
        (inotify.CLOSE_WRITE, "a"),
        (inotify.MOVED_FROM, "a"),
        (inotify.MOVED_TO, "b"),
        (inotify.DELETE, "b"),
    ]


def test_the_same_folder_has_one_watch(watched, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    assert watched.watch(folder) == watched.watch(folder)
    os.close(folder)


def test_only_folders_are_watched(watched, tmp_path):
    (tmp_path / "file").touch()
    file = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        watched.watch(file)
    os.close(file)


_NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: 0 not in name)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 2**31), _NAMES)))
def test_events_are_split_as_they_were_joined(events):
    data = b""
    for watch, mask, name in events:
        padded = name.ljust(-(-(len(name) + 1) // 16) * 16, b"\0")
        data += struct.pack("iIII", watch, mask, 0, len(padded)) + padded
    told = [(n.watch, n.mask, os.fsencode(n.name)) for n in inotify.parse_notices(data)]
    assert told == events


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "link", "inner/../../outside"])
def test_no_path_leads_out(tmp_path, path):
    inside = tmp_path / "inside"
    (inside / "inner").mkdir(parents=True)
    (tmp_path / "outside").touch()
    (inside / "link").symlink_to(tmp_path / "outside")
    folder = os.open(inside, os.O_RDONLY)
    with pytest.raises(OSError, match="cross-device"):
        open_beneath(folder, path, os.O_RDONLY)
    os.close(folder)


def test_a_link_within_is_followed(tmp_path):
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    folder = os.open(tmp_path, os.O_RDONLY)
    file = open_beneath(folder, "link", os.O_RDONLY)
    assert os.read(file, 9) == b"x"
    os.close(file)
    with pytest.raises(OSError, match="Invalid"):
        open_beneath(folder, "a\0b", os.O_RDONLY)
    os.close(folder)
