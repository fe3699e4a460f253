"""The apps' logs: one encrypted database for all, written by the agent from its workers' pipes.

Lines wait in memory and are written together, once a second or when there are many: a kill of the
agent loses at most those. Logs are not synced. A row holds what one read of a pipe brought: lines of
one worker's stream with one time. Each write goes to `recent`, where the lines of all
apps lie side by side, so that fifty apps with a line each cost the flash two pages and not fifty; from
there they are moved, many at a time, to `lines`, where an app's own lie together.
"""

from __future__ import annotations

from limpet.store.logs.app_log import MAX_LINE_BYTES, AppLog
from limpet.store.logs.log_store import MAX_PENDING_BYTES, LogStore
from limpet.store.logs.records import Choice, LogFullError, Record

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_PENDING_BYTES",
    "AppLog",
    "Choice",
    "LogFullError",
    "LogStore",
    "Record",
]
