"""Landlock: a thread gives up every file, TCP port and signal that it doesn't list first.

Documentation/userspace-api/landlock.rst of the kernel describes it. The rights grew with the ABI
version; all that the running kernel knows are denied unless granted, and those that it doesn't know
stay as they were. No right is needed to use it but `no_new_privs`.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from enum import Enum
from typing import TYPE_CHECKING

from limpet.linux.calls import syscall

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RULE_NET_PORT = 2

# linux/landlock.h, LANDLOCK_ACCESS_FS_*
_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REMOVE_DIR = 1 << 4
_REMOVE_FILE = 1 << 5
_MAKE_CHAR = 1 << 6
_MAKE_DIR = 1 << 7
_MAKE_REG = 1 << 8
_MAKE_SOCK = 1 << 9
_MAKE_FIFO = 1 << 10
_MAKE_BLOCK = 1 << 11
_MAKE_SYM = 1 << 12
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15

_READ = _READ_FILE | _READ_DIR
_REMOVE = _REMOVE_DIR | _REMOVE_FILE
_MAKE = _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

# How many of the rights above an ABI version knows: (first version, rights from the lowest bit).
_FILE_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))

# LANDLOCK_ACCESS_NET_*, from ABI 4
_BIND_TCP = 1 << 0
_CONNECT_TCP = 1 << 1
_NETWORK_ABI = 4

# LANDLOCK_SCOPE_*, from ABI 6
_SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
_SCOPE_SIGNAL = 1 << 1
_SCOPE_ABI = 6


class Access(Enum):
    """What may be done beneath a granted directory, or with a granted file.

    READ reads files and lists directories. WRITE does that and all else but three: it executes
    nothing, makes no device nodes and sends devices no ioctl.
    """

    READ = _READ
    WRITE = _READ | _WRITE_FILE | _REMOVE | _MAKE | _REFER | _TRUNCATE


def abi_version() -> int:
    """Return the kernel's Landlock ABI version; 0 where it has none or it is switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def restrict(
    directories: Iterable[tuple[int, Access]],
    *,
    connect_ports: Sequence[int] | None = (),
    bind_ports: Sequence[int] = (),
) -> None:
    """Deny this thread, and what it starts from here on, everything that isn't granted here.

    `directories` are open descriptors (O_PATH suffices) of directories, granted with all that is
    beneath them, or of single files. Descriptors that are open keep what they were opened for; a
    new open through them is checked. The ports are those of TCP, connected to or bound; UDP is not
    covered. None for `connect_ports` leaves connecting as it is.

    By ABI version, these stay possible for lack of a right to deny:

    - 1: renaming or linking across directories is always denied, whatever is granted
    - below 3: truncating; below 4: TCP; below 5: ioctl on devices
    - below 6: abstract Unix sockets of, and signals to, processes that aren't restricted along

    Mounting and pivot_root are denied from here on. It can't be undone, only narrowed. Needs
    `no_new_privs` or CAP_SYS_ADMIN. Raises OSError: EPERM without either, ENOSYS or EOPNOTSUPP
    where `abi_version` is 0, E2BIG after 16 layers of restrictions.
    """
    abi = abi_version()
    handled = file_rights(abi)
    network = _BIND_TCP if abi >= _NETWORK_ABI else 0
    if network and connect_ports is not None:
        network |= _CONNECT_TCP
    scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= _SCOPE_ABI else 0
    # Zeros at the end of a longer structure than an older kernel's are accepted by it.
    attributes = struct.pack("=QQQ", handled, network, scoped)
    ruleset = syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for descriptor, access in directories:
            _grant_beneath(ruleset, descriptor, access.value & handled)
        if network:
            for port in bind_ports:
                _grant_port(ruleset, port, _BIND_TCP)
            for port in connect_ports or ():
                _grant_port(ruleset, port, _CONNECT_TCP)
        syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def file_rights(abi: int) -> int:
    """Return every file system right that an ABI version knows, as bits."""
    return next(((1 << count) - 1 for first, count in _FILE_RIGHTS if abi >= first), 0)


def _grant_beneath(ruleset: int, descriptor: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _OF_FILES
    # struct landlock_path_beneath_attr is packed: 8 + 4 bytes.
    rule = struct.pack("=Qi", rights, descriptor)
    syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)


def _grant_port(ruleset: int, port: int, right: int) -> None:
    rule = struct.pack("=QQ", right, port)
    syscall("landlock_add_rule", ruleset, _RULE_NET_PORT, rule, 0)
