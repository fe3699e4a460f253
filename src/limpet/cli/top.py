"""`limpet top`: what apps use and how fast they answer, and what Limpet itself uses."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn

import click

from limpet.cli.columns import Rows, process_table, status_cell
from limpet.cli.options import (
    connect,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.render import Column, Styled, write_json, write_json_line, write_table
from limpet.cli.terminal import notice
from limpet.cli.units import format_cores, format_micros, format_share, format_size
from limpet.cli.watch import watch_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.api.answers import AppStatus, Json
    from limpet.api.client import Client
    from limpet.cli.watch import Table

_WATCH_SECONDS = 2.0
_HIGH_SHARE = 0.9
# Titles, and which of them narrow terminals do without.
_NUMBERS = {
    "CPU": 0,
    "CPU%": 8,
    "MEMORY": 0,
    "MEM%": 6,
    "PEAK": 3,
    "THROTTLED": 2,
    "REQUESTS": 4,
    "FAILED": 5,
    "P50": 9,
    "P99": 1,
    "RESTARTS": 7,
}


@click.command(
    epilog=examples(
        "limpet top                # apps in the namespace default, then the node",
        "limpet top -A --watch     # every app, redrawn until Ctrl-C",
        "limpet top -o json | jq '.items[] | {name, usage}'",
    )
)
@click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace.")
@click.option("-w", "--watch", is_flag=True, help="Redraw until Ctrl-C.")
@output_option("table", "json")
@namespace_option
@socket_option
def top(
    *,
    all_namespaces: bool,
    watch: bool,
    output: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """Show CPU, memory, requests and latency of apps, and the memory of the node's processes.

    CPU% and MEM% are shares of the app's limits. MEMORY is PSS: shared pages count in parts. MEM%
    and PEAK are what the kernel charges to the limit. THROTTLED is the share of time, since the
    last look, in which the CPU limit was reached.
    """
    client = connect(socket)
    chosen = None if all_namespaces else namespace or "default"
    if watch and output != "json":
        watch_tables(
            lambda: _tables(client, chosen), period_seconds=_WATCH_SECONDS, empty="No apps."
        )
    if watch:
        _watch_json(client, chosen)
    if output == "json":
        write_json(_answer(client, chosen))
        return
    apps, processes = _tables(client, chosen)
    if apps[1]:
        write_table(*apps)
    else:
        notice(f"No apps in namespace {chosen}." if chosen else "No apps.")
    click.echo()
    write_table(*processes)


def _tables(client: Client, namespace: str | None) -> list[Table]:
    apps = client.apps(namespace=namespace)
    return [
        _app_table(apps, has_namespace=namespace is None),
        process_table(client.node(), has_total=True),
    ]


def _app_table(apps: Sequence[AppStatus], *, has_namespace: bool) -> Table:
    columns = [Column("NAMESPACE")] if has_namespace else []
    columns += [Column("NAME"), Column("STATUS")]
    columns += [Column(title, is_number=True, rank=rank) for title, rank in _NUMBERS.items()]
    rows: Rows = [
        [*([app["namespace"]] if has_namespace else []), *_app_cells(app)]
        for app in sorted(apps, key=_busiest_first)
    ]
    return columns, rows


def _app_cells(app: AppStatus) -> list[str | Styled]:
    usage, limits, requests = app["usage"] or {}, app["limits"], app["requests"] or {}
    latency = requests.get("latency_micros") or {}
    cores, memory = usage.get("cpu_cores"), usage.get("pss_bytes")
    charged = usage.get("memory_bytes")
    failed = requests.get("failed")
    return [
        app["name"],
        status_cell(app),
        format_cores(cores),
        _share_cell(cores, limits.get("cpu_cores")),
        format_size(memory),
        _share_cell(memory if charged is None else charged, limits.get("memory_bytes")),
        format_size(usage.get("memory_peak_bytes")),
        _throttled_cell(usage.get("throttled_share")),
        _count(requests.get("total")),
        Styled(_count(failed), "red" if failed else ""),
        format_micros(latency.get("p50")),
        format_micros(latency.get("p99")),
        Styled(str(app["restarts"]), "yellow" if app["restarts"] else ""),
    ]


def _watch_json(client: Client, namespace: str | None) -> NoReturn:
    while True:
        write_json_line(_answer(client, namespace))
        sys.stdout.flush()
        time.sleep(_WATCH_SECONDS)


def _answer(client: Client, namespace: str | None) -> Json:
    return {"node": client.node(), "items": client.apps(namespace=namespace)}


def _busiest_first(app: AppStatus) -> tuple[float, str, str]:
    cores = (app["usage"] or {}).get("cpu_cores") or 0.0
    return -round(cores, 2), app["namespace"], app["name"]


def _share_cell(part: float | None, whole: float | None) -> Styled:
    is_high = bool(part and whole and part / whole >= _HIGH_SHARE)
    return Styled(format_share(part, whole), "red" if is_high else "")


def _throttled_cell(share: float | None) -> Styled:
    text = "-" if share is None else f"{share:.0%}"
    return Styled(text, "yellow" if share else "")


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)
