"""Walls around forked children: what the kernel says of them, and what they can still do."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import resource
import signal
import socket
import struct
import termios
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from linux.forked import attempt, end_of, needs_root, result_of
from linux.test_seccomp import verdict

from limpet.linux import landlock, seccomp
from limpet.linux.calls import syscall
from limpet.linux.landlock import Access
from limpet.linux.namespaces import confine_directory
from limpet.linux.seccomp import ALLOW, ERRNO, KILL_PROCESS
from limpet.linux.syscalls import MACHINES, parse_numbers
from limpet.worker.sandbox import (
    APP,
    COMPILE,
    COMPILE_WASMEDGE,
    FETCH,
    ROLES,
    ROUTER,
    Sandbox,
    Wall,
    role_of,
    survey,
)

UID = 300_123
FASTOPEN = 0x2000_0000
SENDING = 0x4000  # MSG_NOSIGNAL
KILLED = -signal.SIGSYS
NEVER = """
    execve execveat ptrace mount umount2 unshare setns chroot pivot_root bpf keyctl kill tkill
    process_vm_readv process_vm_writev pidfd_open pidfd_getfd io_uring_setup init_module
    perf_event_open userfaultfd setuid setresuid setgroups capset seccomp open_by_handle_at
    personality reboot swapon mknodat quotactl name_to_handle_at move_mount open_tree fsopen
"""
EVERY_ROLE = pytest.mark.parametrize("role", ROLES.values(), ids=ROLES)
WITHOUT_FILES = pytest.mark.parametrize("role", [APP, COMPILE, ROUTER], ids=lambda role: role.name)
needs_landlock = pytest.mark.skipif(
    landlock.abi_version() == 0, reason="needs a kernel with Landlock"
)
needs_seccomp = pytest.mark.skipif(
    not seccomp.is_available(), reason="needs a kernel that filters system calls"
)


@functools.cache
def standing():
    return survey()


def sandbox():
    return Sandbox(standing(), UID)


def walled(role, function, directories=()):
    """Return a function that raises a role's walls around its process first."""
    walls = sandbox()
    role.program  # noqa: B018 - made before the fork, as the zygote does

    def run():
        walls.retire(role)
        walls.seal(role, directories)
        return function()

    return run


def within(role, function, directories=()):
    """Call a function behind the walls of a role; return its result."""
    return result_of(walled(role, function, directories))


def ends_with(role, function, directories=()):
    """Call a function behind the walls of a role; return the exit code, minus a signal's number."""
    return end_of(walled(role, function, directories)).code


@contextmanager
def behind_walls(role):
    """A child that has raised its walls and waits; yields its number."""
    reading, writing = os.pipe()
    waiting, release = os.pipe()
    run = walled(role, lambda: (os.write(writing, b"up"), os.read(waiting, 1)))
    pid = os.fork()
    if pid == 0:
        try:
            os.close(release)
            run()
        finally:
            os._exit(0)
    os.close(writing)
    try:
        assert os.read(reading, 2) == b"up", "the walls could not be raised"
        yield pid
    finally:
        for descriptor in (reading, waiting, release):
            os.close(descriptor)
        os.waitpid(pid, 0)


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespace(pid, kind):
    return os.readlink(f"/proc/{pid}/ns/{kind}")


# What stands


@needs_root
def test_root_can_raise_every_wall_that_the_kernel_has():
    expected = {Wall.USER, Wall.NAMESPACES, Wall.EMPTY_ROOT}
    if landlock.abi_version():
        expected.add(Wall.LANDLOCK)
    if seccomp.is_available():
        expected.add(Wall.SECCOMP)
    assert survey() == expected


@needs_root
def test_an_ordinary_user_can_raise_what_needs_no_root():
    def run():
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        return sorted(map(str, survey()))

    expected = set(standing()) & {Wall.LANDLOCK, Wall.SECCOMP}
    assert result_of(run) == sorted(map(str, expected))


def test_the_survey_changes_nothing_for_who_asks():
    kinds = ("mnt", "net", "ipc", "uts", "pid", "user")
    fields = ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")

    def look():
        status = status_of("self")
        mounts = Path("/proc/self/mountinfo").read_text()
        return (
            [status[each] for each in fields],
            [namespace("self", kind) for kind in kinds],
            mounts,
        )

    before = look()
    survey()
    assert look() == before


