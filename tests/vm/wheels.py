"""Limpet and what it depends on, installed for the VM from wheels: by this host's pip, with no emulation."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tomllib
from pathlib import Path

from host import TREE, cache_folder, run
from image import PYTHON

# With newer tags alone pip takes wasmtime's wheel for any platform, which has no library.
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# These check the tree or compile guests: that happens on the host.
_HOST_ONLY = {"import-linter", "mypy", "ruff", "types-pyyaml", "ziglang"}
VENV = Path("opt/limpet")
_SITE = VENV / "lib" / f"python{PYTHON}" / "site-packages"
_CONFIGURATION = "home = /usr/bin\ninclude-system-site-packages = false\nversion = {}\n"


def requirements() -> tuple[str, ...]:
    """Return what pyproject.toml says that Limpet and its tests need."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())
    dev = project["dependency-groups"]["dev"]
    tests = [need for need in dev if re.split(r"[^\w.-]", need)[0].lower() not in _HOST_ONLY]
    return tuple(sorted((*project["project"]["dependencies"], *tests)))


def _pip(*arguments: str | Path) -> None:
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments])


def _target() -> list[str]:
    platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
    return [*platforms, "--python-version", PYTHON, "--implementation", "cp"]


def download_dependencies(*, refresh: bool) -> Path:
    """Return a cached folder of wheels; pip is asked when requirements are new, or to refresh."""
    wanted = requirements()
    digest = hashlib.sha256(repr((wanted, PYTHON, _PLATFORMS)).encode()).hexdigest()[:12]
    folder = cache_folder() / f"wheels-{digest}"
    if refresh or not folder.exists():
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        _pip("download", "--dest", new, "--only-binary", ":all:", *_target(), *wanted)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    return folder


def build_limpet(folder: Path) -> Path:
    """Build the wheel of this tree."""
    _pip("wheel", "--no-deps", "--wheel-dir", folder, TREE)
    return next(folder.glob("limpet-*.whl"))


def make_environment(root: Path) -> None:
    """Write an empty virtual environment below a root folder of the VM's."""
    (root / _SITE).mkdir(parents=True)
    (root / VENV / "bin").mkdir()
    (root / VENV / "pyvenv.cfg").write_text(_CONFIGURATION.format(PYTHON))
    for name in ("python", "python3"):
        (root / VENV / "bin" / name).symlink_to(f"/usr/bin/python{PYTHON}")


def install(wheels: list[Path], root: Path) -> None:
    """Install wheels into the VM's virtual environment below a root folder."""
    site = root / _SITE
    _pip(
        *("install", "--no-index", "--no-deps", "--no-compile", "--only-binary", ":all:"),
        *(*_target(), "--target", site, *wheels),
    )
    scripts = root / VENV / "bin"
    scripts.mkdir(exist_ok=True)
    for script in sorted((site / "bin").glob("*")):
        _, _, body = script.read_bytes().partition(b"\n")
        target = scripts / script.name
        target.write_bytes(f"#!/{VENV}/bin/python\n".encode() + body)
        target.chmod(0o755)
    shutil.rmtree(site / "bin", ignore_errors=True)
