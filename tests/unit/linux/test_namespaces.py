"""Namespaces of forked children: roots, networks and processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from limpet.linux import landlock, process
from limpet.linux.calls import check, libc
from limpet.linux.landlock import Access
from limpet.linux.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    bring_loopback_up,
    confine_directory,
    enter_empty_root,
    fresh_pid_namespace,
    set_namespace,
    unshare,
)
from limpet.wasi.host import RESOLVE_BENEATH, openat2

from .forked import Ending, attempt, end_of, needs_root, result_of

pytestmark = needs_root


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "file").write_text("data")
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def read_beneath(descriptor):
    opened = openat2(descriptor, b"file", flags=os.O_RDONLY, mode=0, resolve=RESOLVE_BENEATH)
    return os.read(opened, 100)


def test_the_empty_root_has_nothing_and_takes_nothing(directory, tmp_path):
    def run():
        unshare(CLONE_NEWNS)
        enter_empty_root()
        return {
            "root": os.listdir("/"),
            "current": os.getcwd(),
            "host": attempt(lambda: os.stat(tmp_path)),
            "up": os.listdir("/.."),
            "write": attempt(lambda: os.close(os.open("/new", os.O_CREAT | os.O_WRONLY))),
            "mkdir": attempt(lambda: os.mkdir("/new")),
            "beneath": read_beneath(directory),
        }

    assert result_of(run) == {
        "root": [],
        "current": "/",
        "host": "ENOENT",
        "up": [],
        "write": "EROFS",
        "mkdir": "EROFS",
        "beneath": b"data",
    }


def test_the_host_keeps_its_mounts():
    def mounts():
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            return table.read()

    before = mounts()
    assert result_of(lambda: (unshare(CLONE_NEWNS), enter_empty_root())[0]) is None
    assert mounts() == before


def test_a_kept_directory_leads_to_the_host_unless_it_is_confined(directory):
    def run():
        confined = confine_directory(directory)
        unshare(CLONE_NEWNS)
        enter_empty_root()
        return {
            "plain": attempt(lambda: os.stat("../" * 20 + "etc/passwd", dir_fd=directory)),
            "confined": attempt(lambda: os.stat("../" * 20 + "etc/passwd", dir_fd=confined)),
            "upward": os.stat("..", dir_fd=confined).st_ino == os.fstat(directory).st_ino,
            "beneath": read_beneath(confined),
        }

    assert result_of(run) == {
        "plain": "ok",
        "confined": "ENOENT",
        "upward": True,
        "beneath": b"data",
    }


@pytest.mark.skipif(landlock.abi_version() == 0, reason="needs a kernel with Landlock")
def test_landlock_grants_a_confined_directory_in_the_empty_root(directory):
    def run():
        confined = confine_directory(directory)
        unshare(CLONE_NEWNS)
        enter_empty_root()
        process.set_no_new_privileges()
        landlock.restrict([(confined, Access.WRITE)])
        created = os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=confined)
        return os.write(created, b"abc"), read_beneath(confined), attempt(lambda: os.listdir("/"))

    assert result_of(run) == (3, b"data", "EACCES")


def go_to_initial_root():
    """Uncover the kernel's own first root, as a system that runs from an initramfs has it."""
    unshare(CLONE_NEWNS)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    check(libc.mount(None, b"/", None, 1 << 14 | 1 << 18, None), "mount(MS_REC | MS_PRIVATE)")
    check(libc.umount2(b"/", 2), "umount2(MNT_DETACH)")
    set_namespace(own, CLONE_NEWNS)


def has_initial_root():
    """Whether that root is there and has the directory that the empty one is mounted on."""

    def run():
        go_to_initial_root()
        return os.path.isdir("/proc")

    return end_of(run) == Ending("True", 0)


