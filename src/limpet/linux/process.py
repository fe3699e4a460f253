"""What a process tells the kernel about itself, and the rights it gives up.

An order that works for a process that starts as root and should end with nothing:
`drop_bounding_set`, `become_user`, `drop_capabilities`, `set_no_new_privileges`, and only then
`disable_core_dumps` and `die_with_parent`, for the kernel resets both at a change of user.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

from limpet.linux.calls import prctl, syscall

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: 64-bit sets in two halves
_CAPABILITY_BITS = 64


class _CapabilityHeader(ctypes.Structure):
    """`struct __user_cap_header_struct`; pid 0 is the calling thread."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityHalf(ctypes.Structure):
    """`struct __user_cap_data_struct`: 32 bits of each set."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_CapabilitySets = _CapabilityHalf * 2


def set_process_name(name: str) -> None:
    """Name this thread as ps and top show it; 15 bytes are kept (prctl(2), PR_SET_NAME)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(_PR_SET_NAME, ctypes.addressof(buffer), what="PR_SET_NAME")


def read_start_ticks(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since the boot; None when there is none.

    With the number it names one process of this boot: numbers come again (proc_pid_stat(5), starttime).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19])


def become_subreaper() -> None:
    """Become the parent of descendants whose own parent dies (PR_SET_CHILD_SUBREAPER)."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1, what="PR_SET_CHILD_SUBREAPER")


def die_with_parent(signal_number: int) -> None:
    """Get this signal when the parent process ends (PR_SET_PDEATHSIG).

    A change of user or group and a gain of capabilities clear it: ask after `become_user`.
    """
    prctl(_PR_SET_PDEATHSIG, signal_number, what="PR_SET_PDEATHSIG")


def set_no_new_privileges() -> None:
    """Let no execve of this thread and its descendants gain rights (PR_SET_NO_NEW_PRIVS).

    Set-user-ID bits and file capabilities are ignored from here on. It can't be undone.
    """
    prctl(_PR_SET_NO_NEW_PRIVS, 1, what="PR_SET_NO_NEW_PRIVS")


def has_no_new_privileges() -> bool:
    """Return whether `set_no_new_privileges` holds for this thread."""
    return prctl(_PR_GET_NO_NEW_PRIVS, what="PR_GET_NO_NEW_PRIVS") == 1


def disable_core_dumps() -> None:
    """Keep this process's memory out of core files and from processes of the same user.

    RLIMIT_CORE 0 stops core files and is inherited; a core_pattern that pipes to a program ignores
    it (core(5)), so the process becomes undumpable too (PR_SET_DUMPABLE). That makes root the owner
    of its files in /proc: no other process without CAP_SYS_PTRACE can trace it or read its memory,
    environ, fd, io, maps or smaps there, its own parent included, and neither can it itself once it
    is not root. stat, statm and status stay readable. A change of user and an execve reset the flag:
    call this after `become_user`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(_PR_SET_DUMPABLE, 0, what="PR_SET_DUMPABLE")


def limit_file_size(size_bytes: int) -> None:
    """Let this process make no file larger than that (setrlimit(2), RLIMIT_FSIZE), for good.

    Writing or extending beyond fails with EFBIG: Python has SIGXFSZ ignored.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def become_user(uid: int, gid: int) -> None:
    """Become this user and group for good: real, effective and saved, without other groups.

    Needs CAP_SETUID and CAP_SETGID. A change from root to another user clears the effective,
    permitted and ambient capabilities (capabilities(7)). Raises OSError, also where the ids are not
    the asked ones afterwards, and ValueError for ids that mean "unchanged" to the kernel.
    """
    if uid < 0 or gid < 0:
        raise ValueError(f"user {uid} and group {gid} must not be negative")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or os.getgroups():
        raise OSError(
            errno.EPERM,
            f"user {uid} and group {gid} were asked for, but the kernel gave users "
            f"{os.getresuid()}, groups {os.getresgid()} and {os.getgroups()}",
        )


def drop_bounding_set() -> None:
    """Empty the bounding set: no execve gives this thread or its descendants a capability again.

    What the thread holds stays usable, so this comes before `become_user`. Needs CAP_SETPCAP unless
    the set is empty already.
    """
    for capability in range(_CAPABILITY_BITS):
        try:
            is_set = prctl(_PR_CAPBSET_READ, capability, what="PR_CAPBSET_READ")
        except OSError as error:
            if error.errno == errno.EINVAL:  # one past the last that this kernel has
                return
            raise
        if is_set:
            prctl(_PR_CAPBSET_DROP, capability, what=f"PR_CAPBSET_DROP, {capability}")


def drop_capabilities() -> None:
    """Give up every capability: this thread has none afterwards and can gain none.

    Empties the bounding, ambient, effective, permitted and inheritable sets (capabilities(7)).
    Needs CAP_SETPCAP, unless `drop_bounding_set` came first. A new user namespace would still give
    capabilities inside it: what must not have those is kept from unshare(2) and clone(2) as well.
    """
    drop_bounding_set()
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, what="PR_CAP_AMBIENT_CLEAR_ALL")
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    syscall("capset", ctypes.byref(header), _CapabilitySets())


def effective_capabilities() -> int:
    """Return the effective set of this thread: bit n is capability n (capget(2))."""
    sets = _read_capabilities()
    return int(sets[0].effective | sets[1].effective << 32)


def has_capabilities() -> bool:
    """Return whether this thread's effective, permitted or inheritable set holds anything."""
    return any(
        half.effective or half.permitted or half.inheritable for half in _read_capabilities()
    )


def _read_capabilities() -> ctypes.Array[_CapabilityHalf]:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    sets = _CapabilitySets()
    syscall("capget", ctypes.byref(header), sets)
    return sets
