"""Files of the operator's that settings name: keys, certificates, credentials. Read anew at each use."""

from __future__ import annotations

from limpet.errors import TemporaryError

MAX_KEYS_BYTES = 64 << 10
"""`limpet.signing.MAX_KEY_BYTES`, which can't be imported here."""


class SettingsFileError(TemporaryError):
    """A file that a setting names can't be used."""

    reason = "SettingsFileUnusable"


def read_operator_file(path: str, what: str, *, most_bytes: int) -> str:
    """Return a file's text, empty when none is set. Raises `SettingsFileError`.

    `what` names the setting in the error; no error shows what is in the file.
    """
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(most_bytes + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SettingsFileError(f"{what}: can't read {path}: {reason}") from error
    if len(text) > most_bytes:
        raise SettingsFileError(f"{what}: {path} is larger than {most_bytes >> 10} KiB")
    return text
