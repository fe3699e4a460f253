"""The node's keys as a whole: what unlocks them, what they encrypt, and how all of it is changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.store.encryption import KEY_BYTES
from limpet.store.keyring import Keyring, has_keyring
from limpet.store.unlock import Stretching, choose_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.settings import Settings
    from limpet.store.database import Database
    from limpet.store.logs import LogStore
    from limpet.store.modules import ModuleStore

_PROTECTS = (
    "the data directory when it is read without the key: "
    "a disk that was lost, sold, copied or backed up"
)
_PROTECTS_NOT = {
    "file": "whoever takes the whole device or an image of all its disks: the key file is on one of them",
    "credential": "whoever gets the credential: one that LoadCredential= reads lies on a disk as it is, "
    "one that LoadCredentialEncrypted= seals to a TPM opens on this machine alone",
    "passphrase": "a passphrase that can be guessed; and the node starts only when somebody enters it",
}
_PROTECTS_NEVER = "root on the running device: it can read the node's memory"


class NodeKeys:
    """The keyring, where its unlock key comes from, and the stores that are encrypted with it."""

    def __init__(
        self,
        settings: Settings,
        *,
        descriptor: int | None,
        database: Database,
        logs: LogStore,
        modules: ModuleStore,
    ) -> None:
        self._directory = settings.node.data_directory
        self._source = choose_source(settings, environment=os.environ, descriptor=descriptor)
        self._keyring: Keyring | None = None
        self._database = database
        self._logs = logs
        self._modules = modules

    @property
    def keyring(self) -> Keyring:
        """The open keyring, from which every key of the node is derived."""
        assert self._keyring is not None, "open() comes first"
        return self._keyring

    def open(self) -> None:
        """Unlock the keyring and open every store. Raises LimpetError."""
        self._unlock()
        self._database.open(self.keyring.derive_all("state", KEY_BYTES))
        self._logs.open(self.keyring.derive_all("logs", KEY_BYTES))
        self._modules.open(self.keyring.derive("artifacts", KEY_BYTES))

    def _unlock(self) -> None:
        is_first = not has_keyring(self._directory)
        unlock_keys = self._source.read(is_first=is_first)
        self._keyring, index = Keyring.open(self._directory, unlock_keys)
        self._source.settle(unlock_keys[index])

    def take_problems(self) -> list[tuple[str, str]]:
        """Return what people have to know of the keyring and the state, once: reasons and messages.

        A restored state has written its own event (`StateRestored`).
        """
        found, self.keyring.problems = self.keyring.problems, []
        return found

    def describe(self) -> dict[str, object]:
        """Return what people may know of the keys: never a key."""
        generations = self.keyring.generations
        return {
            "source": self._source.name,
            "where": self._source.where,
            "cipher": "chacha20-poly1305",
            "generation": self.keyring.generation,
            "created_at": generations[0].created_at,
            "generations": [
                {"generation": each.generation, "created_at": each.created_at}
                for each in generations
            ],
            "protects_against": [_PROTECTS],
            "does_not_protect_against": [_PROTECTS_NOT[self._source.name], _PROTECTS_NEVER],
        }

    def rotate(
        self, new_unlock_key: bytes | None, stretching: Stretching | None, *, dry_run: bool
    ) -> dict[str, object]:
        """Make a node key and, where the source can, an unlock key, and encrypt state and logs anew.

        Each step is whole or not at all, and what a kill interrupts is finished at the next start.
        Raises LimpetError; when it does, the node goes on with the keys that it had.
        """
        changes_unlock_key = self._source.name != "credential"
        generation = self.keyring.generation + 1
        problems: list[str] = []
        if not dry_run:
            self._change_keyring(new_unlock_key, stretching)
            generation = self.keyring.generation
            problems = self._rekey_stores()
        return {
            "dry_run": dry_run,
            "generation": generation,
            "source": self._source.name,
            "where": self._source.where,
            "new_unlock_key": changes_unlock_key,
            "encrypted_anew": ["state", "logs"],
            "made_again_when_needed": ["artifacts"],
            "encrypted_anew_at_next_start": ["volumes"],
            "problems": problems,
        }

    def _change_keyring(self, new_unlock_key: bytes | None, stretching: Stretching | None) -> None:
        staged = self._source.stage(new_unlock_key, stretching)
        try:
            self.keyring.rotate(staged)
        except LimpetError:
            self._unlock()  # the disk tells which key it has now; the other one goes
            raise
        if staged is not None:
            self._source.settle(staged)

    def _rekey_stores(self) -> list[str]:
        """Encrypt the stores with the newest key; say what could not be done yet."""
        steps: Sequence[tuple[Callable[[Sequence[bytes]], None], str]] = (
            (self._database.rekey, "state"),
            (self._logs.rekey, "logs"),
        )
        problems = []
        for rekey, purpose in steps:
            try:
                rekey(self.keyring.derive_all(purpose, KEY_BYTES))
            except LimpetError as error:
                problems.append(f"{error}; it keeps its key until the node starts again")
        problems += self._database.backups.rekey(self.keyring.derive_all("state", KEY_BYTES))
        self._modules.set_key(self.keyring.derive("artifacts", KEY_BYTES))
        return problems
