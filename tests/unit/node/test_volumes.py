"""Folders of guests: plain ones, and real images in a mount namespace of the test's own."""

import asyncio
import functools
import json
import os
import stat
import threading
from types import SimpleNamespace

import pytest
from linux.forked import attempt, needs_root
from linux.private_mounts import needs_loop_devices, privately, wait_until_detached

from limpet.errors import LimpetError
from limpet.linux import fscrypt
from limpet.linux.mount import find_mount
from limpet.node import configuration_files
from limpet.node import volumes as volumes_module
from limpet.node.mounts import make_private_mounts, mounts_directory
from limpet.node.volume_identity import VolumeIdentityError
from limpet.node.volumes import Volumes
from limpet.plan import AppKey, PlannedMount
from limpet.provision.facilities import VolumeSupport
from limpet.store.images import VolumeBusyError, VolumeShrinkError
from limpet.store.keyring import Keyring

KEY = AppKey("default", "a")
MEBI = 1 << 20
ENCRYPTED = VolumeSupport(volumes=True, encryption=True)
UNENCRYPTED = VolumeSupport(volumes=True, encryption=False)


def files(*pairs):
    return PlannedMount(kind="Files", source="c", path="/c", is_read_only=True, files=pairs)


def claim(name="data", size_bytes=8 * MEBI):
    return PlannedMount(
        kind="PersistentVolumeClaim",
        source=name,
        path="/data",
        is_read_only=False,
        size_bytes=size_bytes,
    )


def empty(medium="", size_bytes=8 * MEBI):
    return PlannedMount(
        kind="EmptyDir",
        source="scratch",
        path="/tmp",
        is_read_only=False,
        size_bytes=size_bytes,
        medium=medium,
    )


@pytest.fixture
def keys(tmp_path):
    keyring, _ = Keyring.open(tmp_path / "keys", [bytes(32)])
    return SimpleNamespace(keyring=keyring)


class Folders:
    """Volumes, and the folders that guests were given of them."""

    def __init__(self, directory, keys, support=None):
        self.reports = []
        self.told = []
        self.volumes = Volumes(directory, keys, lambda *report: self.reports.append(report))
        self.volumes._support = support
        self._given = []

    def prepare(self, *mounts, key=KEY):
        asyncio.run(self.volumes.prepare(key, mounts, self._hear))

    def _hear(self, *event):
        self.told.append(event)

    def give(self, *mounts, key=KEY):
        given = self.volumes.open_mounts(key, mounts)
        self._given += given
        return given

    def open(self, *mounts, key=KEY):
        """Return a folder for each mount, as a worker that starts gets them."""
        self.prepare(*mounts, key=key)
        return self.give(*mounts, key=key)

    def release(self):
        """The guests have ended."""
        for folder in self._given:
            os.close(folder)
        self._given.clear()

    def close(self):
        self.release()
        asyncio.run(self.volumes.close())
        assert self.reports == []


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def plain(tmp_path, keys):
    folders = Folders(tmp_path, keys)
    yield folders
    folders.close()