@needs_root
@EVERY_ROLE
def test_the_kernel_says_that_the_walls_stand(role):
    with behind_walls(role) as pid:
        status = status_of(pid)
        assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
        assert status["Groups"] == ""
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == ("2" if Wall.SECCOMP in standing() else "0")
        core = Path(f"/proc/{pid}/limits").read_text().split("Max core file size")[1].split()
        assert core[:2] == ["0", "0"]
        for kind in ("mnt", "ipc", "uts"):
            assert namespace(pid, kind) != namespace("self", kind)
        has_own_network = namespace(pid, "net") != namespace("self", "net")
        assert has_own_network is not role.needs_network
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0, (
            "undumpable: root alone can look into it"
        )
        if not role.needs_files:
            assert os.listdir(f"/proc/{pid}/root") == []


@needs_root
@WITHOUT_FILES
def test_a_retired_process_has_an_empty_root(role):
    def run():
        sandbox().retire(role)
        current = os.umask(0)
        return os.listdir("/"), attempt(lambda: os.mkdir("/new")), current

    found, made, umask = result_of(run)
    assert (found, made, umask) == ([], "EROFS", 0) or (found, made) == ([], "EACCES")


def test_without_walls_a_process_still_gains_no_privileges():
    def run():
        bare = Sandbox(frozenset(), UID)
        bare.retire(APP)
        bare.seal(APP)
        return status_of("self")["NoNewPrivs"], os.getuid()

    assert result_of(run) == ("1", os.getuid())


@needs_root
def test_a_wall_that_can_not_be_raised_any_more_is_an_error():
    def run():
        os.setresuid(UID, UID, UID)
        return attempt(lambda: Sandbox(standing(), UID).retire(APP))

    assert result_of(run) == "EPERM"


# The filters


@pytest.fixture(params=MACHINES)
def machine(request):
    return request.param


@pytest.fixture
def programs(machine, monkeypatch):
    """Every role's program for a machine."""
    monkeypatch.setattr(
        seccomp, "build_filter", functools.partial(seccomp.build_filter, machine=machine)
    )
    return {role: replace(role).program for role in ROLES.values()}


@EVERY_ROLE
def test_every_program_fits(programs, role):
    assert 0 < len(programs[role]) // 8 < 1024


@EVERY_ROLE
def test_what_the_list_says_of_arguments_holds_for_every_machine(programs, machine, role):
    def ask(call, *arguments):
        return verdict(programs[role], machine, call, *arguments)

    assert ask("clone", 0x3D0F00) == ALLOW
    assert ask("clone", signal.SIGCHLD) == KILL_PROCESS
    assert ask("clone3") == ERRNO | errno.ENOSYS
    assert ask("prlimit64", 0, 7, 0, 1) == ALLOW
    assert ask("prlimit64", 0, 7, 1, 0) == ERRNO | errno.EPERM
    assert ask("prlimit64", 1, 7, 0, 1) == ERRNO | errno.EPERM
    assert ask("ioctl", 0, termios.TCGETS) == ALLOW
    assert ask("ioctl", 0, termios.TIOCSTI) == ERRNO | errno.ENOTTY
    assert ask("prctl", 15) == ALLOW
    assert ask("prctl", 22) == ERRNO | errno.EINVAL
    for call in NEVER.split():
        assert ask(call) == KILL_PROCESS, call


def test_workers_send_to_nobody_else(programs, machine):
    for role in (APP, COMPILE):
        program = programs[role]
        assert verdict(program, machine, "sendto", 3, 1, 1, SENDING, 0, 0) == ALLOW
        assert verdict(program, machine, "sendto", 3, 1, 1, FASTOPEN, 0, 0) == KILL_PROCESS
        assert verdict(program, machine, "sendto", 3, 1, 1, SENDING | FASTOPEN) == KILL_PROCESS
        for address in (1, 1 << 32, 1 << 63):
            assert verdict(program, machine, "sendto", 3, 1, 1, 0, address, 16) == KILL_PROCESS
        for call in ("socket", "socketpair", "connect", "bind", "listen", "sendmsg", "sendmmsg"):
            assert verdict(program, machine, call) == KILL_PROCESS


