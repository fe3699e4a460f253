"""How a rollout stands, in kubectl's words; shared by `rollout`, `apply` and `describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.cli.kinds import reference, word_of
from limpet.errors import ConflictError, LimpetError

if TYPE_CHECKING:
    from limpet.api.answers import AppStatus, RolloutInfo


class RolloutFailedError(LimpetError):
    """The newest release of an app does not work."""

    reason = "RolloutFailed"


def require_rollout(app: AppStatus, *, revision: int = 0) -> RolloutInfo:
    """Return how the newest release stands. Raises `ConflictError` when there is none, or when it is
    not `revision`.
    """
    found = app.get("rollout")
    if found is None:
        raise ConflictError(
            f"{reference(app['kind'], app['name'])} has no releases: it is deleted, or makes one run"
        )
    if revision and found["release"] != revision:
        raise ConflictError(
            f"release {revision} of {reference(app['kind'], app['name'])} is not the newest: "
            f"that is {found['release']}"
        )
    return found


def describe_rollout(app: AppStatus) -> str:
    """One line for people, as `kubectl rollout status` says it."""
    found = require_rollout(app)
    name = f'{word_of(app["kind"])} "{app["name"]}"'
    if found["status"] == "complete":
        return f"{name} successfully rolled out"
    if found["status"] == "failed":
        return f"{name}: {explain_failure(found)}"
    if found["status"] == "paused":
        return f"{name} is paused; `limpet rollout resume` lets it go on"
    desired, told = app["desired"], f"Waiting for {name} rollout to finish"
    why = found["message"] or (app["message"] or "" if app["reason"] else "")
    why = f" ({why})" if why else ""
    if found["updated"] < desired:
        return f"{told}: {found['updated']} out of {desired} new workers have been updated...{why}"
    if found["old"]:
        return f"{told}: {found['old']} old workers are pending termination...{why}"
    if found["available"] < desired:
        return f"{told}: {found['available']} of {desired} updated workers are available...{why}"
    return f"{told}: all updated workers are available, and have to last...{why}"


def explain_failure(found: RolloutInfo) -> str:
    """Why the newest release failed, and what serves."""
    if found["in_force"] == found["release"]:
        served = "there is none to go back to, so it is tried on"
    else:
        served = f"release {found['in_force']} is in force again"
    return f"release {found['release']} failed: {found['message']}; {served}"


def judge(app: AppStatus) -> None:
    """Raise `RolloutFailedError` when the newest release failed."""
    found = require_rollout(app)
    if found["status"] == "failed":
        raise RolloutFailedError(
            f"{reference(app['kind'], app['name'])}: {explain_failure(found)}; "
            f"see `limpet describe {app['name']}` and `limpet logs {app['name']} --previous`"
        )


def is_rolled_out(app: AppStatus) -> bool:
    """Whether nothing of the newest release is awaited; so for apps without releases."""
    found = app.get("rollout")
    if found is None or found["status"] in ("complete", "paused"):
        return True
    is_current = found["in_force"] == found["release"]
    return is_current and found["available"] >= app["desired"] and not found["old"]


def has_failed(app: AppStatus) -> bool:
    """Whether the newest release was found not to work."""
    found = app.get("rollout")
    return found is not None and found["status"] == "failed"


def may_go_back(app: AppStatus) -> bool:
    """Whether the node itself is about to decide on the newest release."""
    found = app.get("rollout")
    return found is not None and found["status"] == "progressing" and found["previous"] is not None