def write(folder, name, content=b"x"):
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=folder)
    try:
        assert os.write(descriptor, content) == len(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fill(folder, name):
    """Write until the kernel refuses."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder)
    try:
        while True:
            os.write(descriptor, bytes(MEBI))
    finally:
        os.close(descriptor)


def fill_and_remove(folder):
    assert attempt(lambda: fill(folder, "big")) == "ENOSPC"
    os.unlink("big", dir_fd=folder)


def read(folder, name):
    with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()


def listing(folder):
    again = os.open(".", os.O_RDONLY, dir_fd=folder)
    try:
        return sorted(os.listdir(again))
    finally:
        os.close(again)


def is_same(one, other):
    return os.path.samestat(os.fstat(one), os.fstat(other))


# Plain folders


def test_each_mount_is_a_directory_of_its_own_behind_a_closed_door(plain, tmp_path):
    data, scratch, config = plain.open(claim(), empty(), files(("k", b"v")))
    for folder, path, mode in (
        (data, "volumes/default/data/data", 0o777),
        (scratch, "apps/default/a/empty/scratch/data", 0o777),
    ):
        assert os.path.samestat(os.fstat(folder), os.stat(tmp_path / path))
        assert stat.S_IMODE(os.fstat(folder).st_mode) == mode
        assert stat.S_IMODE((tmp_path / path).parent.stat().st_mode) == 0o700
        write(folder, "file")
    assert stat.S_IMODE(os.fstat(config).st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "apps" / "files" / "default" / "a").stat().st_mode) == 0o700


def test_descriptors_are_not_inherited_and_the_caller_s(plain):
    first, second = plain.open(empty()) + plain.give(empty())
    assert first != second
    assert not os.get_inheritable(first)
    assert is_same(first, second)


def test_only_what_was_prepared_can_be_opened(plain):
    plain.prepare(empty())
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        plain.give(empty(), claim())
    assert len(os.listdir("/proc/self/fd")) == before


@needs_root
def test_the_way_up_from_a_given_folder_leads_nowhere(plain):
    for folder in plain.open(claim(), empty(), files(("k", b"v"))):
        up = os.open("../../../..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        try:
            assert is_same(up, folder)
        finally:
            os.close(up)
        assert attempt(lambda at=folder: os.stat("../" * 30 + "etc/passwd", dir_fd=at)) == "ENOENT"


def test_files_have_their_content_and_can_not_be_written(plain):
    [folder] = plain.open(files(("a", b"1\0\xff"), ("deep/er/b", b""), ("c", b"x" * 100_000)))
    assert listing(folder) == ["a", "c", "deep"]
    assert read(folder, "a") == b"1\0\xff"
    assert read(folder, "deep/er/b") == b""
    assert len(read(folder, "c")) == 100_000
    assert stat.S_IMODE(os.stat("a", dir_fd=folder).st_mode) == 0o444
    assert stat.S_IMODE(os.stat("deep/er", dir_fd=folder).st_mode) == 0o755


def test_the_same_files_are_the_same_folder_and_others_another(plain):
    [first] = plain.open(files(("a", b"1")))
    [again] = plain.open(files(("a", b"1")))
    [other] = plain.open(files(("a", b"2")))
    assert is_same(first, again)
    assert not is_same(first, other)
    assert read(first, "a") == b"1", "a guest that runs keeps its own"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("a", b"b")], [("ab", b"")]),
        ([("a", b""), ("b", b"")], [("a", b"b")]),
        ([("a", b"1 b 1")], [("a", b"1"), ("b", b"1")]),
        ([], [("a", b"")]),
    ],
)
def test_different_files_are_never_the_same_folder(plain, one, other):
    assert not is_same(*plain.open(files(*one), files(*other)))


def test_a_folder_is_there_whole_or_not_at_all(plain, tmp_path, monkeypatch):
    real = configuration_files.write_atomically
    written = []

    def write_once(path, content, *, mode):
        if len(written) == 1:
            raise OSError("the power went out")
        written.append(path)
        real(path, content, mode=mode)

    mount = files(("a", b"1"), ("b", b"2"))
    with monkeypatch.context() as patch:
        patch.setattr(configuration_files, "write_atomically", write_once)
        with pytest.raises(OSError, match="power"):
            plain.prepare(mount)
    [folder] = plain.open(mount)
    assert listing(folder) == ["a", "b"]
    [made] = (tmp_path / "apps" / "files" / "default" / "a").iterdir()
    assert not made.name.startswith(".")


def test_a_claim_outlives_its_app(plain, tmp_path):
    data, scratch = plain.open(claim(), empty())
    [other] = plain.open(empty(), key=AppKey("default", "b"))
    for folder in (data, scratch, other):
        write(folder, "file")
    plain.volumes.remove_app(KEY)
    assert listing(scratch) == []
    assert listing(data) == listing(other) == ["file"]
    [new] = plain.open(empty())
    assert listing(new) == []
    assert listing(plain.open(claim())[0]) == ["file"]
    plain.volumes.retire_claim("default", "data")
    assert read(data, "file") == b"x", "guests that drain keep what they have"
    [fresh] = plain.open(claim())
    assert listing(fresh) == []
    plain.volumes.remove_retired()
    assert listing(data) == []
    assert os.listdir(tmp_path / "volumes" / "default") == ["data"]


def test_removing_what_is_not_there_is_fine(plain):
    plain.volumes.remove_app(KEY)
    plain.volumes.retire_claim("default", "data")
    plain.volumes.remove_retired()


def test_a_plain_folder_has_no_figures(plain):
    plain.prepare(claim())
    assert plain.volumes.usage("default", "data") is None
    assert plain.volumes.usage("default", "other") is None
    assert asyncio.run(plain.volumes.trim()) == 0


def held_back(call, begun, may_go_on):
    """Return the call, as slow as a disk can be: it waits in its thread."""

    def wait_and_call(*given, **named):
        begun.set()
        assert may_go_on.wait(10)
        return call(*given, **named)

    return wait_and_call


def give_up_and_ask_again(ask, begun, may_go_on):
    """Ask, give up while a thread is at work, and ask again before that one is done."""

    async def main():
        first = asyncio.create_task(ask())
        assert await asyncio.to_thread(begun.wait, 10)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(ask())
        await asyncio.sleep(0)
        may_go_on.set()
        return await second

    return asyncio.run(main())


def test_a_volume_whose_opening_was_given_up_can_be_opened(plain, monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()
    plain.volumes._support = ENCRYPTED
    opened = []

    def open_it(folder, *_, **__):
        opened.append(folder)
        descriptor = os.open(folder.parent.parent.parent, os.O_RDONLY)
        return volumes_module._Open(descriptor, size_bytes=claim().size_bytes)

    opening = held_back(open_it, begun, may_go_on)
    monkeypatch.setattr(plain.volumes, "_open_image", opening)
    give_up_and_ask_again(lambda: plain.volumes.prepare(KEY, [claim()]), begun, may_go_on)
    assert len(opened) == 1, "opened a second time, beside the first"
    assert plain.give(claim())


def test_one_survey_at_a_time(plain, monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()
    surveys = []

    def survey():
        surveys.append(1)
        return ENCRYPTED

    monkeypatch.setattr(plain.volumes, "_survey", held_back(survey, begun, may_go_on))
    assert give_up_and_ask_again(plain.volumes.support, begun, may_go_on) == ENCRYPTED
    assert surveys == [1]


def test_without_mounts_of_its_own_a_node_has_plain_folders_only(plain):
    assert plain.volumes.known_support is None
    support = asyncio.run(plain.volumes.support())
    assert (support.volumes, support.encryption) == (False, False)
    assert support.why_not
    assert plain.volumes.known_support is support


# Images, mounted where nobody else sees it


def with_mounts(test):
    """Run a test on a node's own mounts; what it attached is gone when it is over."""

    @needs_loop_devices
    @functools.wraps(test)
    def run(tmp_path, keys, **named):
        @privately
        def act():
            assert make_private_mounts(tmp_path) == ""
            test(tmp_path, keys, **named)

        act()
        wait_until_detached(tmp_path)
        assert find_mount(mounts_directory(tmp_path)) is None, "this device sees no mount"

    return run


def is_encrypted(folder):
    try:
        return fscrypt.get_policy(folder) is not None
    except OSError as error:
        if fscrypt.is_unsupported(error):
            return False
        raise


@with_mounts
def test_the_survey_tells_what_volumes_can_be_and_leaves_nothing(tmp_path, keys):
    folders = Folders(tmp_path, keys)
    support = asyncio.run(folders.volumes.support())
    assert support.volumes, support.why_not
    assert support.encryption or support.why_not
    assert os.listdir(mounts_directory(tmp_path)) == []
    folders.close()


@pytest.mark.parametrize("support", [ENCRYPTED, UNENCRYPTED], ids=["encrypted", "unencrypted"])
@with_mounts
def test_a_volume_persists_is_bounded_and_leads_nowhere(tmp_path, keys, support):
    folders = Folders(tmp_path, keys, support)
    [data] = folders.open(claim())
    write(data, "file", b"kept")
    assert is_encrypted(data) is support.encryption
    assert attempt(lambda: os.stat("../" * 30 + "etc/passwd", dir_fd=data)) == "ENOENT"
    assert is_same(data, folders.give(claim())[0])
    usage = folders.volumes.usage("default", "data")
    assert 8 * MEBI <= usage.size_bytes <= 8.5 * MEBI
    assert attempt(lambda: fill(data, "big")) == "ENOSPC"
    folders.close()
    again = Folders(tmp_path, keys, support)
    assert read(again.open(claim())[0], "file") == b"kept"
    again.close()
    image = (tmp_path / "volumes" / "default" / "data" / "volume.img").read_bytes()
    assert (b"kept" in image) is not support.encryption


def blocks_bytes(tmp_path):
    """Return how much of the disk a claim's image has, and its size."""
    found = os.stat(tmp_path / "volumes" / "default" / "data" / "volume.img")
    return found.st_blocks * 512, found.st_size


@with_mounts
def test_a_claim_is_set_aside_where_the_disk_has_room(tmp_path, keys, monkeypatch):
    monkeypatch.setattr(volumes_module, "decide_kept", lambda free_bytes, total_bytes: 1 << 60)
    folders = Folders(tmp_path, keys, UNENCRYPTED)
    [data] = folders.open(claim())
    assert [reason for reason, _, _ in folders.told] == ["VolumeNotSetAside"]
    fill_and_remove(data)
    assert asyncio.run(folders.volumes.trim()) > 0
    held, size = blocks_bytes(tmp_path)
    assert held < size // 4, "it takes what guests store"
    folders.close()

    monkeypatch.undo()
    again = Folders(tmp_path, keys, UNENCRYPTED)
    again.open(claim())
    held, size = blocks_bytes(tmp_path)
    assert held >= size
    assert asyncio.run(again.volumes.trim()) == 0
    assert blocks_bytes(tmp_path) == (held, size), "they are promised"
    again.release()
    again.open(claim(size_bytes=24 * MEBI))
    held, grown = blocks_bytes(tmp_path)
    assert held >= grown > size
    assert again.told == []
    again.close()


@with_mounts
def test_scratch_space_takes_what_guests_store(tmp_path, keys):
    folders = Folders(tmp_path, keys, UNENCRYPTED)
    [scratch] = folders.open(empty())
    [image] = (tmp_path / "apps").glob("*/*/empty/*/volume.img")
    assert image.stat().st_blocks * 512 < 1 * MEBI
    fill_and_remove(scratch)
    assert asyncio.run(folders.volumes.trim()) > 0
    assert folders.told == []
    folders.close()


@with_mounts
def test_a_volume_that_is_being_opened_is_closed_with_the_rest(tmp_path, keys, monkeypatch):
    folders = Folders(tmp_path, keys, UNENCRYPTED)
    is_making, may_go_on = threading.Event(), threading.Event()
    make = folders.volumes._open_image

    def make_slowly(*arguments, **named):
        is_making.set()
        assert may_go_on.wait(10)
        return make(*arguments, **named)

    monkeypatch.setattr(folders.volumes, "_open_image", make_slowly)

    async def close_meanwhile():
        preparing = [
            asyncio.ensure_future(folders.volumes.prepare(KEY, [claim(name)])) for name in "ab"
        ]
        await asyncio.to_thread(is_making.wait, 10)
        for each in preparing:
            each.cancel()
        closing = asyncio.ensure_future(folders.volumes.close())
        await asyncio.sleep(0)
        assert not closing.done()
        may_go_on.set()
        await closing

    asyncio.run(close_meanwhile())
    images = {path.parent.name for path in (tmp_path / "volumes").rglob("volume.img")}
    assert len(images) == 1, "the second was not begun"
    assert not list((mounts_directory(tmp_path) / "volumes").glob("*/data"))
    folders.close()


@pytest.mark.parametrize(
    ("made", "opened"), [(ENCRYPTED, UNENCRYPTED), (UNENCRYPTED, ENCRYPTED)], ids=["on", "off"]
)
@with_mounts
def test_a_volume_stays_what_it_was_made_as(tmp_path, keys, made, opened):
    folders = Folders(tmp_path, keys, made)
    write(folders.open(claim())[0], "file", b"kept")
    folders.close()
    again = Folders(tmp_path, keys, opened)
    [data, other] = again.open(claim(), claim("other"))
    assert read(data, "file") == b"kept"
    assert is_encrypted(data) is made.encryption
    assert is_encrypted(other) is opened.encryption
    again.close()


@with_mounts
def test_volumes_follow_a_rotated_key(tmp_path, keys):
    folders = Folders(tmp_path, keys, ENCRYPTED)
    write(folders.open(claim())[0], "file", b"kept")
    folders.close()
    keys.keyring.rotate()
    again = Folders(tmp_path, keys, ENCRYPTED)
    [data, _] = again.open(claim(), claim("new"))
    assert read(data, "file") == b"kept"
    places = [tmp_path / "volumes" / "default" / name / "volume.json" for name in ("data", "new")]
    assert [json.loads(path.read_bytes())["generation"] for path in places] == [2, 2]
    assert [reason for reason, _ in again.reports] == ["VolumeReencrypted"]
    again.reports.clear()
    again.close()


@with_mounts
def test_a_kill_between_identity_and_image_costs_nothing(tmp_path, keys):
    folder = tmp_path / "volumes" / "default" / "data"
    folder.mkdir(parents=True)
    identity = folder / "volume.json"
    identity.write_text('{"id": "00112233445566778899aabbccddeeff", "generation": 7}')
    folders = Folders(tmp_path, keys, ENCRYPTED)
    write(folders.open(claim())[0], "file", b"kept")
    made = identity.read_bytes()
    assert json.loads(made)["generation"] == 1, "of a key that is there"
    folders.close()
    again = Folders(tmp_path, keys, ENCRYPTED)
    assert read(again.open(claim())[0], "file") == b"kept"
    assert identity.read_bytes() == made
    again.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "1"}', b"\xff"])