@pytest.mark.parametrize("role", [FETCH, ROUTER], ids=lambda role: role.name)
def test_sockets_are_of_the_internet_and_to_resolve_local(programs, machine, role):
    local = ALLOW if role is FETCH else KILL_PROCESS
    for family in (socket.AF_INET, socket.AF_INET6):
        assert verdict(programs[role], machine, "socket", family, 1, 0) == ALLOW
    for family in (socket.AF_UNIX, socket.AF_NETLINK):
        assert verdict(programs[role], machine, "socket", family, 1, 0) == local
    for family in (socket.AF_PACKET, socket.AF_VSOCK, socket.AF_ALG, 31):
        assert verdict(programs[role], machine, "socket", family, 1, 0) == KILL_PROCESS


def test_the_names_are_this_machines(machine):
    """A name that neither machine has would be refused; each has most of them."""
    for role in ROLES.values():
        known = parse_numbers(machine).keys() & role.allowed.keys()
        assert len(known) > 0.8 * len(role.allowed)


# Their effect


@dataclass
class Sockets:
    """Sockets that an app would have got hold of, if it could."""

    stream: socket.socket
    datagram: socket.socket
    local: socket.socket


@pytest.fixture
def sockets():
    left, right = socket.socketpair()
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram, left, right:
        yield Sockets(stream, datagram, left)


NOWHERE = ("127.0.0.1", 9)
DENIED = {
    "connect": lambda with_: with_.stream.connect(NOWHERE),
    "bind": lambda with_: with_.stream.bind(("127.0.0.1", 0)),
    "listen": lambda with_: with_.stream.listen(),
    "sendto an address": lambda with_: with_.datagram.sendto(b"x", NOWHERE),
    "fast open": lambda with_: with_.stream.send(b"x", FASTOPEN),
    "sendmsg": lambda with_: with_.local.sendmsg([b"x"]),
    "SO_REUSEPORT": lambda with_: with_.local.setsockopt(socket.SOL_SOCKET, 15, 1),
    "SO_ATTACH_FILTER": lambda with_: with_.local.setsockopt(socket.SOL_SOCKET, 26, 1),
    "TCP_ULP": lambda with_: with_.stream.setsockopt(socket.IPPROTO_TCP, 31, b"tls"),
    "socket": lambda _: socket.socket(),
    "socketpair": lambda _: socket.socketpair(),
    "fork": lambda _: os.fork(),
    "execve": lambda _: os.execv("/bin/true", ["true"]),
    "ptrace": lambda _: syscall("ptrace", 0, 0, 0, 0),
    "kill": lambda _: os.kill(os.getpid(), 0),
    "mount": lambda _: syscall("mount", None, None, None, 0, None),
    "unshare": lambda _: syscall("unshare", 0x1000_0000),
    "bpf": lambda _: syscall("bpf", 0, None, 0),
    "io_uring_setup": lambda _: syscall("io_uring_setup", 1, None),
    "fchmod": lambda _: os.fchmod(0, 0o600),
}


@needs_seccomp
@pytest.mark.parametrize("what", DENIED)
def test_what_an_app_may_not_do_ends_it(sockets, what):
    assert ends_with(APP, lambda: DENIED[what](sockets)) == KILLED


@needs_seccomp
@EVERY_ROLE
def test_no_role_starts_processes(role):
    assert ends_with(role, os.fork) == KILLED
    assert ends_with(role, lambda: os.execv("/bin/true", ["true"])) == KILLED
    assert ends_with(role, lambda: syscall("ptrace", 0, 0, 0, 0)) == KILLED


