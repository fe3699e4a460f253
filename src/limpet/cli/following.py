"""An app's output as if it ran here: its stdout and stderr on ours, its end as ours."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from typing import TYPE_CHECKING, TypeAlias

from limpet.api.answers import ProtocolError
from limpet.cli.columns import is_failing
from limpet.cli.kinds import reference
from limpet.cli.terminal import is_terminal, notice, printable
from limpet.cli.waiting import AppFailedError, describe_status, is_ended

if TYPE_CHECKING:
    from limpet.api.answers import AppStatus, ExitInfo
    from limpet.api.client import Client

_TICK_SECONDS = 0.1
_STATUS_SECONDS = 0.5
_QUIET_SECONDS = 0.3  # after the end, the log is over when it was silent for this long
_SIGNALLED = 128
_EXITED = "Error"  # the guest's own exit code, not zero; other reasons need words

State: TypeAlias = tuple[str, str | None]
"""Phase and reason: what people are told about when it changes."""


def follow_app(client: Client, app: AppStatus) -> AppStatus:
    """Copy the app's output until it has ended; returns its last status.

    Tells people when its state changes. An app that never ends is followed for ever.
    """
    told = (app["phase"], app["reason"])
    query: dict[str, object] = {"follow": True, "format": "json"}
    while True:
        app, told = _follow_once(client, app, told, query)
        if is_ended(app):
            return app
        query["tail"] = 0  # the log ended, the app did not: go on from here
        time.sleep(_TICK_SECONDS)


def _follow_once(
    client: Client, app: AppStatus, told: State, query: dict[str, object]
) -> tuple[AppStatus, State]:
    """Copy the log to its end, or until it is silent after the app's; look at the app meanwhile."""
    namespace, name = app["namespace"], app["name"]
    lines = client.log_lines(
        namespace=namespace, name=name, query=query, tick_seconds=_TICK_SECONDS
    )
    looked_at = heard_at = time.monotonic()
    with contextlib.closing(lines):
        for line in lines:
            now = time.monotonic()
            if line:
                write_record(line)
                heard_at = now
            if is_ended(app) and now - heard_at >= _QUIET_SECONDS:
                return app, told
            if not is_ended(app) and now - looked_at >= _STATUS_SECONDS:
                looked_at = heard_at = now
                app = client.app(namespace=namespace, name=name)
                told = _tell_change(app, told)
    app = client.app(namespace=namespace, name=name)
    return app, _tell_change(app, told)


def write_log(client: Client, app: AppStatus, *, tail: int) -> None:
    """Copy the last lines of the app's output."""
    query = {"tail": tail, "format": "json"}
    for line in client.log_lines(namespace=app["namespace"], name=app["name"], query=query):
        write_record(line)


def write_record(line: bytes) -> None:
    """Write one log record where the guest wrote it: to stdout or stderr."""
    try:
        record = json.loads(line)
        stream = sys.stderr if record["stream"] == "stderr" else sys.stdout
        text = str(record["line"])
    except (ValueError, LookupError, TypeError) as error:
        raise ProtocolError("the node sent a log record that is none") from error
    raw = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    stream.write((printable(raw) if is_terminal(stream) else raw).removesuffix("\n") + "\n")
    stream.flush()


def exit_code(app: AppStatus) -> int:
    """What the guest of an ended command exited with.

    Raises `AppFailedError` when it did not exit by itself: the message says why.
    """
    if app["phase"] == "Succeeded":
        return 0
    last = _last_exit(app)
    if last is not None and last["exit_code"] and last["reason"] == _EXITED:
        return last["exit_code"]
    name = reference(app["kind"], app["name"])
    why = f"{last['reason']}: {last['message']}" if last is not None else describe_status(app)
    error = AppFailedError(f"{name} failed: {why}", app=app)
    number = getattr(signal, last["signal"] or "", None) if last is not None else None
    if isinstance(number, signal.Signals):
        error.exit_code = _SIGNALLED + number
    raise error


def _last_exit(app: AppStatus) -> ExitInfo | None:
    exits = [worker["last_exit"] for worker in app["workers"] if worker["last_exit"] is not None]
    return max(exits, key=lambda one: one["finished_at"] or "", default=None)


def _tell_change(app: AppStatus, told: State) -> State:
    state = (app["phase"], app["reason"])
    if state != told and not is_ended(app) and (is_failing(app) or app["phase"] == "Pending"):
        notice(f"{app['name']}: {describe_status(app)}")
    return state
