"""Landlock's effects on a child: what is granted works, all else is refused."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import termios

import pytest

from limpet.linux import landlock
from limpet.linux.landlock import Access
from limpet.linux.process import become_user, set_no_new_privileges
from limpet.wasi.host import RESOLVE_BENEATH, openat2

from .forked import attempt, needs_root, result_of

ABI = landlock.abi_version()
pytestmark = pytest.mark.skipif(ABI == 0, reason="needs a kernel with Landlock")


def needs_abi(version):
    return pytest.mark.skipif(version > ABI, reason=f"needs Landlock ABI {version}, this is {ABI}")


@pytest.fixture
def granted(tmp_path):
    """A directory with a file and a subdirectory, beside a secret one."""
    directory = tmp_path / "granted"
    (directory / "below").mkdir(parents=True)
    (directory / "file").write_text("data")
    (tmp_path / "secret").write_text("secret")
    descriptor = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def restrict(*directories, **ports):
    set_no_new_privileges()
    landlock.restrict(directories, **ports)


def open_beneath(descriptor, path, flags=os.O_RDONLY):
    os.close(
        openat2(
            descriptor,
            path,
            flags=flags,
            mode=0o600 if flags & os.O_CREAT else 0,
            resolve=RESOLVE_BENEATH,
        )
    )


def test_a_readable_directory_is_read_and_not_written(granted, tmp_path):
    def run():
        restrict((granted, Access.READ))
        return {
            "read": attempt(lambda: open_beneath(granted, b"file")),
            "list": attempt(lambda: open_beneath(granted, b".", os.O_RDONLY | os.O_DIRECTORY)),
            "write": attempt(lambda: open_beneath(granted, b"file", os.O_WRONLY)),
            "create": attempt(lambda: open_beneath(granted, b"new", os.O_WRONLY | os.O_CREAT)),
            "unlink": attempt(lambda: os.unlink("file", dir_fd=granted)),
            "mkdir": attempt(lambda: os.mkdir("new", dir_fd=granted)),
            "beside": attempt(lambda: os.open(tmp_path / "secret", os.O_RDONLY)),
            "host": attempt(lambda: os.listdir("/")),
        }

    found = result_of(run)
    assert found == dict.fromkeys(found, "EACCES") | {"read": "ok", "list": "ok"}


def test_a_writable_directory_takes_everything_but_devices_and_programs(granted, tmp_path):
    program = tmp_path / "granted" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    def run():
        restrict((granted, Access.WRITE))
        return {
            "create": attempt(lambda: open_beneath(granted, b"new", os.O_RDWR | os.O_CREAT)),
            "move": attempt(
                lambda: os.rename("new", "below/new", src_dir_fd=granted, dst_dir_fd=granted)
            ),
            "truncate": attempt(lambda: open_beneath(granted, b"file", os.O_RDWR | os.O_TRUNC)),
            "symlink": attempt(lambda: os.symlink("file", "link", dir_fd=granted)),
            "unlink": attempt(lambda: os.unlink("below/new", dir_fd=granted)),
            "mkfifo": attempt(lambda: os.mkfifo("pipe", dir_fd=granted)),
            "execute": attempt(lambda: os.execv(program, ["program"])),
            "device": attempt(
                lambda: os.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3), dir_fd=granted)
            ),
            "out": attempt(lambda: os.rename("file", tmp_path / "out", src_dir_fd=granted)),
        }

    found = result_of(run)
    refused = {"execute": "EACCES", "device": "EACCES", "out": "EACCES"}
    if ABI < 2:
        refused["move"] = refused["out"] = "EXDEV"
        refused["unlink"] = "ENOENT"
    assert found == dict.fromkeys(found, "ok") | refused


def test_a_single_file_can_be_granted(tmp_path):
    file = tmp_path / "file"
    file.write_text("data")
    descriptor = os.open(file, os.O_PATH)

    def run():
        restrict((descriptor, Access.WRITE))
        return (
            attempt(lambda: os.close(os.open(file, os.O_RDWR | os.O_TRUNC))),
            attempt(lambda: os.listdir(tmp_path)),
        )

    assert result_of(run) == ("ok", "EACCES")
    os.close(descriptor)


def test_open_descriptors_keep_what_they_were_opened_for(tmp_path):
    with open(tmp_path / "log", "wb", buffering=0) as log:

        def run():
            restrict()
            return attempt(lambda: log.write(b"still"))

        assert result_of(run) == "ok"
    assert (tmp_path / "log").read_bytes() == b"still"


@needs_abi(4)
def test_tcp_goes_to_the_granted_ports_only():
    with (
        socket.create_server(("127.0.0.1", 0)) as near,
        socket.create_server(("127.0.0.1", 0)) as far,
        socket.create_server(("127.0.0.1", 0)) as once,
    ):
        addresses = [each.getsockname() for each in (near, far, once)]
        once.close()

        def run():
            restrict(connect_ports=[addresses[0][1]], bind_ports=[addresses[2][1]])
            return (
                attempt(lambda: socket.socket().connect(addresses[0])),
                attempt(lambda: socket.socket().connect(addresses[1])),
                attempt(lambda: socket.socket().bind(addresses[2])),
                attempt(lambda: socket.socket().bind(("127.0.0.1", 0))),
            )

        assert result_of(run) == ("ok", "EACCES", "ok", "EACCES")


@needs_abi(4)
def test_connecting_may_be_left_alone():
    with socket.create_server(("127.0.0.1", 0)) as near:

        def run():
            restrict(connect_ports=None)
            return (
                attempt(lambda: socket.socket().connect(near.getsockname())),
                attempt(lambda: socket.socket().bind(("127.0.0.1", 0))),
            )

        assert result_of(run) == ("ok", "EACCES")


@needs_abi(5)
def test_a_writable_device_takes_no_ioctl():
    terminal, other = os.openpty()
    folder = os.open("/dev", os.O_PATH)

    def run():
        name = os.ttyname(other)
        restrict((folder, Access.WRITE))
        opened = os.open(name, os.O_RDWR | os.O_NOCTTY)
        return attempt(lambda: fcntl.ioctl(opened, termios.TIOCGWINSZ, b"\0" * 8))

    assert result_of(run) == "EACCES"
    for descriptor in (terminal, other, folder):
        os.close(descriptor)


@needs_abi(6)
def test_signals_and_abstract_sockets_of_others_are_out_of_reach():
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0limpet-test-" + os.urandom(8).hex())
        listening.listen()

        def connect():
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(listening.getsockname())

        def run():
            restrict()
            return (
                attempt(lambda: os.kill(os.getppid(), 0)),
                attempt(lambda: os.kill(os.getpid(), signal.SIGCONT)),
                attempt(connect),
            )

        assert result_of(run) == ("EPERM", "ok", "EPERM")


@needs_root
def test_mounting_is_refused_to_root_too():
    from limpet.linux.namespaces import CLONE_NEWNS, enter_empty_root, unshare

    def run():
        unshare(CLONE_NEWNS)
        restrict()
        return attempt(enter_empty_root)

    assert result_of(run) == "EPERM"


@needs_root
def test_it_needs_no_new_privileges():
    def run():
        become_user(65534, 65534)
        return attempt(lambda: landlock.restrict([]))

    assert result_of(run) == "EPERM"


def test_rights_grow_with_the_version():
    counts = [landlock.file_rights(abi).bit_count() for abi in range(9)]
    assert counts == [0, 13, 14, 15, 15, 16, 16, 16, 16]
    assert not Access.READ.value & ~Access.WRITE.value
    assert not Access.WRITE.value & ~landlock.file_rights(3)
