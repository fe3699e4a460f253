"""What tables show of each kind of object: titles and rows, colours included."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from limpet.cli.kinds import (
    CLAIM,
    CONFIG_MAP,
    INGRESS,
    NETWORK_POLICY,
    SECRET,
    SERVICE,
    Kind,
    reference,
)
from limpet.cli.render import Cell, Column, Styled
from limpet.cli.units import format_age, format_cores, format_size, format_used

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limpet.api.answers import AppStatus, EventInfo, Json, ObjectInfo

Rows: TypeAlias = "list[list[Cell]]"

_PHASE_STYLES = {
    "Running": "green",
    "Idle": "cyan",
    "Succeeded": "green",
    "Pending": "yellow",
    "Terminating": "magenta",
    "Failed": "red",
}
_FAILURES = {"CrashLoopBackOff", "BackOff"}
_DOWNLOADED = re.compile(r"([0-9.]+) of ([0-9.]+) MiB")  # limpet.node.pulling, show_progress
_SHORT_DIGEST = 19  # sha256: and 12 digits


def is_failing(app: AppStatus) -> bool:
    """Whether waiting for the app is pointless or at least doubtful."""
    is_hopeless = app["phase"] == "Failed" or bool(app.get("is_final"))
    return app["phase"] != "Succeeded" and (is_hopeless or app["reason"] in _FAILURES)


def status_cell(app: AppStatus) -> Styled:
    """The reason where there is one, else the phase; of a download how far it is, without a blank."""
    style = "red" if is_failing(app) else _PHASE_STYLES.get(app["phase"], "")
    shown = app["reason"] or app["phase"]
    if app["reason"] == "PullingModule" and (
        amounts := _DOWNLOADED.fullmatch(app["message"] or "")
    ):
        done, total = (float(amount) for amount in amounts.groups())
        shown += f":{int(100 * done / total) if total else 0}%"
    return Styled(shown, style)


def worker_style(state: str) -> str:
    """The colour of a worker's state."""
    styles = {"Ready": "green", "Completed": "green", "Idle": "cyan", "BackOff": "red"}
    return styles.get(state, "yellow")


def app_table(
    apps: Sequence[AppStatus],
    *,
    is_wide: bool = False,
    has_namespace: bool = False,
    has_kind: bool = True,
    has_kind_in_name: bool = False,
) -> tuple[list[Column], Rows]:
    """Apps, one a row."""
    columns = [Column("NAMESPACE")] if has_namespace else []
    rank = 0 if is_wide else 1
    columns += [Column("NAME"), *([Column("KIND", rank=4 * rank)] if has_kind else [])]
    columns += [Column("READY"), Column("STATUS"), Column("RESTARTS", rank=2 * rank)]
    columns += [Column("AGE", rank=3 * rank), Column("ENDPOINTS", is_flexible=True, rank=rank)]
    if is_wide:
        columns += [Column(title) for title in ("TRIGGER", "CPU", "MEMORY", "ENGINE")]
        columns += [Column("LAST EXIT"), Column("IMAGE", is_flexible=True), Column("DIGEST")]
        columns += [Column("MANAGED BY")]
    rows: Rows = []
    for app in apps:
        row: list[Cell] = [app["namespace"]] if has_namespace else []
        row.append(reference(app["kind"], app["name"]) if has_kind_in_name else app["name"])
        row += [app["kind"]] if has_kind else []
        row += [f"{app['ready']}/{app['desired']}", status_cell(app), str(app["restarts"])]
        row += [format_age(app["created_at"]), ", ".join(app["endpoints"]) or "-"]
        rows.append(row + (_wide_cells(app) if is_wide else []))
    return columns, rows


