"""The options that many verbs share, and what they turn into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from limpet.api.client import Client

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def duration_option(
    flag: str,
    *,
    help: str,  # noqa: A002 - click's word
    default: str | None = None,
) -> Callable[[_Command], _Command]:
    """An option written as in manifests (`90s`, `1m30s`, `500ms`), in seconds for the command."""
    return click.option(
        flag, metavar="DURATION", default=default, callback=_parse_duration_option, help=help
    )


def socket_option(command: _Command) -> _Command:
    """`--socket PATH`, `socket` of the command."""
    return click.option(
        "--socket",
        metavar="PATH",
        envvar="LIMPET_SOCKET",
        callback=_or_global,
        help="The node's socket; also LIMPET_SOCKET. Default: /run/limpet/limpet.sock for root.",
    )(command)


def namespace_option(command: _Command) -> _Command:
    """`-n NAME`, `namespace` of the command; None when not given."""
    return click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        callback=_or_global,
        help="The namespace. Default: default.",
    )(command)


def output_option(*formats: str) -> Callable[[_Command], _Command]:
    """`-o FORMAT`, `output` of the command; None when not given, which means the first."""
    text = f"The format. Default: {formats[0]}."
    return click.option("-o", "--output", type=click.Choice(formats), help=text)


def examples(*lines: str) -> str:
    """A verb's examples, as its help's last block."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def connect(socket: str | None, *, timeout_seconds: float = 30.0) -> Client:
    """The client of the node that `--socket` names, or of the default one."""
    from limpet.api.client import Client

    return Client(resolve_socket(socket), timeout_seconds=timeout_seconds)


def resolve_socket(socket: str | None) -> Path:
    """Where the node's API listens."""
    from pathlib import Path

    from limpet.settings import default_socket_path

    return Path(socket).expanduser().absolute() if socket else default_socket_path()


def complete_apps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of apps for the shell. Silent when no node answers: a shell can't show errors."""
    del parameter
    from limpet.errors import LimpetError

    try:
        client = connect(context.params.get("socket"), timeout_seconds=0.5)
        apps = client.apps(namespace=context.params.get("namespace") or "default")
    except LimpetError:
        return []
    given = context.params.get("names") or context.params.get("words") or ()
    names = [app["name"] for app in apps if app["name"] not in given]
    return sorted(name for name in names if name.startswith(incomplete) and name.isprintable())


def _parse_duration_option(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    if value is None:
        return None
    from limpet.manifest.quantity import QuantityError, parse_duration

    try:
        return parse_duration(value)
    except QuantityError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _or_global(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The verb's own value, else the one before the verb: `limpet -n shop get apps`."""
    name = parameter.name or ""
    found = context.find_root().params.get(name)
    source = context.get_parameter_source(name)
    is_own = source is not None and source.name == "COMMANDLINE"
    return value if is_own or found is None else str(found)
