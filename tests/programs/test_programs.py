"""Programs from the wide world do the same on both engines, to the byte: output, files, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from catalogue import PROGRAMS, Job, fetch

import wasmedge_prefix
from limpet.engine.wasmedge.library import command

if TYPE_CHECKING:
    from limpet.engine.wasmedge.library import Installation

_RUNNER = Path(__file__).with_name("program_runner.py")
_TIMEOUT_SECONDS = 600


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for fetched modules."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where artifacts are kept from run to run: GCC takes half a minute to compile."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "limpet-tests/programs"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_on_both_engines(
    wasmedge: Installation, modules: Path, artifacts: Path, tmp_path: Path, name: str
) -> None:
    folders = {engine: tmp_path / engine for engine in ("wasmtime", "wasmedge")}
    for folder in folders.values():
        folder.mkdir()
    for job in PROGRAMS[name]:
        module = fetch(job.package, modules)
        running = {}
        for engine, folder in folders.items():
            for path, content in job.files.items():
                (folder / path).write_text(content)
            running[engine] = start(wasmedge, engine, job, module, artifacts, folder)
        answers = {engine: finish(process) for engine, process in running.items()}
        report(module, answers)
        outcomes = {engine: outcomes_of(answer) for engine, answer in answers.items()}
        assert outcomes["wasmedge"] == outcomes["wasmtime"]
        expected = [("Exit", case.exit_code) for case in job.cases]
        assert [(each["kind"], each["exit_code"]) for each in outcomes["wasmedge"]] == expected
        files = {engine: files_in(folder) for engine, folder in folders.items()}
        assert files["wasmedge"] == files["wasmtime"]
    assert len(files["wasmedge"]) > 1


def start(
    wasmedge: Installation, engine: str, job: Job, module: Path, artifacts: Path, folder: Path
) -> subprocess.Popen[str]:
    """Begin to run a job's cases on an engine, in a process of its own."""
    told = {
        "engine": engine,
        "is_interpreted": engine == "wasmedge" and not job.is_compiled,
        "module": str(module),
        "cache": str(artifacts),
        "folder": str(folder),
        "cases": [{"args": each.args, "env": each.env, "stdin": each.stdin} for each in job.cases],
    }
    own = [str(_RUNNER)]
    process = subprocess.Popen(
        command(wasmedge, own) if engine == "wasmedge" else [sys.executable, *own],
        env={
            **os.environ,
            **wasmedge_prefix.environment(wasmedge),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(told))
    process.stdin.close()
    process.stdin = None  # else it would be flushed again
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    with process:
        output, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
    assert process.returncode == 0, errors
    answer: dict[str, Any] = json.loads(output)
    return answer


def outcomes_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What each case came to, without how long it took."""
    return [{k: v for k, v in case.items() if k != "seconds"} for case in answer["cases"]]


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def report(module: Path, answers: dict[str, dict[str, Any]]) -> None:
    """Print figures: for whoever runs this with `-s` and writes them down."""
    for engine, answer in answers.items():
        seconds = ", ".join(f"{case['seconds']:.3f}" for case in answer["cases"])
        print(
            f"{module.name} ({module.stat().st_size / 1e6:.2f} MB) on {engine} {answer['version']}: "
            f"compile {answer['compile_seconds']:.1f} s, load {answer['load_seconds']:.2f} s, "
            f"runs {seconds} s"
        )