def event_table(
    events: Sequence[EventInfo], *, has_namespace: bool = False
) -> tuple[list[Column], Rows]:
    """Events in the order given."""
    columns = [Column("NAMESPACE")] if has_namespace else []
    columns += [Column("LAST SEEN"), Column("TYPE", rank=1), Column("REASON"), Column("OBJECT")]
    columns.append(Column("MESSAGE", is_flexible=True))
    rows: Rows = []
    for event in events:
        row: list[Cell] = [event["namespace"] or "-"] if has_namespace else []
        kind = Styled(event["type"], "yellow" if event["type"] == "Warning" else "")
        times = f" (x{event['count']})" if event["count"] > 1 else ""
        row += [format_age(event["time"]), kind, event["reason"]]
        row += [reference(event["kind"], event["name"]), event["message"] + times]
        rows.append(row)
    return columns, rows


def node_table(nodes: Sequence[Json]) -> tuple[list[Column], Rows]:
    """The node; there is one."""
    titles = ("NAME", "VERSION", "AGE", "APPS", "WORKERS", "PLATFORM MEMORY", "ENGINE")
    rows: Rows = [
        [
            node["name"],
            node["version"],
            format_age(node["started_at"]),
            str(node["apps"]),
            str(node["workers"]),
            format_size(platform_bytes(node)),
            node["engine"],
        ]
        for node in nodes
    ]
    return [Column(title) for title in titles], rows


def process_table(node: Json, *, has_total: bool = False) -> tuple[list[Column], Rows]:
    """The node's own processes, with a last row for all of them."""
    columns = [Column("PROCESS")]
    titles = {"PID": 3, "CPU TIME": 1, "MEMORY": 0, "RESTARTS": 2}
    columns += [Column(title, is_number=True, rank=rank) for title, rank in titles.items()]
    rows: Rows = [
        [
            process["name"],
            str(process.get("pid") or "-"),
            f"{process.get('cpu_seconds') or 0:.1f}s",
            format_size(process.get("pss_bytes")),
            str(process.get("restarts") or 0),
        ]
        for process in node.get("processes") or ()
    ]
    if has_total:
        total = Styled(format_size(platform_bytes(node)), "bold")
        rows.append([Styled(f"node {node['name']}", "bold"), "", "", total, ""])
    return columns, rows


def condition_table(node: Json) -> tuple[list[Column], Rows]:
    """The node's conditions, with what they are judged by."""
    columns = [Column("CONDITION"), Column("STATUS"), Column("SINCE", rank=1), Column("MESSAGE")]
    rows: Rows = [
        [
            each["type"],
            Styled(each["status"], "yellow" if each["status"] == "True" else ""),
            format_age(each["since"]),
            Styled(each["message"]),
        ]
        for each in node.get("conditions") or ()
    ]
    return columns, rows


def platform_bytes(node: Json) -> int:
    """Memory of the node's own processes, everything but the apps."""
    return sum(process.get("pss_bytes") or 0 for process in node.get("processes") or ())


def object_table(
    kind: Kind,
    objects: Sequence[ObjectInfo],
    *,
    is_wide: bool = False,
    has_namespace: bool = False,
    has_kind_in_name: bool = False,
) -> tuple[list[Column], Rows]:
    """Objects of one kind that is no app."""
    titles, describe = _OBJECT_COLUMNS.get(kind.kind, ([], _nothing))
    columns = [Column("NAMESPACE")] if has_namespace else []
    columns += [Column("NAME"), *titles, Column("AGE")]
    columns += [Column("MANAGED BY")] if is_wide else []
    rows: Rows = []
    for item in objects:
        row: list[Cell] = [item["namespace"]] if has_namespace else []
        row.append(reference(kind.kind, item["name"]) if has_kind_in_name else item["name"])
        cells = describe(item["object"])
        if kind is CLAIM:
            cells.append(format_used(item.get("usage")))
        wide = [item.get("managed_by") or "-"] if is_wide else []
        rows.append([*row, *cells, format_age(item["created_at"]), *wide])
    return columns, rows


def object_keys(manifest: Json) -> list[tuple[str, str]]:
    """Keys and values of a ConfigMap or Secret; a Secret's values are sizes already."""
    found: dict[str, str] = {}
    for part in ("data", "stringData", "binaryData"):
        found |= manifest.get(part) or {}
    return sorted(found.items())


