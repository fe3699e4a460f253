"""What the node says on its local API (docs/api.md), as types, and what it refuses, as errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NotRequired, TypeAlias, TypedDict

from limpet.errors import (
    ConflictError,
    DeniedError,
    InvalidInputError,
    LimpetError,
    NotFoundError,
    TemporaryError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = dict[str, Any]
"""A JSON object as the node sent it; a Kubernetes object is one too."""


class ExitInfo(TypedDict):
    """Why a worker ended last."""

    reason: str
    message: str
    exit_code: int | None
    signal: str | None
    finished_at: str | None


class WorkerInfo(TypedDict):
    """One process of an app."""

    name: str
    pid: int | None
    state: str
    restarts: int
    started_at: str | None
    retry_seconds: float | None
    last_exit: ExitInfo | None


class RolloutInfo(TypedDict):
    """How the newest release of an app stands; `in_force` is the one that is to run,
    `previous` the one that it would go back to."""

    release: int
    in_force: int
    previous: int | None
    status: str
    message: str
    is_paused: bool
    updated: int
    available: int
    old: int


class ReleaseInfo(TypedDict):
    """One release; `object` comes with a single one."""

    release: int
    created_at: str
    status: str
    is_in_force: bool
    cause: str
    digest: str | None
    message: str
    decided_at: str | None
    object: NotRequired[Json]


class AppStatus(TypedDict):
    """What an app is doing; numbers are null while there is nothing to measure."""

    kind: str
    namespace: str
    name: str
    generation: int
    created_at: str
    managed_by: NotRequired[str | None]
    phase: str
    reason: str | None
    message: str | None
    is_final: NotRequired[bool]
    desired: int
    ready: int
    restarts: int
    trigger: str
    engine: str | None
    image: str
    digest: str | None
    endpoints: list[str]
    limits: Json
    missing_walls: NotRequired[list[str]]
    missing_walls_why: NotRequired[str]
    usage: Json | None
    requests: Json | None
    cold_start_milliseconds: Json | None
    requires: list[str]
    egress: list[str] | None
    volumes: list[Json]
    workers: list[WorkerInfo]
    rollout: NotRequired[RolloutInfo | None]
    last_output: NotRequired[list[Json]]


class ObjectInfo(TypedDict):
    """A stored object: `object` is the Kubernetes one, `usage` how full a volume is, `managed_by` the file
    of the manifests folder that it came from.
    """

    kind: str
    namespace: str
    name: str
    created_at: str
    generation: int
    managed_by: NotRequired[str | None]
    object: Json
    usage: NotRequired[Json | None]


class EventInfo(TypedDict):
    """Something that happened, `count` times; `time` is the last one."""

    time: str
    type: str
    reason: str
    kind: str
    namespace: str
    name: str
    message: str
    count: int


class ApplyItem(TypedDict):
    """One object to apply; `digest` goes with a module that comes along, `evidence` with its signatures."""

    object: Json
    digest: NotRequired[str]
    evidence: NotRequired[Json]


class ApplyResult(TypedDict):
    """What applying did to one object."""

    kind: str
    namespace: str
    name: str
    action: str
    warnings: list[str]


class ProtocolError(UnavailableError):
    """The peer's answer is not what docs/api.md describes."""

    reason = "BadAnswer"


def parse_object(body: bytes) -> Json:
    """Return the JSON object that a body holds. Raises `ProtocolError`."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the node's answer is no JSON; is it a Limpet node?") from error
    if not isinstance(value, dict):
        raise ProtocolError("the node's answer is no JSON object")
    return value


def parse_items(answer: Json, key: str = "items") -> list[Json]:
    """Return the list of objects that an answer has under `key`. Raises `ProtocolError`."""
    items = answer.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ProtocolError(f"the node's answer has no list of {key}")
    return items


def parse_error(status: int, headers: Mapping[str, str], body: bytes) -> LimpetError:
    """Return the error that an answer stands for; names of headers are in lower case."""
    category = _category(status, headers)
    try:
        told = parse_object(body)["error"] if body else {}
        problems = [_problem(problem) for problem in told.get("problems") or ()]
        message = "\n".join(problems) or str(told["message"])
        reason = str(told.get("reason") or category.reason)
    except (LimpetError, LookupError, TypeError, AttributeError):
        return category(f"the node answered {status} without saying why")
    error = category(message)
    error.reason = reason
    return error


def _problem(problem: Json) -> str:
    parts = (str(problem.get(key) or "") for key in ("where", "path", "why"))
    return ": ".join(part for part in parts if part)


def _category(status: int, headers: Mapping[str, str]) -> type[LimpetError]:
    if status == 503:
        return TemporaryError if "retry-after" in headers else UnavailableError
    exact: dict[int, type[LimpetError]] = {
        403: DeniedError,
        404: NotFoundError,
        409: ConflictError,
    }
    default = InvalidInputError if status // 100 == 4 else LimpetError
    return exact.get(status, default)