@with_mounts
def test_a_damaged_identity_is_refused_and_nothing_is_touched(tmp_path, keys, content):
    folders = Folders(tmp_path, keys, ENCRYPTED)
    folders.prepare(claim())
    folders.close()
    identity = tmp_path / "volumes" / "default" / "data" / "volume.json"
    identity.write_bytes(content)
    again = Folders(tmp_path, keys, ENCRYPTED)
    with pytest.raises(VolumeIdentityError, match="restore it"):
        again.prepare(claim())
    assert identity.read_bytes() == content
    again.close()


@with_mounts
def test_a_claim_can_be_made_again_while_the_old_one_is_held(tmp_path, keys):
    folders = Folders(tmp_path, keys, ENCRYPTED)
    [old] = folders.open(claim())
    write(old, "file", b"old")
    folders.volumes.retire_claim("default", "data")
    assert folders.volumes.usage("default", "data") is None
    [new] = folders.open(claim())
    assert listing(new) == []
    write(new, "file", b"new")
    assert (read(old, "file"), read(new, "file")) == (b"old", b"new")
    folders.volumes.remove_retired()
    assert (read(old, "file"), read(new, "file")) == (b"old", b"new")
    assert os.listdir(tmp_path / "volumes" / "default") == ["data"]
    assert read(folders.give(claim())[0], "file") == b"new"
    folders.close()


