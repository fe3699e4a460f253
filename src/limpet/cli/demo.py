"""`limpet demo`: see it work before reading about it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limpet.cli.options import examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.bench.demo import Row
    from limpet.cli.render import Cell


@click.command(epilog=examples("limpet demo", "limpet demo -o json"))
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def demo(output: str) -> None:
    """Start a node, run the examples, measure them and stop everything again. Nothing stays behind."""
    from limpet.api.client import Client
    from limpet.bench.demo import DemoError, run_demo
    from limpet.cli.child_node import child_node
    from limpet.cli.manifests import read_manifests
    from limpet.cli.modules import apply_items, hash_modules, upload_modules
    from limpet.cli.terminal import StatusLine

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="limpet-demo-") as folder, StatusLine() as status:
        socket_path = Path(folder) / "limpet.sock"
        client = Client(socket_path)

        def deploy(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
            manifests = read_manifests([str(file)], namespace=None)
            for manifest in manifests:
                edit(manifest.object)
            modules = hash_modules(manifests)
            upload_modules(client, modules, status=status)
            client.apply(apply_items(manifests, modules))

        with child_node(socket_path, data=None, status=status, is_expected=True):
            for row in run_demo(client, deploy, on_step=status.show):
                rows.append(row)
                status.clear()
            node = client.node()
    _write(rows, node, as_json=output == "json")
    failed = [row.app for row in rows if not row.is_good]
    if failed:
        raise DemoError(f"{', '.join(failed)} did not do what the example is there for")


def _write(rows: list[Row], node: dict[str, Any], *, as_json: bool) -> None:
    from dataclasses import asdict

    from limpet.cli.render import Column, Styled, write_json, write_table

    if as_json:
        write_json({"node": node, "rows": [asdict(row) for row in rows]})
        return
    from limpet.manifest.quantity import format_bytes

    columns = [
        Column("app"),
        Column("what", rank=1),
        Column("cold start", is_number=True),
        Column("warm p50", is_number=True),
        Column("warm p99", is_number=True),
        Column("memory", is_number=True),
        Column("result", is_flexible=True),
    ]
    table: list[list[Cell]] = [
        [
            Styled(row.app, "bold"),
            row.what,
            _milliseconds(row.cold_start),
            _milliseconds(row.warm_p50),
            _milliseconds(row.warm_p99),
            "-" if row.memory_bytes is None else format_bytes(row.memory_bytes),
            Styled(row.result, "green" if row.is_good else "red"),
        ]
        for row in rows
    ]
    write_table(columns, table)
    processes = node.get("processes", [])
    total = sum(process.get("pss_bytes") or 0 for process in processes)
    names = ", ".join(f"{p['name']} {format_bytes(p.get('pss_bytes') or 0)}" for p in processes)
    click.echo(f"\nnode: {format_bytes(total)} ({names}); each request ran in a fresh instance")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"
