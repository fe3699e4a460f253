"""Passphrases: asked for here, and turned into the unlock key before any node process exists."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.cli.terminal import notice
from limpet.errors import InvalidInputError
from limpet.store.encryption import KEY_BYTES
from limpet.store.keyring import has_keyring
from limpet.store.unlock import (
    PassphraseError,
    Stretching,
    load_stretchings,
    make_key_descriptor,
    save_stretchings,
    stretching_path,
)

if TYPE_CHECKING:
    from pathlib import Path

_MIN_LENGTH = 8
_MAX_BYTES = 4096
_SALT_BYTES = 16
_MEMORY_FACTOR = 2  # of what scrypt itself needs: OpenSSL counts its own blocks, too


def unlock_descriptor(directory: Path, *, passphrase_fd: int | None) -> int:
    """Ask for the passphrase and return an inheritable descriptor with the unlock key in it.

    At the first start it is asked for twice, and how it is stretched is written down.
    """
    path = stretching_path(directory)
    is_first = not has_keyring(directory)
    if is_first:
        passphrase = obtain_new(passphrase_fd)
        known = [new_stretching()]
    else:
        known = load_stretchings(path)
        passphrase = obtain(passphrase_fd)
    notice("unlocking the node's data")
    keys = [stretch(passphrase, stretching) for stretching in known]
    if is_first:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_stretchings(path, known)
    descriptor = make_key_descriptor(keys)
    os.set_inheritable(descriptor, True)
    return descriptor


def obtain(passphrase_fd: int | None) -> bytes:
    """Read the passphrase from the descriptor, or ask for it on the terminal."""
    return _ask("Passphrase: ") if passphrase_fd is None else _read(passphrase_fd)


def obtain_new(passphrase_fd: int | None) -> bytes:
    """Read or ask for a passphrase that is to be used from now on; people type it twice."""
    if passphrase_fd is not None:
        chosen = _read(passphrase_fd)
    else:
        chosen = _ask("New passphrase: ")
        if chosen != _ask("The same again: "):
            raise PassphraseError("the two passphrases differ; nothing was changed")
    if len(chosen.decode("utf-8", "replace")) < _MIN_LENGTH:
        raise PassphraseError(f"the passphrase is shorter than {_MIN_LENGTH} characters")
    return chosen


def new_stretching() -> Stretching:
    """Return today's parameters with a new salt: 32 MiB and about a tenth of a second on a PC."""
    return Stretching(salt=os.urandom(_SALT_BYTES).hex())


def stretch(passphrase: bytes, how: Stretching) -> bytes:
    """Turn a passphrase into the unlock key (scrypt, RFC 7914)."""
    import hashlib  # with OpenSSL, which this process may load and the node's may not

    try:
        return hashlib.scrypt(
            passphrase,
            salt=bytes.fromhex(how.salt),
            n=how.n,
            r=how.r,
            p=how.p,
            maxmem=_MEMORY_FACTOR * 128 * how.n * how.r,
            dklen=KEY_BYTES,
        )
    except (ValueError, MemoryError, OverflowError) as error:
        raise PassphraseError(f"can't stretch the passphrase: {error}") from error


def _read(descriptor: int) -> bytes:
    try:
        with os.fdopen(descriptor, "rb") as file:
            line = file.read(_MAX_BYTES).split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as error:
        raise InvalidInputError(
            f"--passphrase-fd {descriptor}: can't read it: {error.strerror}"
        ) from error
    if not line:
        raise PassphraseError(f"--passphrase-fd {descriptor}: there is no passphrase to read")
    return line


def _ask(prompt: str) -> bytes:
    from getpass import GetPassWarning, getpass
    from warnings import catch_warnings, simplefilter

    try:
        with catch_warnings():
            simplefilter("error", GetPassWarning)  # it would read aloud from stdin
            return getpass(prompt).encode()
    except (GetPassWarning, EOFError, OSError) as error:
        raise PassphraseError(
            "there is no terminal to ask for the passphrase; give it with --passphrase-fd"
        ) from error