@with_mounts
def test_a_claim_grows_and_keeps_what_is_in_it(tmp_path, keys):
    folders = Folders(tmp_path, keys, UNENCRYPTED)
    write(folders.open(claim())[0], "file", b"kept")
    folders.release()
    [data] = folders.open(claim(size_bytes=24 * MEBI))
    assert read(data, "file") == b"kept"
    assert folders.volumes.usage("default", "data").size_bytes >= 24 * MEBI
    folders.prepare(claim(size_bytes=16 * MEBI))
    assert folders.volumes.usage("default", "data").size_bytes >= 24 * MEBI, "never less"
    folders.close()
    again = Folders(tmp_path, keys, UNENCRYPTED)
    with pytest.raises(VolumeShrinkError):
        again.prepare(claim())
    again.close()


@with_mounts
def test_a_claim_that_can_not_grow_yet_stays_open_as_it_was(tmp_path, keys):
    folders = Folders(tmp_path, keys, UNENCRYPTED)
    [data] = folders.open(claim())
    write(data, "file", b"kept")
    try:
        folders.prepare(claim(size_bytes=24 * MEBI))
    except VolumeBusyError:  # where the kernel lets nobody grow it online
        assert folders.volumes.usage("default", "data").size_bytes <= 8.5 * MEBI
    assert read(folders.give(claim())[0], "file") == b"kept"
    write(data, "file", b"still")
    assert read(folders.give(claim())[0], "file") == b"still"
    folders.close()


