"""Waiting for apps: until they run, are gone, or will not come."""

from __future__ import annotations

import time
from itertools import repeat
from typing import TYPE_CHECKING, TypeAlias

from limpet.cli.columns import is_failing
from limpet.cli.kinds import reference
from limpet.cli.rollout_status import explain_failure, has_failed, is_rolled_out, may_go_back
from limpet.errors import LimpetError, NotFoundError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limpet.api.answers import ApplyResult, AppStatus
    from limpet.api.client import Client
    from limpet.cli.terminal import StatusLine

_POLL_SECONDS = (0.02, 0.05, 0.1, 0.2)
_ENDED = {"Succeeded", "Failed"}

AppKey: TypeAlias = tuple[str, str]
"""Namespace and name."""


class AppFailedError(LimpetError):
    """An app will not run as it is."""

    reason = "AppFailed"

    def __init__(self, message: str, *, app: AppStatus | None = None) -> None:
        super().__init__(message)
        self.app = app


class NotReadyError(TemporaryError):
    """Apps did not get ready in time; they may yet."""

    reason = "NotReady"


def is_ready(app: AppStatus) -> bool:
    """Whether the app does what it is meant to do, or has done it."""
    if not is_rolled_out(app):
        return False
    if app["phase"] == "Running":
        return app["ready"] >= app["desired"] and not is_failing(app)
    return app["phase"] in ("Idle", "Succeeded")


def is_ended(app: AppStatus) -> bool:
    """Whether the app has come to its end."""
    return app["phase"] in _ENDED


def describe_status(app: AppStatus) -> str:
    """`Pending, CompilingModule: 3.1 MiB` for people."""
    words = app["phase"] + (f", {app['reason']}" if app["reason"] else "")
    return f"{words}: {app['message']}" if app["message"] else words


def failure(app: AppStatus) -> AppFailedError:
    """The error that a failing app stands for."""
    why = describe_status(app)
    if has_failed(app) and (found := app.get("rollout")):
        why = explain_failure(found)
    return AppFailedError(
        f"{reference(app['kind'], app['name'])} failed: {why}; "
        f"see `limpet describe {_argument(app)}` and `limpet logs {_argument(app)}`",
        app=app,
    )


def wait_for_apps(
    client: Client,
    results: Sequence[ApplyResult],
    *,
    timeout_seconds: float,
    status: StatusLine,
    is_done: Callable[[AppStatus], bool] = is_ready,
) -> list[AppStatus]:
    """Wait until every applied app is done; their statuses in the same order.

    Raises `AppFailedError` for the first that fails, `NotReadyError` when time is up.
    """
    wanted = {(r["namespace"], r["name"]): _generation(client, r) for r in results}
    latest: dict[AppKey, AppStatus] = {}
    deadline = time.monotonic() + timeout_seconds
    for pause in _pauses():
        for key in [key for key in wanted if key not in latest or not is_done(latest[key])]:
            app = client.app(namespace=key[0], name=key[1])
            if app["generation"] < wanted[key]:
                continue
            latest[key] = app
            is_hopeless = has_failed(app) or (is_failing(app) and not may_go_back(app))
            if is_hopeless and not is_done(app):
                raise failure(app)
        missing = [key for key in wanted if key not in latest or not is_done(latest[key])]
        if not missing:
            break
        if time.monotonic() >= deadline:
            raise _late(missing, latest, timeout_seconds)
        status.show(_progress(missing, latest, len(wanted)))
        time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
    return [latest[key] for key in wanted]


def wait_until_gone(
    client: Client, keys: Sequence[AppKey], *, timeout_seconds: float, status: StatusLine
) -> None:
    """Wait until none of the apps exists. Raises `NotReadyError` when time is up."""
    left = list(keys)
    deadline = time.monotonic() + timeout_seconds
    for pause in _pauses():
        left = [key for key in left if _exists(client, key)]
        if not left:
            return
        if time.monotonic() >= deadline:
            names = ", ".join(name for _, name in left)
            raise NotReadyError(f"{names}: still stopping after {timeout_seconds:g} s")
        status.show(f"stopping {', '.join(name for _, name in left)}")
        time.sleep(pause)


def _pauses() -> Iterator[float]:
    """Short pauses first, since an app starts in milliseconds; then longer ones, for ever."""
    for pause in _POLL_SECONDS:
        yield from repeat(pause, 5)
    yield from repeat(_POLL_SECONDS[-1])


def _generation(client: Client, result: ApplyResult) -> int:
    """The generation that a status must have to be about what was applied just now."""
    if result["action"] != "configured":
        return 0
    found = client.objects(kind=result["kind"], namespace=result["namespace"], name=result["name"])
    return found[0]["generation"] if found else 0


def _exists(client: Client, key: AppKey) -> bool:
    try:
        client.app(namespace=key[0], name=key[1])
    except NotFoundError:
        return False
    return True


def _late(
    missing: Sequence[AppKey], latest: dict[AppKey, AppStatus], seconds: float
) -> NotReadyError:
    lines = []
    for key in missing:
        app = latest.get(key)
        if app is None:
            lines.append(f"{key[1]} was not looked at by the node within {seconds:g} s")
            continue
        lines.append(
            f"{reference(app['kind'], app['name'])} is not ready after {seconds:g} s: "
            f"{describe_status(app)} ({app['ready']}/{app['desired']} ready); "
            f"see `limpet describe {_argument(app)}`"
        )
    return NotReadyError("\n".join(lines))


def _progress(missing: Sequence[AppKey], latest: dict[AppKey, AppStatus], total: int) -> str:
    count = f"{total - len(missing)}/{total} ready; " if total > 1 else ""
    app = latest.get(missing[0])
    return f"{count}{missing[0][1]}: {describe_status(app) if app else 'Pending'}"


def _argument(app: AppStatus) -> str:
    namespace = app["namespace"]
    return app["name"] + ("" if namespace == "default" else f" -n {namespace}")
