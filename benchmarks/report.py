"""Results as JSON for machines and as tables for docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Result: TypeAlias = dict[str, Any]
BEGIN = "<!-- figures: begin; scripts/bench --report writes what follows -->"
END = "<!-- figures: end -->"


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the report."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Target:
    """One promise and what came of it."""

    name: str
    wanted: str
    found: str
    is_met: bool


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def render(
    machine: Mapping[str, str], tables: Sequence[Table], targets: Sequence[Target], *, kind: str
) -> str:
    """Return the report as markdown."""
    facts = "; ".join(f"{name}: {value}" for name, value in machine.items())
    reached = Table(
        "Targets",
        ("target", "wanted", "found", "holds"),
        [(t.name, t.wanted, t.found, "yes" if t.is_met else "**no**") for t in targets],
    )
    parts = [f"A {kind} run. {facts}.", *(_render_table(table) for table in (reached, *tables))]
    return "\n\n".join(parts) + "\n"


def _render_table(table: Table) -> str:
    lines = [
        f"### {table.title}\n",
        "| " + " | ".join(table.columns) + " |",
        "|" + "|".join("---" if not i else "---:" for i in range(len(table.columns))) + "|",
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]
    return "\n".join(lines)


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the page's markers. Raises ValueError without them."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for figures: {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", "utf-8")