def _wide_cells(app: AppStatus) -> list[Cell]:
    limits = app["limits"]
    return [
        app["trigger"],
        format_cores(limits.get("cpu_cores")),
        format_size(limits.get("memory_bytes")),
        app["engine"] or "-",
        _last_reason(app),
        app["image"],
        (app["digest"] or "-")[:_SHORT_DIGEST],
        app.get("managed_by") or "-",
    ]


def _last_reason(app: AppStatus) -> str:
    """Why a worker ended last, like OOMKilled or SystemCallDenied."""
    exits = [worker["last_exit"] for worker in app["workers"] if worker["last_exit"]]
    latest = max(exits, key=lambda last: last["finished_at"] or "", default=None)
    return latest["reason"] if latest else "-"


def _nothing(manifest: Json) -> list[Cell]:
    del manifest
    return []


def _service_cells(manifest: Json) -> list[Cell]:
    spec = manifest.get("spec") or {}
    ports = ", ".join(_service_port(port) for port in spec.get("ports") or ())
    return [spec.get("type") or "ClusterIP", ports or "-", _pairs(spec.get("selector"))]


def _service_port(port: Json) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol') or 'TCP'}"


def _ingress_cells(manifest: Json) -> list[Cell]:
    spec = manifest.get("spec") or {}
    rules = spec.get("rules") or []
    hosts = ", ".join(str(rule.get("host") or "*") for rule in rules) or "*"
    paths = ", ".join(
        f"{path.get('path') or '/'} -> {_ingress_backend(path)}"
        for rule in rules
        for path in (rule.get("http") or {}).get("paths") or ()
    )
    return [hosts, paths or _ingress_backend({"backend": spec.get("defaultBackend")})]


def _ingress_backend(path: Json) -> str:
    service = (path.get("backend") or {}).get("service") or {}
    port = service.get("port") or {}
    return f"{service.get('name', '-')}:{port.get('number') or port.get('name') or '-'}"


def _policy_cells(manifest: Json) -> list[Cell]:
    spec = manifest.get("spec") or {}
    selector = spec.get("podSelector") or {}
    expressions = [
        f"{expression.get('key')} {expression.get('operator')}"
        + (f" ({','.join(expression.get('values') or ())})" if expression.get("values") else "")
        for expression in selector.get("matchExpressions") or ()
    ]
    labels = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    return [str(len(spec.get("egress") or ())), ",".join([*labels, *expressions]) or "all apps"]


def _key_cells(manifest: Json) -> list[Cell]:
    return [str(len(object_keys(manifest)))]


def _secret_cells(manifest: Json) -> list[Cell]:
    return [manifest.get("type") or "Opaque", *_key_cells(manifest)]


def _claim_cells(manifest: Json) -> list[Cell]:
    spec = manifest.get("spec") or {}
    requests = (spec.get("resources") or {}).get("requests") or {}
    return [str(requests.get("storage") or "-"), ", ".join(spec.get("accessModes") or ()) or "-"]


def _pairs(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (labels or {}).items()) or "-"


_OBJECT_COLUMNS: dict[str, tuple[list[Column], Callable[[Json], list[Cell]]]] = {
    SERVICE.kind: (
        [Column("TYPE"), Column("PORTS"), Column("SELECTOR", is_flexible=True)],
        _service_cells,
    ),
    INGRESS.kind: ([Column("HOSTS"), Column("PATHS", is_flexible=True)], _ingress_cells),
    NETWORK_POLICY.kind: (
        [Column("EGRESS RULES"), Column("SELECTOR", is_flexible=True)],
        _policy_cells,
    ),
    CONFIG_MAP.kind: ([Column("KEYS")], _key_cells),
    SECRET.kind: ([Column("TYPE"), Column("KEYS")], _secret_cells),
    CLAIM.kind: ([Column("SIZE"), Column("ACCESS"), Column("USED")], _claim_cells),
}
