"""What many deployed apps cost a node while they are scaled to zero: state on disk, memory of the agent.

The state is also made with a history of releases for each app, by the store itself: rolling each of them
out would take hours and leave the same rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.lab import HELLO
from benchmarks.node import Node
from benchmarks.processes import read_memory, wait_until
from benchmarks.report import Result, Table, Target, number
from limpet.store.database import Database, StoredObject, encode_body, now
from limpet.store.releases import Release, write_release

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.lab import Lab

_BATCH = 100
_RELEASES = 11  # the one in force and ten before it (revisionHistoryLimit)
_SETTLE_SECONDS = 15.0
_STATE_MB, _AGENT_MIB = 10.0, 40.0
_AGENT = "limpet-agent"


def measure(lab: Lab) -> Result:
    """Return bytes, by number of apps."""
    folder = lab.folder / "many"
    found: dict[str, Any] = {}
    with Node(folder) as node:
        digest = "sha256:" + hashlib.sha256(HELLO.read_bytes()).hexdigest()
        node.call("PUT", f"/v1/modules/{digest}", HELLO.read_bytes())
        made = 0
        for count in (0, *lab.bounds.many_apps):
            while made < count:
                more = min(_BATCH, count - made)
                objects = [
                    {"object": _deployment(made + index), "digest": digest} for index in range(more)
                ]
                node.call("POST", "/v1/apply", json.dumps({"objects": objects}).encode())
                made += more
            wait_until(lambda: _count_idle(node) == made, f"{made} apps at rest", pause_seconds=1.0)  # noqa: B023
            time.sleep(_SETTLE_SECONDS)
            agent = read_memory(node.platform()[_AGENT])
            found[str(count)] = {
                "agent": asdict(agent),
                "state": _state_bytes(folder / "data"),
                "histories": _histories_bytes(lab.folder / f"histories-{count}", count),
            }
    return found


def _histories_bytes(folder: Path, apps: int) -> int:
    """Return what the state takes when each app has as many releases as are kept."""
    database = Database(folder / "state.db")
    database.open([bytes(32)])
    for index in range(apps):
        database.transact(partial(_write_history, database, index))
    database.close()
    return _state_bytes(folder)


def _write_history(database: Database, number_of_app: int) -> None:
    name = f"app-{number_of_app:04}"
    for release in range(1, _RELEASES + 1):
        document = _deployment(number_of_app)
        environment = document["spec"]["template"]["spec"]["containers"][0]["env"]
        environment.append({"name": "RELEASE", "value": f"1.0.{release}"})
        body = encode_body(document)
        digest = "sha256:" + hashlib.sha256(f"{name} {release}".encode()).hexdigest()
        if release == _RELEASES:
            database.write_objects(
                [
                    StoredObject(
                        kind="Deployment",
                        namespace="default",
                        name=name,
                        generation=release,
                        created_at=now(),
                        body=body,
                        digest=digest,
                    )
                ]
            )
        row = Release(
            kind="Deployment",
            namespace="default",
            name=name,
            number=release,
            created_at=now(),
            digest=digest,
            status="complete",
            message="every worker of it was available",
            decided_at=now(),
        )
        write_release(database, row, body)


def _count_idle(node: Node) -> int:
    return sum(app["phase"] == "Idle" for app in node.call("GET", "/v1/apps")["items"])


def _state_bytes(data: Path) -> int:
    return sum(path.stat().st_size for path in data.glob("state.db*"))


def _deployment(number_of_app: int) -> dict[str, Any]:
    """What people write: labels, an environment, limits, a probe."""
    name = f"app-{number_of_app:04}"
    container = {
        "name": name,
        "image": "./hello.wasm",
        "env": [
            {"name": "GREETING", "value": f"hello from {name}"},
            {"name": "LOG_LEVEL", "value": "info"},
        ],
        "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
        "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
    }
    template = {
        "metadata": {
            "labels": {"app": name, "team": "field"},
            "annotations": {
                "limpet.dev/listen": "127.0.0.1:0",
                "limpet.dev/idle-timeout": "1s",
            },
        },
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name, "team": "field"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    rows = [
        (
            count,
            number(each["agent"]["pss_bytes"] / (1 << 20)),
            number(each["agent"]["anonymous_bytes"] / (1 << 20)),
            number(each["state"] / 1e6),
            number(each["histories"] / 1e6),
        )
        for count, each in result.items()
    ]
    columns = (
        "apps",
        "agent, PSS, MiB",
        "of it anonymous, MiB",
        "state and its log, MB",
        f"state with {_RELEASES} releases each, MB",
    )
    return [Table("Apps scaled to zero", columns, rows)]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    counts = sorted((int(count) for count in result), reverse=True)
    most, middle = counts[0], counts[1]
    state = result[str(most)]["state"] / 1e6
    histories = result[str(most)]["histories"] / 1e6
    agent = result[str(middle)]["agent"]["pss_bytes"] / (1 << 20)
    return [
        Target(
            f"state of {most} apps",
            f"< {_STATE_MB:.0f} MB",
            f"{number(state)} MB",
            state < _STATE_MB,
        ),
        Target(
            f"state of {most} apps with {_RELEASES} releases each",
            f"< {_STATE_MB:.0f} MB",
            f"{number(histories)} MB",
            histories < _STATE_MB,
        ),
        Target(
            f"the agent with {middle} apps at rest",
            f"<= {_AGENT_MIB:.0f} MiB",
            f"{number(agent)} MiB",
            agent <= _AGENT_MIB,
        ),
    ]
