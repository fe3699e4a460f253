"""Logs of earlier versions, which were plain files: they are taken over once, then overwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.store.encryption import wipe

if TYPE_CHECKING:
    from pathlib import Path

    from limpet.store.logs import LogStore

_STREAMS = {b"o": "stdout", b"e": "stderr"}


def adopt_plain_logs(directory: Path, logs: LogStore) -> None:
    """Move `DIRECTORY/NAMESPACE/APP/log*` into the log store. Raises OSError, `LogFullError`."""
    for folder in sorted(directory.glob("*/*")):
        app = logs.add_app(folder.parent.name, folder.name)
        # The current file is `log`, the one before it `log.1`, and so on.
        paths = sorted(folder.glob("log*"), key=lambda path: -int(path.suffix[1:] or 0))
        for path in paths:
            with path.open("rb") as file:
                for line in file:
                    _adopt_line(line, app, logs)
        logs.flush()
        for path in paths:
            wipe(path)
        folder.rmdir()
    for folder in (*directory.glob("*"), directory):
        folder.rmdir()


def _adopt_line(line: bytes, app: int, logs: LogStore) -> None:
    """Take one record: time, stream, worker, incarnation, text; pass over what is none."""
    parts = line.rstrip(b"\n").split(b" ", 4)
    if len(parts) != 5 or parts[1] not in _STREAMS:
        return
    try:
        when, worker, run = float(parts[0]), parts[2].decode(), int(parts[3])
    except ValueError:
        return
    logs.add(app, [parts[4]], when, _STREAMS[parts[1]], worker, run)
