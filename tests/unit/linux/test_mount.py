import errno
import os

import pytest

from limpet.linux import mount

from .private_mounts import needs_loop_devices, privately

_LINE = rb"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue"


def test_a_line_of_mountinfo():
    (entry,) = mount.parse_mountinfo(_LINE + b"\n")
    assert entry == mount.MountEntry(
        mount_id=36,
        parent_id=35,
        device=(98, 0),
        root="/mnt1",
        mount_point="/mnt 2\\x",
        options=("rw", "noatime"),
        propagation=("master:1", "shared:7"),
        kind="ext3",
        source="/dev/root",
        super_options=("rw", "errors=continue"),
    )


def test_a_mount_without_tags_and_with_an_empty_source():
    (entry,) = mount.parse_mountinfo(b"1 0 0:1 / / rw - tmpfs  rw\n")
    assert entry.propagation == ()
    assert entry.source == ""


@pytest.mark.parametrize("text", [b"x", b"1 0 0:1 / / rw tmpfs none rw", b"1 0 0 / / rw - a b c"])
def test_what_is_no_mountinfo_is_refused(text):
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        mount.parse_mountinfo(text)


def test_this_machines_mounts_are_understood():
    assert any(entry.mount_point == "/" for entry in mount.read_mounts())


@needs_loop_devices
@privately
def test_mounting_and_unmounting(tmp_path):
    place = tmp_path / "odd name\\\n#\udcff"
    place.mkdir()
    assert mount.find_mount(place) is None
    mount.mount("none", place, "tmpfs", flags=mount.MS_NOEXEC | mount.MS_NODEV, data="size=64k")
    found = mount.find_mount(place)
    assert found is not None
    assert found.kind == "tmpfs"
    assert {"noexec", "nodev"} <= set(found.options)
    assert "size=64k" in found.super_options
    (place / "file").touch()
    mount.unmount(place)
    assert mount.find_mount(place) is None
    assert os.listdir(place) == []


@needs_loop_devices
@privately
def test_a_mount_in_use_goes_only_lazily(tmp_path):
    mount.mount("none", tmp_path, "tmpfs")
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="busy") as caught:
            mount.unmount(tmp_path)
        assert caught.value.errno == errno.EBUSY
        mount.unmount(tmp_path, mount.MNT_DETACH)
        assert mount.find_mount(tmp_path) is None
        assert os.listdir(held) == []
    finally:
        os.close(held)


@needs_loop_devices
@privately
def test_errors_carry_their_number_and_the_place(tmp_path):
    with pytest.raises(OSError, match=r"\S") as caught:
        mount.unmount(tmp_path)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(OSError, match="No such device"):
        mount.mount("none", tmp_path, "no-such-fs")


def test_syncing_needs_an_open_file(tmp_path):
    held = os.open(tmp_path, os.O_RDONLY)
    mount.sync(held)
    os.close(held)
    with pytest.raises(OSError, match="Bad file"):
        mount.sync(held)
