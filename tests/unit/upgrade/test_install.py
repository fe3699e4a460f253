"""What is looked at before a version is installed; installations are in tests/process/test_upgrade.py."""

import os
import zipfile

import pytest

from limpet.errors import InvalidInputError, NotFoundError
from limpet.upgrade.install import (
    InstallError,
    NoRoomError,
    Source,
    check_room,
    find_wheels,
    install,
    needed_bytes,
    wheel_version,
)
from limpet.upgrade.layout import Prefix


def wheel(folder, name, size=1000):
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("limpet/large.py", b"#" * size)
    return path


def test_the_version_in_a_folder(tmp_path):
    found = wheel(tmp_path, "limpet-0.3.0-py3-none-any.whl")
    wheel(tmp_path, "click-8.1.0-py3-none-any.whl")
    source = find_wheels(tmp_path)
    assert source == Source(version="0.3.0", wheel=found, folder=tmp_path)
    assert source.pip_arguments == ["--no-index", "--find-links", str(tmp_path), str(found)]


def test_a_folder_with_none_or_several(tmp_path):
    with pytest.raises(NotFoundError, match="no wheel of Limpet"):
        find_wheels(tmp_path)
    wheel(tmp_path, "limpet-0.3.0-py3-none-any.whl")
    wheel(tmp_path, "limpet-0.4.0-py3-none-any.whl")
    with pytest.raises(InvalidInputError, match="name one wheel"):
        find_wheels(tmp_path)


def test_an_index_is_asked_for_what_is_no_file():
    assert Source(version="0.3.0").pip_arguments == ["limpet==0.3.0"]


@pytest.mark.parametrize(
    "name", ["click-8.1.0-py3-none-any.whl", "limpet-x-py3.whl", "limpet-.whl"]
)
def test_what_is_no_wheel_of_limpet(tmp_path, name):
    with pytest.raises(InvalidInputError):
        wheel_version(tmp_path / name)


def test_what_wheels_unpack_to_counts(tmp_path):
    wheel(tmp_path, "limpet-0.3.0-py3-none-any.whl", size=100 << 20)
    prefix = Prefix(tmp_path / "opt")
    assert 130 << 20 < needed_bytes(prefix, find_wheels(tmp_path)) < 200 << 20
    (tmp_path / "click-8.1.0-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(InvalidInputError, match="can't be read as a wheel"):
        needed_bytes(prefix, find_wheels(tmp_path))


def test_no_room_is_said_before_anything_is_made(tmp_path, monkeypatch):
    wheel(tmp_path, "limpet-0.3.0-py3-none-any.whl")
    status = os.statvfs(tmp_path)
    fields = list(status)
    fields[4] = 1  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    prefix = Prefix(tmp_path / "opt")
    with pytest.raises(NoRoomError, match="0 MiB free"):
        check_room(prefix, find_wheels(tmp_path))
    with pytest.raises(NoRoomError):
        install(prefix, find_wheels(tmp_path), rehearse=lambda *_: None, tell=lambda text: None)
    assert not prefix.path.exists()


def test_what_pip_says_is_told_and_nothing_is_installed(tmp_path):
    (tmp_path / "limpet-0.3.0-py3-none-any.whl").write_bytes(
        wheel(tmp_path, "other.zip").read_bytes()
    )
    prefix = Prefix(tmp_path / "opt")
    told = []
    with pytest.raises(InstallError, match="pip could not install it; nothing was changed"):
        install(prefix, find_wheels(tmp_path), rehearse=lambda *_: None, tell=told.append)
    assert told == [f"making {prefix.folder('0.3.0')}", "installing 0.3.0"]
    assert prefix.versions() == []
