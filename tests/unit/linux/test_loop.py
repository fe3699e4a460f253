import errno
import fcntl
import os
import threading

import pytest

from limpet.linux import loop

from .private_mounts import attached_below, needs_loop_devices, wait_until_detached

pytestmark = needs_loop_devices


@pytest.fixture
def image(tmp_path):
    descriptor = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 1 << 20)
    yield descriptor
    os.close(descriptor)
    wait_until_detached(tmp_path)


def _size(device):
    return os.lseek(device.descriptor, 0, os.SEEK_END)


def test_a_device_shows_the_file_and_goes_when_it_is_let_go(image, tmp_path):
    os.pwrite(image, b"hello", 4096)
    device = loop.attach(image, block_bytes=4096)
    try:
        assert os.pread(device.descriptor, 5, 4096) == b"hello"
        status = device.status()
        here = os.fstat(image)
        assert (status.device, status.inode) == (here.st_dev, here.st_ino)
        assert status.is_autoclear
        assert not status.is_read_only
        assert attached_below(tmp_path) == [str(tmp_path / "image")]
    finally:
        device.close()
    wait_until_detached(tmp_path)


def test_an_attached_device_is_found_by_its_file(image, tmp_path):
    assert loop.find_attached(image) is None
    device = loop.attach(image, block_bytes=4096)
    os.rename(tmp_path / "image", tmp_path / "renamed")
    found = loop.find_attached(image)
    assert found is not None
    assert found.number == device.number
    device.close()
    assert found.status().inode == os.fstat(image).st_ino
    found.close()
    wait_until_detached(tmp_path)
    assert loop.find_attached(image) is None


def test_a_device_follows_its_files_size(image):
    device = loop.attach(image, block_bytes=4096)
    os.ftruncate(image, 2 << 20)
    assert _size(device) == 1 << 20
    device.update_capacity()
    assert _size(device) == 2 << 20
    device.close()


def test_who_works_on_a_device_claims_it(image):
    device = loop.attach(image, block_bytes=4096)
    assert not device.is_claimed()
    exclusive = os.open(device.path, os.O_RDONLY | os.O_EXCL)
    assert device.is_claimed()
    os.close(exclusive)
    assert not device.is_claimed()
    device.close()


def test_another_process_may_take_the_free_number(image, tmp_path, monkeypatch):
    """The number that the control device names is in use by the time we configure it, once."""
    other = loop.attach(image, block_bytes=4096)
    second = os.open(tmp_path / "second", os.O_RDWR | os.O_CREAT)
    os.ftruncate(second, 1 << 20)
    answers = [other.number]
    real = fcntl.ioctl

    def ioctl(descriptor, request, *rest):
        if request == 0x4C82 and answers:
            return answers.pop()
        return real(descriptor, request, *rest)

    monkeypatch.setattr(loop.fcntl, "ioctl", ioctl)
    device = loop.attach(second, block_bytes=4096)
    assert answers == []
    assert device.number != other.number
    for each in (device, other):
        each.close()
    os.close(second)


def test_many_threads_attach_at_once(tmp_path):
    files = []
    for index in range(16):
        files.append(os.open(tmp_path / str(index), os.O_RDWR | os.O_CREAT))
        os.ftruncate(files[-1], 1 << 20)
    devices = []

    def attach(file):
        devices.append(loop.attach(file, block_bytes=4096))

    threads = [threading.Thread(target=attach, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({device.number for device in devices}) == len(files)
    assert len(attached_below(tmp_path)) == len(files)
    for device in devices:
        device.close()
    for file in files:
        os.close(file)
    wait_until_detached(tmp_path)


def test_a_sector_size_that_the_kernel_refuses_is_an_error(tmp_path):

    file = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 1 << 20)
    with pytest.raises(OSError, match="Invalid") as caught:
        loop.attach(file, block_bytes=4095)
    assert caught.value.errno == errno.EINVAL
    os.close(file)
    assert attached_below(tmp_path) == []


def test_a_detached_device_has_no_status(image):
    device = loop.attach(image, block_bytes=4096)
    path = device.path
    device.close()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="No such device") as caught:
            loop.LoopDevice(device.number, descriptor).status()
        assert caught.value.errno == errno.ENXIO
    finally:
        os.close(descriptor)
