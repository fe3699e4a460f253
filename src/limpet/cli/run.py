"""`limpet run`: from a module to a running app in one line, with or without a node."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limpet.cli import kinds
from limpet.cli.ending import signals_end_this
from limpet.cli.guards import limits_notice
from limpet.cli.options import (
    connect,
    duration_option,
    examples,
    namespace_option,
    resolve_socket,
    socket_option,
)
from limpet.cli.terminal import StatusLine, notice
from limpet.errors import ConflictError, LimpetError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from limpet.api.answers import AppStatus
    from limpet.api.client import Client
    from limpet.cli.manifests import Manifest
    from limpet.cli.run_objects import Object, RunOptions

_LOG_TAIL = 20


@click.command(
    context_settings={"ignore_unknown_options": False},
    epilog=examples(
        "limpet run hello.wasm --port 8080           # http://127.0.0.1:8080/ until Ctrl-C",
        "limpet run hello.wasm --port 0              # on a free port",
        "limpet run report.wasm -- --since monday    # a command; its exit code is yours",
        "limpet run api.wasm --port 0.0.0.0:80 --memory 128Mi --env MODE=field \\",
        "    --volume readings:200Mi:/data --detach  # stays, on the node that is running",
        "limpet run hello.wasm --port 8080 --dry-run -o yaml > hello.yaml",
    ),
)
@click.argument("module")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS...]")
@click.option("--name", metavar="NAME", help="The app's name. Default: the module's.")
@click.option("--port", metavar="[ADDRESS:]PORT", help="Serve HTTP there; 0 picks a free port.")
@click.option("-e", "--env", metavar="NAME=VALUE", multiple=True, help="A variable. Repeatable.")
@click.option("--cpu", metavar="CORES", help="The CPU limit, like 500m or 0.5. Default: 500m.")
@click.option("--memory", metavar="BYTES", help="The memory limit, like 128Mi. Default: 64Mi.")
@click.option(
    "--volume",
    "volumes",
    metavar="NAME[:SIZE]:/PATH",
    multiple=True,
    help="A volume that outlives the app. Repeatable.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes for HTTP.")
@click.option(
    "--trigger",
    type=click.Choice(["http", "command", "socket"]),
    help="Default: with --port what the module is made for, http or socket; else command.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "wasmtime", "wasmedge"]),
    help="What runs the module. Default: auto.",
)
@click.option(
    "--restart",
    type=click.Choice(["Always", "OnFailure", "Never"]),
    help="When a command starts again. Default: Never.",
)
@click.option(
    "--idle-timeout", metavar="DURATION", help="Stop when idle this long; a connection starts it."
)
@click.option("--deadline", metavar="DURATION", help="The longest request, or run of a command.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running; needs a running node.")
@duration_option("--timeout", default="60s", help="How long it may take to start. Default: 60s.")
@click.option("--data", metavar="DIR", help="Where a node started for this keeps its data.")
@click.option("--dry-run", is_flag=True, help="Print the manifest, run nothing.")
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), help="The manifest's. Default: yaml."
)
@namespace_option
@socket_option
def run(
    *,
    module: str,
    port: str | None,
    env: tuple[str, ...],
    volumes: tuple[str, ...],
    name: str | None,
    detach: bool,
    timeout: float,
    data: str | None,
    dry_run: bool,
    output: str | None,
    socket: str | None,
    **rest: Any,  # noqa: ANN401 - the fields of RunOptions that need no parsing
) -> None:
    """Run a module: a .wasm file, an https:// URL or an OCI image.

    With --port it serves until Ctrl-C: HTTP, or on its own sockets if it opens some. Otherwise it
    is a command that runs once: limpet exits with its exit code. When no node is listening, one
    runs as long as this does.
    """
    from limpet.cli import run_objects
    from limpet.cli.modules import hash_modules

    options = run_objects.RunOptions(
        module=module,
        name=run_objects.name_of_module(module) if name is None else name,
        listen=None if port is None else run_objects.parse_listen(port),
        env=run_objects.parse_env(env),
        volumes=[run_objects.parse_volume(text) for text in volumes],
        **rest,
    )
    objects = run_objects.compile_objects(options)
    manifests = _parse(objects)
    if dry_run:
        _print_manifest(objects, output=output)
        return
    if output is not None:
        raise click.UsageError("-o is for the manifest that --dry-run prints")
    hash_modules(manifests)  # a file that is missing is told before anything is started
    with (
        signals_end_this(),
        StatusLine() as status,
        _node(socket, data=data, detach=detach, status=status) as client,
    ):
        _run(client, options, manifests, detach=detach, timeout=timeout, status=status)


def _parse(objects: Sequence[Object]) -> list[Manifest]:
    """The objects, checked; problems name the option they come from."""
    from limpet.cli.manifests import Manifest
    from limpet.cli.run_objects import option_of
    from limpet.manifest.parse import parse_object

    return [
        Manifest(
            resource=parse_object(item, locate=option_of),
            object=item,
            folder=Path.cwd(),
            locate=option_of,
        )
        for item in objects
    ]


def _print_manifest(objects: Sequence[Object], *, output: str | None) -> None:
    from limpet.cli.render import write_json, write_yaml

    if output == "json":
        write_json({"apiVersion": "v1", "kind": "List", "items": objects})
    else:
        write_yaml(objects)


@contextlib.contextmanager
def _node(
    socket: str | None, *, data: str | None, detach: bool, status: StatusLine
) -> Iterator[Client]:
    """The node that listens, else one of our own for as long as the block lasts."""
    from limpet.api.exchange import NodeNotRunningError

    client = connect(socket)
    try:
        client.node()
    except NodeNotRunningError as error:
        if detach:
            raise UnavailableError(f"{error}: --detach needs a node that stays") from error
    else:
        if data is not None:
            raise ConflictError(
                f"a node is listening on {client.socket_path} already and has its own data; "
                "leave out --data, or give another --socket"
            )
        yield client
        return
    from limpet.cli.child_node import child_node

    with child_node(resolve_socket(socket), data=data, status=status):
        yield client


def _run(
    client: Client,
    options: RunOptions,
    manifests: list[Manifest],
    *,
    detach: bool,
    timeout: float,
    status: StatusLine,
) -> None:
    from limpet.cli.apply import apply_manifests
    from limpet.cli.waiting import (
        AppFailedError,
        describe_status,
        is_ended,
        is_ready,
        wait_for_apps,
    )

    app = manifests[-1].resource
    unlimited = limits_notice(client.node())
    if unlimited:
        status.clear()
        notice(unlimited)
    _refuse_existing(client, namespace=app.namespace, name=app.name)
    wanted = _without_existing_claims(client, options, manifests)
    results = apply_manifests(client, wanted, dry_run=False, status=status)
    with contextlib.ExitStack() as stack:
        if not detach:
            stack.callback(_delete, client, manifests[-1], status)
        try:
            [found] = wait_for_apps(
                client,
                results[-1:],
                timeout_seconds=timeout,
                status=status,
                is_done=lambda status: is_ready(status) or is_ended(status),
            )
        except AppFailedError as error:
            status.clear()
            _show_log(client, error.app)
            if detach or error.app is None:
                raise
            # It is deleted now: nobody could look at it as the full message says.
            name = kinds.reference(app.kind, app.name)
            raise AppFailedError(f"{name} failed: {describe_status(error.app)}") from error
        status.clear()
        if detach:
            _report(found)
        else:
            _follow(client, found)


def _report(app: AppStatus) -> None:
    """The result of --detach: where it answers, for scripts; the rest for people."""
    from limpet.cli.apply import endpoint_urls

    reference = kinds.reference(app["kind"], app["name"])
    notice(f"{reference} {app['phase'].lower()}; stop it with `limpet delete {app['name']}`")
    for url in endpoint_urls(app):
        click.echo(url)


def _follow(client: Client, app: AppStatus) -> None:
    from limpet.cli.apply import endpoint_urls
    from limpet.cli.following import exit_code, follow_app

    urls = endpoint_urls(app)
    if urls:
        notice(f"{app['name']} answers here until Ctrl-C:")
        click.echo("\n".join(urls))
        sys.stdout.flush()
    code = exit_code(follow_app(client, app))
    if code:
        raise click.exceptions.Exit(code)


def _show_log(client: Client, app: AppStatus | None) -> None:
    """What a failed app wrote is what its author wants to see first."""
    from limpet.cli.following import write_log

    if app is not None:
        with contextlib.suppress(NotFoundError):
            write_log(client, app, tail=_LOG_TAIL)


def _refuse_existing(client: Client, *, namespace: str, name: str) -> None:
    """What runs already is somebody's: it is neither changed here nor deleted at the end."""
    try:
        client.app(namespace=namespace, name=name)
    except NotFoundError:
        return
    raise ConflictError(
        f"app {namespace}/{name} exists; choose another --name, or `limpet delete {name}` first"
    )


def _without_existing_claims(
    client: Client, options: RunOptions, manifests: Sequence[Manifest]
) -> list[Manifest]:
    """A volume named without a size is taken as it is."""
    kept: list[Manifest] = []
    sizes = {volume.name: volume.size for volume in options.volumes}
    for manifest in manifests:
        claim = manifest.resource
        is_default = claim.kind == kinds.CLAIM.kind and sizes.get(claim.name) is None
        if is_default and client.objects(
            kind=claim.kind, namespace=claim.namespace, name=claim.name
        ):
            continue
        kept.append(manifest)
    return kept


def _delete(client: Client, manifest: Manifest, status: StatusLine) -> None:
    """Delete the app and wait for its end; volumes stay."""
    from limpet.cli.waiting import wait_until_gone

    app = manifest.resource
    status.show(f"stopping {app.name}")
    try:
        client.delete_object(kind=app.kind, namespace=app.namespace, name=app.name)
        wait_until_gone(client, [(app.namespace, app.name)], timeout_seconds=40.0, status=status)
    except NotFoundError:
        pass  # somebody else deleted it
    except LimpetError as error:
        notice(f"{app.name} may still be there: {error}")
    finally:
        status.clear()
