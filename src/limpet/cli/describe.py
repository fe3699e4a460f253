"""`limpet describe`: everything about one object, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from limpet.cli import kinds
from limpet.cli.apply import endpoint_urls
from limpet.cli.columns import (
    Rows,
    condition_table,
    event_table,
    object_keys,
    platform_bytes,
    process_table,
    status_cell,
    worker_style,
)
from limpet.cli.get import find_object
from limpet.cli.guards import app_warnings, node_warnings
from limpet.cli.options import (
    complete_apps,
    connect,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.render import (
    Cell,
    Column,
    Styled,
    write_fields,
    write_json,
    write_table,
    write_title,
)
from limpet.cli.rollout_status import explain_failure
from limpet.cli.terminal import one_line
from limpet.cli.units import (
    format_age,
    format_cores,
    format_micros,
    format_milliseconds,
    format_size,
    format_used,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.api.answers import AppStatus, EventInfo, ExitInfo, Json, ObjectInfo
    from limpet.api.client import Client
    from limpet.cli.kinds import Kind

_EVENTS = 20
_INDENT = 2


@click.command(
    epilog=examples(
        "limpet describe hello         # an app",
        "limpet describe svc/hello",
        "limpet describe node          # this device",
        "limpet describe hello -o json",
    )
)
@click.argument(
    "words", nargs=-1, required=True, metavar="[KIND] NAME", shell_complete=complete_apps
)
@output_option("text", "json")
@namespace_option
@socket_option
def describe(
    words: tuple[str, ...], *, output: str | None, namespace: str | None, socket: str | None
) -> None:
    """Show status, limits, endpoints, volumes, workers and events of an app; KIND/NAME for
    other objects, `node` for the node.
    """
    client = connect(socket)
    if [word.lower() for word in words] == ["node"]:
        _describe_node(client, output=output)
        return
    targets = kinds.parse_targets(words, default=kinds.APP)
    if len(targets) != 1:
        raise click.UsageError("describe one object at a time: NAME, KIND NAME or KIND/NAME")
    [(kind, name)] = targets
    chosen = namespace or "default"
    if kind is kinds.EVENT:
        raise kinds.TargetError("events have no name; see `limpet get events`")
    if kind is kinds.NODE:
        _describe_node(client, output=output)
    elif kind.is_app:
        _describe_app(client, namespace=chosen, name=name, output=output)
    else:
        _describe_object(client, kind, namespace=chosen, name=name, output=output)


def _describe_app(client: Client, *, namespace: str, name: str, output: str | None) -> None:
    app = client.app(namespace=namespace, name=name)
    events = client.events(namespace=namespace, name=name, limit=_EVENTS)
    if output == "json":
        write_json({"app": app, "events": events})
        return
    write_fields(_app_fields(app))
    _write_egress(app["egress"])
    _write_volumes(app["volumes"])
    _write_workers(app)
    _write_last_output(app.get("last_output") or [])
    _write_events(events)


def _app_fields(app: AppStatus) -> list[tuple[str, Cell]]:
    ready = f"{app['ready']}/{app['desired']} ready, {_counted(app['restarts'], 'restart')}"
    urls = endpoint_urls(app) or app["endpoints"]
    fields: list[tuple[str, Cell]] = [
        ("Name", Styled(app["name"], "bold")),
        ("Namespace", app["namespace"]),
        ("Kind", f"{app['kind']}, generation {app['generation']}"),
        ("Status", _status(app)),
        *([("Message", Styled(app["message"]))] if app["message"] else []),
        ("Workers", ready),
        *_release_fields(app),
        ("Age", f"{format_age(app['created_at'])} ({app['created_at']})"),
        *_origin(app.get("managed_by")),
        ("Trigger", app["trigger"]),
        ("Endpoints", ", ".join(urls) or "-"),
        ("Image", app["image"]),
        ("Digest", app["digest"] or "-"),
        ("Engine", _engine(app)),
        ("Limits", _limits(app["limits"])),
        *(("Warning", Styled(text, "yellow")) for text in app_warnings(app)),
        ("Requires", ", ".join(app["requires"]) or "-"),
        ("Usage", _usage(app["usage"])),
        *_kernel_usage(app["usage"]),
    ]
    if app["requests"] is not None:
        fields += _request_fields(app["requests"])
    cold = app["cold_start_milliseconds"]
    if cold and cold.get("count"):
        last, median = format_milliseconds(cold.get("last")), format_milliseconds(cold.get("p50"))
        fields.append(("Cold start", f"last {last}, p50 {median} of {cold['count']}"))
    return fields


def _origin(path: str | None) -> list[tuple[str, Cell]]:
    """The file of the manifests folder that an object came from."""
    return [("Managed by", f"{path} of the manifests folder")] if path else []


def _release_fields(app: AppStatus) -> list[tuple[str, Cell]]:
    """The newest release and how it stands; what is in force where that is another."""
    found = app.get("rollout")
    if found is None:
        return []
    status, style = found["status"], "red" if found["status"] == "failed" else ""
    told = f"{found['release']}, {status}"
    if status == "failed":
        told = explain_failure(found)
    elif found["in_force"] != found["release"]:
        told += f"; release {found['in_force']} is in force"
    elif status == "progressing":
        counts = f"{found['updated']} updated, {found['available']} available, {found['old']} old"
        told += f": {counts}" + (f"; {found['message']}" if found["message"] else "")
    return [("Release", Styled(told, style))]


def _status(app: AppStatus) -> Styled:
    words = app["phase"] + (f", {app['reason']}" if app["reason"] else "")
    return Styled(words, status_cell(app).style)


def _engine(app: AppStatus) -> str:
    """The engine, and why this one where that is not plain."""
    reason = app.get("engine_reason") or ""
    name = app["engine"] or "-"
    return f"{name} ({reason})" if reason and reason != "it is the default" else name


def _request_fields(requests: Json) -> list[tuple[str, Cell]]:
    latency = requests.get("latency_micros") or {}
    counts = [(requests.get(key), key) for key in ("total", "failed", "in_flight", "queued")]
    told = ", ".join(
        f"{count} {key.replace('_', ' ')}" for count, key in counts if count is not None
    )
    quantiles = ", ".join(
        f"{key} {format_micros(latency.get(key))}" for key in ("p50", "p90", "p99")
    )
    has_latency = any(value is not None for value in latency.values())
    return [("Requests", told or "-"), ("Latency", quantiles if has_latency else "-")]


def _limits(limits: Json) -> str:
    lacking = limits.get("not_enforced") or {}
    cpu = f"{format_cores(limits.get('cpu_cores'))} CPU"
    memory = f"{format_size(limits.get('memory_bytes'))} memory"
    parts = [cpu + " (not enforced)" * ("cpu" in lacking)]
    parts.append(memory + " (engine only)" * ("memory" in lacking))
    if limits.get("pids") is not None:
        parts.append(f"{limits['pids']} processes" + " (not enforced)" * ("pids" in lacking))
    return ", ".join(parts)


def _usage(usage: Json | None) -> str:
    if not usage or usage.get("pss_bytes") is None:
        return "-"
    cores = format_cores(usage.get("cpu_cores"))
    memory = f"{format_size(usage.get('pss_bytes'))} memory (PSS)"
    return f"{cores} CPU, {memory}, {format_size(usage.get('uss_bytes'))} of it private"


def _kernel_usage(usage: Json | None) -> list[tuple[str, Cell]]:
    """What the kernel counted against the limits, where it enforces them."""
    parts = []
    if usage and usage.get("memory_peak_bytes") is not None:
        now, peak = format_size(usage.get("memory_bytes")), format_size(usage["memory_peak_bytes"])
        parts.append(f"{now} memory now, {peak} at most")
    if usage and usage.get("throttled_share") is not None:
        share, seconds = usage["throttled_share"], usage.get("throttled_seconds") or 0
        parts.append(f"CPU limit reached in {share:.0%} of periods, {seconds:g} s waited")
    return [("Charged", "; ".join(parts))] if parts else []


def _write_egress(rules: Sequence[str] | None) -> None:
    if rules is None:  # the app is not planned yet
        return
    write_title("Egress")
    for rule in rules or ["nothing: the app has no network"]:
        click.echo(" " * _INDENT + one_line(rule))


def _write_volumes(volumes: Sequence[Json]) -> None:
    if not volumes:
        return
    write_title("Volumes")
    rows: Rows = [
        [
            volume.get("path") or "-",
            kinds.reference(volume.get("kind") or "-", volume.get("source") or "-"),
            "read only" if volume.get("read_only") else "read and write",
            format_used(volume.get("usage")),
        ]
        for volume in volumes
    ]
    columns = [Column(title) for title in ("PATH", "SOURCE", "ACCESS", "USED")]
    write_table(columns, rows, indent=_INDENT)


def _write_workers(app: AppStatus) -> None:
    if not app["workers"]:
        return
    write_title("Workers")
    titles = {"NAME": 0, "PID": 1, "STATE": 0, "RESTARTS": 2, "AGE": 3}
    columns = [Column(title, rank=rank) for title, rank in titles.items()]
    columns.append(Column("LAST EXIT", is_flexible=True))
    rows: Rows = []
    for worker in app["workers"]:
        retry = worker.get("retry_seconds")
        state = worker["state"] + (f" ({retry:.0f}s)" if retry else "")
        rows.append(
            [
                worker["name"],
                str(worker["pid"] or "-"),
                Styled(state, worker_style(worker["state"])),
                str(worker["restarts"]),
                format_age(worker["started_at"]),
                _last_exit(worker["last_exit"]),
            ]
        )
    write_table(columns, rows, indent=_INDENT)


def _last_exit(last: ExitInfo | None) -> str:
    if last is None:
        return "-"
    code = f" ({last['exit_code']})" if last["exit_code"] is not None else ""
    message = f": {last['message']}" if last["message"] else ""
    return f"{last['reason']}{code}{message}, {format_age(last['finished_at'])} ago"


def _write_last_output(lines: Sequence[Json]) -> None:
    """What failed workers had to say at their end; `limpet logs --previous` has all of it."""
    if not lines:
        return
    write_title("Last output")
    for line in lines:
        text = f"{line.get('worker')} {line.get('stream')}: {line.get('line')}"
        click.echo(" " * _INDENT + one_line(text))


def _write_events(events: Sequence[EventInfo]) -> None:
    write_title("Events")
    if not events:
        click.echo(" " * _INDENT + "none")
        return
    columns, rows = event_table(events)
    at = [column.title for column in columns].index("OBJECT")
    del columns[at]
    for row in rows:
        del row[at]
    write_table(columns, rows, indent=_INDENT)


def _describe_object(
    client: Client, kind: Kind, *, namespace: str, name: str, output: str | None
) -> None:
    found = find_object(client, kind=kind, namespace=namespace, name=name)
    events = client.events(namespace=namespace, name=name, limit=_EVENTS)
    events = [event for event in events if event["kind"] == kind.kind]
    if output == "json":
        write_json({"object": found, "events": events})
        return
    created = f"{format_age(found['created_at'])} ({found['created_at']})"
    write_fields(
        [
            ("Name", Styled(found["name"], "bold")),
            ("Namespace", found["namespace"]),
            ("Kind", f"{found['kind']}, generation {found['generation']}"),
            ("Age", created),
            *_origin(found.get("managed_by")),
            *([("Used", format_used(found.get("usage")))] if kind is kinds.CLAIM else []),
        ]
    )
    if kind in (kinds.CONFIG_MAP, kinds.SECRET):
        _write_keys(kind, found)
    else:
        _write_spec(found)
    _write_events(events)


def _write_keys(kind: Kind, found: ObjectInfo) -> None:
    """A ConfigMap's keys with their lengths; of a Secret the node tells the lengths only."""
    write_title("Keys")
    rows: Rows = []
    for key, value in object_keys(found["object"]):
        size = str(value).strip("<>") if kind is kinds.SECRET else _counted(len(value), "character")
        rows.append([key, size])
    write_table([Column("KEY"), Column("SIZE")], rows, indent=_INDENT)


