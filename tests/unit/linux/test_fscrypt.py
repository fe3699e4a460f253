import errno
import os
import subprocess

import pytest

from limpet.linux import fscrypt, loop, mount

from .private_mounts import needs_loop_devices, privately, wait_until_detached

_X86 = "processor\t: 0\nflags\t\t: fpu sse2 {} avx\nbugs\t\t: spectre_v1\n"
_ARM = "processor\t: 0\nFeatures\t: fp asimd {} crc32\nCPU part\t: 0xd03\n"


@pytest.mark.parametrize("text", [_X86, _ARM])
def test_the_cpu_decides_the_modes(text):
    assert fscrypt.choose_modes(text.format("aes")) == (fscrypt.AES,)
    without = fscrypt.choose_modes(text.format("vaes"))
    assert without == (fscrypt.ADIANTUM, fscrypt.AES)
    assert fscrypt.choose_modes("") == (fscrypt.ADIANTUM, fscrypt.AES)


def test_this_machine_has_a_choice():
    assert fscrypt.AES in fscrypt.choose_modes()


def test_a_key_has_64_bytes(tmp_path):
    with pytest.raises(ValueError, match="64 bytes, this one 63"):
        fscrypt.add_key(0, bytes(63))


@pytest.fixture
def place(tmp_path):
    yield tmp_path
    wait_until_detached(tmp_path)


def _mount_new(place, *features):
    """Return an open root directory of a new file system."""
    image = os.open(place / "image", os.O_RDWR | os.O_CREAT)
    os.ftruncate(image, 16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", *features, place / "image"], check=True)
    device = loop.attach(image, block_bytes=4096)
    (place / "root").mkdir()
    mount.mount(device.path, place / "root", "ext4")
    device.close()
    os.close(image)
    return os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)


def _skip_without_fscrypt(error):
    if fscrypt.is_unsupported(error):
        pytest.skip("the kernel lacks fscrypt (CONFIG_FS_ENCRYPTION)")


def _encrypted_folder(root, key):
    try:
        identifier = fscrypt.add_key(root, key)
    except OSError as error:
        _skip_without_fscrypt(error)
        raise
    os.mkdir("folder", dir_fd=root)
    folder = os.open("folder", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    assert fscrypt.get_policy(folder) is None
    fscrypt.set_policy(folder, fscrypt.Policy(fscrypt.AES, identifier))
    return folder, identifier


def _write(folder, name, content):
    with open(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
        file.write(content)


@needs_loop_devices
@privately
def test_without_its_key_a_folder_tells_nothing(place):
    key = os.urandom(64)
    root = _mount_new(place, "-O", "encrypt")
    folder, identifier = _encrypted_folder(root, key)
    assert fscrypt.get_policy(folder) == fscrypt.Policy(fscrypt.AES, identifier)
    assert fscrypt.has_modes(folder)
    assert os.listdir(folder) == []
    _write(folder, "name", b"content")
    os.close(folder)
    fscrypt.remove_key(root, identifier)
    folder = os.open("folder", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    (name,) = os.listdir(folder)
    assert name != "name"
    with pytest.raises(OSError, match="key") as caught:
        os.open(name, os.O_RDONLY, dir_fd=folder)
    assert caught.value.errno == errno.ENOKEY
    os.close(folder)
    with pytest.raises(OSError, match="key"):
        fscrypt.remove_key(root, identifier)

    assert fscrypt.add_key(root, os.urandom(64)) != identifier
    assert fscrypt.add_key(root, key) == identifier
    assert fscrypt.add_key(root, key) == identifier
    with open(place / "root/folder/name", "rb") as file:
        assert file.read() == b"content"
    os.close(root)


@needs_loop_devices
@privately
def test_a_folder_with_files_cannot_be_encrypted_nor_get_other_modes(place):
    root = _mount_new(place, "-O", "encrypt")
    folder, identifier = _encrypted_folder(root, os.urandom(64))
    with pytest.raises(OSError, match="exists"):
        fscrypt.set_policy(folder, fscrypt.Policy(fscrypt.ADIANTUM, identifier))
    os.mkdir("full", dir_fd=root)
    full = os.open("full", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    _write(full, "file", b"")
    with pytest.raises(OSError, match="not empty"):
        fscrypt.set_policy(full, fscrypt.Policy(fscrypt.AES, identifier))
    os.unlink("file", dir_fd=full)
    with pytest.raises(OSError, match="Invalid"):
        fscrypt.set_policy(full, fscrypt.Policy(fscrypt.Modes(200, 200), identifier))
    for descriptor in (folder, full, root):
        os.close(descriptor)


@needs_loop_devices
@privately
def test_a_file_system_without_the_feature_says_so(place):
    root = _mount_new(place, "-O", "^encrypt")
    with pytest.raises(OSError, match=r"\S") as caught:
        fscrypt.add_key(root, os.urandom(64))
    assert fscrypt.is_unsupported(caught.value)
    os.close(root)
