"""Real images, loop devices and mounts; the mounts are in namespaces of their own."""

import contextlib
import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from linux.private_mounts import (
    attached_below,
    needs_loop_devices,
    privately,
    wait_until_detached,
)

from limpet.errors import TemporaryError
from limpet.linux import fscrypt, loop, mount
from limpet.store import ext4, images
from limpet.store.images import VolumeImage

pytestmark = needs_loop_devices

_MEBI = 1 << 20
_SIZE = 16 * _MEBI
_KEY = bytes(range(64))


@pytest.fixture
def place(tmp_path):
    yield tmp_path
    wait_until_detached(tmp_path)


def _volume(place, size_bytes=_SIZE, key=None, **named):
    named.setdefault("report", _no_report)
    return VolumeImage(place / "claim", place / "mounted", size_bytes=size_bytes, key=key, **named)


def _no_report(text):
    raise AssertionError(f"unexpected report: {text}")


def _image(place):
    return place / "claim" / "volume.img"


def _write(folder, name, content):
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=folder)
    try:
        assert os.write(descriptor, content) == len(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder, name):
    with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()


def _fill(folder, name="big"):
    """Write until the volume is full; return how many bytes it took, all of them on disk."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    try:
        for size in (1 << 16, 4096):
            while True:
                try:
                    os.write(descriptor, b"x" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _append(descriptor, content):
    os.write(descriptor, content)
    os.fsync(descriptor)


def _fill_with_small_files(folder):
    for index in range(2000):
        try:
            _write(folder, f"f{index}", b"x" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
    raise AssertionError("it takes any number of files")


def _reopened(place, **named):
    """Return a volume and the folder that opening it gave."""
    volume = _volume(place, **named)
    return volume, volume.open()


@contextlib.contextmanager
def _small_disk(place):
    """Give a file system in memory, and what leaves it no room until it is closed."""
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "small", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@contextlib.contextmanager
def _filled(disk):
    ballast = os.open(disk / "ballast", os.O_RDWR | os.O_CREAT)
    try:
        for chunk in (_MEBI, 4096):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(ballast, os.fstat(ballast).st_size, chunk)
        yield
    finally:
        os.ftruncate(ballast, 0)
        os.close(ballast)


# What guests get


@pytest.mark.parametrize("key", [None, _KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("size_bytes", [4 * _MEBI, 16_000_000, 100_000_000, 300 * _MEBI])
def test_guests_can_store_what_was_declared_and_no_more(place, size_bytes, key):
    @privately
    def check():
        volume = _volume(place, size_bytes, key)
        data = volume.open()
        before = volume.usage()
        assert size_bytes <= before.available_bytes <= size_bytes * 1.05
        assert 0.95 * size_bytes <= _fill(data) <= 1.05 * size_bytes
        after = volume.usage()
        assert after.size_bytes == before.size_bytes == after.used_bytes + after.available_bytes
        assert after.available_bytes < 0.02 * size_bytes
        assert (before.inodes_used + 1, before.inodes) == (after.inodes_used, after.inodes)
        os.close(data)
        assert volume.close()

    check()


@privately
def test_small_files_fit_as_well(place):
    """One inode per block: a volume is full before it is out of inodes."""
    volume = _volume(place, 4 * _MEBI)
    data = volume.open()
    _fill_with_small_files(data)
    assert volume.usage().inodes_available > 0
    os.close(data)
    volume.close()


@privately
def test_modes_options_and_names(place):
    volume = _volume(place)
    data = volume.open()
    assert stat.S_IMODE(os.fstat(data).st_mode) == 0o777
    assert stat.S_IMODE((place / "mounted").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "claim").stat().st_mode) == 0o700
    assert stat.S_IMODE(_image(place).stat().st_mode) == 0o600
    assert os.listdir(data) == []
    entry = mount.find_mount(place / "mounted")
    assert {"nosuid", "nodev", "noexec", "noatime"} <= set(entry.options)
    assert "discard" not in entry.super_options
    image = os.open(_image(place), os.O_RDONLY)
    device = loop.find_attached(image)
    assert device.status().is_autoclear
    device.close()
    os.close(image)
    os.close(data)
    volume.close()


@privately
def test_files_stay_and_nothing_else_does(place):
    volume, data = _reopened(place)
    _write(data, "a", b"kept")
    os.close(data)
    assert volume.close()
    assert volume.close()
    assert mount.find_mount(place / "mounted") is None
    assert attached_below(place) == []
    volume, data = _reopened(place)
    assert _read(data, "a") == b"kept"
    os.close(data)
    volume.remove()
    assert os.listdir(place) == []
    assert attached_below(place) == []
    volume.remove()


@privately
def test_guests_that_still_run_keep_a_closed_and_a_removed_volume(place):
    volume, data = _reopened(place)
    assert not volume.close()
    _write(data, "a", b"late")
    again, data_again = _reopened(place)
    assert len(attached_below(place)) == 1
    assert _read(data_again, "a") == b"late"
    os.close(data_again)
    again.remove()
    assert not (place / "claim").exists()
    assert _read(data, "a") == b"late"
    os.close(data)


@privately
def test_trimming_gives_space_back_to_the_disk(place):
    volume, data = _reopened(place)
    empty = _image(place).stat().st_blocks * 512
    _fill(data)
    os.sync()
    full = _image(place).stat().st_blocks * 512
    assert full >= 0.95 * _SIZE
    os.unlink("big", dir_fd=data)
    assert volume.trim() >= 0.9 * _SIZE
    assert _image(place).stat().st_blocks * 512 < empty + _MEBI
    os.close(data)
    volume.close()


# Encryption


@pytest.mark.parametrize("key", [None, _KEY], ids=["plain", "encrypted"])
def test_the_image_tells_contents_and_names_only_without_encryption(place, key):
    @privately
    def check():
        name, content = os.urandom(16).hex(), os.urandom(64).hex()
        volume, data = _reopened(place, key=key)
        _write(data, name, content.encode())
        os.mkdir(f"d{name}", dir_fd=data)
        os.symlink(f"/{content}", "link", dir_fd=data)
        os.close(data)
        volume.close()
        raw = _image(place).read_bytes()
        for marker in (name, content):
            assert (marker.encode() in raw) == (key is None)
        assert _KEY[:32] not in raw
        volume, data = _reopened(place, key=key)
        assert _read(data, name) == content.encode()
        os.close(data)
        volume.close()

    check()


@pytest.mark.parametrize(
    ("made_with", "opened_with", "says"),
    [
        (_KEY, bytes(64), "encrypted with another key"),
        (_KEY, None, "is encrypted: give the key"),
        (None, _KEY, "is not encrypted"),
    ],
)
def test_another_key_is_refused_before_anything_is_written(place, made_with, opened_with, says):
    @privately
    def check():
        volume, data = _reopened(place, key=made_with)
        _write(data, "a", b"secret")
        os.close(data)
        volume.close()
        with pytest.raises(images.VolumeKeyError, match=says) as caught:
            _volume(place, key=opened_with).open()
        assert "volume claim" in str(caught.value)
        assert attached_below(place) == []
        volume, data = _reopened(place, key=made_with)
        assert os.listdir(data) == ["a"]
        assert _read(data, "a") == b"secret"
        os.close(data)
        volume.close()

    check()


@privately
def test_a_wrong_key_disturbs_no_guest_that_has_the_right_one(place):
    volume, data = _reopened(place, key=_KEY)
    _write(data, "a", b"secret")
    volume.close()
    with pytest.raises(images.VolumeKeyError):
        _volume(place, key=bytes(64)).open()
    _write(data, "b", b"more")
    assert _read(data, "a") == b"secret"
    os.close(data)


@privately
def test_modes_that_the_kernel_lacks_are_passed_over(place, monkeypatch):
    unknown = fscrypt.Modes(200, 200)
    monkeypatch.setattr(fscrypt, "choose_modes", lambda: (unknown, fscrypt.ADIANTUM, fscrypt.AES))
    volume, data = _reopened(place, key=_KEY)
    chosen = fscrypt.get_policy(data).modes
    assert chosen in (fscrypt.ADIANTUM, fscrypt.AES)
    _write(data, "a", b"works")
    os.close(data)
    volume.close()

    monkeypatch.setattr(fscrypt, "choose_modes", lambda: (unknown,))
    volume, data = _reopened(place, key=_KEY)
    assert fscrypt.get_policy(data).modes == chosen, "an existing volume keeps its modes"
    os.close(data)
    volume.remove()
    with pytest.raises(images.VolumeUnsupportedError, match="without encryption"):
        _volume(place, key=_KEY).open()


@privately
def test_a_folder_whose_making_was_interrupted_is_made_again(place):
    volume, data = _reopened(place, key=_KEY)
    os.close(data)
    os.rename(place / "mounted/data", place / "mounted/.data.part")
    (place / "mounted/.data.part/probe").touch()
    volume.close()
    volume, data = _reopened(place, key=_KEY)
    assert fscrypt.get_policy(data) is not None
    assert os.listdir(data) == []
    assert not (place / "mounted/.data.part").exists()
    os.close(data)
    volume.close()


# Sizes


@privately
def test_a_volume_grows_and_keeps_its_files(place):
    written = []
    for size_bytes in (_SIZE, 40 * _MEBI, 300 * _MEBI):  # within a group, into another
        volume, data = _reopened(place, size_bytes=size_bytes, key=_KEY)
        found = volume.usage()
        assert size_bytes <= found.size_bytes <= 1.05 * size_bytes
        _write(data, str(size_bytes), b"here" * 100_000)
        written.append(str(size_bytes))
        assert sorted(os.listdir(data)) == sorted(written)
        for name in written:
            assert _read(data, name) == b"here" * 100_000
        os.close(data)
        volume.close()
        subprocess.run(["/sbin/e2fsck", "-fn", _image(place)], check=True, capture_output=True)


@privately
def test_what_the_promise_already_covers_changes_nothing(place):
    volume, data = _reopened(place)
    os.close(data)
    volume.close()
    before = _image(place).stat().st_size
    volume, data = _reopened(place, size_bytes=int(_SIZE * 0.97))
    os.close(data)
    volume.close()
    assert _image(place).stat().st_size == before


@privately
def test_shrinking_is_refused_and_loses_nothing(place):
    volume, data = _reopened(place)
    _write(data, "a", b"kept")
    os.close(data)
    volume.close()
    with pytest.raises(images.VolumeShrinkError, match="volume claim has"):
        _volume(place, _SIZE // 2).open()
    assert attached_below(place) == []
    volume, data = _reopened(place)
    assert _read(data, "a") == b"kept"
    os.close(data)
    volume.close()


@privately
def test_sizes_that_cannot_be_are_refused_and_leave_nothing(place):
    with pytest.raises(images.VolumeTooSmallError, match="at least 4Mi"):
        _volume(place, 4 * _MEBI - 1).open()
    with pytest.raises(images.VolumeTooLargeError, match="free some space"):
        _volume(place, 1 << 50).open()
    assert not _image(place).exists()
    assert os.listdir(place / "claim") == []
    volume, data = _reopened(place)
    os.close(data)
    volume.close()
    before = _image(place).stat().st_size
    with pytest.raises(images.VolumeTooLargeError, match="volume claim"):
        _volume(place, 1 << 50).open()
    assert _image(place).stat().st_size == before


# What is missing or broken


@privately
def test_missing_programs_are_named(place, monkeypatch):
    monkeypatch.setattr(ext4, "_TOOL_PATH", str(place))
    with pytest.raises(ext4.ToolMissingError, match=r"volume claim: mkfs.ext4 .* e2fsprogs"):
        _volume(place).open()
    assert os.listdir(place / "claim") == []


@privately
def test_a_tool_that_fails_leaves_nothing(place, monkeypatch):
    (place / "mkfs.ext4").write_text("#!/bin/sh\necho no luck; exit 3\n")
    (place / "mkfs.ext4").chmod(0o755)
    monkeypatch.setattr(ext4, "_TOOL_PATH", f"{place}:/bin")
    with pytest.raises(ext4.ToolFailedError, match=r"exit code 3\): no luck"):
        _volume(place).open()
    assert os.listdir(place / "claim") == []


@privately
def test_one_that_can_not_even_be_unmounted_can_be_tried_again(place, monkeypatch):
    def refuse(mount_point):
        raise OSError(errno.EIO, "no luck")

    volume = _volume(place)
    monkeypatch.setattr("limpet.store.images.volume.unmount", refuse)
    with pytest.raises(images.VolumeFailedError, match="no luck"):
        volume.open()
    monkeypatch.undo()
    os.close(volume.open())
    volume.close()


@privately
def test_missing_loop_devices_are_explained(place, monkeypatch):
    monkeypatch.setattr(loop, "_CONTROL", str(place / "none"))
    with pytest.raises(images.VolumeUnsupportedError, match="modprobe loop"):
        _volume(place).open()


@privately
def test_staged_leftovers_are_removed(place):
    (place / "claim").mkdir()
    (place / "claim/.volume.img.part").write_bytes(b"half")
    volume, data = _reopened(place)
    assert os.listdir(place / "claim") == ["volume.img"]
    os.close(data)
    volume.close()


@privately
def test_a_damaged_volume_is_repaired_and_the_caller_is_told(place):
    volume, data = _reopened(place)
    for index in range(200):
        _write(data, f"f{index}", b"content")
    os.close(data)
    volume.close()
    # The root directory's inode, which `e2fsck -p` does not dare to mend.
    subprocess.run(
        ["/sbin/debugfs", "-w", "-R", "clri <2>", _image(place)], check=True, capture_output=True
    )
    told = []
    volume, data = _reopened(place, report=told.append)
    (text,) = told
    assert text.startswith("volume claim was damaged and has been repaired")
    os.close(data)
    volume.close()
    volume, data = _reopened(place)
    os.close(data)
    volume.close()


@pytest.mark.parametrize("kept_bytes", [0, 4096, 1 << 20, 1_000_001])
def test_what_cannot_be_repaired_is_kept_as_it_is(place, kept_bytes):
    @privately
    def check():
        volume, data = _reopened(place)
        os.close(data)
        volume.close()
        if kept_bytes:
            os.truncate(_image(place), kept_bytes)
        else:
            _image(place).write_bytes(b"no file system" * 100_000 + bytes(4096 - 1_400_000 % 4096))
        before = _image(place).read_bytes()
        with pytest.raises(ext4.DamagedError, match="volume claim"):
            _volume(place, report=None).open()
        assert _image(place).read_bytes() == before
        assert attached_below(place) == []

    check()


# Two at a time, and ends without notice

_NODE = """
import os, sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from linux.private_mounts import enter_private_mounts
from limpet.store.images import VolumeImage
enter_private_mounts()
place = Path({place!r})
volume = VolumeImage(place / "claim", place / "mounted", size_bytes={size}, key={key!r})
data = volume.open()
{then}
"""
_WRITE = """
for index in range(1_000_000):
    content = str(index).encode() * 1000
    file = os.open(f"f{index % 50}", os.O_WRONLY | os.O_CREAT, dir_fd=data)
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))
    os.fsync(file)
    os.close(file)
    os.write(1, b"%d\\n" % index)