def _write_spec(found: ObjectInfo) -> None:
    import yaml

    write_title("Spec")
    text: str = yaml.safe_dump(found["object"].get("spec") or {}, sort_keys=False)
    for line in text.splitlines():
        click.echo(" " * _INDENT + line)


def _describe_node(client: Client, *, output: str | None) -> None:
    node = client.node()
    events = [event for event in client.events(limit=100) if event["kind"] == kinds.NODE.kind]
    if output == "json":
        write_json({"node": node, "events": events[-_EVENTS:]})
        return
    write_fields(
        [
            ("Name", Styled(node["name"], "bold")),
            ("Version", f"{node['version']} (Python {node['python']})"),
            ("Engines", ", ".join(node.get("engines") or [node["engine"]])),
            (
                "Machine",
                f"{node['machine']}, {_counted(node['cpus'], 'CPU')}, "
                f"{format_size(node['memory_bytes'])} memory",
            ),
            ("Data", node["data_directory"]),
            ("Age", f"{format_age(node['started_at'])} ({node['started_at']})"),
            ("Apps", f"{node['apps']}, {_counted(node['workers'], 'worker')}"),
            ("Memory", f"{format_size(platform_bytes(node))} for Limpet's own processes (PSS)"),
            *([("Guards", _guards(node["facilities"]))] if node.get("facilities") else []),
            *(("Warning", Styled(text, "yellow")) for text in node_warnings(node)),
            *_manifests(node.get("manifests")),
        ]
    )
    if node.get("conditions"):
        write_title("Conditions")
        write_table(*condition_table(node), indent=_INDENT)
    write_title("Processes")
    write_table(*process_table(node), indent=_INDENT)
    _write_events(events[-_EVENTS:])


def _manifests(told: Json | None) -> list[tuple[str, Cell]]:
    """The folder that the node follows, and what in it can't be applied."""
    if not told:
        return []
    counts = f"{_counted(told['files'], 'file')}, {_counted(told['objects'], 'object')}"
    fields: list[tuple[str, Cell]] = [("Manifests", f"{told['folder']}: {counts}")]
    if told["message"]:
        fields.append(("Warning", Styled(told["message"], "yellow")))
    for problem in told["problems"]:
        where, why = problem["file"], problem["message"]
        text = why if why.startswith(where) else f"{where}: {why}"
        fields.append(("Warning", Styled(one_line(text), "yellow")))
    return fields


def _guards(facilities: Json) -> str:
    return ", ".join(name for name, is_there in facilities.items() if is_there) or "none"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
