"""Starts `benchmarks.engines.runner` in a Python that an engine can live in."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.lab import ROOT, SERVER_CORE, node_environment
from limpet.engine import locate_engine

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.engines.variants import Variant

_SECONDS = 180.0


class RunnerProcess:
    """A way to run modules of a folder, their work counted or not; each call is a process."""

    def __init__(self, folder: Path, variant: Variant, *, is_metered: bool = False) -> None:
        self.label = variant.label + ", metered" * is_metered
        # As a node that has nothing installed: the system's library or what the environment names.
        command, library = locate_engine(variant.engine, str(folder))
        self._command = [
            *("taskset", "-c", str(SERVER_CORE)),
            *(command or [sys.executable]),
            *("-m", "benchmarks.engines.runner", str(folder), variant.engine),
            *(("--library", library) if library else ()),
            *("--interpreted",) * variant.is_interpreted,
            *("--metered",) * is_metered,
        ]

    def call(self, what: str, *modules: str) -> Any:  # noqa: ANN401 - JSON
        """Have it compile or run these modules; return what it prints."""
        environment = node_environment()
        environment["PYTHONPATH"] += f":{ROOT}"
        done = subprocess.run(
            [*self._command, what, *modules],
            check=True,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=_SECONDS,
        )
        return json.loads(done.stdout)
