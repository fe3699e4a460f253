"""Requests a second and their cost, a fresh instance for each, on one core and on two.

One core: the server has a core and wrk the other. Two cores: server and wrk share both.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.lab import CLIENT_CORE, SERVER_CORE
from benchmarks.load import Load, run_load, take_median
from benchmarks.node import Node
from benchmarks.peer import FRESH_MODES, MODES, Peer
from benchmarks.processes import pin
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from benchmarks.lab import Lab

_CONNECTIONS = (1, 16, 32)
_LIMPET = "Limpet"
_VARYING = "Limpet, every request different"
_CPU = "cpu_micros_per_request"
# Where the promise about the processor's time is read.
_TARGET_CONNECTIONS = 16
_TARGET_MICROS = 80.0


def measure(lab: Lab) -> Result:
    """Return loads by number of cores, connections and server."""
    with Node(lab.folder / "load") as node:
        return {str(cores): _measure_cores(lab, node, cores) for cores in (1, 2)}


def _measure_cores(lab: Lab, node: Node, count: int) -> Result:
    cores = (SERVER_CORE, CLIENT_CORE)[:count]
    client_cores = (CLIENT_CORE,) if count == 1 else cores
    app = f"load-{count}"
    with ExitStack() as stack:
        port = node.deploy(app, workers=count)
        node.wait_for(app, "Running", workers=count)
        pin(node.workers(app), cores)
        servers = {name: (port, node.workers(app)) for name in (_LIMPET, _VARYING)}
        for mode in MODES:
            peer = stack.enter_context(Peer(lab, mode, cores=cores))
            servers[f"`wasmtime serve`, {mode}"] = (peer.port, peer.pids)
        found: dict[int, dict[str, list[Load]]] = {
            connections: {name: [] for name in servers} for connections in _CONNECTIONS
        }
        for _ in range(lab.bounds.rounds):
            for connections in _CONNECTIONS:
                for name, (server_port, pids) in servers.items():
                    load = run_load(
                        server_port,
                        pids=pids,
                        connections=connections,
                        seconds=lab.bounds.load_seconds,
                        cores=client_cores,
                        is_varying=name == _VARYING,
                    )
                    found[connections][name].append(load)
    return {
        str(connections): {name: take_median(loads) for name, loads in servers_loads.items()}
        for connections, servers_loads in found.items()
    }


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    columns = ("", "connections", "req/s", "CPU us/request", "p50 ms", "p99 ms")
    titles = {
        "1": "Throughput, one worker: server on one core, client on the other",
        "2": "Throughput, two workers: server and client share both cores",
    }
    return [
        Table(
            titles[cores],
            columns,
            [
                (
                    name,
                    connections,
                    number(load["requests_per_second"]),
                    number(load[_CPU]),
                    number(load["p50_milliseconds"]),
                    number(load["p99_milliseconds"]),
                )
                for connections, servers in by_connections.items()
                for name, load in servers.items()
            ],
        )
        for cores, by_connections in result.items()
    ]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    found: list[Target] = []
    for cores, by_connections in result.items():
        servers = by_connections[str(_TARGET_CONNECTIONS)]
        own = servers[_LIMPET]
        peers = [servers[f"`wasmtime serve`, {mode}"] for mode in FRESH_MODES]
        cpu = min(peer[_CPU] for peer in peers)
        rate = max(peer["requests_per_second"] for peer in peers)
        where = f"on {cores} core{'s' if cores != '1' else ''}"
        own_rate = own["requests_per_second"]
        found += [
            Target(
                f"CPU per request {where}",
                f"<= {number(_TARGET_MICROS)} us",
                f"{number(own[_CPU])} us",
                own[_CPU] <= _TARGET_MICROS,
            ),
            Target(
                f"CPU per request {where}, beside the peer's best fresh mode",
                f"< {number(cpu)} us",
                f"{number(own[_CPU])} us",
                own[_CPU] < cpu,
            ),
            Target(
                f"requests/s {where}, beside the peer's best fresh mode",
                f"> {number(rate)}",
                number(own_rate),
                own_rate > rate,
            ),
        ]
    return found
