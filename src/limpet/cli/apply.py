"""`limpet apply`: make the node have what manifests say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from limpet.cli import kinds
from limpet.cli.options import (
    connect,
    duration_option,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.render import write_json
from limpet.cli.terminal import StatusLine, notice, one_line, styled, warning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.api.answers import ApplyResult, AppStatus, Json
    from limpet.api.client import Client
    from limpet.cli.manifests import Manifest

_COLOURS = {"created": "green", "configured": "yellow"}
_APPS = {kind.kind for kind in kinds.STORED if kind.is_app}


@click.command(
    epilog=examples(
        "limpet apply -f hello.yaml",
        "limpet apply -f shop/ -f common.yaml   # every .yaml, .yml and .json of a folder",
        "limpet apply -f hello.yaml --dry-run   # check, change nothing",
        "limpet get deploy hello -o yaml | limpet apply -f -",
    )
)
@click.option(
    "-f",
    "--filename",
    "sources",
    metavar="FILE|DIR|-",
    multiple=True,
    required=True,
    type=click.Path(),
    help="A manifest, a folder of them, or - for stdin. May be given again.",
)
@click.option("--dry-run", is_flag=True, help="Say what would change, change nothing.")
@click.option("--wait/--no-wait", default=True, help="Wait until apps run. Default: wait.")
@duration_option("--timeout", default="60s", help="How long to wait. Default: 60s.")
@output_option("text", "json", "name")
@namespace_option
@socket_option
def apply(
    sources: tuple[str, ...],
    *,
    dry_run: bool,
    wait: bool,
    timeout: float,
    output: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """Create or change objects from Kubernetes manifests: all of them, or none.

    A module that is a file is relative to its manifest's folder and is sent to the node.
    Exits with 1 when an app fails, with 7 when it is not ready in time.
    """
    from limpet.cli.manifests import read_manifests

    manifests = read_manifests(sources, namespace=namespace)
    client = connect(socket)
    with StatusLine() as status:
        results = apply_manifests(client, manifests, dry_run=dry_run, status=status)
        finish_apply(
            client,
            results,
            dry_run=dry_run,
            is_waiting=wait,
            timeout_seconds=timeout,
            output=output,
            status=status,
        )


def apply_manifests(
    client: Client, manifests: Sequence[Manifest], *, dry_run: bool, status: StatusLine
) -> list[ApplyResult]:
    """Send the modules that the node lacks, then the objects. The node's warnings are shown."""
    from limpet.cli.modules import apply_items, hash_modules, upload_modules

    modules = hash_modules(manifests)
    if not dry_run:
        upload_modules(client, modules, status=status)
    results = client.apply(apply_items(manifests, modules), dry_run=dry_run)
    status.clear()
    show_warnings(results)
    return results


def finish_apply(
    client: Client,
    results: Sequence[ApplyResult],
    *,
    dry_run: bool,
    is_waiting: bool,
    timeout_seconds: float,
    output: str | None,
    status: StatusLine,
) -> None:
    """Say what applying did, and wait for the apps."""
    status.clear()
    if output != "json":
        _write_results(results, dry_run=dry_run, is_name=output == "name")
    statuses: list[AppStatus] = []
    try:
        if is_waiting and not dry_run:
            statuses = _wait(client, results, timeout_seconds=timeout_seconds, status=status)
    finally:
        if output == "json":
            write_json({"items": [_result(client, r, dry_run=dry_run) for r in results]})
    status.clear()
    if output is None:
        for app in statuses:
            notice(_arrival(app))


def endpoint_urls(app: AppStatus) -> list[str]:
    """Where an http app answers, as seen from this device."""
    if app["trigger"] != "http":
        return []
    urls = []
    for endpoint in app["endpoints"]:
        host, _, port = endpoint.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - not bound
        urls.append(f"http://{host}:{port}/")
    return urls


def show_warnings(results: Sequence[ApplyResult]) -> None:
    """Tell people what the node warns of."""
    for result in results:
        for text in result["warnings"]:
            warning(f"{kinds.reference(result['kind'], result['name'])}: {text}")


def _wait(
    client: Client, results: Sequence[ApplyResult], *, timeout_seconds: float, status: StatusLine
) -> list[AppStatus]:
    from limpet.cli.waiting import wait_for_apps

    apps = [result for result in results if result["kind"] in _APPS]
    return wait_for_apps(client, apps, timeout_seconds=timeout_seconds, status=status)


def _write_results(results: Sequence[ApplyResult], *, dry_run: bool, is_name: bool) -> None:
    for result in results:
        name = one_line(kinds.reference(result["kind"], result["name"]))
        action = styled(result["action"], colour=_COLOURS.get(result["action"]))
        suffix = " (dry run)" if dry_run else ""
        click.echo(name if is_name else f"{name} {action}{suffix}")


def _arrival(app: AppStatus) -> str:
    where = ", ".join(endpoint_urls(app))
    words = app["phase"].lower() + (f" at {where}" if where else "")
    return f"{kinds.reference(app['kind'], app['name'])} {words}"


def _result(client: Client, result: ApplyResult, *, dry_run: bool) -> Json:
    """A result for programs: of an app also what became of it."""
    told: Json = {**result}
    if result["kind"] in _APPS and not dry_run:
        app = client.app(namespace=result["namespace"], name=result["name"])
        keys = ("phase", "reason", "message", "endpoints", "digest")
        told |= {key: app.get(key) for key in keys}
    return told
