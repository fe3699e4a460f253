"""`limpet version`: of the client, and of the node if one answers."""

from __future__ import annotations

import platform

import click

from limpet import __version__
from limpet.cli.options import connect, examples, output_option, socket_option
from limpet.cli.render import write_fields, write_json


@click.command(epilog=examples("limpet version", "limpet version -o json | jq -r .node.version"))
@output_option("text", "json")
@socket_option
def version(*, output: str | None, socket: str | None) -> None:
    """Show the versions of the client, of the node and of its engine.

    No running node is no error here: the node is then missing, null in JSON.
    """
    from limpet.api.exchange import NodeNotRunningError

    try:
        node = connect(socket, timeout_seconds=5.0).node()
    except NodeNotRunningError:
        node = None
    python = platform.python_version()
    if output == "json":
        keys = ("name", "version", "engine", "python", "machine")
        told = None if node is None else {key: node.get(key) for key in keys}
        write_json({"client": {"version": __version__, "python": python}, "node": told})
        return
    rows = [("Client", f"{__version__} (Python {python})")]
    if node is None:
        rows.append(("Node", "not running"))
    else:
        rows.append(("Node", f"{node['version']} on {node['name']} (Python {node['python']})"))
        rows.append(("Engine", f"{node['engine']} ({node['machine']})"))
    write_fields(rows)
