"""The API's calls about rollouts (docs/api.md): an app's releases, and what can be done to them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from limpet.api.queries import is_number
from limpet.errors import ConflictError, InvalidInputError, NotFoundError
from limpet.manifest.template import (
    can_pause,
    change_cause,
    is_paused,
    paused,
    restarted,
    undone,
)
from limpet.node.releases import is_unchanged
from limpet.node.rollout import decide_in_force, decide_undo
from limpet.node.status import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limpet.manifest.template import Document
    from limpet.node.agent import Agent
    from limpet.node.apps import AppRuntime
    from limpet.store.database import StoredObject
    from limpet.store.releases import Release


class NoReleasesError(ConflictError):
    """An app whose changes are no releases."""

    reason = "NoReleases"


def describe_releases(agent: Agent, runtime: AppRuntime) -> dict[str, object]:
    """Return the app's releases, oldest first, without their objects."""
    known = _require_releases(agent, runtime)
    resource = agent.objects.resources[runtime.object_key]
    rollout = getattr(resource, "rollout", None)
    in_force = decide_in_force(known, is_paused=bool(rollout and rollout.is_paused))
    return {
        "items": [
            _describe(release, _body(agent, runtime, release.number), in_force) for release in known
        ]
    }


def describe_release(agent: Agent, runtime: AppRuntime, number: str) -> dict[str, object]:
    """Return one release with its object. Raises `NotFoundError`."""
    known = _require_releases(agent, runtime)
    release = _find(known, _parse_number(number))
    body = _body(agent, runtime, release.number)
    return {**_describe(release, body, decide_in_force(known)), "object": body}


def change_rollout(
    agent: Agent, runtime: AppRuntime, document: Mapping[str, object]
) -> dict[str, object]:
    """Do `action` (undo, pause, resume or restart); durable on return.

    Raises `InvalidInputError` for another action, `ConflictError` when it has no meaning now,
    `NotFoundError` when the release to go to is not kept.
    """
    actions: dict[object, Callable[[], str]] = {
        "undo": lambda: _undo(agent, runtime, document.get("to_release")),
        "pause": lambda: _pause(agent, runtime, is_wanted=True),
        "resume": lambda: _pause(agent, runtime, is_wanted=False),
        "restart": lambda: _restart(agent, runtime),
    }
    action = document.get("action")
    if action not in actions:
        raise InvalidInputError(f"`action` must be one of {', '.join(map(str, actions))}")
    _require_releases(agent, runtime)
    done = actions[action]()
    return {"action": done, "release": agent.rollouts.releases(runtime)[-1].number}


def _undo(agent: Agent, runtime: AppRuntime, wanted: object) -> str:
    known = agent.rollouts.releases(runtime)
    if wanted in (None, 0):
        chosen = decide_undo(known)
        if chosen is None:
            raise NotFoundError(f"app {runtime.key} has no release before {known[-1].number}")
    elif isinstance(wanted, int) and not isinstance(wanted, bool):
        chosen = _find(known, wanted)
    else:
        raise InvalidInputError("`to_release` must be a number")
    stored = agent.objects.stored[runtime.object_key]
    current = _document(stored)
    if is_paused(current):
        raise ConflictError(
            f"the rollout of {runtime.key} is paused; resume it first, with "
            f"`limpet rollout resume {runtime.app.kind.lower()}/{runtime.key.name}`"
        )
    changed = undone(current, _body(agent, runtime, chosen.number))
    if is_unchanged(changed, chosen.digest, stored):
        return "skipped"
    agent.apply([(changed, chosen.digest)], carries_over=False)
    return "rolled back"


def _pause(agent: Agent, runtime: AppRuntime, *, is_wanted: bool) -> str:
    stored = agent.objects.stored[runtime.object_key]
    document = _document(stored)
    if not can_pause(document):
        raise ConflictError(f"a {stored.kind} can't be paused, only a Deployment")
    if is_paused(document) is is_wanted:
        return "already paused" if is_wanted else "not paused"
    changed = paused(document, is_paused=is_wanted)
    agent.apply([(changed, stored.digest)], carries_over=False)
    return "paused" if is_wanted else "resumed"


def _restart(agent: Agent, runtime: AppRuntime) -> str:
    stored = agent.objects.stored[runtime.object_key]
    document = _document(stored)
    if is_paused(document):
        raise ConflictError(
            f"the rollout of {runtime.key} is paused, so nothing would restart; resume it first"
        )
    changed = restarted(document, format_time(time.time(), with_micros=True))
    agent.apply([(changed, stored.digest)], carries_over=False)
    return "restarted"


def _require_releases(agent: Agent, runtime: AppRuntime) -> tuple[Release, ...]:
    known = agent.rollouts.releases(runtime)
    if not known:
        raise NoReleasesError(
            f"{runtime.app.kind} {runtime.key} makes one run, so it has no releases: rollouts are of "
            "Deployments, and of Pods that are restarted always"
        )
    return known


def _find(known: tuple[Release, ...], number: int) -> Release:
    for release in known:
        if release.number == number:
            return release
    kept = ", ".join(str(release.number) for release in known)
    newest = known[-1]
    raise NotFoundError(
        f"{newest.kind} {newest.namespace}/{newest.name} has no release {number}; kept are: {kept}"
    )


def _parse_number(text: str) -> int:
    if not is_number(text):
        raise InvalidInputError(f"{text!r:.40} is no number of a release")
    return int(text)


def _body(agent: Agent, runtime: AppRuntime, number: int) -> Document:
    body: Document = json.loads(agent.objects.releases.body(runtime.object_key, number))
    return body


def _document(stored: StoredObject) -> Document:
    document: Document = json.loads(stored.body)
    return document


def _describe(release: Release, body: Document, in_force: Release) -> dict[str, object]:
    decided_at = release.decided_at
    return {
        "release": release.number,
        "created_at": format_time(release.created_at),
        "status": release.status,
        "is_in_force": release.number == in_force.number,
        "cause": change_cause(body),
        "digest": release.digest,
        "message": release.message,
        "decided_at": format_time(decided_at) if decided_at is not None else None,
    }
