"""The kinds of objects, kubectl's names for them, and `KIND/NAME` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence


class TargetError(InvalidInputError):
    """A kind or name on the command line can't be used."""

    reason = "InvalidTarget"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind: `kind` as in manifests, `singular`, `plural` and `aliases` as in commands."""

    kind: str
    singular: str
    plural: str
    aliases: tuple[str, ...] = ()
    is_app: bool = False


APP = Kind("App", "app", "apps", is_app=True)
DEPLOYMENT = Kind("Deployment", "deployment", "deployments", ("deploy",), is_app=True)
POD = Kind("Pod", "pod", "pods", ("po",), is_app=True)
JOB = Kind("Job", "job", "jobs", is_app=True)
SERVICE = Kind("Service", "service", "services", ("svc",))
CONFIG_MAP = Kind("ConfigMap", "configmap", "configmaps", ("cm",))
SECRET = Kind("Secret", "secret", "secrets")
CLAIM = Kind(
    "PersistentVolumeClaim", "persistentvolumeclaim", "persistentvolumeclaims", ("pvc", "pvcs")
)
INGRESS = Kind("Ingress", "ingress", "ingresses", ("ing",))
NETWORK_POLICY = Kind("NetworkPolicy", "networkpolicy", "networkpolicies", ("netpol",))
EVENT = Kind("Event", "event", "events", ("ev",))
NODE = Kind("Node", "node", "nodes", ("no",))

STORED = (DEPLOYMENT, POD, JOB, SERVICE, INGRESS, NETWORK_POLICY, CONFIG_MAP, SECRET, CLAIM)
"""Kinds that manifests have; `App` is any of Deployment, Pod and Job."""
LISTED = (APP, *STORED, EVENT, NODE)

_BY_WORD = {
    word: kind for kind in LISTED for word in (kind.singular, kind.plural, *kind.aliases)
} | {"deployments.apps": DEPLOYMENT, "jobs.batch": JOB}
_BY_KIND = {kind.kind: kind for kind in LISTED}


def find_kind(word: str) -> Kind | None:
    """The kind that a word of the command line names, in any case."""
    return _BY_WORD.get(word.lower())


def parse_kind(word: str) -> Kind:
    """The same; raises `TargetError` with the nearest kind."""
    kind = find_kind(word)
    if kind is None:
        from difflib import get_close_matches

        near = get_close_matches(word.lower(), _BY_WORD, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(plurals())}."
        raise TargetError(
            f"{word} is no kind of object; {hint} For an app of that name, write app/{word}"
        )
    return kind


def plurals() -> list[str]:
    """What `get` lists."""
    return [kind.plural for kind in LISTED]


def word_of(kind: str) -> str:
    """A manifest's kind as commands write it: `deployment`."""
    known = _BY_KIND.get(kind)
    return known.singular if known else kind.lower()


def reference(kind: str, name: str) -> str:
    """`deployment/hello`."""
    return f"{word_of(kind)}/{name}"


def parse_targets(words: Sequence[str], *, default: Kind) -> list[tuple[Kind, str]]:
    """Kinds and names of `NAME...`, `KIND NAME...` and `KIND/NAME...`.

    A first word that names a kind is one when names follow it.
    """
    if not words:
        return []
    first = find_kind(words[0]) if len(words) > 1 and "/" not in words[0] else None
    if first is not None:
        for word in words[1:]:
            if "/" in word:
                raise TargetError(f"{word}: write either KIND NAME... or KIND/NAME..., not both")
        return [(first, _checked_name(word)) for word in words[1:]]
    return [_parse_target(word, default) for word in words]


def _parse_target(word: str, default: Kind) -> tuple[Kind, str]:
    kind, slash, name = word.partition("/")
    if not slash:
        return default, _checked_name(word)
    return parse_kind(kind), _checked_name(name)


def _checked_name(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise TargetError(f"{name!r} is no name; write KIND/NAME like deployment/hello")
    return name
