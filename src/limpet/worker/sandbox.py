"""The walls around a process that handles what strangers wrote: an app, a module, a download, a client.

A process raises them around itself, before it reads the first hostile byte, in two steps. `retire` is
for when it is forked: namespaces, an empty root, a user of its own, no capabilities. `seal` is for when it
has its work: Landlock lets it reach the directories that came with it, seccomp leaves it the system calls
on its role's list. Which walls stand is found out by trying, once, by the process that forks the others; a
wall that could be raised then and can't be now ends the process.
"""

from __future__ import annotations

import errno
import os
import socket
import termios
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

from limpet.linux import landlock, namespaces, process, seccomp
from limpet.linux.calls import number_of
from limpet.linux.seccomp import ALWAYS, INT, Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from limpet.linux.landlock import Access
    from limpet.linux.seccomp import Alternatives

# The bounds of the store (limpet.store.modules) and of bundles: no file that is made for them is larger.
_MOST_MODULE_BYTES = 256 << 20
_MOST_COMPILED_BYTES = 1 << 30
_OWN_NAMESPACES = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS


# How a trial ends in its child.
_REFUSED, _DEFECT = 2, 3


class Wall(StrEnum):
    """What can stand between a process and the device."""

    USER = "user"
    NAMESPACES = "namespaces"
    EMPTY_ROOT = "empty-root"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"


@dataclass(frozen=True, eq=False)
class Role:
    """What a kind of process needs from the kernel.

    `allowed` is its system calls. `needs_network` leaves it the device's network, `needs_files` the
    device's files: what its user may read, as far as Landlock lets it. `scratch_bytes` is for files of
    its own, in memory, that end with it. `file_bytes` is how large it can make a file that it was given;
    0 leaves that to the file's own file system.
    """

    name: str
    allowed: Mapping[str, Alternatives] = field(repr=False)
    needs_network: bool = False
    needs_files: bool = False
    scratch_bytes: int = 0
    file_bytes: int = 0

    @cached_property
    def program(self) -> bytes:
        """The filter for its system calls. Making it takes a while: before the fork, not after."""
        answers = {
            call: number for call, number in _ANSWERS.items() if self.allowed.get(call) != ALWAYS
        }
        return seccomp.build_filter(self.allowed, answers=answers)


def survey() -> frozenset[Wall]:
    """Return the walls that this process's children can raise, by raising each in a child."""
    trials: dict[Wall, Callable[[], None]] = {
        Wall.USER: lambda: _become(os.getpid() + (1 << 20)),
        Wall.NAMESPACES: lambda: namespaces.unshare(_OWN_NAMESPACES | namespaces.CLONE_NEWNET),
        Wall.EMPTY_ROOT: _try_empty_root,
        Wall.LANDLOCK: _try_landlock,
        Wall.SECCOMP: _try_seccomp,
    }
    return frozenset(wall for wall, trial in trials.items() if _works(trial))


