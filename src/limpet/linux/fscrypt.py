"""fscrypt: folders whose contents and names the file system encrypts.

Source: the kernel's Documentation/filesystems/fscrypt.rst and linux/fscrypt.h; version 2 policies only.
Errors are `OSError`: ENOTTY or EOPNOTSUPP when the kernel or the file system can't encrypt, ENOPKG when
the kernel lacks a mode, ENOKEY when the folder's key has not been added.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

KEY_BYTES = 64
IDENTIFIER_BYTES = 16

_SET_POLICY = 0x800C6613
_GET_POLICY_EX = 0xC0096616
_ADD_KEY = 0xC0506617
_REMOVE_KEY = 0xC0406618

_VERSION = 2
_PAD_NAMES_TO_32 = 3
_BY_IDENTIFIER = 2

# struct fscrypt_policy_v2: version, contents mode, names mode, flags, reserved, identifier.
_POLICY = struct.Struct("=BBBB4x16s")
_POLICY_EX = struct.Struct("=Q24s")
# struct fscrypt_key_specifier (type, reserved, identifier in a union of 32 bytes), then the rest.
_ADD = struct.Struct("=I4x32sII32x")
_REMOVE = struct.Struct("=I4x32sI20x")


@dataclass(frozen=True, slots=True)
class Modes:
    """How contents and names are encrypted: FSCRYPT_MODE numbers."""

    contents: int
    names: int


AES = Modes(contents=1, names=4)  # AES-256-XTS, AES-256-CTS
ADIANTUM = Modes(contents=9, names=9)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a folder carries: its modes, and the identifier that the kernel derived from its key."""

    modes: Modes
    identifier: bytes


def choose_modes(cpu_info: str | None = None) -> tuple[Modes, ...]:
    """Return the modes to try, best first; `cpu_info` is proc_cpuinfo(5), by default this machine's.

    Without AES instructions Adiantum is several times faster. Whether the kernel has a mode shows only
    in use: setting a policy succeeds, making a file in the folder then fails with ENOPKG.
    """
    if cpu_info is None:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            cpu_info = file.read()
    return (AES,) if _has_aes(cpu_info) else (ADIANTUM, AES)


def add_key(descriptor: int, key: bytes) -> bytes:
    """Give the file system of an open file a master key of 64 bytes; return the key's identifier.

    It stays until `remove_key` or until the file system is unmounted everywhere. The same key may be
    added again.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a master key has {KEY_BYTES} bytes, this one {len(key)}")
    argument = bytearray(_ADD.pack(_BY_IDENTIFIER, b"", len(key), 0)) + key
    try:
        fcntl.ioctl(descriptor, _ADD_KEY, argument, True)
        return bytes(argument[8 : 8 + IDENTIFIER_BYTES])
    finally:
        argument[:] = bytes(len(argument))


def remove_key(descriptor: int, identifier: bytes) -> None:
    """Take a key away: files that are open stay readable until closed. ENOKEY when it isn't there."""
    argument = bytearray(_REMOVE.pack(_BY_IDENTIFIER, identifier, 0))
    fcntl.ioctl(descriptor, _REMOVE_KEY, argument, True)


def set_policy(descriptor: int, policy: Policy) -> None:
    """Make an open, empty folder encrypted. ENOKEY unless its key was added by this user.

    EEXIST when it has another policy, ENOTEMPTY when it is not empty.
    """
    packed = _POLICY.pack(
        _VERSION, policy.modes.contents, policy.modes.names, _PAD_NAMES_TO_32, policy.identifier
    )
    fcntl.ioctl(descriptor, _SET_POLICY, packed)


def get_policy(descriptor: int) -> Policy | None:
    """Return the policy of an open file or folder, None when it is not encrypted."""
    argument = bytearray(_POLICY_EX.pack(_POLICY.size, b""))
    try:
        fcntl.ioctl(descriptor, _GET_POLICY_EX, argument, True)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise
    version, contents, names, _, identifier = _POLICY.unpack_from(argument, 8)
    if version != _VERSION:
        raise OSError(errno.EOPNOTSUPP, f"encryption policy version {version}: only 2 is supported")
    return Policy(Modes(contents, names), identifier)


def is_unsupported(error: OSError) -> bool:
    """Whether an error says that the kernel or this file system has no fscrypt at all."""
    return error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS)


def has_modes(folder: int) -> bool:
    """Whether the kernel can use the modes of an empty folder's policy: a file is made and removed."""
    name = "probe"
    try:
        made = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
    except OSError as error:
        if error.errno in (errno.ENOPKG, errno.EINVAL):
            return False
        raise
    os.close(made)
    os.unlink(name, dir_fd=folder)
    return True


def _has_aes(cpu_info: str) -> bool:
    """x86 lists its instructions under `flags`, Arm under `Features`."""
    for line in cpu_info.splitlines():
        label, _, words = line.partition(":")
        if label.strip() in ("flags", "Features"):
            return "aes" in words.split()
    return False