"""
_LEAVE_A_WORKER = """
if os.fork() == 0:
    os.close(volume._lock)  # workers are lent the folder alone
    os.write(1, b"0\\n")
    os.read(0, 1)  # until our end
    file = os.open("from the worker", os.O_WRONLY | os.O_CREAT, dir_fd=data)
    os.write(file, b"late")
    os._exit(0)
time.sleep(1000)
"""


class _Node:
    """A process that opens the volume at `place` and then does as it is told."""

    def __init__(self, place, then, size_bytes=_SIZE, key=_KEY):
        here = str(Path(__file__).parents[1])
        script = _NODE.format(
            path=[here, *sys.path], place=str(place), size=size_bytes, key=key, then=then
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def next_number(self):
        line = self._process.stdout.readline()
        return int(line) if line.endswith(b"\n") else None

    def kill(self):
        """Kill it alone, not what it started."""
        self._process.kill()
        self._process.wait()

    def last_number(self):
        """What it said last before it was killed, None if no more than was read."""
        last = None
        while (number := self.next_number()) is not None:
            last = number
        return last

    def say_go_on(self):
        """Let it take one step, if it waits for that."""
        self._process.stdin.write(b".")
        self._process.stdin.flush()

    def release(self):
        """End what it started, which waits on the same input."""
        self._process.stdin.close()
        self._process.stdout.close()


@privately
def test_a_volume_is_open_once(place):
    volume, data = _reopened(place)
    with pytest.raises(images.VolumeBusyError, match="open in another process") as caught:
        _volume(place).open()
    assert isinstance(caught.value, TemporaryError)
    os.close(data)
    assert volume.close()
    volume, data = _reopened(place)
    os.close(data)
    volume.close()


def test_a_new_node_shares_the_device_with_the_workers_of_a_killed_one(place):
    node = _Node(place, _LEAVE_A_WORKER)
    assert node.next_number() == 0

    @privately
    def take_over():
        node.kill()
        volume, data = _reopened(place, key=_KEY)
        assert len(attached_below(place)) == 1
        _write(data, "from the new node", b"early")
        assert mount.find_mount(place / "mounted") is not None
        node.release()
        _wait_for(lambda: "from the worker" in os.listdir(data))
        os.close(data)
        volume.close()

    take_over()
    wait_until_detached(place)
    subprocess.run(["/sbin/e2fsck", "-fn", _image(place)], check=True, capture_output=True)


def _wait_for(is_so):
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_what_was_synced_survives_a_killed_node(place):
    chance = random.Random(1)
    for _ in range(6):
        node = _Node(place, _WRITE)
        for _ in range(chance.randrange(1, 60)):
            last = node.next_number()
        node.kill()
        last = node.last_number() or last
        node.release()
        privately(_expect_synced)(place, last)


def test_what_was_synced_survives_a_power_cut(place):
    """A copy of the image while it is mounted is what the disk holds at that moment."""
    chance = random.Random(2)
    node = _Node(place, _WRITE.replace("os.write(1", "os.read(0, 1); os.write(1"))
    copied = place / "after the cut"
    for _ in range(5):
        for _ in range(chance.randrange(1, 60)):
            node.say_go_on()
            last = node.next_number()
        # The next file is being written, or waits, synced, for its full stop.
        shutil.rmtree(copied, ignore_errors=True)
        (copied / "claim").mkdir(parents=True)
        subprocess.run(["cp", "--sparse=always", _image(place), _image(copied)], check=True)
        privately(_expect_synced)(copied, last)
    node.kill()
    node.release()


def _expect_synced(place, last):
    """Whatever was said to be written is there, or what was written over it later."""
    told = []
    volume, data = _reopened(place, key=_KEY, report=told.append)
    assert told == []
    for index in range(max(0, last - 48), last + 1):
        content = _read(data, f"f{index % 50}")
        newer = index + 50
        assert content in (str(index).encode() * 1000, str(newer).encode() * 1000), index
    os.close(data)
    assert volume.close()


def _end_group(process):
    """Kill a process and what it started, and wait for the end of all: a tool holds the lock, too."""
    os.killpg(process.pid, 9)
    process.wait()
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)
            time.sleep(0.005)


def test_growing_can_be_killed_at_any_moment(place):
    @privately
    def make():
        volume, data = _reopened(place, key=_KEY)
        _write(data, "a", b"kept" * 500_000)
        os.close(data)
        volume.close()

    @privately
    def expect(size_bytes):
        told = []
        volume, data = _reopened(place, size_bytes=size_bytes, key=_KEY, report=told.append)
        assert size_bytes <= volume.usage().size_bytes <= 1.05 * size_bytes
        assert _read(data, "a") == b"kept" * 500_000
        os.close(data)
        assert volume.close()
        subprocess.run(["/sbin/e2fsck", "-fn", _image(place)], check=True, capture_output=True)

    make()
    chance = random.Random(3)
    for step in range(1, 9):
        size_bytes = _SIZE + step * 50 * _MEBI
        script = _NODE.format(
            path=[str(Path(__file__).parents[1]), *sys.path],
            place=str(place),
            size=size_bytes,
            key=_KEY,
            then="",
        ).replace("data = volume.open()", 'os.write(1, b"0"); data = volume.open()')
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, process_group=0
        )
        process.stdout.read(1)
        time.sleep(chance.uniform(0, 0.03))  # the moment, not a condition
        _end_group(process)
        process.stdout.close()
        wait_until_detached(place)
        expect(size_bytes)


def test_what_is_synced_after_a_write_that_failed_is_there(place):
    """The first write of a block fails as the disk is full. Later ones, with room again, don't."""

    @privately
    def check():
        with _small_disk(place) as disk:
            volume = _volume(disk)
            data = volume.open()
            book = os.open("book", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600, dir_fd=data)
            os.fsync(data)
            with _filled(disk), pytest.raises(OSError, match=r"No space|Input.output"):
                _append(book, b"refused;")
            _append(book, b"acknowledged;")
            os.close(book)
            os.close(data)
            volume.close()
            volume, data = _reopened(disk)
            assert _read(data, "book").endswith(b"acknowledged;")
            os.close(data)
            volume.close()

    check()
