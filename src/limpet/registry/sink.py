"""The file that a download is written to: bounded, hashed while it comes, taken up again after a break.

A second file notes what the first is a part of. Both belong to the node and outlive the process that writes
them; what is there is hashed again before it counts, and a note that can't be read means: start over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os

from limpet.registry.errors import DiskFullError, FetchError

_CHUNK = 1 << 20
_MOST_NOTE_BYTES = 16 << 10
# What a node needs besides: its state, and an artifact's first blocks.
RESERVED_BYTES = 16 << 20


class Sink:
    """A file, from its beginning."""

    def __init__(self, descriptor: int, max_bytes: int, *, notes: int | None = None) -> None:
        self.descriptor = descriptor
        self.max_bytes = max_bytes
        self._notes = notes
        self._hash = hashlib.sha256()
        self.size = 0
        self.validator = ""
        """What the source says of this version (ETag), for taking the download up again."""

    @property
    def digest(self) -> str:
        """The digest of what was written."""
        return f"sha256:{self._hash.hexdigest()}"

    def take_up(self, key: str) -> None:
        """Go on with what is there if it is a part of `key`, else begin anew."""
        note = self._read_note()
        if note.get("key") != key:
            self.clear()
            self.note(key, "")
            return
        self.validator = str(note.get("validator", ""))
        self._hash, self.size = hashlib.sha256(), 0
        while data := os.pread(self.descriptor, _CHUNK, self.size):
            self._hash.update(data)
            self.size += len(data)
        os.lseek(self.descriptor, self.size, os.SEEK_SET)

    def note(self, key: str, validator: str) -> None:
        """Remember what this is a part of."""
        self.validator = validator
        if self._notes is not None:
            text = json.dumps({"key": key, "validator": validator}).encode()
            os.ftruncate(self._notes, 0)
            if len(text) <= _MOST_NOTE_BYTES:
                os.pwrite(self._notes, text, 0)

    def clear(self) -> None:
        """Begin anew."""
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self._hash, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Append; raises `FetchError` over the bound, OSError when the disk does not take it."""
        if self.size + len(data) > self.max_bytes:
            raise FetchError(f"the module is over {self.max_bytes >> 20} MiB")
        view = memoryview(data)
        while view:
            written = os.write(self.descriptor, view)
            self._hash.update(view[:written])
            self.size += written
            view = view[written:]

    def require_room(self, more_bytes: int) -> None:
        """Raise `DiskFullError` when the file's disk has no room for as much again as is to come."""
        room = os.fstatvfs(self.descriptor)
        available = room.f_bavail * room.f_frsize
        if more_bytes + RESERVED_BYTES > available:
            raise DiskFullError(
                f"the disk has {available >> 20} MiB left and {more_bytes >> 20} MiB are to be "
                f"downloaded (with {RESERVED_BYTES >> 20} MiB kept free); delete what is not needed"
            )

    def finish(self) -> None:
        """Have it on disk."""
        os.fsync(self.descriptor)

    def _read_note(self) -> dict[str, object]:
        if self._notes is not None:
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(os.pread(self._notes, _MOST_NOTE_BYTES, 0).decode("utf-8"))
                if isinstance(found, dict):
                    return found
        return {}
