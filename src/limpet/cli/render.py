"""Tables, field lists, JSON and YAML: everything that verbs print as their result.

`write_table` and `write_fields` are rich in a terminal and plain aligned text in a pipe, from the
same cells. Rich is imported for terminals only: it costs as much as the rest of the client.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import click

from limpet.cli.terminal import is_terminal, one_line, printable, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

_GAP = 3
_FLEXIBLE_WIDTH = 24  # narrower, and messages become unreadable columns of words


@dataclass(frozen=True, slots=True)
class Styled:
    """A cell with a colour for terminals."""

    text: str
    style: str = ""


Cell: TypeAlias = str | Styled


@dataclass(frozen=True, slots=True)
class Column:
    """A column. When the terminal is narrow a flexible one wraps, and those with a rank go.

    The highest rank goes first; columns without one stay.
    """

    title: str
    is_number: bool = False
    is_flexible: bool = False
    rank: int = 0


def write_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    indent: int = 0,
    has_header: bool = True,
) -> None:
    """Print rows under upper-case titles."""
    if is_terminal(sys.stdout):
        console = make_console()
        table = rich_table(columns, rows, width=console.width, indent=indent, has_header=has_header)
        # What is still too wide is wrapped by the terminal: half a name is no name.
        console.print(table, crop=False, no_wrap=True, overflow="ignore")
    else:
        for line in plain_table(columns, rows, indent=indent, has_header=has_header):
            click.echo(line)


def write_fields(fields: Sequence[tuple[str, Cell]], *, indent: int = 0) -> None:
    """Print `Label:  value` lines, values aligned."""
    columns = [Column("label"), Column("value", is_flexible=True)]
    rows = [(Styled(f"{label}:", "bold"), value) for label, value in fields]
    write_table(columns, rows, indent=indent, has_header=False)


def write_title(text: str) -> None:
    """Print the title of a block."""
    click.echo()
    click.echo(styled(one_line(text), is_bold=True))


def write_json(value: object) -> None:
    """Print indented JSON."""
    _write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_line(value: object) -> None:
    """Print JSON on one line: one of many."""
    _write_text(json.dumps(value, ensure_ascii=False) + "\n")


def write_yaml(values: Sequence[object]) -> None:
    """Print YAML documents."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            del data
            return True  # anchors are for machines

    texts = (yaml.dump(value, Dumper=Dumper, sort_keys=False) for value in values)
    _write_text("---\n".join(texts))


def plain_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    indent: int = 0,
    has_header: bool = True,
) -> list[str]:
    """Aligned lines without trailing blanks."""
    lines = [[column.title for column in columns]] if has_header else []
    lines += [[one_line(_text(cell)) for cell in row] for row in rows]
    widths = [max((len(line[at]) for line in lines), default=0) for at in range(len(columns))]
    margin, gap = " " * indent, " " * _GAP
    return [
        (margin + gap.join(_aligned(text, width, column) for text, width, column in cells)).rstrip()
        for cells in (zip(line, widths, columns, strict=True) for line in lines)
    ]


def rich_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    width: int,
    indent: int = 0,
    has_header: bool = True,
) -> Table:
    """The same table without lines or boxes, fit into `width` as far as possible."""
    from rich.table import Table
    from rich.text import Text

    columns, rows, needed = _fitted(columns, rows, width=width - indent)
    table = Table(
        box=None,
        width=needed + indent if needed > width - indent else None,
        show_header=has_header,
        header_style="bold",
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
    )
    for at, column in enumerate(columns):
        table.add_column(
            Text((" " * indent if at == 0 else "") + column.title),
            justify="right" if column.is_number else "left",
            no_wrap=not column.is_flexible,
            overflow="fold" if column.is_flexible else "ellipsis",
        )
    for row in rows:
        texts = [Text(one_line(_text(cell)), style=_style(cell)) for cell in row]
        texts[0].pad_left(indent)
        table.add_row(*texts)
    return table


def make_console() -> Console:
    """Rich's console on stdout; it honours NO_COLOR and the terminal's width."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def _fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, width: int
) -> tuple[list[Column], list[list[Cell]], int]:
    """The columns that fit, or that must stay, and the width that they need."""
    kept = list(range(len(columns)))
    needs = [_needed_width(column, [row[at] for row in rows]) for at, column in enumerate(columns)]

    def total() -> int:
        return sum(needs[at] for at in kept) + _GAP * (len(kept) - 1)

    while total() > width:
        least = max(kept, key=lambda at: (columns[at].rank, at))
        if columns[least].rank == 0:
            break
        kept.remove(least)
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows], total()


def _needed_width(column: Column, cells: Sequence[Cell]) -> int:
    width = max((len(one_line(_text(cell))) for cell in cells), default=0)
    return max(len(column.title), min(width, _FLEXIBLE_WIDTH) if column.is_flexible else width)


def _write_text(text: str) -> None:
    click.echo(printable(text) if is_terminal(sys.stdout) else text, nl=False)


def _aligned(text: str, width: int, column: Column) -> str:
    return text.rjust(width) if column.is_number else text.ljust(width)


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Styled) else cell


def _style(cell: Cell) -> str:
    return cell.style if isinstance(cell, Styled) else ""
