"""Namespaces: a process sees its own mounts, network, processes and more (namespaces(7)).

Python 3.12 has os.unshare and os.setns; this serves 3.11 as well. The kernel refuses some of it to a
process with several threads: call it where there is one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from limpet.linux.calls import check, libc, syscall

# linux/sched.h
CLONE_NEWTIME = 0x0000_0080
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

# linux/mount.h
_MS_RDONLY = 1 << 0
_MS_NOSUID = 1 << 1
_MS_NODEV = 1 << 2
_MS_NOEXEC = 1 << 3
_MS_MOVE = 1 << 13
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 1 << 1

# linux/mount.h, linux/fcntl.h: OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
_CLONE_OF_DESCRIPTOR = 1 << 0 | os.O_CLOEXEC | 0x1000

_EMPTY_FLAGS = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_EMPTY_OPTIONS = b"size=4k,nr_inodes=1,mode=555"  # the one inode is the root directory
# Any directory would do to mount it on; this one is there wherever Limpet runs.
_MOUNT_POINT = b"/proc"

# linux/sockios.h, linux/if.h: struct ifreq is a name of 16 bytes and a union of 24
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1 << 0
_INTERFACE_REQUEST = struct.Struct("=16sh22x")


def unshare(flags: int) -> None:
    """Move this process into new namespaces, CLONE_NEW* flags added up (unshare(2)).

    CLONE_NEWPID concerns not the caller but its next child, which becomes pid 1.
    """
    check(libc.unshare(ctypes.c_int(flags)), "unshare")


def set_namespace(descriptor: int, kind: int) -> None:
    """Move this thread into the namespace of an open /proc/PID/ns file (setns(2)).

    `kind` is the CLONE_NEW* flag that the namespace must be of. As with `unshare`, CLONE_NEWPID
    concerns the next child.
    """
    check(libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def fresh_pid_namespace(own: int) -> None:
    """Make the next os.fork() start pid 1 of a new pid namespace, without a second fork.

    `own` is the caller's open /proc/self/ns/pid. For a process with one thread that forks many
    children, each into a namespace of its own: it goes back to its own one first, for unshare(2)
    refuses to nest below one that the next child would be in (EINVAL).

    Until then the caller can start no thread (EINVAL), and a namespace takes no process after its
    pid 1 ended (ENOMEM): call this before each fork, and `set_namespace(own, CLONE_NEWPID)` to fork
    as usual again. The child's end is waited for under its pid in the caller's namespace. Being pid
    1, it ignores every signal that it has no handler for, but SIGKILL and SIGSTOP from outside
    (pid_namespaces(7)); its getppid() is 0; and all processes of the namespace end with it.
    """
    set_namespace(own, CLONE_NEWPID)
    unshare(CLONE_NEWPID)


def bring_loopback_up() -> None:
    """Switch on `lo` in this process's network namespace: in a new one it is down (netdevice(7)).

    Needs CAP_NET_ADMIN there.
    """
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        found = fcntl.ioctl(control, _SIOCGIFFLAGS, _INTERFACE_REQUEST.pack(b"lo", 0))
        name, flags = _INTERFACE_REQUEST.unpack(found)
        fcntl.ioctl(control, _SIOCSIFFLAGS, _INTERFACE_REQUEST.pack(name, flags | _IFF_UP))


def confine_directory(descriptor: int) -> int:
    """Return a new descriptor (O_PATH) of a directory whose ".." leads nowhere.

    It is a mount of its own that hangs in no tree (open_tree(2), OPEN_TREE_CLONE, kernel 5.2) and
    ends with the descriptor and its copies; what is mounted beneath isn't in it. Renaming between it
    and other mounts fails with EXDEV. Raises OSError: EPERM without CAP_SYS_ADMIN; EINVAL where the
    descriptor was opened in another mount namespace, so call it before `unshare(CLONE_NEWNS)`.
    """
    return syscall("open_tree", descriptor, b"", _CLONE_OF_DESCRIPTOR)


def enter_empty_root(*, room_bytes: int = 0, owner: int = 0) -> None:
    """Exchange this process's root for an empty directory: no path of the host resolves any more.

    With `room_bytes` the user and group `owner` may keep as much in it, in memory, executing nothing.

    The caller is in a mount namespace of its own already (`unshare(CLONE_NEWNS)`). Nothing of it
    reaches the host: propagation becomes private. Otherwise the new root is a read-only tmpfs without
    room for a single file; the old one, with everything mounted in it, is detached.

    Descriptors that are open stay so, and with ".." that of a directory still leads to everything in
    the mount namespace where it was opened: keep only those that `confine_directory` returned.

    pivot_root refuses the kernel's initial root (pivot_root(2), NOTES), which systems that run from
    an initramfs keep. There the tmpfs is moved over it and becomes the root by chroot(2), as
    switch_root(8) does: the old tree stays mounted underneath, unreachable once CAP_SYS_CHROOT and
    CAP_SYS_ADMIN are dropped.

    Raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL where the root is a directory that chroot(2)
    set and not a mount. The namespace is then of no more use, for /proc may be hidden in it.
    """
    _mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    flags, options = _EMPTY_FLAGS, _EMPTY_OPTIONS
    if room_bytes:
        flags &= ~_MS_RDONLY
        options = f"size={room_bytes},nr_inodes=64,mode=700,uid={owner},gid={owner}".encode()
    _mount(b"limpet", _MOUNT_POINT, b"tmpfs", flags, options)
    os.chdir(_MOUNT_POINT)
    try:
        syscall("pivot_root", b".", b".")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _mount(b".", b"/", None, _MS_MOVE, None)
        os.chroot(".")
    else:
        # Both roots are on "/" now, the old one on top (pivot_root(2), "pivot_root(".", ".")").
        check(libc.umount2(b".", _MNT_DETACH), "umount2(the old root)")
    os.chdir("/")


def _mount(
    source: bytes | None,
    target: bytes,
    filesystem: bytes | None,
    flags: int,
    data: bytes | None,
) -> None:
    what = f"mount({os.fsdecode(target)})"
    check(libc.mount(source, target, filesystem, flags, data), what)
