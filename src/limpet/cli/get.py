"""`limpet get`: list apps and other objects, once or as they change."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import click

from limpet.cli import kinds
from limpet.cli.columns import app_table, event_table, node_table, object_table
from limpet.cli.guards import app_warnings
from limpet.cli.options import (
    complete_apps,
    connect,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.render import write_json, write_json_line, write_table, write_yaml
from limpet.cli.terminal import notice, one_line, warning
from limpet.cli.watch import Table, watch_tables
from limpet.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.api.answers import AppStatus, EventInfo, Json, ObjectInfo
    from limpet.api.client import Client
    from limpet.cli.kinds import Kind

_WATCH_SECONDS = 1.0
# Kinds that no manifest has.
_LIVE = (kinds.APP, kinds.EVENT, kinds.NODE)

Item: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to list: every object of `kind` (None: of every kind), or those named in `targets`."""

    kind: Kind | None
    targets: tuple[tuple[Kind, str], ...]
    namespace: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What the node has of one kind: statuses of apps, else what the API answers."""

    kind: Kind
    items: list[Item]


@click.command(
    epilog=examples(
        "limpet get                       # apps in the namespace default",
        "limpet get apps -A -o wide       # in every namespace, with all columns",
        "limpet get deploy hello -o yaml  # the manifest, ready to apply again",
        "limpet get svc,pvc               # several kinds",
        "limpet get all                   # every object",
        "limpet get events --watch        # as they happen",
        "limpet get apps -o json | jq -r '.items[].phase'",
    )
)
@click.argument("words", nargs=-1, metavar="[KIND] [NAME]...", shell_complete=complete_apps)
@click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace.")
@output_option("table", "wide", "json", "yaml", "name")
@click.option("-w", "--watch", is_flag=True, help="Show changes until Ctrl-C.")
@namespace_option
@socket_option
def get(
    words: tuple[str, ...],
    *,
    all_namespaces: bool,
    output: str | None,
    watch: bool,
    namespace: str | None,
    socket: str | None,
) -> None:
    """List objects: apps, deployments, pods, jobs, services, ingresses, networkpolicies,
    configmaps, secrets, persistentvolumeclaims, events, nodes or all. kubectl's short names work.

    `apps` are all deployments, pods and jobs with what they are doing.
    """
    queries = _parse_queries(words, namespace=None if all_namespaces else namespace or "default")
    client = connect(socket)
    if watch:
        _watch(client, queries, output=output, has_namespace=all_namespaces)
    if output in ("json", "yaml"):
        _write_objects(client, queries, output=output)
        return
    listings = [listing for query in queries for listing in fetch(client, query)]
    if output == "name":
        _write_names(listings)
    else:
        _write_tables(listings, queries, is_wide=output == "wide", has_namespace=all_namespaces)


def fetch(client: Client, query: Query) -> list[Listing]:
    """What the node has; raises `NotFoundError` when something named is absent."""
    if query.targets:
        return [_fetch_named(client, query, kind=kind, name=name) for kind, name in query.targets]
    if query.kind is not None:
        return [Listing(kind=query.kind, items=_fetch_kind(client, query.kind, query.namespace))]
    stored = sorted(client.objects(namespace=query.namespace), key=_identity)
    listings = [Listing(kind=kinds.APP, items=_fetch_kind(client, kinds.APP, query.namespace))]
    for kind in kinds.STORED:
        if not kind.is_app:
            items = [_item(found) for found in stored if found["kind"] == kind.kind]
            listings.append(Listing(kind=kind, items=items))
    return listings


def _parse_queries(words: Sequence[str], *, namespace: str | None) -> list[Query]:
    if not words:
        return [Query(kind=kinds.APP, targets=(), namespace=namespace)]
    if "/" in words[0]:
        targets = kinds.parse_targets(words, default=kinds.APP)
        return [Query(kind=None, targets=tuple(targets), namespace=namespace)]
    chosen = [
        None if word.lower() == "all" else kinds.parse_kind(word) for word in words[0].split(",")
    ]
    names = words[1:]
    if names and (len(chosen) > 1 or chosen[0] is None):
        raise kinds.TargetError(f"{words[0]} and a name don't go together; write KIND/NAME...")
    if names:
        targets = kinds.parse_targets(words, default=kinds.APP)
        return [Query(kind=None, targets=tuple(targets), namespace=namespace)]
    return [Query(kind=kind, targets=(), namespace=namespace) for kind in chosen]


def _fetch_kind(client: Client, kind: Kind, namespace: str | None) -> list[Item]:
    if kind is kinds.EVENT:
        return _events(client, namespace, None)
    if kind is kinds.NODE:
        return [client.node()]
    if kind.is_app:
        apps = sorted(client.apps(namespace=namespace), key=_identity)
        return [_item(app) for app in apps if kind is kinds.APP or app["kind"] == kind.kind]
    stored = client.objects(kind=kind.kind, namespace=namespace)
    return [_item(found) for found in sorted(stored, key=_identity)]


def _fetch_named(client: Client, query: Query, *, kind: Kind, name: str) -> Listing:
    if kind is kinds.EVENT:
        return Listing(kind=kind, items=_events(client, query.namespace, name))
    return Listing(kind=kind, items=[_fetch_one(client, query, kind=kind, name=name)])


def _fetch_one(client: Client, query: Query, *, kind: Kind, name: str) -> Item:
    namespace = query.namespace or "default"
    if kind is kinds.NODE:
        node = client.node()
        if node["name"] != name:
            raise NotFoundError(f"node {name} does not exist; this one is {node['name']}")
        return node
    if kind.is_app:
        app = client.app(namespace=namespace, name=name)
        if kind is not kinds.APP and app["kind"] != kind.kind:
            raise NotFoundError(
                f"{kind.singular} {namespace}/{name} does not exist; "
                f"there is {kinds.reference(app['kind'], name)}"
            )
        return _item(app)
    return _item(find_object(client, kind=kind, namespace=namespace, name=name))


def find_object(client: Client, *, kind: Kind, namespace: str, name: str) -> ObjectInfo:
    """One stored object; raises `NotFoundError`."""
    found = client.objects(kind=kind.kind, namespace=namespace, name=name)
    if not found:
        raise NotFoundError(
            f"{kind.singular} {namespace}/{name} does not exist; see `limpet get {kind.plural}`"
        )
    return found[0]


def _events(client: Client, namespace: str | None, name: str | None) -> list[Item]:
    return [_item(event) for event in client.events(namespace=namespace, name=name)]


def _identity(item: AppStatus | ObjectInfo) -> tuple[str, str, str]:
    return item["namespace"], item["name"], item["kind"]


def _item(value: AppStatus | ObjectInfo | EventInfo) -> Item:
    return cast("Item", value)


def tables(
    listings: Sequence[Listing], *, is_wide: bool = False, has_namespace: bool = False
) -> list[Table]:
    """A table for each kind; names carry the kind when there are several."""
    merged: dict[str, Listing] = {}
    for listing in listings:
        group = "App" if listing.kind.is_app else listing.kind.kind
        known = merged.get(group)
        items = [*known.items, *listing.items] if known else listing.items
        merged[group] = Listing(kind=listing.kind, items=items)
    has_kind = len(merged) > 1
    return [
        _table(listing, is_wide=is_wide, has_namespace=has_namespace, has_kind_in_name=has_kind)
        for listing in merged.values()
    ]


def _table(
    listing: Listing, *, is_wide: bool, has_namespace: bool, has_kind_in_name: bool
) -> Table:
    if listing.kind is kinds.EVENT:
        return event_table(cast("list[EventInfo]", listing.items), has_namespace=has_namespace)
    if listing.kind is kinds.NODE:
        return node_table(listing.items)
    if listing.kind.is_app:
        return app_table(
            cast("list[AppStatus]", listing.items),
            is_wide=is_wide,
            has_namespace=has_namespace,
            has_kind=listing.kind is kinds.APP and not has_kind_in_name,
            has_kind_in_name=has_kind_in_name,
        )
    return object_table(
        listing.kind,
        cast("list[ObjectInfo]", listing.items),
        is_wide=is_wide,
        has_namespace=has_namespace,
        has_kind_in_name=has_kind_in_name,
    )


def _write_tables(
    listings: Sequence[Listing], queries: Sequence[Query], *, is_wide: bool, has_namespace: bool
) -> None:
    shown = [
        table
        for table in tables(listings, is_wide=is_wide, has_namespace=has_namespace)
        if table[1]
    ]
    if not shown:
        notice(_nothing(queries))
    for at, (columns, rows) in enumerate(shown):
        if at:
            click.echo()
        write_table(columns, rows)
    apps = [item for listing in listings if listing.kind.is_app for item in listing.items]
    for text in dict.fromkeys(
        text for app in apps for text in app_warnings(cast("AppStatus", app))
    ):
        warning(text)


def _nothing(queries: Sequence[Query]) -> str:
    words = " or ".join(query.kind.plural if query.kind else "objects" for query in queries)
    namespace = queries[0].namespace
    where = f" in namespace {namespace}" if namespace else ""
    return f"No {words}{where}."


def _write_names(listings: Sequence[Listing]) -> None:
    for listing in listings:
        for item in listing.items:
            kind = item.get("kind", listing.kind.kind)
            if listing.kind is not kinds.EVENT:
                click.echo(one_line(kinds.reference(kind, item["name"])))


def _write_objects(client: Client, queries: Sequence[Query], *, output: str) -> None:
    documents = [document for query in queries for document in _fetch_documents(client, query)]
    if output == "yaml":
        write_yaml(documents)
        return
    targets = [target for query in queries for target in query.targets]
    is_single = len(targets) == 1 and targets[0][0] is not kinds.EVENT
    write_json(documents[0] if is_single else _list_of(documents))


def _fetch_documents(client: Client, query: Query) -> list[Json]:
    """For programs: what apps, events and nodes are now, the manifest of everything else."""
    if query.targets:
        return [
            document
            for kind, name in query.targets
            for document in _named(client, query, kind, name)
        ]
    if query.kind in _LIVE:
        return [item for listing in fetch(client, query) for item in listing.items]
    kind = query.kind.kind if query.kind else None
    stored = client.objects(kind=kind, namespace=query.namespace)
    return [found["object"] for found in sorted(stored, key=_identity)]


def _named(client: Client, query: Query, kind: Kind, name: str) -> list[Json]:
    if kind in _LIVE:
        return _fetch_named(client, query, kind=kind, name=name).items
    namespace = query.namespace or "default"
    return [find_object(client, kind=kind, namespace=namespace, name=name)["object"]]


def _list_of(documents: list[Json]) -> Json:
    """`{"items": ...}`; of manifests a Kubernetes `List`, which can be applied again."""
    is_manifest = all("apiVersion" in document for document in documents)
    head = {"apiVersion": "v1", "kind": "List"} if documents and is_manifest else {}
    return {**head, "items": documents}


def _watch(
    client: Client, queries: Sequence[Query], *, output: str | None, has_namespace: bool
) -> NoReturn:
    if output not in (None, "table", "wide", "json"):
        raise click.UsageError(f"--watch goes with table, wide and json, not with {output}")
    if output == "json":
        _watch_json(client, queries)

    def fetch_tables() -> list[Table]:
        listings = [listing for query in queries for listing in fetch(client, query)]
        return tables(listings, is_wide=output == "wide", has_namespace=has_namespace)

    watch_tables(fetch_tables, period_seconds=_WATCH_SECONDS, empty=_nothing(queries))


def _watch_json(client: Client, queries: Sequence[Query]) -> NoReturn:
    seen: list[Item] = []
    while True:
        items = [item for query in queries for one in fetch(client, query) for item in one.items]
        for item in items:
            if item not in seen:
                write_json_line(item)
        sys.stdout.flush()
        seen = items
        time.sleep(_WATCH_SECONDS)
