"""Bundles in a storm: an app that comes in one file, whole, cut short or with one bit changed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from running_node import SOURCES

from limpet.bundle import layout
from limpet.bundle.layout import ObjectEntry
from limpet.bundle.writing import Plan, describe_file, write_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from storm_desired import Body

DAMAGE = ("whole", "whole", "cut short", "tampered")
_COMMAND_SECONDS = 10


def make_bundle(folder: Path, module: bytes, manifest: Body) -> Path:
    """Write a bundle of one app and its module."""
    (folder / "app.wasm").write_bytes(module)
    blob = describe_file(folder / "app.wasm", layout.MODULE_TYPE, title="app.wasm")
    path = folder / "app.bundle"
    objects = [ObjectEntry(object=manifest, digest=blob.blob.digest)]
    write_bundle(path, Plan(objects=objects, modules=[blob]))
    return path


def damage(path: Path, how: str, where: float) -> None:
    """Cut a bundle short at a part of its length, or change one bit of what is in it there."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "cut short":
            file.truncate(int(size * where))
        elif how == "tampered":
            file.seek(int(size * where))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))


def apply_bundle(path: Path, socket: Path) -> str:
    """Apply a bundle as a person does; return what went wrong, empty for nothing."""
    command = [sys.executable, "-m", "limpet", "bundle", "apply", str(path), "--no-wait"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "LIMPET_SOCKET": str(socket)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr or str(done.returncode) if done.returncode else ""
