"""What the platform occupies, and what each further app adds (proportional set size).

A page that several processes share counts in parts, also with processes that are none of ours. So run
this while nothing else in Python runs; the anonymous part, no file's pages, can't be disturbed so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.client import time_first_byte
from benchmarks.lab import HELLO
from benchmarks.node import Node
from benchmarks.peer import Peer
from benchmarks.processes import read_memory, wait_until
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.lab import Lab

_SETTLE_SECONDS = 1.0
_REQUESTS = 20
_AT_ZERO = 10
_SPARE = "limpet-spare"
_PLATFORM_MIB, _APP_MIB = 30.0, 3.0
_MIB = 1 << 20
_KINDS = ("pss_bytes", "anonymous_bytes")


def measure(lab: Lab) -> Result:
    """Return bytes."""
    return {
        "python": _measure_python(),
        "peer": _measure_peers(lab),
        "limpet": _measure_node(lab),
        "at zero": _measure_at_zero(lab),
        "other": _measure_other_python(lab),
    }


def _measure_other_python(lab: Lab) -> dict[str, Any] | None:
    """The same node on another interpreter, which OTHER_PYTHON names: what is shared differs."""
    python = os.environ.get("OTHER_PYTHON")
    if not python:
        return None
    command = [python, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    node = _measure_node(lab, folder="other", python=python)
    return {"version": version.stdout.strip(), "limpet": node}


def _measure_node(
    lab: Lab, *, folder: str = "memory", python: str = sys.executable
) -> dict[str, Any]:
    """A node without apps, with one and with many: each has its own module and has served."""
    with Node(lab.folder / folder, python=python) as node:
        time.sleep(_SETTLE_SECONDS)
        found: dict[str, Any] = {"0": snapshot(node)}
        for index in range(lab.bounds.idle_apps):
            start_app(node, index)
            if index == 0:
                time.sleep(_SETTLE_SECONDS)
                found["1"] = snapshot(node)
        time.sleep(_SETTLE_SECONDS)
        found["all"] = snapshot(node)
    return found


def start_app(
    node: Node, index: int, *, idle_timeout: str = "", annotations: Mapping[str, str] | None = None
) -> None:
    """Start the app of this number, which has a module of its own, and let it serve."""
    name = f"app-{index}"
    port = node.deploy(
        name, module=_own_module(index), idle_timeout=idle_timeout, annotations=annotations
    )
    if idle_timeout:
        node.wait_for(name, "Idle", workers=0)
    else:
        node.wait_for(name, "Running", workers=1)
    for _ in range(_REQUESTS):
        time_first_byte(port)


def _own_module(index: int) -> bytes:
    """The hello example with a custom section that makes it a module of its own."""
    text = b"\x05bench" + b"%06d" % index
    return HELLO.read_bytes() + bytes([0, len(text)]) + text


def snapshot(node: Node) -> dict[str, Any]:
    """What all processes of a node occupy, in bytes."""
    platform = {name: asdict(read_memory(pids)) for name, pids in node.platform().items()}
    apps = node.apps()
    return {
        "platform": platform,
        "apps": asdict(read_memory(apps)),
        "app processes": len(apps),
        "total": asdict(read_memory(node.processes)),
    }


def _measure_at_zero(lab: Lab) -> dict[str, Any]:
    """What apps that nobody has asked for lately leave behind, beside the first of them."""
    with Node(lab.folder / "zero") as node:
        _rest(node, range(1))
        before = read_memory(node.processes)
        _rest(node, range(1, 1 + _AT_ZERO))
        after = read_memory(node.processes)
        return {
            "apps": _AT_ZERO,
            "processes": len(node.apps()),
            "spare": asdict(read_memory(node.platform()[_SPARE])),
            "bytes per app": (after.anonymous_bytes - before.anonymous_bytes) / _AT_ZERO,
        }


def _rest(node: Node, numbers: range) -> None:
    """Start apps, let them serve, and wait until they are gone and a spare worker is there."""
    for index in numbers:
        start_app(node, index, idle_timeout="200ms")
    for index in numbers:
        node.wait_for(f"app-{index}", "Idle", workers=0)
    wait_until(lambda: _SPARE in node.platform(), "a spare worker")
    time.sleep(_SETTLE_SECONDS)


def _measure_peers(lab: Lab) -> dict[str, Any]:
    with ExitStack() as stack:
        first = stack.enter_context(Peer(lab, "fresh instances"))
        _warm([first])
        one = read_memory(first.pids)
        rest = [
            stack.enter_context(Peer(lab, "fresh instances")) for _ in range(lab.bounds.peers - 1)
        ]
        peers = [first, *rest]
        _warm(peers)
        together = read_memory(pid for peer in peers for pid in peer.pids)
    return {"count": len(peers), "one": asdict(one), "together": asdict(together)}


def _warm(peers: Iterable[Peer]) -> None:
    for peer in peers:
        for _ in range(_REQUESTS):
            time_first_byte(peer.port)


def _measure_python() -> dict[str, Any]:
    command = [sys.executable, "-c", "print('up', flush=True); import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it is a pipe"
        process.stdout.readline()
        return asdict(read_memory([process.pid]))


def _platform_bytes(snapshot: dict[str, Any]) -> int:
    return sum(memory["pss_bytes"] for memory in snapshot["platform"].values())


def per_further_app(node: dict[str, Any]) -> dict[str, float]:
    """What the whole node grows by from the first app to the last, per app."""
    more = node["all"]["app processes"] - node["1"]["app processes"]
    return {kind: (node["all"]["total"][kind] - node["1"]["total"][kind]) / more for kind in _KINDS}


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    node, peer = result["limpet"], result["peer"]
    rows = [
        _row(f"Limpet, no app: `{name}`", memory) for name, memory in node["0"]["platform"].items()
    ]
    count = node["all"]["app processes"]
    more_peers = peer["count"] - 1
    further_peer = {
        kind: (peer["together"][kind] - peer["one"][kind]) / more_peers for kind in _KINDS
    }
    zero = result["at zero"]
    rows += [
        _row("Limpet, no app: the whole node", node["0"]["total"]),
        _row("Limpet: the whole node with its first app", node["1"]["total"]),
        _row(f"Limpet: the whole node with {count} idle apps", node["all"]["total"]),
        _row("Limpet: each further app", per_further_app(node)),
        _row("`wasmtime serve`: one process, one app", peer["one"]),
        _row(f"`wasmtime serve`: {peer['count']} processes", peer["together"]),
        _row("`wasmtime serve`: each further process", further_peer),
        _row("a Python interpreter that waits", result["python"]),
        (
            f"Limpet: what each of {zero['apps']} apps scaled to zero leaves in the agent",
            "",
            number(zero["bytes per app"] / _MIB),
        ),
        _row("Limpet: the spare worker, there while an app is scaled to zero", zero["spare"]),
    ]
    other = result["other"]
    if other is not None:
        on = f"Limpet on CPython {other['version']}"
        rows += [
            _row(f"{on}, no app: the whole node", other["limpet"]["0"]["total"]),
            _row(f"{on}: each further app", per_further_app(other["limpet"])),
        ]
    return [Table("Memory, MiB", ("", "PSS", "of it anonymous"), rows)]


def _row(label: str, memory: dict[str, Any]) -> tuple[str, ...]:
    return (label, *(number(memory[kind] / _MIB) for kind in _KINDS))


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    node, other = result["limpet"], result["other"]
    count = node["all"]["app processes"]
    processes = result["at zero"]["processes"]
    found = [
        _at_most("launcher, agent and zygote, no app", _platform_bytes(node["0"]), _PLATFORM_MIB),
        _at_most("agent and zygote, beside the first app", _pair_bytes(node["1"]), _PLATFORM_MIB),
        _at_most(
            f"launcher, agent and zygote, beside {count} apps",
            _platform_bytes(node["all"]),
            _PLATFORM_MIB,
        ),
        _at_most("each further idle app", per_further_app(node)["pss_bytes"], _APP_MIB),
    ]
    if other is not None:
        name = f"each further idle app on CPython {other['version']}"
        found.append(_at_most(name, per_further_app(other["limpet"])["pss_bytes"], _APP_MIB))
    at_zero = Target("processes of apps scaled to zero", "0", str(processes), processes == 0)
    return [*found, at_zero]


def _at_most(name: str, found: float, limit_mib: float) -> Target:
    found /= _MIB
    return Target(name, f"<= {limit_mib:.0f} MiB", f"{number(found)} MiB", found <= limit_mib)


def _pair_bytes(snapshot: dict[str, Any]) -> int:
    platform = snapshot["platform"]
    return sum(platform[name]["pss_bytes"] for name in ("limpet-agent", "limpet-zygote"))
