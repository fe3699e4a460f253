"""What of an app's object makes a release, and the changes that `limpet rollout` makes to it.

Objects are Kubernetes' documents, already found valid. Like `kubectl`, a change of the pod template is
a new release; replicas, pauses and how to roll out are not.
"""

from __future__ import annotations

import copy
import json
from typing import Any, TypeAlias

from limpet.manifest.annotations import PREFIX

Document: TypeAlias = dict[str, Any]

CHANGE_CAUSE = "kubernetes.io/change-cause"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_DESCRIPTION = PREFIX + "description"


def encode_template(document: Document) -> str:
    """Return what makes the release, equal text for equal releases."""
    template = document["spec"]["template"] if _has_template(document) else document["spec"]
    metadata = document.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    parts = [
        template,
        {k: v for k, v in annotations.items() if k.startswith(PREFIX) and k != _DESCRIPTION},
    ]
    if not _has_template(document):
        parts += [metadata.get("labels"), annotations.get(RESTARTED_AT)]
    return json.dumps(parts, sort_keys=True)


def change_cause(document: Document) -> str:
    """Return why the change was made, as its author says; empty when nobody does."""
    annotations = (document.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(CHANGE_CAUSE) or "")


def carry_over(document: Document, previous: Document) -> Document:
    """Return an applied object with what `limpet rollout` has set on the previous one and the file
    does not speak of: the pause and the last restart.
    """
    carried = copy.deepcopy(document)
    if _has_template(document) and "paused" in previous["spec"]:
        carried["spec"].setdefault("paused", previous["spec"]["paused"])
    when = _pod_annotations(previous).get(RESTARTED_AT)
    if when is not None and RESTARTED_AT not in _pod_annotations(document):
        with_restart = restarted(carried, when)
        # A restart belongs to what was restarted: another template starts anew by itself.
        if encode_template(with_restart) == encode_template(previous):
            return with_restart
    return carried


def restarted(document: Document, when: str) -> Document:
    """Return the object as a new release of the same: `when` is the time."""
    changed = copy.deepcopy(document)
    holder = changed["spec"]["template"] if _has_template(changed) else changed
    metadata = holder["metadata"] = holder.get("metadata") or {}
    metadata["annotations"] = (metadata.get("annotations") or {}) | {RESTARTED_AT: when}
    return changed


def paused(document: Document, *, is_paused: bool) -> Document:
    """Return a Deployment that is paused, or not."""
    changed = copy.deepcopy(document)
    changed["spec"].pop("paused", None)
    if is_paused:
        changed["spec"]["paused"] = True
    return changed


def is_paused(document: Document) -> bool:
    """Whether the object's rollout is paused."""
    return _has_template(document) and document["spec"].get("paused") is True


def can_pause(document: Document) -> bool:
    """Whether this kind of object has a field for it."""
    return _has_template(document)


def undone(document: Document, earlier: Document) -> Document:
    """Return the object with an earlier release's template, annotations and reason for the change."""
    changed = copy.deepcopy(document)
    if _has_template(document):
        changed["spec"]["template"] = copy.deepcopy(earlier["spec"]["template"])
    else:
        changed["spec"] = copy.deepcopy(earlier["spec"])
        _set_or_remove(changed["metadata"], "labels", earlier["metadata"].get("labels"))
    own = (changed["metadata"].get("annotations") or {}).items()
    kept = {k: v for k, v in own if not _goes_along(k)}
    told = ((earlier.get("metadata") or {}).get("annotations") or {}).items()
    kept |= {k: v for k, v in told if _goes_along(k)}
    _set_or_remove(changed["metadata"], "annotations", kept)
    return changed


def _goes_along(annotation: str) -> bool:
    return annotation.startswith(PREFIX) or annotation in (CHANGE_CAUSE, RESTARTED_AT)


def _set_or_remove(mapping: Document, key: str, value: object) -> None:
    if value:
        mapping[key] = value
    else:
        mapping.pop(key, None)


def _has_template(document: Document) -> bool:
    return bool(document["kind"] == "Deployment")


def _pod_annotations(document: Document) -> Document:
    holder = document["spec"]["template"] if _has_template(document) else document
    found: Document = (holder.get("metadata") or {}).get("annotations") or {}
    return found
