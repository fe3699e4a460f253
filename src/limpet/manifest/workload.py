"""Deployment, Pod and Job -> App."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from limpet.manifest.annotations import (
    DEFAULT_HTTP_DEADLINE_SECONDS,
    Annotations,
    check_annotation_names,
    parse_options,
)
from limpet.manifest.egress_annotation import parse_egress
from limpet.manifest.metadata import SERVER_SET, Metadata, parse_metadata, parse_template_metadata
from limpet.manifest.model import App, Trigger
from limpet.manifest.pod import parse_pod
from limpet.manifest.requirements import parse_requirements
from limpet.manifest.rollout import parse_rollout
from limpet.manifest.selectors import check_selector

if TYPE_CHECKING:
    from limpet.manifest.annotations import Options
    from limpet.manifest.container import Container
    from limpet.manifest.fields import Fields
    from limpet.manifest.model import ModuleSource
    from limpet.manifest.pod import Pod

MAXIMUM_REPLICAS = 1000
DEFAULT_BACKOFF_LIMIT = 6

_ONE_RUN = "a Job makes one run so far"
_JOB_REFUSALS = {
    "backoffLimitPerIndex": _ONE_RUN,
    "managedBy": "the device runs its jobs itself",
    "manualSelector": SERVER_SET,
    "maxFailedIndexes": _ONE_RUN,
    "podFailurePolicy": "backoffLimit alone decides how often a run is tried again",
    "podReplacementPolicy": "a failed run is always over before the next one starts",
    "selector": SERVER_SET,
    "successPolicy": _ONE_RUN,
    "suspend": "a Job runs when it is applied; delete it to stop it",
}


def parse_pod_app(root: Fields) -> App | None:
    """A Pod; None after a problem, as for every function here."""
    metadata = parse_metadata(root.mapping("metadata", required=True))
    pod = parse_pod(root.mapping("spec", required=True), "Pod")
    return _build(root, "Pod", metadata, metadata, pod)


def parse_deployment(root: Fields) -> App | None:
    metadata = parse_metadata(root.mapping("metadata", required=True))
    spec = root.mapping("spec", required=True)
    template_metadata, pod = _parse_template(spec, "Deployment")
    check_selector(spec, template_metadata.labels)
    replicas = spec.integer("replicas", default=1, maximum=MAXIMUM_REPLICAS)
    rollout = parse_rollout(spec)
    spec.close()
    app = _build(root, "Deployment", metadata, template_metadata, pod)
    return replace(app, replicas=replicas, rollout=rollout) if app else None


def parse_job(root: Fields) -> App | None:
    metadata = parse_metadata(root.mapping("metadata", required=True))
    spec = root.mapping("spec", required=True)
    template_metadata, pod = _parse_template(spec, "Job")
    for name in ("completions", "parallelism"):
        if spec.integer(name, default=1) != 1:
            spec.problem(f"must be 1: {_ONE_RUN}", name)
    spec.choice("completionMode", ("NonIndexed",), default="NonIndexed")
    backoff_limit = spec.integer("backoffLimit", default=DEFAULT_BACKOFF_LIMIT)
    deadline = spec.integer("activeDeadlineSeconds", minimum=1) or None
    spec.integer("ttlSecondsAfterFinished")
    spec.close(_JOB_REFUSALS)
    pod = replace(pod, active_deadline_seconds=deadline)
    app = _build(root, "Job", metadata, template_metadata, pod, deadline_holder=spec)
    return replace(app, backoff_limit=backoff_limit) if app else None


def _parse_template(spec: Fields, kind: str) -> tuple[Metadata, Pod]:
    template = spec.mapping("template", required=True)
    metadata = parse_template_metadata(template.mapping("metadata"))
    pod = parse_pod(template.mapping("spec", required=True), kind)
    template.close()
    return metadata, pod


def _build(
    root: Fields,
    kind: str,
    metadata: Metadata,
    pod_metadata: Metadata,
    pod: Pod,
    *,
    deadline_holder: Fields | None = None,
) -> App | None:
    report = root.report
    container = pod.container
    check_annotation_names(report, kind, metadata)
    if pod_metadata is not metadata:
        check_annotation_names(report, kind, pod_metadata)
    annotations = Annotations(report, pod_metadata, metadata)
    has_ports = container is not None and bool(container.ports)
    options = parse_options(annotations, kind=kind, has_ports=has_ports)
    egress, requires = parse_egress(annotations), parse_requirements(annotations)
    if container is None:
        return None
    holder = deadline_holder or root.mapping("spec")
    deadline_seconds = _decide_deadline(annotations, options, pod, holder)
    if options.trigger is Trigger.COMMAND:
        _refuse_probes(root, kind, container)
    return App(
        kind=kind,
        namespace=metadata.namespace,
        name=metadata.name,
        source=_pin(annotations, options, container.source),
        trigger=options.trigger,
        pull_policy=container.pull_policy,
        pull_secrets=pod.pull_secrets,
        is_trigger_implied=options.is_trigger_implied,
        engine=_decide_engine(annotations, options, pod),
        execution=options.execution,
        cost_limit=options.cost_limit,
        labels=metadata.labels,
        pod_labels=pod_metadata.labels,
        annotations=metadata.annotations | pod_metadata.annotations,
        container_name=container.name,
        command=container.command,
        args=container.args,
        env=container.env,
        env_from=container.env_from,
        ports=container.ports,
        mounts=container.mounts,
        cpu_cores=container.limits.cpu_cores,
        memory_bytes=container.limits.memory_bytes,
        pids=options.pids,
        capabilities=container.capabilities,
        requires=requires,
        egress=egress,
        workers=options.workers,
        restart_policy=pod.restart_policy,
        grace_seconds=pod.grace_seconds,
        deadline_seconds=deadline_seconds,
        readiness=container.readiness,
        liveness=container.liveness,
        startup=container.startup,
        http=options.http,
    )


def _decide_engine(annotations: Annotations, options: Options, pod: Pod) -> str:
    """The annotation, or what the RuntimeClass means."""
    if pod.engine and options.engine not in ("auto", pod.engine):
        annotations.problem("engine", f"contradicts runtimeClassName, {pod.engine}")
    return pod.engine or options.engine


def _decide_deadline(
    annotations: Annotations, options: Options, pod: Pod, holder: Fields
) -> float | None:
    """The annotation, activeDeadlineSeconds, or the trigger's default."""
    seconds, active = options.deadline_seconds, pod.active_deadline_seconds
    if options.trigger is Trigger.HTTP:
        if active is not None:
            holder.problem(
                "an app that serves runs on; limpet.dev/deadline bounds one request",
                "activeDeadlineSeconds",
            )
        return DEFAULT_HTTP_DEADLINE_SECONDS if seconds is None else seconds
    if active is None:
        return seconds
    if seconds is not None and seconds != active:
        annotations.problem("deadline", f"contradicts activeDeadlineSeconds, {active}")
    return float(active)


def _pin(annotations: Annotations, options: Options, source: ModuleSource) -> ModuleSource:
    if options.digest is None:
        return source
    if source.digest is not None and source.digest != options.digest:
        annotations.problem("digest", f"contradicts the image's digest, {source.digest}")
    return replace(source, digest=options.digest)


def _refuse_probes(root: Fields, kind: str, container: Container) -> None:
    template = () if kind == "Pod" else ("spec", "template")
    probes = {
        "readinessProbe": container.readiness,
        "livenessProbe": container.liveness,
        "startupProbe": container.startup,
    }
    for name, probe in probes.items():
        if probe is not None and not probe.export:
            path = (*template, "spec", "containers", 0, name)
            root.problem(
                "a command app answers nobody; use exec with command: [wasm-export, NAME]", *path
            )
