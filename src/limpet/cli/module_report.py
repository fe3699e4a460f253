"""How `limpet inspect` shows its report: as JSON, and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import click

from limpet.cli.render import Cell, Column, Styled, write_fields, write_table, write_title
from limpet.cli.terminal import one_line, printable
from limpet.cli.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limpet.api.answers import Json
    from limpet.engine.contents import Contents, NeedGroup
    from limpet.engine.report import Report
    from limpet.engine.verdicts import Verdict

_INDENT = 2
_MAX_LISTED = 20
_MAX_NAME_LENGTH = 100
_MAX_LINE_LENGTH = 400

Rows: TypeAlias = "list[list[Cell]]"


def report_json(report: Report, *, file: str, digest: str) -> Json:
    """The report as docs/cli.md has it."""
    contents, choice = report.contents, report.choice
    return {
        "file": file,
        "size_bytes": report.size_bytes,
        "digest": digest,
        "kind": contents.kind,
        "description": contents.description,
        "ok": report.is_runnable,
        "engine": None if choice is None else {"name": choice.engine, "reason": choice.reason},
        "trigger": report.trigger,
        "problems": list(report.problems),
        "advice": list(report.advice),
        "verdicts": [
            {
                "engine": verdict.engine,
                "trigger": verdict.trigger,
                "runs": verdict.is_runnable,
                "note": verdict.note,
            }
            for verdict in report.verdicts
        ],
        "imports": [
            {
                "from": group.source,
                "label": group.label,
                "offered": [need.name for need in group.offered],
                "missing": [{"name": need.name, "why": need.problem} for need in group.missing],
            }
            for group in contents.imports
        ],
        "exports": [{"name": each.name, "kind": each.kind} for each in contents.exports],
        "memory": {
            "initial_bytes": contents.memory_bytes,
            "default_bytes": report.memory.guest_bytes,
            "default_limit_bytes": report.memory.limit_bytes,
            "fits_default": report.fits_memory,
            "memories": [
                {
                    "initial_bytes": memory.minimum_bytes,
                    "maximum_bytes": memory.maximum_bytes,
                    "is_shared": memory.is_shared,
                    "is_64": memory.is_64,
                }
                for memory in contents.memories
            ],
        },
        "features": [{"name": each.name, "is_on": each.is_on} for each in contents.features],
        "target_features": list(contents.target_features),
        "producers": {field: list(names) for field, names in contents.producers.items()},
        "modules": [
            {"size_bytes": module.size_bytes, "initial_memory_bytes": module.memory_bytes}
            for module in contents.modules
        ],
        "native_code": [
            {"section": each.section, "size_bytes": each.size_bytes}
            for each in contents.native_code
        ],
    }


def write_report(report: Report, *, file: str, digest: str) -> None:
    """Print the report for people."""
    from limpet.engine.contents import OTHER

    write_fields(_facts(report, file=file, digest=digest))
    if report.contents.imports:
        write_title("Imports")
        write_table(*_import_table(report.contents.imports), indent=_INDENT)
    if report.contents.kind != OTHER:
        write_title("Engines")
        write_table(*_verdict_table(report.verdicts), indent=_INDENT)
    if report.choice is not None:
        click.echo()
        click.echo(f"Limpet takes {report.choice.engine}: {one_line(report.choice.reason)}.")
        click.echo(f"The trigger, when none is given: {report.trigger}.")
    has_missing = any(group.missing for group in report.contents.imports)
    _write_points("What keeps it from running", report.problems, has_told_imports=has_missing)
    _write_points("Good to know", report.advice)


def _facts(report: Report, *, file: str, digest: str) -> list[tuple[str, Cell]]:
    contents = report.contents
    facts: list[tuple[str, Cell]] = [
        ("File", f"{file}, {_size(report.size_bytes)}"),
        ("Digest", digest),
        ("Is", Styled(contents.description, "" if report.is_runnable else "red")),
    ]
    made_by = [name for names in contents.producers.values() for name in names]
    if made_by:
        facts.append(("Made by", _listed(made_by)))
    if contents.modules:
        facts.append(("Contains", _inner_modules(contents)))
    if contents.memories or contents.memory_bytes:
        facts.append(("Memory", _memory(report)))
    if contents.features:
        names = [each.name if each.is_on else f"{each.name} (off)" for each in contents.features]
        facts.append(("Uses", ", ".join(names)))
    if contents.target_features:
        facts.append(("Compiled with", _listed(contents.target_features)))
    if contents.exports:
        names = [f"{each.name} ({each.kind})" for each in contents.exports]
        facts.append(("Exports", _listed(names)))
    if contents.native_code:
        sizes = [f"{each.section}, {_size(each.size_bytes)}" for each in contents.native_code]
        facts.append(("Native code", f"{_listed(sizes)}; dropped"))
    return facts


def _inner_modules(contents: Contents) -> str:
    sizes = [_size(module.size_bytes) for module in contents.modules]
    count = f"{len(sizes)} core module{'s' * (len(sizes) != 1)}"
    return f"{count}: {_listed(sizes)}"


def _memory(report: Report) -> str:
    contents = report.contents
    parts = [f"{format_size(contents.memory_bytes)} to start with"]
    if len(contents.memories) == 1:
        maximum = contents.memories[0].maximum_bytes
        parts.append("no maximum" if maximum is None else f"at most {format_size(maximum)}")
    room, limit = format_size(report.memory.guest_bytes), format_size(report.memory.limit_bytes)
    fits = "within" if report.fits_memory else "more than"
    return f"{', '.join(parts)}; {fits} the {room} that the default limit of {limit} leaves it"


def _import_table(groups: Iterable[NeedGroup]) -> tuple[list[Column], Rows]:
    columns = [Column("FROM"), Column("OFFERED"), Column("NAMES", is_flexible=True)]
    rows: Rows = []
    for group in groups:
        source = _short(group.source) + (f" ({group.label})" if group.label else "")
        if group.offered:
            names = ", ".join(_short(need.name) for need in group.offered)
            rows.append([source, Styled("yes", "green"), names])
        rows += [
            [source, Styled("no", "red"), f"{_short(need.name)}: {need.problem}"]
            for need in group.missing[:_MAX_LISTED]
        ]
        left = len(group.missing) - _MAX_LISTED
        if left > 0:
            rows.append([source, Styled("no", "red"), f"and {left} more"])
    return columns, rows


def _verdict_table(verdicts: Iterable[Verdict]) -> tuple[list[Column], Rows]:
    """Triggers of an engine that fare alike share a row."""
    columns = [Column("ENGINE"), Column("TRIGGER"), Column("RUNS")]
    columns.append(Column("NOTE", is_flexible=True))
    triggers: dict[tuple[str, bool, str], list[str]] = {}
    for verdict in verdicts:
        key = (verdict.engine, verdict.is_runnable, verdict.note)
        triggers.setdefault(key, []).append(verdict.trigger)
    rows: Rows = []
    for (engine, is_runnable, note), names in triggers.items():
        answer = Styled("yes", "green") if is_runnable else Styled("no", "red")
        rows.append([engine, ", ".join(names), answer, note])
    return columns, rows


def _write_points(title: str, points: Sequence[str], *, has_told_imports: bool = False) -> None:
    if not points:
        return
    write_title(title)
    for point in points:
        first, *rest = printable(point).splitlines() or [""]
        if rest and has_told_imports:
            first, rest = f"{first.removesuffix(':')}; see above", []
        click.echo(f"  - {_short(first, _MAX_LINE_LENGTH)}")
        for line in rest:
            click.echo(f"    {_short(line, _MAX_LINE_LENGTH)}")


def _listed(names: Sequence[str]) -> str:
    left = len(names) - _MAX_LISTED
    shown = ", ".join(_short(name) for name in names[:_MAX_LISTED])
    return f"{shown} and {left} more" if left > 0 else shown


def _short(text: str, length: int = _MAX_NAME_LENGTH) -> str:
    """Names may be as long as the file's author likes."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1024 else format_size(count)