@EVERY_ROLE
def test_every_role_has_threads_memory_and_its_descriptors(role):
    def run():
        found = []
        threads = [threading.Thread(target=found.append, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.write(writing, b"x" * 1000)
        memory = os.memfd_create("artifact")
        os.write(memory, b"y" * 5000)
        return (
            sorted(found),
            len(bytearray(16 << 20)),
            len(os.read(reading, 4096)),
            os.fstat(memory).st_size,
            len(os.urandom(8)),
        )

    assert within(role, run) == ([0, 1, 2], 16 << 20, 1000, 5000, 8)


@needs_seccomp
@EVERY_ROLE
def test_what_libraries_try_is_answered(role):
    limit = struct.pack("=QQ", 64, 64)

    def run():
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.write(writing, b"x")
        unread = ctypes.create_string_buffer(4)
        return (
            resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0,
            attempt(lambda: syscall("prlimit64", 0, resource.RLIMIT_NOFILE, limit, None)),
            attempt(lambda: syscall("prlimit64", 1, resource.RLIMIT_NOFILE, None, limit)),
            attempt(lambda: fcntl.ioctl(reading, termios.FIONREAD, unread)),
            os.isatty(reading),
            attempt(lambda: syscall("prctl", 4, 1, 0, 0, 0)),
            attempt(lambda: syscall("clone3", None, 0)),
        )

    assert within(role, run) == (True, "EPERM", "EPERM", "ENOTTY", False, "EINVAL", "ENOSYS")


@needs_seccomp
@pytest.mark.parametrize("role", [COMPILE, ROUTER], ids=lambda role: role.name)
def test_who_needs_no_files_has_no_paths(role):
    def run():
        return attempt(lambda: os.listdir("/")), attempt(lambda: os.stat("/etc/passwd"))

    listed, found = within(role, run)
    assert listed == "ENOENT"
    assert found == ("ENOENT" if Wall.EMPTY_ROOT in standing() else "ok")


@pytest.fixture
def served():
    """A listening socket with a client that has asked."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), timeout=10) as client,
    ):
        client.sendall(b"ping")
        yield listening, client


@pytest.mark.parametrize("role", [APP, ROUTER], ids=lambda role: role.name)
def test_clients_are_served_on_sockets_that_came_along(role, served):
    listening, client = served

    def run():
        connection, address = listening.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        asked = connection.recv(100)
        connection.sendall(b"pong")
        connection.shutdown(socket.SHUT_WR)
        return asked, address[0]

    assert within(role, run) == (b"ping", "127.0.0.1")
    assert client.recv(100) == b"pong"


@needs_root
def test_an_app_s_network_is_empty():
    """Even a socket of its own, had it one, would lead nowhere."""

    def run():
        sandbox().retire(APP)
        with socket.socket() as connecting, socket.socket(type=socket.SOCK_DGRAM) as sending:
            return (
                attempt(lambda: connecting.connect(("127.0.0.1", 9))),
                attempt(lambda: sending.sendto(b"x", ("192.0.2.1", 9))),
                [name for _, name in socket.if_nameindex()],
            )

    connected, sent, interfaces = result_of(run)
    assert (connected, sent) == ("ENETUNREACH", "ENETUNREACH")
    assert "eth0" not in interfaces


@pytest.mark.parametrize("role", [FETCH, ROUTER], ids=lambda role: role.name)
def test_who_needs_the_network_can_connect(role, served):
    listening, _ = served

    def run():
        with socket.create_connection(listening.getsockname(), timeout=10) as connection:
            return connection.getpeername()[0]

    assert within(role, run) == "127.0.0.1"


@needs_landlock
@needs_seccomp
def test_a_fetch_reads_what_it_was_granted_and_listens_to_nobody(tmp_path):
    granted, other = tmp_path / "granted", tmp_path / "other"
    for folder in (granted, other):
        folder.mkdir()
        (folder / "file").write_text("data")
    for folder in (granted, other, tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    directory = os.open(granted, os.O_PATH | os.O_DIRECTORY)

    def run():
        listening = socket.socket()
        return (
            (granted / "file").read_text(),
            attempt((other / "file").read_text),
            attempt(lambda: os.close(os.open(granted / "new", os.O_WRONLY | os.O_CREAT))),
            attempt(lambda: listening.bind(("127.0.0.1", 0))),
        )

    try:
        found = within(FETCH, run, [(directory, Access.READ)])
    finally:
        os.close(directory)
    bound = "EACCES" if landlock.abi_version() >= 4 else "ok"
    assert found == ("data", "EACCES", "EACCES", bound)


@pytest.fixture
def volume(tmp_path):
    """A folder as a guest gets it: for every user, its way closed, and confined."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "file").write_text("data")
    (folder / "file").chmod(0o666)
    plain = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    directory = confine_directory(plain)
    yield directory
    os.close(plain)
    os.close(directory)


@needs_root
@needs_landlock
def test_a_volume_that_was_granted_for_writing(volume, tmp_path):
    def run():
        with open(os.open("file", os.O_RDWR, dir_fd=volume), "r+", closefd=True) as file:
            read = file.read()
            file.write("more")
        os.mkdir("folder", dir_fd=volume)
        made = os.open("folder/new", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=volume)
        os.write(made, b"x")
        os.fsync(made)
        os.rename("folder/new", "moved", src_dir_fd=volume, dst_dir_fd=volume)
        os.symlink("moved", "link", dir_fd=volume)
        os.unlink("link", dir_fd=volume)
        os.rmdir("folder", dir_fd=volume)
        listing = os.open(".", os.O_RDONLY, dir_fd=volume)
        return (
            read,
            sorted(os.listdir(listing)),
            attempt(lambda: os.open("../../etc/passwd", os.O_RDONLY, dir_fd=volume)),
            attempt(lambda: os.listdir("/")),
        )

    found = within(APP, run, [(volume, Access.WRITE)])
    assert found == ("data", ["file", "moved"], "ENOENT", "EACCES")
    moved = (tmp_path / "volume" / "moved").stat()
    assert (moved.st_uid, moved.st_gid, moved.st_mode & 0o777) == (UID, UID, 0o640)
    assert (tmp_path / "volume" / "file").read_text() == "datamore"


@needs_root
@needs_landlock
def test_a_volume_that_was_granted_for_reading(volume):
    def run():
        return (
            os.read(os.open("file", os.O_RDONLY, dir_fd=volume), 100),
            attempt(lambda: os.open("file", os.O_WRONLY, dir_fd=volume)),
            attempt(lambda: os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=volume)),
            attempt(lambda: os.mkdir("folder", dir_fd=volume)),
            attempt(lambda: os.unlink("file", dir_fd=volume)),
        )

    found = within(APP, run, [(volume, Access.READ)])
    assert found == (b"data", "EACCES", "EACCES", "EACCES", "EACCES")


@needs_root
@needs_landlock
def test_a_volume_that_came_along_without_a_grant_is_closed(volume):
    def run():
        return attempt(lambda: os.open("file", os.O_RDONLY, dir_fd=volume))

    assert within(APP, run) == "EACCES"


@needs_seccomp
@needs_root
@pytest.mark.parametrize("role", [COMPILE, ROUTER], ids=lambda role: role.name)
def test_other_roles_open_nothing_even_beneath_a_folder(role, volume):
    def run():
        return attempt(lambda: os.open("file", os.O_RDONLY, dir_fd=volume))

    assert within(role, run) == "ENOENT"


# Files of its own


def scratched(function):
    """Return a function that runs behind the walls of a compiler that needs files."""
    walls = sandbox()
    COMPILE_WASMEDGE.program  # noqa: B018 - made before the fork, as the zygote does

    def run():
        walls.retire(COMPILE_WASMEDGE)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        walls.seal(COMPILE_WASMEDGE, [(root, landlock.Access.WRITE)])
        return function()

    return run


def _write_and_look():
    Path("/object").write_bytes(b"code")
    os.rename("/object", "/artifact")
    return [os.listdir("/"), Path("/artifact").read_bytes().decode(), os.stat("/artifact").st_uid]


@needs_root
def test_a_compiler_s_files_are_all_there_is():
    assert result_of(scratched(_write_and_look)) == [["artifact"], "code", UID]


def _fill():
    written = 0
    try:
        with open("/full", "wb", buffering=0) as file:
            while True:
                written += file.write(bytes(1 << 20))
    except OSError as error:
        return [written >> 20, error.errno]


@needs_root
def test_a_compiler_s_files_have_their_limit():
    assert result_of(scratched(_fill)) == [COMPILE_WASMEDGE.scratch_bytes >> 20, errno.ENOSPC]


def _count_files():
    for number in range(1000):
        try:
            os.close(os.open(f"/{number}", os.O_CREAT | os.O_WRONLY))
        except OSError as error:
            return [number < 64, error.errno]
    return None


@needs_root
def test_a_compiler_s_files_are_few():
    assert result_of(scratched(_count_files)) == [True, errno.ENOSPC]


@needs_root
def test_a_compiler_s_files_are_gone_with_it():
    result_of(scratched(_write_and_look))
    assert result_of(scratched(lambda: os.listdir("/"))) == []


def test_each_engine_s_processes_have_their_own_role():
    assert role_of("compile", "wasmedge") is COMPILE_WASMEDGE
    assert role_of("compile", "wasmtime") is COMPILE
    assert role_of("app", "wasmedge") is role_of("app", "wasmtime") is APP
