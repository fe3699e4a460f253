"""Manifests of the process tests, as short as a test wants to say them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Json = dict[str, Any]


def container(
    name: str,
    guest: str,
    *,
    env: Mapping[str, object] | None = None,
    args: Sequence[str] = (),
    memory: str = "",
    mounts: Mapping[str, str] | None = None,
    **fields: object,
) -> Json:
    """Return a container; `guest` is a guest's name or an image, `mounts` maps paths to volumes."""
    image = guest if "://" in guest else f"./{guest}.wasm"
    made: Json = {"name": name, "image": image, **fields}
    made["env"] = [
        {"name": key, "valueFrom": value}
        if isinstance(value, dict)
        else {"name": key, "value": value}
        for key, value in (env or {}).items()
    ]
    made["args"] = list(args)
    made["volumeMounts"] = [
        {"name": volume, "mountPath": path} for path, volume in (mounts or {}).items()
    ]
    if memory:
        made["resources"] = {"limits": {"memory": memory}}
    return made


def _template(name: str, made: Json, annotations: Mapping[str, str], pod: Json) -> Json:
    return {
        "metadata": {
            "labels": {"app": name},
            "annotations": {f"limpet.dev/{k.replace('_', '-')}": v for k, v in annotations.items()},
        },
        "spec": {"containers": [made], **pod},
    }


def http_app(
    name: str,
    guest: str,
    *,
    replicas: int = 1,
    grace_seconds: int = 2,
    volumes: Sequence[Json] = (),
    annotations: Mapping[str, str] | None = None,
    **fields: Any,
) -> Json:
    """Return a Deployment that answers on a free port of loopback."""
    chosen = {"listen": "127.0.0.1:0", **(annotations or {})}
    pod = {"terminationGracePeriodSeconds": grace_seconds, "volumes": list(volumes)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": _template(name, container(name, guest, **fields), chosen, pod),
        },
    }


def command_app(name: str, guest: str, *, volumes: Sequence[Json] = (), **fields: Any) -> Json:
    """Return a Deployment that runs a command for ever."""
    made = http_app(name, guest, volumes=volumes, **fields)
    del made["spec"]["template"]["metadata"]["annotations"]["limpet.dev/listen"]
    return made


def job(
    name: str,
    guest: str,
    *,
    restart: str = "Never",
    volumes: Sequence[Json] = (),
    spec: Json | None = None,
    annotations: Mapping[str, str] | None = None,
    **fields: Any,
) -> Json:
    """Return a Job; `spec` is merged into its own."""
    pod = {
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": 1,
        "volumes": list(volumes),
    }
    made = container(name, guest, **fields)
    template = _template(name, made, annotations or {}, pod)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **(spec or {})},
    }


def pod(name: str, guest: str, *, restart: str = "Always", **fields: Any) -> Json:
    """Return a Pod that runs a command."""
    made = _template(name, container(name, guest, **fields), {}, {"restartPolicy": restart})
    made["metadata"]["name"] = name
    made["spec"]["terminationGracePeriodSeconds"] = 1
    return {"apiVersion": "v1", "kind": "Pod", **made}


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def claim(name: str, size: str = "16Mi") -> Json:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }
