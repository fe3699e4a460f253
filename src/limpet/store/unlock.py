"""Where the key that opens the keyring comes from: a file, systemd, or a passphrase.

A source may hold two keys for a moment: while the keyring is encrypted anew, the next one lies beside
the current one, and whichever fits the keyring after a kill is kept (`settle`).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from limpet.errors import DeniedError, InvalidInputError, UnavailableError
from limpet.store.encryption import KEY_BYTES
from limpet.store.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from limpet.settings import Settings

CREDENTIAL = "limpet.key"
_MAX_KEY_FILE_BYTES = 4096


class KeyFileError(UnavailableError):
    """The unlock key is missing, or what is there is none."""

    reason = "UnlockKeyUnavailable"


class KeyFileModeError(DeniedError):
    """Others than the node can read the unlock key."""

    reason = "UnlockKeyExposed"


class PassphraseError(InvalidInputError):
    """What turns a passphrase into the unlock key is missing or of no use."""

    reason = "InvalidPassphrase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretching:
    """How a passphrase becomes the unlock key: scrypt's parameters (RFC 7914) and the salt, in hex."""

    salt: str
    n: int = 1 << 15
    r: int = 8
    p: int = 1


class UnlockSource(Protocol):
    """One way to get the unlock key."""

    name: str
    """As in the setting `keys.source`."""
    where: str
    """What a person looks at: a path."""

    def read(self, *, is_first: bool) -> list[bytes]:
        """Return the keys that may fit, the current one first. Raises LimpetError.

        `is_first` says that there is no keyring yet: a source that can make a key makes it.
        """

    def stage(self, key: bytes | None, stretching: Stretching | None) -> bytes | None:
        """Keep a next key beside the current one and return it; None when this one stays."""

    def settle(self, key: bytes) -> None:
        """Keep this key alone. Doing it again changes nothing."""


