"""docs/events.md has every reason that an event of the node can carry, and no other."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import limpet

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(limpet.__file__).parent
PAGE = SOURCES.parents[1] / "docs/events.md"
_REASON = re.compile(r"[A-Z][A-Za-z]+")

# Functions that make an event, in the agent's own modules: one of their first two arguments is the reason.
_RECORDERS = {
    "record",
    "_record",
    "announce",
    "_announce",
    "of_app",
    "of_node",
    "of_object",
    "to_all",
    "_record_app",
    "_report",
    "_complain",
    "_record_object",
    "_set_problem",
    "tell",
}
# Recorded otherwise: a text of the SQL that restores the state, a default value, a list that is told later.
_ELSEWHERE = {
    "StateRestored": "store/database.py",
    "KeyringRestored": "store/keyring.py",
    "KeyringNotCopied": "store/keyring.py",
    "ManifestsNotApplied": "node/manifests/folder.py",
}
# What carries a reason that an event shows later: how a worker ended, why an app can't be prepared.
_CARRIERS = {"ExitInfo", "Failed", "Finished", "PlanError", "RetryableError", "replace", "refusal"}
_CARRIER_FOLDERS = ("node", "worker", "engine", "registry", "plan.py")
# Any of these may be raised while an app is prepared; the event carries its class's reason.
_ERROR_FOLDERS = ("node", "store", "registry", "engine", "errors.py")

# Reasons of errors that are answered or printed and never recorded.
_NEVER_RECORDED = {
    "BundleKeysUnusable": "answers a call",
    "CompiledCodeDenied": "answers a call",
    "Conflict": "answers a call",
    "Forbidden": "answers a call",
    "Invalid": "answers a call",
    "NotFound": "answers a call",
    "TemporaryFailure": "answers a call",
    "Unavailable": "answers a call",
    "UpgradeOnTrial": "answers a call",
    "InvalidPassphrase": "ends `limpet up`",
    "KeyringUnavailable": "ends `limpet up`",
    "StoreUnavailable": "ends `limpet up`",
    "UnlockKeyExposed": "ends `limpet up`",
    "UnlockKeyUnavailable": "ends `limpet up`",
    "WrongUnlockKey": "ends `limpet up`",
    "InvalidMessage": "ends the process that sent it, and the event says how it ended",
    "LogNotWritable": "the lines wait in memory until there is room",
}


def _parsed(*places: str) -> Iterator[ast.AST]:
    for place in places:
        path = SOURCES / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield from ast.walk(ast.parse(file.read_text("utf-8"), str(file)))


def _texts(*nodes: ast.AST) -> set[str]:
    """Return what may be reasons among the nodes: strings, also those that a condition chooses from."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _REASON.fullmatch(node.value):
                found.add(node.value)
        elif isinstance(node, ast.IfExp):
            found |= _texts(node.body, node.orelse)
    return found


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


@functools.cache
def recorded_reasons() -> frozenset[str]:
    """Return every reason that the sources can put into an event."""
    found: set[str] = set()
    for node in _parsed("node"):
        if isinstance(node, ast.Call) and _name(node) in _RECORDERS:
            found |= _texts(*node.args[:2])
    for node in _parsed(*_CARRIER_FOLDERS):
        if isinstance(node, ast.Call) and _name(node) in _CARRIERS:
            named = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            found |= _texts(*node.args[:2], *named)
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if {"reason", "event"} & set(names):
                found |= _texts(node.value)
            elif "_SAID_REASONS" in names:
                found |= _texts(*ast.walk(node.value))
    for node in _parsed(*_ERROR_FOLDERS):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "reason":
                    found |= _texts(line.value)
    return frozenset(found) | _ELSEWHERE.keys()


def explained_reasons() -> list[str]:
    """Return the reasons that the page's tables begin their lines with, in its order."""
    return re.findall(r"^\| `(\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)


def test_the_page_has_every_reason_and_no_other() -> None:
    explained = explained_reasons()
    recorded = recorded_reasons()
    assert _NEVER_RECORDED.keys() <= recorded, "reasons that are gone"
    recorded -= _NEVER_RECORDED.keys()
    assert sorted(recorded - set(explained)) == [], "docs/events.md lacks these"
    assert sorted(set(explained) - recorded) == [], (
        "docs/events.md names these, and nothing records them"
    )


def test_what_is_recorded_otherwise_is_where_it_is_said_to_be() -> None:
    for reason, place in _ELSEWHERE.items():
        assert reason in (SOURCES / place).read_text("utf-8")


def test_the_page_is_sorted_and_says_each_once() -> None:
    explained = explained_reasons()
    assert explained == sorted(set(explained))


def test_every_line_says_what_happened_what_limpet_does_and_what_to_do() -> None:
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 4, line
        assert all(cells), line


def test_the_walk_sees_every_way_in_which_a_reason_is_written() -> None:
    """One each: recorded, in a lambda, complained of, carried, chosen by a condition, of a class, said."""
    ways = {
        "Started",
        "VolumeRepaired",
        "IngressFailed",
        "PortInUse",
        "MissingVolume",
        "VolumeBusy",
    }
    assert ways | {"OOMKilled", "Trap", "SpawnFailed"} <= recorded_reasons()
