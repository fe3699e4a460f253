"""What guards apps less than it should: one line for people, told by the verbs that show apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.api.answers import AppStatus, Json

_RESOURCES = {"cpu": "CPU", "memory": "memory", "pids": "processes"}
_SEE = "see `limpet doctor`"


def app_warnings(app: AppStatus) -> list[str]:
    """Lines about walls and kernel limits that this app does without; none where all are there."""
    return _warnings(
        app.get("missing_walls") or [],
        app.get("missing_walls_why") or "",
        app["limits"].get("not_enforced") or {},
    )


def node_warnings(node: Json) -> list[str]:
    """The same about every app of a node."""
    return _warnings(
        node.get("missing_walls") or [],
        node.get("missing_walls_why") or "",
        node.get("not_enforced") or {},
    )


def limits_notice(node: Json) -> str:
    """One line when the kernel limits neither processor time nor memory; else nothing."""
    lacking = node.get("not_enforced") or {}
    if not {"cpu", "memory"} <= lacking.keys():
        return ""
    return f"no kernel limits here, only the engine's hold: {_because(lacking)}; {_SEE}"


def _warnings(walls: list[str], why: str, not_enforced: Json) -> list[str]:
    found = []
    if walls:
        found.append(f"running without {', '.join(walls)}: {why}; {_SEE}")
    if not_enforced:
        what = ", ".join(_RESOURCES.get(name, name) for name in not_enforced)
        found.append(f"no kernel limit of {what}: {_because(not_enforced)}; {_SEE}")
    return found


def _because(not_enforced: Json) -> str:
    """The first reason without its remedy, which `limpet doctor` tells."""
    reason = str(next(iter(not_enforced.values()))).removeprefix("no control groups: ")
    return reason.partition(": ")[0]
