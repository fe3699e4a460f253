"""PodSpec: one container, its volumes, and much that only a cluster's scheduler reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.manifest.container import parse_container
from limpet.manifest.model import RestartPolicy
from limpet.manifest.names import check_subdomain
from limpet.manifest.problems import shown
from limpet.manifest.security import parse_pod_security
from limpet.manifest.volumes import parse_volumes

if TYPE_CHECKING:
    from limpet.manifest.container import Container
    from limpet.manifest.fields import Fields

# RuntimeClass -> the engine that it means.
_RUNTIME_CLASSES = {"limpet": "", "wasmtime": "wasmtime", "wasmedge": "wasmedge"}
_SCHEDULING = (
    "affinity",
    "enableServiceLinks",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "schedulerName",
    "serviceAccount",
    "serviceAccountName",
    "tolerations",
    "topologySpreadConstraints",
)
_ONE_CONTAINER = "one container per app so far"
_NO_RESOLVER = "an app does not resolve names itself"
_NO_NAME = "an app has no host name of its own"
_NO_NAMESPACE = "every app keeps its own namespaces"
_REFUSALS = {
    "automountServiceAccountToken": "apps have no service account token",
    "dnsConfig": _NO_RESOLVER,
    "ephemeralContainers": _ONE_CONTAINER,
    "hostAliases": _NO_RESOLVER,
    "hostIPC": _NO_NAMESPACE,
    "hostNetwork": "an app's network is what its ports declare; use hostPort or a Service",
    "hostPID": _NO_NAMESPACE,
    "hostUsers": _NO_NAMESPACE,
    "hostname": _NO_NAME,
    "hostnameOverride": _NO_NAME,
    "initContainers": _ONE_CONTAINER,
    "readinessGates": "nothing on a device would open them",
    "resourceClaims": "dynamic resource allocation is not available to a module",
    "resources": "belongs to the container: one container per app so far",
    "schedulingGates": "nothing on a device would open them",
    "setHostnameAsFQDN": _NO_NAME,
    "shareProcessNamespace": _ONE_CONTAINER,
    "subdomain": _NO_NAME,
    "workloadRef": "pods are not scheduled in groups",
}
_ACTIVE_DEADLINE_REFUSALS = {
    "Deployment": "a Deployment runs on; limpet.dev/deadline bounds one request",
    "Job": "write it beside the template, in the Job's own spec",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What an `App` takes from a pod's spec; `container` is None after a problem.

    `engine` is what its RuntimeClass means, empty for any.
    """

    container: Container | None
    engine: str
    restart_policy: RestartPolicy
    grace_seconds: float
    active_deadline_seconds: int | None
    pull_secrets: tuple[str, ...]


def parse_pod(fields: Fields, kind: str) -> Pod:
    """The pod of a `kind`, which decides what restartPolicy may be."""
    volumes = parse_volumes(fields)
    containers = fields.mappings("containers", required=True)
    container = None
    if len(containers) == 1:
        container = parse_container(containers[0], volumes)
    elif isinstance(fields.get("containers"), list):
        fields.problem(f"{_ONE_CONTAINER}, not {len(containers)}", "containers")
    pod = Pod(
        container=container,
        engine=_parse_runtime_class(fields),
        restart_policy=_parse_restart_policy(fields, kind),
        grace_seconds=float(fields.integer("terminationGracePeriodSeconds", default=30)),
        active_deadline_seconds=_parse_active_deadline(fields, kind),
        pull_secrets=_parse_pull_secrets(fields),
    )
    parse_pod_security(fields.mapping("securityContext"))
    fields.choice("dnsPolicy", ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"))
    fields.accept(*_SCHEDULING)
    if fields.get("hostUsers") is True:  # Kubernetes' default; false asks for a user namespace
        fields.accept("hostUsers")
    fields.close(_REFUSALS)
    return pod


def _parse_pull_secrets(fields: Fields) -> tuple[str, ...]:
    names = []
    for reference in fields.mappings("imagePullSecrets"):
        names.append(reference.text("name", required=True, check=check_subdomain))
        reference.close()
    return tuple(name for name in names if name)


def _parse_restart_policy(fields: Fields, kind: str) -> RestartPolicy:
    text = fields.choice("restartPolicy", tuple(RestartPolicy))
    if kind == "Deployment":
        if text and text != RestartPolicy.ALWAYS:
            fields.problem("must be Always in a Deployment; use a Job or a Pod", "restartPolicy")
        return RestartPolicy.ALWAYS
    if kind == "Job":
        is_bad = text == RestartPolicy.ALWAYS or "restartPolicy" not in fields
        if is_bad:
            fields.problem("must be OnFailure or Never in a Job", "restartPolicy")
        return RestartPolicy(text) if text and not is_bad else RestartPolicy.NEVER
    return RestartPolicy(text or RestartPolicy.ALWAYS)


def _parse_active_deadline(fields: Fields, kind: str) -> int | None:
    name = "activeDeadlineSeconds"
    seconds = fields.integer(name, minimum=1) or None
    if seconds is not None and kind in _ACTIVE_DEADLINE_REFUSALS:
        fields.problem(_ACTIVE_DEADLINE_REFUSALS[kind], name)
        return None
    return seconds


def _parse_runtime_class(fields: Fields) -> str:
    name = fields.text("runtimeClassName")
    if name and name not in _RUNTIME_CLASSES:
        known = ", ".join(_RUNTIME_CLASSES)
        fields.problem(
            f"{shown(name)} can't run here; leave it out or write one of {known}",
            "runtimeClassName",
        )
    return _RUNTIME_CLASSES.get(name, "")