@with_mounts
def test_a_claim_that_is_too_large_is_refused_and_leaves_nothing_open(tmp_path, keys):
    folders = Folders(tmp_path, keys, UNENCRYPTED)
    with pytest.raises(LimpetError, match="default/data"):
        folders.prepare(claim(size_bytes=1 << 60))
    with pytest.raises(FileNotFoundError):
        folders.give(claim())
    folders.close()


@with_mounts
def test_scratch_in_memory_is_bounded_and_goes_with_its_app(tmp_path, keys):
    folders = Folders(tmp_path, keys, ENCRYPTED)
    [scratch] = folders.open(empty("Memory", 1 * MEBI))
    assert os.fstatvfs(scratch).f_blocks * os.fstatvfs(scratch).f_frsize == 1 * MEBI
    write(scratch, "file", b"secret")
    assert attempt(lambda: os.stat("../" * 30 + "etc/passwd", dir_fd=scratch)) == "ENOENT"
    assert read(folders.open(empty("Memory", 1 * MEBI))[0], "file") == b"secret"
    [larger] = folders.open(empty("Memory", 2 * MEBI))
    assert os.fstatvfs(larger).f_blocks * os.fstatvfs(larger).f_frsize == 2 * MEBI
    assert read(larger, "file") == b"secret"
    assert not (tmp_path / "apps").exists(), "it never reaches storage"
    folders.volumes.remove_app(KEY)
    [fresh] = folders.open(empty("Memory", 1 * MEBI))
    assert listing(fresh) == [], "an app of the same name begins anew"
    folders.volumes.remove_app(KEY)
    assert os.listdir(mounts_directory(tmp_path) / "memory") == []
    folders.close()