class KeyFile:
    """32 random bytes in hex, in a file outside the data directory that the node made (mode 0600)."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path
        self._staged = path.with_name(f"{path.name}.new")

    def read(self, *, is_first: bool) -> list[bytes]:
        """Return the file's key, and the next one when a rotation was interrupted."""
        if is_first and not self._path.exists():
            self._make()
        found: list[bytes] = []
        problem: Exception | None = None
        for path in (self._path, self._staged):
            try:
                found.append(_read_private(path))
            except FileNotFoundError as error:
                problem = problem or error
            except KeyFileError as error:
                problem = problem or error
        if found:
            return found
        if isinstance(problem, KeyFileError):
            raise problem
        raise KeyFileError(
            f"the unlock key {self._path} is missing: without it nobody can read this node's data, "
            f"and no other key will do. Restore the file from a backup to {self._path} (mode 0600), "
            "or say where it is with keys.file"
        ) from problem

    def _make(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomically(self._path, _encode(os.urandom(KEY_BYTES)))
        except OSError as error:
            raise KeyFileError(
                f"can't make the unlock key {self._path}: {error.strerror}; "
                "choose another place with keys.file"
            ) from error

    def stage(self, key: bytes | None, stretching: Stretching | None) -> bytes | None:
        """Make a random key and write it beside the current one."""
        _refuse_given(self.name, key, stretching)
        made = os.urandom(KEY_BYTES)
        try:
            write_atomically(self._staged, _encode(made))
        except OSError as error:
            raise KeyFileError(f"can't write {self._staged}: {error.strerror}") from error
        return made

    def settle(self, key: bytes) -> None:
        """Give the staged key the file's name if it is the one, else remove it."""
        try:
            staged = _read_private(self._staged)
        except FileNotFoundError:
            return
        except KeyFileError:
            staged = b""
        if staged == key:
            self._staged.replace(self._path)
        else:
            self._staged.unlink()
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Credential:
    """A file that systemd shows to its service alone (systemd.exec(5), LoadCredential=)."""

    name = "credential"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._directory = environment.get("CREDENTIALS_DIRECTORY", "")
        self.where = f"{self._directory or '$CREDENTIALS_DIRECTORY'}/{CREDENTIAL}"

    def read(self, *, is_first: bool) -> list[bytes]:
        """Return the credential."""
        del is_first  # a credential is made by the operator
        if not self._directory:
            raise KeyFileError(
                "keys.source is credential, but systemd gave this process none: add "
                f"LoadCredentialEncrypted={CREDENTIAL} to the unit"
            )
        try:
            with open(self.where, "rb") as file:
                return [_decode(file.read(_MAX_KEY_FILE_BYTES), self.where)]
        except OSError as error:
            raise KeyFileError(
                f"can't read the credential {self.where}: {error.strerror}; "
                f"the unit needs LoadCredentialEncrypted={CREDENTIAL} or LoadCredential={CREDENTIAL}"
            ) from error

    def stage(self, key: bytes | None, stretching: Stretching | None) -> bytes | None:
        """Change nothing: a credential is the operator's to replace."""
        _refuse_given(self.name, key, stretching)
        return None

    def settle(self, key: bytes) -> None:
        """There is never more than one."""
        del key


class Passphrase:
    """Keys that `limpet up` made from a passphrase, in memory behind a descriptor.

    The descriptor is a memfd with room for two keys: the launcher holds it without reading it, so
    that an agent that comes after this one finds what this one has written. Zygote and workers have
    it closed before any code of theirs runs.
    """

    name = "passphrase"

    def __init__(self, directory: Path, descriptor: int | None) -> None:
        self.where = str(stretching_path(directory))
        self._path = stretching_path(directory)
        self._descriptor = descriptor

    def read(self, *, is_first: bool) -> list[bytes]:
        """Return the keys that were handed over."""
        del is_first  # `limpet up` made it
        if self._descriptor is None:
            raise PassphraseError(
                "keys.source is passphrase, but none was handed over: start the node with "
                "`limpet up`, at a terminal or with --passphrase-fd"
            )
        held = os.pread(self._descriptor, 2 * KEY_BYTES, 0)
        found = [held[at : at + KEY_BYTES] for at in (0, KEY_BYTES)]
        return [key for key in found if len(key) == KEY_BYTES and any(key)]

    def stage(self, key: bytes | None, stretching: Stretching | None) -> bytes | None:
        """Take the next passphrase's key, and remember how it is made from it."""
        if key is None or stretching is None:
            raise PassphraseError(
                "this node needs a new passphrase; `limpet key rotate` asks for it"
            )
        assert self._descriptor is not None, "a keyring that is open was opened with it"
        current = load_stretchings(self._path)[:1]
        os.pwrite(self._descriptor, key, KEY_BYTES)
        save_stretchings(self._path, [*current, stretching])
        return key

    def settle(self, key: bytes) -> None:
        """Forget the key that is not this one, and how it was made."""
        assert self._descriptor is not None, "a keyring that is open was opened with it"
        held = self.read(is_first=False)
        known = load_stretchings(self._path)
        if len(known) > 1:
            save_stretchings(self._path, [known[held.index(key)]])
        os.pwrite(self._descriptor, key + bytes(KEY_BYTES), 0)


def choose_source(
    settings: Settings, *, environment: Mapping[str, str], descriptor: int | None
) -> UnlockSource:
    """Return the source that the settings name."""
    if settings.keys.source == "credential":
        return Credential(environment)
    if settings.keys.source == "passphrase":
        return Passphrase(settings.node.data_directory, descriptor)
    return KeyFile(settings.key_file)


def make_key_descriptor(keys: Sequence[bytes]) -> int:
    """Return a memfd for `Passphrase` with up to two keys in it; its size is sealed."""
    import fcntl

    assert 0 < len(keys) <= 2, "the current key, and the next one of an interrupted rotation"
    descriptor = os.memfd_create("limpet-unlock", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"".join(keys).ljust(2 * KEY_BYTES, b"\0"))
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def stretching_path(directory: Path) -> Path:
    """Return where a data directory keeps how its passphrase is stretched."""
    return directory / "keyring.json"


def load_stretchings(path: Path) -> list[Stretching]:
    """Return the current one, and the next one while a rotation is under way. Raises LimpetError."""
    try:
        entries = json.loads(path.read_bytes())["scrypt"]
        found = [
            Stretching(
                salt=bytes.fromhex(e["salt"]).hex(), n=int(e["n"]), r=int(e["r"]), p=int(e["p"])
            )
            for e in entries
        ]
    except FileNotFoundError as error:
        raise PassphraseError(
            f"{path} is missing: this keyring was made without a passphrase (see keys.source), or the "
            "file must be restored, as the passphrase is of no use without it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"can't read {path}: {error}; restore it from a backup") from error
    if not 0 < len(found) <= 2:
        raise KeyFileError(f"{path} is damaged; restore it from a backup")
    return found


def save_stretchings(path: Path, stretchings: Sequence[Stretching]) -> None:
    """Write them, durably."""
    write_atomically(path, json.dumps({"scrypt": [asdict(s) for s in stretchings]}).encode())


def _read_private(path: Path) -> bytes:
    """Read a key file that is the node's alone. Raises FileNotFoundError, LimpetError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyFileError(f"can't read the unlock key {path}: {error.strerror}") from error
    with file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid():
            raise KeyFileModeError(
                f"the unlock key {path} belongs to user {status.st_uid}, who can read this node's "
                f"data; if that is nobody's key but this node's, run `chown {os.geteuid()} {path}`"
            )
        if status.st_mode & 0o077:
            raise KeyFileModeError(
                f"others can read the unlock key {path} (mode {status.st_mode & 0o777:04o}); run "
                f"`chmod 600 {path}`, and `limpet key rotate` if somebody may have read it"
            )
        return _decode(file.read(_MAX_KEY_FILE_BYTES), str(path))


def _encode(key: bytes) -> bytes:
    return key.hex().encode() + b"\n"


def _decode(data: bytes, where: str) -> bytes:
    """Read 64 hexadecimal digits, or 32 bytes as they are."""
    if len(data) == KEY_BYTES:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFileError(
            f"the unlock key {where} is damaged: expected {2 * KEY_BYTES} hexadecimal digits. "
            "Restore it from a backup; without it nobody can read this node's data"
        )
    return key


def _refuse_given(name: str, key: bytes | None, stretching: Stretching | None) -> None:
    if key is not None or stretching is not None:
        raise PassphraseError(
            f"this node's unlock key comes from keys.source = {name!r}, it takes no passphrase"
        )
