"""`limpet logs`: what an app wrote, and what it goes on writing."""

from __future__ import annotations

import sys

import click

from limpet.cli import kinds
from limpet.cli.options import (
    complete_apps,
    connect,
    duration_option,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.terminal import is_terminal, printable


@click.command(
    epilog=examples(
        "limpet logs hello                 # everything that is kept",
        "limpet logs hello -f --tail 20    # the last lines, then new ones until Ctrl-C",
        "limpet logs hello --previous      # of the worker before the last restart",
        "limpet logs hello --since 5m --timestamps",
        "limpet logs hello -o json         # one JSON object a line, with worker and stream",
    )
)
@click.argument("name", shell_complete=complete_apps)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@duration_option("--since", help="Only newer lines, like 5m.")
@click.option("-p", "--previous", is_flag=True, help="Of the workers before the last restart.")
@click.option("--timestamps", is_flag=True, help="Start each line with its time.")
@output_option("text", "json")
@namespace_option
@socket_option
def logs(
    name: str,
    *,
    follow: bool,
    tail: int | None,
    since: float | None,
    previous: bool,
    timestamps: bool,
    output: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """Print what an app wrote to stdout and stderr.

    A pipe gets the bytes as they were written; in a terminal escape sequences are left out.
    """
    [(kind, app_name)] = kinds.parse_targets([name], default=kinds.APP)
    if not kind.is_app:
        raise kinds.TargetError(f"a {kind.singular} writes no log; only apps do")
    query = {
        "follow": True if follow else None,
        "tail": tail,
        "since": None if since is None else f"{since:g}",
        "previous": True if previous else None,
        "timestamps": True if timestamps else None,
        "format": "json" if output == "json" else None,
    }
    lines = connect(socket).log_lines(namespace=namespace or "default", name=app_name, query=query)
    is_clean = is_terminal(sys.stdout)
    stream = sys.stdout.buffer
    for line in lines:
        stream.write(printable(line.decode("utf-8", "replace")).encode() if is_clean else line)
        if follow:
            stream.flush()
    stream.flush()
