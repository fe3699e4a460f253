"""The folder that guests see, in the root directory of the file system: it alone is encrypted.

An fscrypt policy can be given to an empty folder only, and holds for all that is made in it later (the
kernel's Documentation/filesystems/fscrypt.rst). So the folder is made under another name, and gets its
own once it has its policy: found under that name, it is whole.
"""

from __future__ import annotations

import errno
import os

from limpet.linux import fscrypt
from limpet.store.images.errors import VolumeKeyError, VolumeUnsupportedError
from limpet.store.images.folders import open_folder, opened_folder

_DATA = "data"
_STAGED = ".data.part"


def open_data_folder(root: int, *, key: bytes | None, name: str) -> int:
    """Return a descriptor of the folder, made if need be; the caller closes it.

    `root` is the mounted file system's open root directory, `key` the 64 bytes of the master key, None for
    a volume that is not encrypted, `name` how messages call the volume. Raises OSError,
    `VolumeKeyError`, `VolumeUnsupportedError`.
    """
    try:
        data = open_folder(_DATA, root)
    except FileNotFoundError:
        _make(root, key=key, name=name)
        return open_folder(_DATA, root)
    try:
        _unlock(root, data, key=key, name=name)
    except BaseException:
        os.close(data)
        raise
    return data


def _make(root: int, *, key: bytes | None, name: str) -> None:
    """Make the folder, with its policy, under another name first."""
    os.fchmod(root, 0o700)
    identifier = b"" if key is None else _add_key(root, key, name=name)
    for modes in (None,) if key is None else fscrypt.choose_modes():
        _remove_staged(root)
        os.mkdir(_STAGED, 0o700, dir_fd=root)
        with opened_folder(_STAGED, root) as staged:
            if modes is not None and not _encrypt(staged, fscrypt.Policy(modes, identifier)):
                continue
            # Workers change their users; they get at it only by descriptors lent to them.
            os.fchmod(staged, 0o777)
            os.fsync(staged)
        os.rename(_STAGED, _DATA, src_dir_fd=root, dst_dir_fd=root)
        os.fsync(root)
        return
    raise VolumeUnsupportedError(
        f"volume {name} can't be encrypted: the kernel lacks AES-256-XTS "
        "(CONFIG_FS_ENCRYPTION_ALGS); use another kernel or a volume without encryption"
    )


def _remove_staged(root: int) -> None:
    """What a killed `_make` left: an empty folder, or one with the probe's empty file."""
    try:
        with opened_folder(_STAGED, root) as staged:
            for name in os.listdir(staged):
                os.unlink(name, dir_fd=staged)
    except FileNotFoundError:
        return
    os.rmdir(_STAGED, dir_fd=root)


def _encrypt(folder: int, policy: fscrypt.Policy) -> bool:
    """Give an empty folder its policy; False if the kernel lacks the modes."""
    try:
        fscrypt.set_policy(folder, policy)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return fscrypt.has_modes(folder)


def _unlock(root: int, data: int, *, key: bytes | None, name: str) -> None:
    """Add the key of an existing folder if it is the one. Nothing is written before."""
    try:
        policy = fscrypt.get_policy(data)
    except OSError as error:
        if not fscrypt.is_unsupported(error):
            raise
        policy = None  # a file system that was made without encryption
    if policy is None and key is None:
        return
    if policy is None:
        raise VolumeKeyError(
            f"volume {name} is not encrypted, and encrypting it later is not possible: "
            "open it without encryption, or make a new volume and copy the files"
        )
    if key is None:
        raise VolumeKeyError(f"volume {name} is encrypted: give the key it was made with")
    identifier = _add_key(root, key, name=name)
    if identifier != policy.identifier:
        fscrypt.remove_key(root, identifier)
        raise VolumeKeyError(
            f"volume {name} is encrypted with another key (its identifier is "
            f"{policy.identifier.hex()}, that of the key given {identifier.hex()}): "
            "restore the key it was made with"
        )


def _add_key(root: int, key: bytes, *, name: str) -> bytes:
    """Give the file system the key; return its identifier."""
    try:
        return fscrypt.add_key(root, key)
    except OSError as error:
        if not fscrypt.is_unsupported(error):
            raise
        raise VolumeUnsupportedError(
            f"volume {name} can't be encrypted: the kernel lacks fscrypt "
            "(CONFIG_FS_ENCRYPTION); use another kernel or a volume without encryption"
        ) from error
