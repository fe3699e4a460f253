"""`limpet inspect`: what a file is, what it needs, and what here runs it.

The file is a stranger's, and read in this very process: by plain Python that looks at lists of names
within bounds (`limpet.engine.contents`), so that there is nothing to break out of. No engine is
loaded, nothing of it is compiled or run, and no node is needed.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import click

from limpet.cli.module_report import report_json, write_report
from limpet.cli.options import examples, output_option
from limpet.cli.render import write_json
from limpet.cli.units import format_size
from limpet.errors import DeniedError, InvalidInputError, LimpetError, NotFoundError

if TYPE_CHECKING:
    from limpet.engine.report import Report

_NOTHING_RUNS_IT = 2


class ModuleFileError(InvalidInputError):
    """What was named is no file that a module could be in."""


class ModuleFileMissingError(NotFoundError):
    """There is no such file."""


class ModuleFileDeniedError(DeniedError):
    """This user may not read the file."""


@click.command(
    epilog=examples(
        "limpet inspect app.wasm",
        "limpet inspect app.wasm -o json | jq -r '.problems[]'",
        "limpet inspect app.wasm >/dev/null || echo 'not for this device'",
    )
)
@click.argument("module", type=click.Path())
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="The node's data directory, where engines are installed.",
)
@output_option("text", "json")
def inspect(*, module: str, data: str | None, output: str | None) -> None:
    """Say what a file is, what it imports, and which engine runs it as what.

    MODULE is a file: a core module, a component, or whatever it turns out to be. Nothing of it is
    run, and no node is needed. Exit code 0: something here can run it. 2: nothing can, and what is
    missing is told.
    """
    content = _read_file(module)
    report = _compile(content, usable=_usable_engines(data))
    digest = _digest(content)
    if output == "json":
        write_json(report_json(report, file=module, digest=digest))
    else:
        write_report(report, file=module, digest=digest)
    if not report.is_runnable:
        raise click.exceptions.Exit(_NOTHING_RUNS_IT)


def _read_file(path: str) -> bytes:
    from limpet.store.modules import MAX_MODULE_BYTES

    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ModuleFileError(f"{path} is no file: name a .wasm file")
            content = file.read(MAX_MODULE_BYTES + 1)
    except FileNotFoundError as error:
        raise ModuleFileMissingError(f"there is no file {path}") from error
    except PermissionError as error:
        raise ModuleFileDeniedError(f"can't read {path}: {error.strerror}") from error
    except OSError as error:
        raise ModuleFileError(f"can't read {path}: {error.strerror}") from error
    if len(content) > MAX_MODULE_BYTES:
        raise ModuleFileError(
            f"{path} is larger than {format_size(MAX_MODULE_BYTES)}, which no module may be"
        )
    return content


def _open_at_once(path: str, flags: int) -> int:
    """Never wait for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _compile(content: bytes, *, usable: dict[str, str]) -> Report:
    from limpet.engine.report import MemoryRoom, compile_report
    from limpet.manifest.model import DEFAULT_MEMORY_BYTES
    from limpet.plan import WORKER_SHARE_BYTES

    memory = MemoryRoom(limit_bytes=DEFAULT_MEMORY_BYTES, worker_share_bytes=WORKER_SHARE_BYTES)
    return compile_report(content, usable=usable, memory=memory)


def _usable_engines(data: str | None) -> dict[str, str]:
    """Why each engine can't be used here, empty where it can; none is loaded to find out."""
    from limpet.engine import locate_engine
    from limpet.engine.choice import ENGINES

    directory = _data_directory(data)
    usable = {}
    for name in ENGINES:
        try:
            locate_engine(name, directory)
        except LimpetError as error:
            usable[name] = str(error)
        else:
            usable[name] = ""
    return usable


def _data_directory(data: str | None) -> str:
    from limpet.settings import DEFAULT_SETTINGS_FILE, load_settings

    file = DEFAULT_SETTINGS_FILE if os.access(DEFAULT_SETTINGS_FILE, os.R_OK) else None
    settings = load_settings(
        file=file, environment=os.environ, overrides={"node.data_directory": data}
    )
    return str(settings.node.data_directory)


def _digest(content: bytes) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(content).hexdigest()}"
