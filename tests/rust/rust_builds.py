"""Builds Rust guests for tests, with whichever toolchain here has a standard library for WASI."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from guest_builds import cache_directory

_TARGETS = ("wasm32-wasip1", "wasm32-wasi")  # the same one, before and after Rust 1.78
_FOLDERS = (*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin")
_OPTIONS = ("--release", "--offline", "--locked")
_VENDORED = (
    '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "vendor"\n'
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """`folder` holds its cargo and rustc."""

    folder: str
    target: str
    version: str


@cache
def find_toolchain() -> Toolchain | None:
    """The first one on PATH, or of the system's, that can build for WASI preview 1."""
    for folder in dict.fromkeys(_FOLDERS):
        rustc = Path(folder) / "rustc"
        if not (rustc.exists() and rustc.with_name("cargo").exists()):
            continue
        for target in _TARGETS:
            libraries = _ask(rustc, "--print", "target-libdir", "--target", target)
            if libraries and any(Path(libraries).glob("libstd-*.rlib")):
                return Toolchain(folder, target, _ask(rustc, "--version"))
    return None


def _ask(rustc: Path, *options: str) -> str:
    """What the compiler prints; nothing where it doesn't know what it is asked."""
    ended = subprocess.run([rustc, *options], capture_output=True, text=True, check=False)
    return ended.stdout.strip()


def build_rust(project: Path) -> bytes:
    """The module of a cargo project; skips, and says why, where it can't be built."""
    toolchain = find_toolchain()
    if toolchain is None:
        pytest.skip(
            "needs Rust with a standard library for WASI: rustup target add wasm32-wasip1, or "
            "apt-get install cargo libstd-rust-dev-wasm32"
        )
    sources = [each for each in sorted(project.rglob("*")) if each.is_file()]
    content = b"\0".join(each.read_bytes() for each in sources)
    key = hashlib.sha256(content + repr(toolchain).encode()).hexdigest()[:32]
    kept = cache_directory() / f"{key}.wasm"
    if not kept.exists():
        _build(project, toolchain, kept)
    return kept.read_bytes()


def _build(project: Path, toolchain: Toolchain, output: Path) -> None:
    work = output.with_suffix(f".{os.getpid()}")
    shutil.copytree(project, work)
    try:
        # The oldest cargos can't fetch from the registry as it is today: the newest here does.
        fetched = subprocess.run(
            ["cargo", "vendor", "--locked", "-q"],
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )
        if fetched.returncode:
            pytest.skip(f"needs the registry of crates, once: {fetched.stderr.strip()[-500:]}")
        (work / ".cargo").mkdir()
        (work / ".cargo" / "config.toml").write_text(_VENDORED)
        subprocess.run(
            [f"{toolchain.folder}/cargo", "build", "-q", *_OPTIONS, "--target", toolchain.target],
            cwd=work,
            env={
                "PATH": f"{toolchain.folder}:/usr/bin:/bin",
                "HOME": os.environ.get("HOME", "/"),
                "CARGO_HOME": str(work / "home"),
            },
            check=True,
        )
        (built,) = (work / "target" / toolchain.target / "release").glob("*.wasm")
        built.rename(output)
    finally:
        shutil.rmtree(work)
