"""What one run brings to the VM: this tree's tests, Limpet as installed from its wheel, and a command."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from host import TREE, StepError, run
from machine import terminal_size
from wheels import build_limpet, install

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_TESTS = (
    "tests/attack",
    "tests/contract",
    "tests/enforcement",
    "tests/process/test_engines.py::test_commands",
    "tests/unit/linux",
    "tests/unit/store/test_images.py",
)
_SLOWNESS = 6  # of the emulation, for tests that wait
_TREE = ("examples", "pyproject.toml", "src", "tests")
_OVERLAY = Path("overlay")
_GUEST_LIMIT_BYTES = 4 << 20
# Below tests: where to run what builds guests.
_BUILD_GUESTS = {
    "process": "from guests import GUESTS, build_guest\nfor name in GUESTS: build_guest(name)",
    "corpus": "from guest_builds import build_files\nbuild_files()",
}


def fill_job(folder: Path) -> None:
    """Write all but the command."""
    for name in _TREE:
        source = TREE / name
        if source.is_dir():
            shutil.copytree(
                source, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
        else:
            shutil.copy(source, folder / "tree" / name)
    overlay = folder / _OVERLAY
    install([build_limpet(folder / "wheel")], overlay)
    _bring_guests(overlay)


def _bring_guests(overlay: Path) -> None:
    """Bring the guests that tests compile: a compiler would take minutes in the VM."""
    for folder, program in _BUILD_GUESTS.items():
        run([sys.executable, "-c", program], cwd=TREE / "tests" / folder)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(base) / "limpet-tests"
    for module in cache.rglob("*.wasm"):
        if module.stat().st_size <= _GUEST_LIMIT_BYTES:
            target = overlay / "root/.cache/limpet-tests" / module.relative_to(cache)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, target)
    _bring_compiler_headers(next(overlay.glob("opt/limpet/lib/python*/site-packages")))


def _bring_compiler_headers(site: Path) -> None:
    """Bring of the compiler what tests read: its version and the kernel's headers."""
    found = importlib.util.find_spec("ziglang")
    assert found is not None
    assert found.origin is not None
    compiler, target = Path(found.origin).parent, site / "ziglang"
    for headers in compiler.glob("lib/libc/include/*-linux-any"):
        shutil.copytree(headers, target / headers.relative_to(compiler))
    (target / "__init__.py").touch()
    version = importlib.metadata.version("ziglang")
    metadata = site / f"ziglang-{version}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: ziglang\nVersion: {version}\n")


def pytest_command(arguments: Sequence[str]) -> str:
    """Return the command that runs pytest with these arguments: on the default tests if none are named.

    Raises StepError when none of the default tests exist.
    """
    chosen = list(arguments) or ["-q"]
    if not any(_file(argument).exists() for argument in arguments):
        defaults = [name for name in DEFAULT_TESTS if _file(name).exists()]
        if not defaults:
            raise StepError(f"none of the tests exist here: {', '.join(DEFAULT_TESTS)}")
        chosen += defaults
    columns, _ = terminal_size()
    color = "no" if os.environ.get("NO_COLOR") or not sys.stdout.isatty() else "yes"
    return (
        f"export COLUMNS={columns} TEST_SLOWNESS={_SLOWNESS}\ncd /job/tree\n"
        f"exec python -m pytest --color={color} {shlex.join(chosen)} </dev/null\n"
    )


def _file(name: str) -> Path:
    """Where the tests of that name are."""
    return TREE / name.partition("::")[0]


def shell_command() -> str:
    columns, lines = terminal_size()
    return (
        f"export TERM={shlex.quote(os.environ.get('TERM', 'dumb'))}\n"
        f"stty columns {columns} rows {lines}\ncd /job/tree\n"
        "echo 'Limpet is installed, its tests are here. Ctrl-D powers off, Ctrl-A X stops QEMU.'\n"
        "exec bash -i\n"
    )
