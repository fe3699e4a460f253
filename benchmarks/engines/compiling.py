"""What compiling takes on each engine: once for each module that a node has, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.engines.runner_process import RunnerProcess
from benchmarks.engines.variants import VARIANTS
from benchmarks.lab import EXAMPLES
from benchmarks.report import Result, Table, number

if TYPE_CHECKING:
    from benchmarks.engines.programs import Programs
    from benchmarks.lab import Lab

_MIB = 1 << 20


def measure(lab: Lab, _programs: Programs) -> Result:
    """Return what each compilation took, by module and variant; a module that is not there is left out."""
    folder = lab.folder / "engine-compiling"
    folder.mkdir()
    found: Result = {}
    for name in lab.bounds.compiled_examples:
        source = EXAMPLES / name / f"{name}.wasm"
        if not source.exists():  # some are fetched
            continue
        module = folder / source.name
        module.write_bytes(source.read_bytes())
        figures = {
            each.key: RunnerProcess(folder, each).call("compile", name)[name] for each in VARIANTS
        }
        found[name] = {"bytes": module.stat().st_size, "variants": figures}
    return found


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    rows = [
        (
            f"{name}, {module['bytes'] >> 10:,} KiB",
            each.label,
            number((figures := module["variants"][each.key])["seconds"] * 1e3),
            number(figures["peak_bytes"] / _MIB),
            number(figures["artifact_bytes"] / 1024),
        )
        for name, module in result.items()
        for each in VARIANTS
    ]
    columns = ("", "", "CPU ms", "memory beyond the engine's, MiB", "artifact KiB")
    return [Table("Compiling", columns, rows)]
