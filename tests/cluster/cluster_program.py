"""The control plane that tests run: built once from Go modules, and kept in a cache outside the tree.

`control_plane/` is a program of a few lines that imports Kubernetes' own commands; Go's module proxy gives
their sources. The first build takes some 15 minutes of processor time, 4 GB below Go's own cache and a
binary of 150 MB; scripts/test-cluster does it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).parent / "control_plane"
_BUILD_SECONDS = 3600
_LINKED = "k8s.io/component-base/version"


class NotBuiltError(Exception):
    """The control plane is not here; says what it needs."""


def kubernetes_version() -> str:
    """The release that `control_plane/go.mod` names, like 1.37.2."""
    found = re.search(r"^\s+k8s\.io/kubernetes v(\S+)$", (SOURCES / "go.mod").read_text(), re.M)
    assert found is not None, "go.mod requires Kubernetes"
    return found[1]


def find_program() -> Path:
    """Return the program, built if TEST_BUILD_CLUSTER=1 asks for it. Raises `NotBuiltError`."""
    program = _cache() / f"control_plane-{kubernetes_version()}-{_key()}"
    with _locked(program):
        if not program.exists():
            _build(program)
    return program


def _key() -> str:
    """What else the program depends on."""
    state = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        state.update((SOURCES / name).read_bytes())
    return state.hexdigest()[:12]


def _build(program: Path) -> None:
    if os.environ.get("TEST_BUILD_CLUSTER") != "1":
        raise NotBuiltError(
            f"needs a control plane in {program.parent}: scripts/test-cluster builds it"
        )
    go = shutil.which("go")
    if go is None:
        raise NotBuiltError("needs Go to build a control plane, and Go's module proxy")
    major, minor, _ = kubernetes_version().split(".")
    linked = {
        "gitVersion": f"v{kubernetes_version()}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "unknown",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    flags = " ".join(["-s -w", *(f"-X {_LINKED}.{name}={value}" for name, value in linked.items())])
    staged = program.with_name(f"{program.name}.part")
    try:
        subprocess.run(
            [go, "build", "-trimpath", "-ldflags", flags, "-o", staged, "."],
            cwd=SOURCES,
            env={**os.environ, "CGO_ENABLED": "0"},
            check=True,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise NotBuiltError(f"the control plane can't be built: {error.stderr[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotBuiltError(f"the control plane was not built within {_BUILD_SECONDS} s") from error
    staged.rename(program)


def _cache() -> Path:
    given = os.environ.get("LIMPET_CACHE")
    folder = (Path(given) if given else Path.home() / ".cache" / "limpet") / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked(program: Path) -> Iterator[None]:
    with program.with_name(f"{program.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
