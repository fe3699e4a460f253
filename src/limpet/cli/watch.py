"""Tables that are shown again and again: redrawn in a terminal, changed rows only in a pipe."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import click

from limpet.cli.render import Cell, Column, make_console, plain_table, rich_table
from limpet.cli.terminal import is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Table: TypeAlias = tuple[list[Column], list[list[Cell]]]

# What changes by itself, without anything happening.
_AGES = {"AGE", "LAST SEEN"}


def watch_tables(
    fetch: Callable[[], Sequence[Table]], *, period_seconds: float, empty: str
) -> NoReturn:
    """Show what `fetch` returns until Ctrl-C; `empty` stands for no rows at all."""
    if is_terminal(sys.stdout):
        _redraw(fetch, period_seconds=period_seconds, empty=empty)
    _append(fetch, period_seconds=period_seconds)


def _redraw(fetch: Callable[[], Sequence[Table]], *, period_seconds: float, empty: str) -> NoReturn:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = make_console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            tables = [rich_table(*table, width=console.width) for table in fetch() if table[1]]
            parts = [part for table in tables for part in (table, Text())][:-1]
            live.update(Group(*parts) if parts else Text(empty), refresh=True)
            time.sleep(period_seconds)


def _append(fetch: Callable[[], Sequence[Table]], *, period_seconds: float) -> NoReturn:
    seen: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    while True:
        for columns, rows in fetch():
            titles = tuple(column.title for column in columns)
            known = seen.get(titles)
            lines = plain_table(columns, rows)
            if known is None and rows:
                click.echo(lines[0])
            signatures = [_signature(titles, row) for row in rows]
            for line, signature in zip(lines[1:], signatures, strict=True):
                if signature not in (known or ()):
                    click.echo(line)
            if rows or known is not None:
                seen[titles] = set(signatures)
        sys.stdout.flush()
        time.sleep(period_seconds)


def _signature(titles: tuple[str, ...], row: Sequence[Cell]) -> tuple[str, ...]:
    cells = zip(titles, row, strict=True)
    return tuple(str(cell) for title, cell in cells if title not in _AGES)
