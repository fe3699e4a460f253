"""`limpet up`: become a node."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from limpet.cli.options import examples, socket_option
from limpet.errors import UnavailableError

_DEFAULT_FILE = Path("/etc/limpet/limpet.toml")


@click.command(
    epilog=examples(
        "limpet up                              # data in /var/lib/limpet for root",
        "limpet up --data ./data --socket ./limpet.sock",
        "limpet up --config /etc/limpet/limpet.toml --name rock",
    )
)
@click.option("--data", metavar="DIR", help="Where the node keeps everything.")
@click.option("--config", metavar="FILE", help="Settings. Default: /etc/limpet/limpet.toml.")
@click.option("--name", metavar="NAME", help="The node's name. Default: the host's.")
@socket_option
def up(*, data: str | None, config: str | None, name: str | None, socket: str | None) -> None:
    """Start a node in the foreground, until Ctrl-C or SIGTERM. Apps that were there come back.

    Settings come from the file, then LIMPET_GROUP_KEY variables, then these options.
    """
    _check_settings(data=data, config=config, name=name, socket=socket)
    arguments = node_command(data=data, socket=socket, config=config, name=name)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(arguments[0], arguments)  # noqa: S606 - the node is this process from here on
    except OSError as error:
        raise UnavailableError(f"can't start {arguments[0]}: {error.strerror}") from error


def node_command(
    *,
    data: str | None = None,
    socket: str | None = None,
    config: str | None = None,
    name: str | None = None,
) -> list[str]:
    """The node's command line: a lean interpreter without anything of the CLI's.

    `-P` keeps the current folder off the module path: starting a node in a folder of downloads
    must not import what lies there.
    """
    given = {"--data": data, "--socket": socket, "--config": config, "--name": name}
    options = [text for flag, value in given.items() if value for text in (flag, value)]
    return [sys.executable, "-P", "-m", "limpet.node", *options]


def _check_settings(
    *, data: str | None, config: str | None, name: str | None, socket: str | None
) -> None:
    """Refuse bad settings here, where the message is seen."""
    from limpet.settings import load_settings

    file = Path(config) if config else _DEFAULT_FILE if _DEFAULT_FILE.exists() else None
    load_settings(
        file=file,
        environment=os.environ,
        overrides={
            "node.data_directory": data,
            "node.socket_path": socket,
            "node.name": name,
        },
    )
