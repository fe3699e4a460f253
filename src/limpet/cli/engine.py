"""`limpet engine`: which engines this device has, and getting or removing the one that is optional."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from limpet.cli.options import examples, output_option
from limpet.cli.render import Cell, Column, Styled, write_fields, write_json, write_table
from limpet.cli.terminal import StatusLine, is_terminal, notice, styled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from limpet.provision.engine_report import EngineReport
    from limpet.provision.engines import Installed
    from limpet.provision.packages import Mirror, Progress

_OPTIONAL = ("wasmedge",)
_SUITES = ("trixie", "sid")
_STATE_STYLES = {"usable": "green", "missing": "", "broken": "red"}
_NONE = "-"


@click.group(
    no_args_is_help=True,
    epilog=examples(
        "limpet engine list",
        "limpet engine install wasmedge --dry-run",
        "sudo limpet engine install wasmedge",
    ),
)
def engine() -> None:
    """Show, install or remove what runs WebAssembly. Needs no node, and asks none."""


def _data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data",
        metavar="DIR",
        type=click.Path(file_okay=False),
        help="The node's data directory. Default: /var/lib/limpet for root.",
    )(command)


@engine.command(
    "list",
    epilog=examples(
        "limpet engine list",
        "limpet engine list -o json | jq '.items[] | select(.state == \"usable\") | .name'",
    ),
)
@_data_option
@output_option("table", "json")
def list_engines(*, data: str | None, output: str | None) -> None:
    """List the engines, and try each.

    Each compiles and runs a small module in a process of its own: what is shown works.
    `ahead-of-time` compiles a module once to machine code. `interpreter` starts at once and runs slowly.
    """
    from limpet.provision.engine_report import examine_engines

    with StatusLine() as status:
        status.show("trying the engines")
        reports = examine_engines(_data_directory(data))
    if output == "json":
        write_json({"items": [_shown(report) for report in reports]})
        return
    columns = [
        Column("NAME"),
        Column("VERSION"),
        Column("STATE"),
        Column("DEFAULT", rank=1),
        Column("MODES"),
        Column("WHERE", rank=2),  # a path that is torn is none
    ]
    write_table(columns, [_row(report) for report in reports])
    for report in reports:
        if report.problem:
            click.echo()
            click.echo(f"{styled(report.name + ':', is_bold=True)} {report.problem}")


@engine.command(
    epilog=examples(
        "limpet engine install wasmedge --dry-run   # say what would be fetched, and how much",
        "sudo limpet engine install wasmedge",
        "limpet engine install wasmedge --data ./data",
        "limpet engine install wasmedge --suite sid # a newer one",
    )
)
@click.argument("name", type=click.Choice(_OPTIONAL), metavar="NAME")
@click.option(
    "--suite",
    type=click.Choice(_SUITES),
    default=_SUITES[0],
    show_default=True,
    help="The suite of Debian that its packages are from.",
)
@click.option("--mirror", metavar="URL", help="The Debian archive. Default: the one that apt uses.")
@click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Keep what is downloaded here, for another time. Default: it is not kept.",
)
@_data_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
@output_option("text", "json")
def install(
    *,
    name: str,
    suite: str,
    mirror: str | None,
    cache: str | None,
    data: str | None,
    dry_run: bool,
    output: str | None,
) -> None:
    """Install an engine, or bring it up to date.

    NAME is wasmedge. Debian's packages are fetched with apt, which checks their signatures, and unpacked
    below the node's data directory; the system's own packages stay as they are. The engine is tried before
    it takes the place of an older one, and an installation that is interrupted leaves the older one in use.
    """
    del name  # there is one
    from limpet.provision.engines import install_wasmedge

    with StatusLine() as status:
        done = install_wasmedge(
            _data_directory(data),
            progress=_progress(status),
            suite=suite,
            mirror=_mirror(mirror),
            cache=_absolute(cache),
            is_dry_run=dry_run,
        )
    if output == "json":
        write_json(asdict(done) | {"dry_run": dry_run})
        return
    _write_installed(done, is_dry_run=dry_run)


@engine.command(
    epilog=examples(
        "sudo limpet engine remove wasmedge", "limpet engine remove wasmedge --data ./data"
    )
)
@click.argument("name", type=click.Choice(_OPTIONAL), metavar="NAME")
@_data_option
def remove(*, name: str, data: str | None) -> None:
    """Remove an installed engine.

    Apps that run on it run on until they or the node start anew.
    """
    from limpet.provision.engines import remove_wasmedge

    freed = remove_wasmedge(_data_directory(data))
    click.echo(f"{name} was removed; {freed / 1e6:.0f} MB are free again")


def _data_directory(data: str | None) -> Path:
    from limpet.settings import DEFAULT_SETTINGS_FILE, load_settings

    file = DEFAULT_SETTINGS_FILE if DEFAULT_SETTINGS_FILE.exists() else None
    settings = load_settings(
        file=file, environment=os.environ, overrides={"node.data_directory": data}
    )
    return settings.node.data_directory.expanduser().absolute()


def _absolute(folder: str | None) -> Path | None:
    from pathlib import Path

    return Path(folder).expanduser().absolute() if folder else None


def _mirror(address: str | None) -> Mirror | None:
    if address is None:
        return None
    from limpet.provision.packages import Mirror

    if not address.startswith(("http://", "https://", "file:/")) or set(address) & set(" []\n"):
        raise click.UsageError(f"--mirror {address!r} is no address of an archive")
    return Mirror(address)


def _progress(status: StatusLine) -> Progress:
    """One changing line in a terminal; in a pipe a line for each step."""
    is_live = is_terminal(sys.stderr)
    last = ""

    def tell(text: str, share: float | None = None) -> None:
        nonlocal last
        if is_live:
            status.show(text if share is None else f"{text}  {share:.0%}")
        elif text != last:
            last = text
            notice(text)

    return tell


def _write_installed(done: Installed, *, is_dry_run: bool) -> None:
    if done.action == "system":
        click.echo(f"nothing to do: the system has WasmEdge ({done.where}), which comes first")
        return
    if done.action == "keep":
        click.echo(f"nothing to do: WasmEdge {done.version} is installed and up to date")
        write_fields([("Where", done.where), ("Size", f"{done.size / 1e6:.0f} MB")], indent=2)
        return
    if not is_dry_run:
        click.echo(f"WasmEdge {done.version} is installed: it compiled and ran a module")
        write_fields([("Where", done.where), ("Size", f"{done.size / 1e6:.0f} MB")], indent=2)
        click.echo("An app asks for it with the annotation limpet.dev/engine: wasmedge")
        return
    click.echo(f"WasmEdge {done.version} would be installed")
    names = ", ".join(package.name for package in done.packages)
    rows: list[tuple[str, Cell]] = [
        ("Where", done.where),
        ("Packages", f"{len(done.packages)}: {names}"),
        ("Download", f"{done.download_size / 1e6:.0f} MB"),
        ("Unpacked", f"{done.unpacked_size / 1e6:.0f} MB"),
    ]
    write_fields(rows, indent=2)


def _row(report: EngineReport) -> list[Cell]:
    return [
        report.name,
        report.version or _NONE,
        Styled(report.state, _STATE_STYLES[report.state]),
        "yes" if report.is_default else _NONE,
        ", ".join(report.modes) or _NONE,
        report.where or _NONE,
    ]


def _shown(report: EngineReport) -> dict[str, object]:
    return {
        "name": report.name,
        "version": report.version,
        "state": report.state,
        "default": report.is_default,
        "modes": list(report.modes),
        "where": report.where,
        "memory": report.memory,
        "problem": report.problem,
    }