@with_mounts
def test_scratch_on_disk_is_an_image_that_goes_with_its_app(tmp_path, keys):
    folders = Folders(tmp_path, keys, ENCRYPTED)
    [scratch] = folders.open(empty())
    write(scratch, "file")
    folders.volumes.remove_app(KEY)
    assert read(scratch, "file") == b"x", "guests that drain keep what they have"
    [fresh] = folders.open(empty())
    assert listing(fresh) == []
    folders.close()


@with_mounts
def test_files_lie_in_memory_alone(tmp_path, keys):
    folders = Folders(tmp_path, keys, ENCRYPTED)
    [config] = folders.open(files(("password", b"secret")))
    assert read(config, "password") == b"secret"
    entry = find_mount(mounts_directory(tmp_path))
    assert entry.kind == "tmpfs"
    assert os.fstat(config).st_dev == os.stat(mounts_directory(tmp_path)).st_dev
    assert attempt(lambda: os.stat("../" * 30 + "etc/passwd", dir_fd=config)) == "ENOENT"
    assert not (tmp_path / "apps").exists()
    folders.volumes.remove_app(KEY)
    assert os.listdir(mounts_directory(tmp_path) / "files" / "default") == []
    folders.close()


@with_mounts
def test_closing_leaves_nothing_mounted(tmp_path, keys):
    folders = Folders(tmp_path, keys, ENCRYPTED)
    folders.open(claim(), empty(), empty("Memory"), files(("a", b"1")))
    folders.close()
    mounts = os.fspath(mounts_directory(tmp_path))
    with open("/proc/thread-self/mountinfo", encoding="utf-8") as table:
        assert [line for line in table if f" {mounts}/" in line] == []
