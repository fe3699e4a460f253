"""`scripts/test-vm`: run tests in an arm64 Debian VM with a kernel of its own."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from host import CannotHereError, StepError, cache_folder, prepare_tools, say, step
from image import Image, build_image, find_image, make_disk
from job import DEFAULT_TESTS, fill_job, pytest_command, shell_command
from machine import Machine, run_interactively, run_machine
from power_cut import cut_power
from wheels import download_dependencies, install, make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

_CANNOT_HERE, _FAILED, _STOPPED = 75, 70, 143
_ROOT_MEGABYTES, _JOB_MEGABYTES = 3072, 512
_WARM_SECONDS = 300.0
_SHELL_SECONDS = 4 * 3600.0
# Importing once leaves byte code behind: each later run would have to compile it again.
_WARM = """
python -m pytest --version
exec python -c 'import apsw, asyncio, click, cryptography, ctypes, httptools, hypothesis.strategies
import http.client, rich.table, unittest.mock, wasmtime, yaml'
"""
_LIST = "\n    ".join(DEFAULT_TESTS)
_EPILOG = f"""
Anything else goes to pytest; paths are relative to the tree. Without a path it runs, as far as they
exist, the tests of the kernel's walls and of both engines:
    {_LIST}
Exit code: pytest's; 75 if this host can't run the VM, 70 if the VM failed.
LIMPET_CACHE (by default ~/.cache/limpet) holds the image and the wheels.
"""


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/test-vm",
        usage="scripts/test-vm [--build | --shell | --power-cut] [--timeout SECONDS] "
        "[pytest's arguments]",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--build", action="store_true", help="only build; looks for newer packages")
    parser.add_argument("--shell", action="store_true", help="a root shell instead of tests")
    parser.add_argument(
        "--power-cut",
        action="store_true",
        help="cut the power under load, boot again, see that all is there",
    )
    parser.add_argument("--timeout", type=float, default=1800.0, help="for a run (default 1800)")
    return parser.parse_known_args()


@contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time build in the cache."""
    with (cache_folder() / "vm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _root_disk(image: Image, wheels: Path, folder: Path) -> Path:
    """Return the cached root disk of this image with these wheels installed."""
    disk = image.folder / f"root-{wheels.name}.img"
    if disk.exists():
        return disk
    for other in image.folder.glob("root-*.img"):
        other.unlink()
    root = folder / "root"
    with step("dependencies installed"):
        # Nothing that is there gets written to: links do for copies.
        shutil.copytree(image.tree, root, symlinks=True, copy_function=_link)
        make_environment(root)
        install(sorted(wheels.glob("*.whl")), root)
        new = image.folder / "root.new"
        make_disk(root, new, megabytes=_ROOT_MEGABYTES)
    with step("first boot"):
        job = _job_disk(folder / "warm", _WARM)
        machine = _machine(image, root=new, job=job, is_kept=True)
        status = run_machine(machine, seconds=_WARM_SECONDS)
        if status:
            raise StepError(f"the first boot's imports ended with {status}")
        new.rename(disk)
    return disk


def _machine(image: Image, *, root: Path, job: Path, is_kept: bool = False) -> Machine:
    return Machine(
        kernel=image.kernel, initial_root=image.initial_root, root=root, job=job, is_kept=is_kept
    )


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _job_disk(folder: Path, command: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "command").write_text(command)
    disk = folder.with_suffix(".img")
    make_disk(folder, disk, megabytes=_JOB_MEGABYTES)
    return disk


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    prepare_tools()
    # Beside the image, so that links reach.
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache_folder()) as name:
        folder = Path(name)
        with _locked():
            image = None if options.build else find_image()
            image = image or build_image()
            with step("wheels"):
                wheels = download_dependencies(refresh=options.build)
            disk = _root_disk(image, wheels, folder)
        if options.build:
            return 0
        with step("Limpet, its tests and their guests"):
            fill_job(folder / "job")
        if options.power_cut:
            return cut_power(_machine(image, root=disk, job=folder / "job.img"), folder / "job")
        command = shell_command() if options.shell else pytest_command(arguments)
        job = _job_disk(folder / "job", command)
        machine = _machine(image, root=disk, job=job)
        if options.shell:
            return run_interactively(machine, seconds=_SHELL_SECONDS)
        return run_machine(machine, seconds=options.timeout)


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(_STOPPED)


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    options, arguments = _parse()
    try:
        return _run(options, arguments)
    except CannotHereError as error:
        say(str(error))
        return _CANNOT_HERE
    except StepError as error:
        say(str(error))
        return _FAILED
    except KeyboardInterrupt:
        return 130


sys.exit(main())
