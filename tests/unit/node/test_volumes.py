import os
import stat
from pathlib import Path

import pytest

from limpet.node import volumes as volumes_module
from limpet.node.volumes import Volumes
from limpet.plan import AppKey, PlannedMount

KEY = AppKey("default", "a")


@pytest.fixture
def volumes(tmp_path):
    return Volumes(tmp_path)


@pytest.fixture
def opened(volumes):
    """Open mounts and return their paths."""
    found = []

    def open_mounts(*mounts, key=KEY):
        descriptors = volumes.open_mounts(key, mounts)
        found.extend(descriptors)
        return [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in descriptors]

    yield open_mounts
    for descriptor in found:
        os.close(descriptor)


def files(*pairs):
    return PlannedMount(kind="Files", source="c", path="/c", is_read_only=True, files=pairs)


def claim(name):
    return PlannedMount(kind="PersistentVolumeClaim", source=name, path="/data", is_read_only=False)


EMPTY = PlannedMount(kind="EmptyDir", source="scratch", path="/tmp", is_read_only=False)


def test_each_mount_is_a_private_directory(opened, tmp_path):
    paths = opened(claim("data"), EMPTY, files(("k", b"v")))
    assert paths[0] == f"{tmp_path}/volumes/default/data"
    assert paths[1] == f"{tmp_path}/apps/default/a/empty/scratch"
    assert paths[2].startswith(f"{tmp_path}/apps/default/a/files/2/")
    for path in paths:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_descriptors_are_not_inherited(volumes):
    [descriptor] = volumes.open_mounts(KEY, [EMPTY])
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_files_have_their_content_and_can_not_be_written(opened):
    [path] = opened(files(("a", b"1\0\xff"), ("deep/er/b", b""), ("c", b"x" * 100_000)))
    assert sorted(os.listdir(path)) == ["a", "c", "deep"]
    assert Path(f"{path}/a").read_bytes() == b"1\0\xff"
    assert Path(f"{path}/deep/er/b").read_bytes() == b""
    assert stat.S_IMODE(os.stat(f"{path}/a").st_mode) == 0o400


def test_the_same_files_are_the_same_folder_and_others_another(opened):
    first, again = opened(files(("a", b"1"))), opened(files(("a", b"1")))
    other = opened(files(("a", b"2")))
    assert first == again
    assert first != other
    assert Path(f"{first[0]}/a").read_bytes() == b"1", "a guest that runs keeps its own"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("a", b"b")], [("ab", b"")]),
        ([("a", b""), ("b", b"")], [("a", b"b")]),
        ([("a", b"1 b 1")], [("a", b"1"), ("b", b"1")]),
        ([], [("a", b"")]),
    ],
)
def test_different_files_are_never_the_same_folder(opened, one, other):
    assert opened(files(*one)) != opened(files(*other))


def test_a_folder_is_there_whole_or_not_at_all(volumes, opened, monkeypatch):
    real = volumes_module.write_atomically
    written = []

    def write(path, content, *, mode):
        if len(written) == 1:
            raise OSError("the power went out")
        written.append(path)
        real(path, content, mode=mode)

    monkeypatch.setattr(volumes_module, "write_atomically", write)
    mount = files(("a", b"1"), ("b", b"2"))
    with pytest.raises(OSError, match="power"):
        volumes.open_mounts(KEY, [mount])
    monkeypatch.undo()
    [path] = opened(mount)
    assert sorted(os.listdir(path)) == ["a", "b"]
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_what_was_opened_is_closed_when_one_fails(volumes, tmp_path):
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "default").write_text("in the way")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="volumes/default"):
        volumes.open_mounts(KEY, [EMPTY, claim("data")])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_claim_outlives_its_app(volumes, opened, tmp_path):
    data, scratch = opened(claim("data"), EMPTY)
    for path in (data, scratch):
        Path(f"{path}/file").write_text("x")
    [other] = opened(EMPTY, key=AppKey("default", "b"))
    volumes.remove_app(KEY)
    assert os.path.exists(f"{data}/file")
    assert not os.path.exists(scratch)
    assert os.path.exists(other)
    volumes.retire_claim("default", "data")
    volumes.remove_retired()
    assert not os.path.exists(data)


def test_removing_what_is_not_there_is_fine(volumes):
    volumes.remove_app(KEY)
    volumes.retire_claim("default", "data")
    volumes.remove_retired()
