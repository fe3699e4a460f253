"""Requests a second and their cost on each engine: a run for each request, and a guest that listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.engines.variants import VARIANTS
from benchmarks.lab import CLIENT_CORE, SERVER_CORE, SOCKET_SERVER
from benchmarks.load import Load, run_load, take_median
from benchmarks.node import Node
from benchmarks.processes import pin
from benchmarks.report import Result, Table, number

if TYPE_CHECKING:
    from benchmarks.engines.programs import Programs
    from benchmarks.engines.variants import Variant
    from benchmarks.lab import Lab

_CONNECTIONS = (1, 16)
_HELLO, _SOCKET = "hello", "socket-server"
_TITLES = {
    _HELLO: "A run for each request (hello): one worker on one core, client on the other",
    _SOCKET: "A guest that listens (socket-server): one worker on one core, client on the other",
}


def measure(lab: Lab, _programs: Programs) -> Result:
    """Return loads by app, variant and connections."""
    found: dict[str, dict[str, dict[int, list[Load]]]] = {
        app: {each.key: {count: [] for count in _CONNECTIONS} for each in VARIANTS}
        for app in _TITLES
    }
    with Node(lab.folder / "engine-loads") as node:
        servers = {(app, each.key): _deploy(node, app, each) for app in found for each in VARIANTS}
        for _ in range(lab.bounds.rounds):
            for count in _CONNECTIONS:
                for (app, key), (port, pids) in servers.items():
                    load = run_load(
                        port,
                        pids=pids,
                        connections=count,
                        seconds=lab.bounds.load_seconds / 2,
                        cores=[CLIENT_CORE],
                    )
                    found[app][key][count].append(load)
    return {
        app: {
            key: {str(count): take_median(loads) for count, loads in by_count.items()}
            for key, by_count in by_variant.items()
        }
        for app, by_variant in found.items()
    }


def _deploy(node: Node, app: str, variant: Variant) -> tuple[int, list[int]]:
    """The port and the processes of an app, on its core."""
    name = f"{app}-{variant.key}"
    if app == _SOCKET:
        port = node.deploy(
            name,
            module=SOCKET_SERVER.read_bytes(),
            annotations={**variant.annotations, "limpet.dev/trigger": "socket"},
            port_variable="PORT",
        )
    else:
        port = node.deploy(name, annotations=variant.annotations)
    node.wait_for(name, "Running", workers=1)
    pids = node.workers(name)
    pin(pids, [SERVER_CORE])
    return port, pids


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    columns = ("", "connections", "req/s", "CPU us/request", "p50 ms", "p99 ms")
    return [
        Table(
            title,
            columns,
            [
                (
                    each.label,
                    str(count),
                    number((load := result[app][each.key][str(count)])["requests_per_second"]),
                    number(load["cpu_micros_per_request"]),
                    number(load["p50_milliseconds"]),
                    number(load["p99_milliseconds"]),
                )
                for count in _CONNECTIONS
                for each in VARIANTS
            ],
        )
        for app, title in _TITLES.items()
    ]
