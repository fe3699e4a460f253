"""`limpet up`: become a node."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limpet.cli.options import examples, socket_option
from limpet.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.settings import Settings

_DEFAULT_FILE = Path("/etc/limpet/limpet.toml")
# Where things are, which proxy leads out, whom to trust, who started it; and the settings.
_KEPT_VARIABLES = {
    "CREDENTIALS_DIRECTORY",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "NOTIFY_SOCKET",
    "NO_PROXY",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "http_proxy",
    "https_proxy",
    "no_proxy",
}
_KEPT_PREFIXES = ("LIMPET_", "LC_", "PYTHON", "XDG_")


@click.command(
    epilog=examples(
        "limpet up                              # data in /var/lib/limpet for root",
        "limpet up --data ./data --socket ./limpet.sock",
        "limpet up --config /etc/limpet/limpet.toml --name rock",
        "limpet up --passphrase-fd 3 3< passphrase",
        "limpet up --manifests /srv/manifests   # what is there runs, as it changes",
    )
)
@click.option("--data", metavar="DIR", help="Where the node keeps everything.")
@click.option("--config", metavar="FILE", help="Settings. Default: /etc/limpet/limpet.toml.")
@click.option("--name", metavar="NAME", help="The node's name. Default: the host's.")
@click.option(
    "--manifests", metavar="DIR", help="Apply the manifests in this folder, and follow it."
)
@click.option(
    "--passphrase-fd",
    metavar="N",
    type=click.IntRange(min=0),
    help="Read the passphrase from this descriptor (keys.source = passphrase).",
)
@socket_option
def up(
    *,
    data: str | None,
    config: str | None,
    name: str | None,
    manifests: str | None,
    passphrase_fd: int | None,
    socket: str | None,
) -> None:
    """Start a node in the foreground, until Ctrl-C or SIGTERM. Apps that were there come back.

    Settings come from the file, then LIMPET_GROUP_KEY variables, then these options.
    """
    settings = _load_settings(
        data=data, config=config, name=name, manifests=manifests, socket=socket
    )
    unlock = _unlock(settings, passphrase_fd)
    arguments = node_command(
        data=data,
        socket=socket,
        config=config,
        name=name,
        manifests=manifests,
        unlock_fd=unlock,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        # The node is this process from here on.
        os.execve(arguments[0], arguments, node_environment(os.environ))  # noqa: S606
    except OSError as error:
        raise UnavailableError(f"can't start {arguments[0]}: {error.strerror}") from error


def node_command(
    *,
    data: str | None = None,
    socket: str | None = None,
    config: str | None = None,
    name: str | None = None,
    manifests: str | None = None,
    unlock_fd: int | None = None,
) -> list[str]:
    """The node's command line: a lean interpreter without anything of the CLI's.

    `-P` keeps the current folder off the module path: starting a node in a folder of downloads
    must not import what lies there.
    """
    given = {
        "--data": data,
        "--socket": socket,
        "--config": config,
        "--name": name,
        "--manifests": manifests,
    }
    options = [text for flag, value in given.items() if value for text in (flag, value)]
    if unlock_fd is not None:
        options += ["--unlock-fd", str(unlock_fd)]
    return [sys.executable, "-P", "-m", "limpet.node", *options]


def node_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep what a node understands of an environment.

    Workers are forked from the node: what is not in its memory, no guest that gets out of its engine can
    read, be it the token of whoever ran `limpet up`.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }


def _unlock(settings: Settings, passphrase_fd: int | None) -> int | None:
    """Turn a passphrase into a key here: what that takes (OpenSSL) stays out of the node."""
    if settings.keys.source != "passphrase":
        if passphrase_fd is not None:
            raise click.UsageError(
                f"--passphrase-fd needs keys.source = passphrase; it is {settings.keys.source}"
            )
        return None
    from limpet.cli.passphrase import unlock_descriptor

    return unlock_descriptor(settings.node.data_directory, passphrase_fd=passphrase_fd)


def _load_settings(
    *,
    data: str | None,
    config: str | None,
    name: str | None,
    manifests: str | None,
    socket: str | None,
) -> Settings:
    """Refuse bad settings here, where the message is seen."""
    from limpet.settings import load_settings

    file = Path(config) if config else _DEFAULT_FILE if _DEFAULT_FILE.exists() else None
    return load_settings(
        file=file,
        environment=os.environ,
        overrides={
            "node.data_directory": data,
            "node.socket_path": socket,
            "node.name": name,
            "node.manifests": manifests,
        },
    )
