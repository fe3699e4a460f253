"""`limpet demo`: see it work before reading about it."""

from __future__ import annotations

import click

from limpet.cli.options import examples


@click.command(epilog=examples("limpet demo"))
def demo() -> None:
    """Start a node, run an app, measure it and stop everything again. Nothing stays behind."""
    from limpet.bench.demo import run_demo

    run_demo()
