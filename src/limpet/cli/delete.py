"""`limpet delete`: stop apps and forget objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import click

from limpet.cli import kinds
from limpet.cli.get import find_object
from limpet.cli.options import (
    complete_apps,
    connect,
    duration_option,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.render import write_json
from limpet.cli.terminal import StatusLine, one_line, warning
from limpet.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.api.client import Client
    from limpet.cli.kinds import Kind

Target: TypeAlias = "tuple[Kind, str, str]"
"""Kind, namespace and name."""


@click.command(
    epilog=examples(
        "limpet delete hello                  # the app, whatever kind it is",
        "limpet delete svc/hello pvc/readings",
        "limpet delete job nightly weekly --ignore-not-found",
        "limpet delete -f shop/ --wait        # everything that the manifests name",
    )
)
@click.argument("names", nargs=-1, metavar="[KIND/]NAME...", shell_complete=complete_apps)
@click.option(
    "-f",
    "--filename",
    "sources",
    metavar="FILE|DIR|-",
    multiple=True,
    type=click.Path(),
    help="Delete what a manifest names. May be given again.",
)
@click.option("--ignore-not-found", is_flag=True, help="What is absent is no error.")
@click.option("--wait", is_flag=True, help="Wait until the apps have stopped.")
@duration_option("--timeout", default="60s", help="How long to wait. Default: 60s.")
@click.option("--dry-run", is_flag=True, help="Say what would go, delete nothing.")
@output_option("text", "json", "name")
@namespace_option
@socket_option
def delete(
    names: tuple[str, ...],
    *,
    sources: tuple[str, ...],
    ignore_not_found: bool,
    wait: bool,
    timeout: float,
    dry_run: bool,
    output: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """Delete objects by name, or those that manifests name. Volumes go when their claim does.

    A name without a kind is an app: a deployment, pod or job.
    """
    if not names and not sources:
        raise click.UsageError("name what to delete, or give manifests with -f")
    targets = _targets(names, sources=sources, namespace=namespace)
    client = connect(socket)
    deleted: list[Target] = []
    missing: list[str] = []
    try:
        for target in targets:
            try:
                deleted.append(_delete(client, target, dry_run=dry_run))
            except NotFoundError as error:
                missing.append(str(error))
    finally:
        _write(deleted, output=output, dry_run=dry_run)
    if wait and not dry_run:
        _wait(client, deleted, timeout_seconds=timeout)
    if missing and not ignore_not_found:
        raise NotFoundError("\n".join(missing))


def _targets(
    names: Sequence[str], *, sources: Sequence[str], namespace: str | None
) -> list[Target]:
    chosen = kinds.parse_targets(names, default=kinds.APP)
    for kind, _ in chosen:
        if kind in (kinds.EVENT, kinds.NODE):
            raise kinds.TargetError(f"a {kind.singular} can't be deleted")
    targets = [(kind, namespace or "default", name) for kind, name in chosen]
    if sources:
        from limpet.cli.manifests import read_manifests

        found = [manifest.resource for manifest in read_manifests(sources, namespace=namespace)]
        # Backwards: apps usually follow what they need.
        targets += [(kinds.parse_kind(r.kind), r.namespace, r.name) for r in reversed(found)]
    return list(dict.fromkeys(targets))


def _delete(client: Client, target: Target, *, dry_run: bool) -> Target:
    kind, namespace, name = target
    if kind is kinds.APP:
        kind = kinds.parse_kind(client.app(namespace=namespace, name=name)["kind"])
    if dry_run:
        find_object(client, kind=kind, namespace=namespace, name=name)
    else:
        for text in client.delete_object(kind=kind.kind, namespace=namespace, name=name):
            warning(f"{kinds.reference(kind.kind, name)}: {text}")
    return kind, namespace, name


def _write(deleted: Sequence[Target], *, output: str | None, dry_run: bool) -> None:
    if output == "json":
        action = "deleted (dry run)" if dry_run else "deleted"
        keys = ("kind", "namespace", "name", "action")
        items = [(kind.kind, namespace, name, action) for kind, namespace, name in deleted]
        write_json({"items": [dict(zip(keys, item, strict=True)) for item in items]})
        return
    for kind, _, name in deleted:
        reference = one_line(kinds.reference(kind.kind, name))
        suffix = " (dry run)" if dry_run else ""
        click.echo(reference if output == "name" else f"{reference} deleted{suffix}")


def _wait(client: Client, deleted: Sequence[Target], *, timeout_seconds: float) -> None:
    from limpet.cli.waiting import wait_until_gone

    apps = [(namespace, name) for kind, namespace, name in deleted if kind.is_app]
    with StatusLine() as status:
        wait_until_gone(client, apps, timeout_seconds=timeout_seconds, status=status)