def prepare() -> None:
    """Do what all children would do again, each in memory of its own: before they are forked."""
    for role in ROLES.values():
        role.program  # noqa: B018 - made once, then remembered
    for call in _CALLS_BY_NAME:
        number_of(call)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The walls that one process raises around itself; `uid` is its user's and its group's number."""

    walls: frozenset[Wall]
    uid: int

    @property
    def has_own_root(self) -> bool:
        """Whether the paths of a process that needs no files are its own, once it has retired."""
        return {Wall.NAMESPACES, Wall.EMPTY_ROOT} <= self.walls

    def retire(self, role: Role) -> None:
        """Leave the device's namespaces, files and users behind, but for what is open.

        Raises OSError when a wall can't be raised.
        """
        if Wall.NAMESPACES in self.walls:
            network = 0 if role.needs_network else namespaces.CLONE_NEWNET
            namespaces.unshare(_OWN_NAMESPACES | network)
            if Wall.EMPTY_ROOT in self.walls and not role.needs_files:
                namespaces.enter_empty_root(room_bytes=role.scratch_bytes, owner=self.uid)
        if Wall.USER in self.walls:
            _become(self.uid)
            process.disable_core_dumps()  # a change of user has undone it
        process.set_no_new_privileges()
        # Files that a guest makes are reached through descriptors only, by whichever user comes next.
        os.umask(0)

    def seal(self, role: Role, directories: Iterable[tuple[int, Access]] = ()) -> None:
        """Give up every path but these directories, and every system call that the role doesn't list.

        Comes after `retire`, and before this process has a second thread: Landlock holds for the one
        that asks, and those that it starts. Raises OSError when a wall can't be raised.
        """
        if role.file_bytes:
            process.limit_file_size(role.file_bytes)
        if Wall.LANDLOCK in self.walls:
            connect_ports = None if role.needs_network else ()
            landlock.restrict(directories, connect_ports=connect_ports)
        if Wall.SECCOMP in self.walls:
            seccomp.install(role.program)


def _become(uid: int) -> None:
    process.drop_bounding_set()
    process.become_user(uid, uid)
    process.drop_capabilities()


def _try_empty_root() -> None:
    namespaces.unshare(_OWN_NAMESPACES)
    namespaces.enter_empty_root()


def _try_landlock() -> None:
    process.set_no_new_privileges()
    landlock.restrict([])


def _try_seccomp() -> None:
    process.set_no_new_privileges()
    seccomp.install(APP.program)


def _works(trial: Callable[[], None]) -> bool:
    """Whether the kernel allows it. A defect of ours is no such answer: it ends the caller."""
    pid = os.fork()
    if pid == 0:
        code = _DEFECT
        try:
            trial()
            code = 0
        except OSError:
            code = _REFUSED
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == _DEFECT:
        raise RuntimeError("a wall's trial failed for no reason of the kernel's")
    return code == 0


# What raising the walls looks up by name.
_CALLS_BY_NAME = [
    "capset",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "pivot_root",
    "seccomp",
]

# System calls by purpose. What is not on a role's list ends the process.

_CLONE_THREAD = 0x0001_0000
_MSG_FASTOPEN = 0x2000_0000
_PR_SET_NAME = 15
_PR_SET_VMA = 0x5356_4D41


def _number(argument: int, *values: int) -> Alternatives:
    """The argument is one of these C ints."""
    return tuple((Condition(argument, value, INT),) for value in values)


def _always(names: str) -> dict[str, Alternatives]:
    return dict.fromkeys(names.split(), ALWAYS)


_ESSENTIALS: Mapping[str, Alternatives] = {
    **_always(
        # Memory. Guests' code is mapped executable from a file that only the node could have written.
        "mmap munmap mprotect madvise mremap brk membarrier memfd_create "
        # Threads and time.
        "futex set_robust_list rseq set_tid_address sched_yield sched_getaffinity gettid getpid "
        "timer_create timer_settime timer_gettime timer_delete timer_getoverrun "
        "nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time restart_syscall "
        # Signals: handling one's own. Nobody else can be named: see the pid namespace.
        "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait rt_sigsuspend sigaltstack "
        "tgkill exit exit_group "
        # What a process may know of itself.
        "getuid geteuid getgid getegid getppid getrusage times uname sysinfo getcwd getrandom "
        # Descriptors that are there already.
        "read write readv writev pread64 pwrite64 lseek close dup dup2 dup3 fcntl "
        "fstat newfstatat statx "
        "pipe pipe2 eventfd2 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 "
        "poll ppoll select pselect6"
    ),
    # A thread, never a process: a fork would begin with memory that holds another request's data.
    "clone": ((Condition(0, _CLONE_THREAD, _CLONE_THREAD),),),
    "prctl": _number(0, _PR_SET_NAME, _PR_SET_VMA),
    # Reading limits only: the new ones come by pointer.
    "prlimit64": ((Condition(0, 0, INT), Condition(2, 0)),),
    "ioctl": _number(1, termios.TCGETS, termios.FIONBIO, termios.FIOCLEX),
}

# Answered instead: what libraries try first, or for comfort, and do without.
_ANSWERS: Mapping[str, int] = {
    "clone3": errno.ENOSYS,  # glibc goes on with clone, whose flags can be looked at
    "prctl": errno.EINVAL,
    "prlimit64": errno.EPERM,
    "ioctl": errno.ENOTTY,
    "open": errno.ENOENT,
    "openat": errno.ENOENT,
    "stat": errno.ENOENT,
    "lstat": errno.ENOENT,
    "access": errno.ENOENT,
    "faccessat": errno.ENOENT,
    "faccessat2": errno.ENOENT,
    "readlink": errno.ENOENT,
    "readlinkat": errno.ENOENT,
}

# Messages with the agent, and answers to clients: never to an address, and never opening a connection on
# the way (tcp(7), TCP_FASTOPEN). sendmsg has its address behind a pointer, so nobody has sendmsg.
_MESSAGES: Mapping[str, Alternatives] = {
    "recvmsg": ALWAYS,
    "sendto": ((Condition(3, 0, _MSG_FASTOPEN), Condition(4, 0)),),
}

# Clients, on sockets that somebody else bound.
_SERVING: Mapping[str, Alternatives] = {
    **_always("accept accept4 recvfrom shutdown getsockname getpeername getsockopt"),
    "setsockopt": (
        (Condition(1, socket.SOL_SOCKET, INT), Condition(2, socket.SO_LINGER, INT)),
        (Condition(1, socket.IPPROTO_TCP, INT), Condition(2, socket.TCP_NODELAY, INT)),
    ),
}

# Files beneath directories that came along; Landlock and the mount say which.
_FILES: Mapping[str, Alternatives] = _always(
    "openat openat2 getdents64 readlinkat mkdirat unlinkat renameat renameat2 linkat symlinkat "
    "utimensat fsync fdatasync ftruncate fallocate fadvise64 sync_file_range "
    "preadv pwritev preadv2 pwritev2 faccessat faccessat2 fstatfs"
)

# Connections that the process opens itself, over the internet protocols.
_CONNECTING: Mapping[str, Alternatives] = {
    **_always(
        "connect bind recvfrom sendto sendmsg sendmmsg recvmmsg getsockname getpeername getsockopt"
    ),
    "socket": _number(0, socket.AF_INET, socket.AF_INET6),
    "setsockopt": ALWAYS,
    "shutdown": ALWAYS,
}

# Asking the device's resolver, and which addresses it has.
_RESOLVING: Mapping[str, Alternatives] = {"socket": _number(0, socket.AF_UNIX, socket.AF_NETLINK)}

# Reading the device's own files: resolver settings, certificates, modules of Python.
_READING: Mapping[str, Alternatives] = _always(
    "open openat stat lstat access faccessat faccessat2 readlink readlinkat getdents64 "
    "statfs fstatfs fadvise64 pread64 preadv"
)


def _role(
    name: str,
    *lists: Mapping[str, Alternatives],
    needs_network: bool = False,
    needs_files: bool = False,
    scratch_bytes: int = 0,
    file_bytes: int = 0,
) -> Role:
    allowed: dict[str, Alternatives] = {}
    for calls in (_ESSENTIALS, *lists):
        for call, alternatives in calls.items():
            allowed[call] = _either(allowed.get(call), alternatives)
    return Role(
        name,
        allowed,
        needs_network=needs_network,
        needs_files=needs_files,
        scratch_bytes=scratch_bytes,
        file_bytes=file_bytes,
    )


def _either(first: Alternatives | None, second: Alternatives) -> Alternatives:
    if first is None:
        return second
    return ALWAYS if ALWAYS in (first, second) else (*first, *second)


APP = _role("app", _MESSAGES, _SERVING, _FILES)
COMPILE = _role("compile", _MESSAGES, _always("fsync"), file_bytes=_MOST_COMPILED_BYTES)
FETCH = _role(
    "fetch",
    _MESSAGES,
    _CONNECTING,
    _RESOLVING,
    _READING,
    _always("fsync ftruncate"),
    needs_network=True,
    needs_files=True,
    file_bytes=_MOST_MODULE_BYTES,
)
MANIFESTS = _role("manifests")
VERIFY = _role("verify", _MESSAGES)
ROUTER = _role("router", _MESSAGES, _SERVING, _CONNECTING, needs_network=True)
# WasmEdge's compiler leaves its work to a linker, by way of files.
COMPILE_WASMEDGE = _role(
    "compile-wasmedge",
    _MESSAGES,
    _always(
        "fsync openat mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 ftruncate "
        "getdents64"
    ),
    scratch_bytes=128 << 20,
    file_bytes=_MOST_COMPILED_BYTES,
)
ROLES = {
    role.name: role
    for role in (
        APP,
        COMPILE,
        COMPILE_WASMEDGE,
        FETCH,
        MANIFESTS,
        VERIFY,
        ROUTER,
    )
}


def role_of(kind: str, engine: str) -> Role:
    """The role of a kind of process: for one that runs an engine, perhaps that engine's own."""
    return ROLES.get(f"{kind}-{engine}") or ROLES[kind]
