import os
import stat

import pytest

from limpet.store import files as files_module
from limpet.store.files import make_directory, publish, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old" * 1000)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_mode_can_be_asked_for(tmp_path):
    write_atomically(tmp_path / "f", b"", mode=0o400)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o400


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def fail(_descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(files_module.os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_data_is_synced_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "f").exists()))
        real(descriptor)

    monkeypatch.setattr(files_module.os, "fsync", fsync)
    write_atomically(tmp_path / "f", b"new")
    (first, first_exists), (second, second_exists) = synced
    assert first.startswith(f"{tmp_path}/.f.")
    assert not first_exists
    assert (second, second_exists) == (str(tmp_path), True)


def test_publishing_moves_a_finished_file(tmp_path):
    (tmp_path / ".part").write_bytes(b"x")
    publish(tmp_path / ".part", tmp_path / "f")
    assert os.listdir(tmp_path) == ["f"]


def test_a_directory_is_for_its_owner_only(tmp_path):
    path = make_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert make_directory(path) == path
