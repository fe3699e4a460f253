"""A plain JSON-like object -> Resource. The one way in, for files, the API and the cluster alike.

Everything given here may be hostile. Nothing here imports a YAML library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.config import parse_claim, parse_config_map, parse_secret
from limpet.manifest.fields import Fields
from limpet.manifest.ingress import parse_ingress
from limpet.manifest.metadata import SERVER_SET
from limpet.manifest.network_policy import parse_network_policy
from limpet.manifest.problems import Report, nearest, shown, type_name
from limpet.manifest.service import parse_service
from limpet.manifest.workload import parse_deployment, parse_job, parse_pod_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.manifest.model import Resource


_KINDS: dict[str, tuple[str, Callable[[Fields], Resource | None]]] = {
    "Deployment": ("apps/v1", parse_deployment),
    "Pod": ("v1", parse_pod_app),
    "Job": ("batch/v1", parse_job),
    "Service": ("v1", parse_service),
    "ConfigMap": ("v1", parse_config_map),
    "Secret": ("v1", parse_secret),
    "PersistentVolumeClaim": ("v1", parse_claim),
    "Ingress": ("networking.k8s.io/v1", parse_ingress),
    "NetworkPolicy": ("networking.k8s.io/v1", parse_network_policy),
}
_HINTS = {
    "CronJob": "schedules are not built yet; start a Job when it is due",
    "DaemonSet": "on a device there is one node: use a Deployment with replicas: 1",
    "List": "lists can't be nested",
    "Namespace": "namespaces need no creation; name them in metadata.namespace",
    "ReplicaSet": "use a Deployment",
    "ReplicationController": "use a Deployment",
    "StatefulSet": "use a Deployment with replicas: 1 and a PersistentVolumeClaim",
}


def parse_object(
    obj: object, *, locate: Callable[[tuple[str | int, ...]], str] | None = None
) -> Resource:
    """Validate one Kubernetes object and return what it means.

    `locate` gives the `file:line` of a path; without it problems carry `Kind/name`.
    Raises `ManifestError` with every problem found, in the document's order.
    """
    report = Report(obj, label=_label(obj), locate=locate)
    resource = _parse(report, obj)
    report.raise_problems()
    assert resource is not None, "a parser gave up without saying why"
    return resource


def _parse(report: Report, obj: object) -> Resource | None:
    if not isinstance(obj, dict):
        report.add((), f"an object must be a mapping, not {type_name(obj)}")
        return None
    root = Fields(report, (), obj)
    api_version = root.text("apiVersion", required=True)
    kind = root.text("kind", required=True)
    if not kind:
        return None
    if kind not in _KINDS:
        report.add(("kind",), _unknown_kind(kind))
        return None
    expected, parse = _KINDS[kind]
    if api_version and api_version != expected:
        root.problem(f"{kind} is {expected}, not {shown(api_version)}", "apiVersion")
    resource = parse(root)
    root.close({"status": SERVER_SET})
    return resource


def _unknown_kind(kind: str) -> str:
    if kind in _HINTS:
        return f"{kind} is not supported: {_HINTS[kind]}"
    hint = nearest(kind, _KINDS) if len(kind) <= 64 else ""
    return f"{shown(kind)} is not one of {', '.join(_KINDS)}{hint}"


def _label(obj: object) -> str:
    """`Kind/name` as far as the object tells."""
    kind: object = None
    name: object = None
    if isinstance(obj, dict):
        kind = obj.get("kind")
        metadata = obj.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
    return "/".join(_word(part) for part in (kind, name))


def _word(value: object) -> str:
    return shown(value)[1:-1] if isinstance(value, str) and value else "?"