def test_an_initramfs_is_covered_instead(directory):
    if not has_initial_root():
        pytest.skip("needs a kernel whose initial root can be uncovered and has /proc")

    def run():
        go_to_initial_root()
        enter_empty_root()
        process.drop_capabilities()
        return {
            "root": os.listdir("/"),
            "current": os.getcwd(),
            "up": os.listdir("/../.."),
            "write": attempt(lambda: os.close(os.open("/new", os.O_CREAT | os.O_WRONLY))),
            "leave": attempt(lambda: os.chroot("/")),
            "beneath": read_beneath(directory),
        }

    assert result_of(run) == {
        "root": [],
        "current": "/",
        "up": [],
        "write": "EROFS",
        "leave": "EPERM",
        "beneath": b"data",
    }


def test_a_root_set_by_chroot_can_not_be_exchanged(tmp_path):
    (tmp_path / "proc").mkdir()

    def run():
        unshare(CLONE_NEWNS)
        os.chroot(tmp_path)
        return attempt(enter_empty_root)

    assert result_of(run) == "EINVAL"


def test_a_new_network_has_a_loopback_once_it_is_up():
    def run():
        unshare(CLONE_NEWNET)
        with socket.socket() as server:
            server.bind(("0.0.0.0", 0))
            server.listen()
            address = ("127.0.0.1", server.getsockname()[1])
            before = attempt(lambda: socket.create_connection(address).close())
            bring_loopback_up()
            after = attempt(lambda: socket.create_connection(address).close())
        return before, after, socket.if_nameindex()[0][1]

    assert result_of(run) == ("ENETUNREACH", "ok", "lo")


def test_a_namespace_is_entered_by_its_descriptor():
    own = os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)

    def run():
        host = os.uname().nodename
        unshare(CLONE_NEWUTS | CLONE_NEWIPC)
        socket.sethostname("apart")
        apart = os.uname().nodename
        set_namespace(own, CLONE_NEWUTS)
        wrong = attempt(lambda: set_namespace(own, CLONE_NEWNET))
        return apart, os.uname().nodename == host, wrong

    assert result_of(run) == ("apart", True, "EINVAL")
    os.close(own)


def fork_first_process(own, function):
    """Fork into a fresh namespace; return the child's pid here."""
    fresh_pid_namespace(own)
    child = os.fork()
    if not child:
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return child


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_every_forked_child_is_the_first_process_of_its_own_namespace():
    def run():
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        children = [
            fork_first_process(own, lambda: 40 + os.getpid() + os.getppid()) for _ in range(3)
        ]
        seen = [exit_code(child) for child in children]
        set_namespace(own, CLONE_NEWPID)
        usual = os.fork()
        if not usual:
            os._exit(50 if os.getpid() > 1 else 51)
        return seen, all(child > 1 for child in children), exit_code(usual)

    assert result_of(run) == ([41, 41, 41], True, 50)


def test_nesting_without_going_back_and_reusing_are_refused():
    def run():
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        ended = exit_code(fork_first_process(own, lambda: 0))
        return ended, attempt(lambda: unshare(CLONE_NEWPID)), attempt(os.fork)

    assert result_of(run) == (0, "EINVAL", "ENOMEM")


def test_the_first_process_starts_threads_and_dies_by_sigkill_only():
    def serve():
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        os.write(writing, b"x")
        signal.pause()
        return 0

    def run():
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        child = fork_first_process(own, serve)
        os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        unmoved = os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGKILL)
        return unmoved, exit_code(child)

    reading, writing = os.pipe()
    assert result_of(run) == (True, -signal.SIGKILL)
    os.close(reading)
    os.close(writing)


def test_the_first_process_dies_with_its_parent():
    def serve():
        process.die_with_parent(signal.SIGKILL)
        os.write(writing, b"x")
        signal.pause()
        return 0

    def run():
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        fork_first_process(own, serve)
        return os.read(reading, 1)

    reading, writing = os.pipe()
    assert result_of(run) == b"x"
    os.close(writing)
    with open(reading, "rb") as held:
        assert held.read() == b""  # the end of the pipe: nobody holds it any more
