"""Volumes encrypted anew: real images, loop devices and mounts."""

import os

import pytest
from linux.private_mounts import needs_loop_devices, privately, wait_until_detached

from limpet.store.images import VolumeImage
from limpet.store.rewriting import RewriteError, copy_volume, exchange

pytestmark = needs_loop_devices

_SIZE = 16 << 20
_OLD, _NEW = bytes(range(64)), bytes(range(64, 128))


@pytest.fixture
def place(tmp_path):
    yield tmp_path
    wait_until_detached(tmp_path)


def volume(place, name, key, size_bytes=_SIZE):
    return VolumeImage(place / name, place / f"{name}-mount", size_bytes=size_bytes, key=key)


def write(folder, name, content):
    with open(os.open(name, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=folder), "wb") as file:
        file.write(content)


@privately
def test_everything_is_copied_and_readable_with_the_new_key_alone(place):
    old, new = volume(place, "old", _OLD), volume(place, "new", _NEW)
    folder = old.open()
    os.mkdir("sub", dir_fd=folder)
    write(folder, "sub/file", b"content" * 1000)
    os.link("sub/file", "linked", src_dir_fd=folder, dst_dir_fd=folder)
    os.symlink("sub/file", "symlink", dir_fd=folder)
    write(folder, "sparse", b"")
    with open(os.open("sparse", os.O_WRONLY, dir_fd=folder), "wb") as sparse:
        sparse.truncate(64 << 20)
    os.utime("sub/file", ns=(1_000_000_001, 2_000_000_002), dir_fd=folder)
    os.close(folder)
    old.close()

    copy_volume(old, new)

    folder = volume(place, "new", _NEW).open()
    try:
        found = os.stat("sub/file", dir_fd=folder)
        assert os.stat("linked", dir_fd=folder).st_ino == found.st_ino
        assert (found.st_mtime_ns, found.st_mode & 0o777) == (2_000_000_002, 0o640)
        assert os.readlink("symlink", dir_fd=folder) == "sub/file"
        hole = os.stat("sparse", dir_fd=folder)
        assert (hole.st_size, hole.st_blocks) == (64 << 20, 0)
        with open(os.open("linked", os.O_RDONLY, dir_fd=folder), "rb") as file:
            assert file.read() == b"content" * 1000
    finally:
        os.close(folder)


@privately
def test_what_does_not_fit_leaves_the_old_one_as_it_was(place):
    old, small = volume(place, "old", _OLD), volume(place, "small", _NEW, size_bytes=4 << 20)
    folder = old.open()
    write(folder, "secret-name", b"x" * (8 << 20))
    os.close(folder)
    old.close()
    with pytest.raises(RewriteError, match="No space left") as error:
        copy_volume(old, small)
    assert "secret-name" not in str(error.value)
    folder = volume(place, "old", _OLD).open()
    assert os.stat("secret-name", dir_fd=folder).st_size == 8 << 20
    os.close(folder)


def test_folders_change_places(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "which").read_text() == "other"
    assert (tmp_path / "other" / "which").read_text() == "one"
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "nowhere")
