"""The apps of a storm: good ones, and broken ones of every kind, as manifests and modules. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads import claim, http_app, job

if TYPE_CHECKING:
    from typing import Any

    from storm_desired import AppSpec

SERVED, LEDGER, SLEEPY = "served", "ledger", "sleepy"
NAMES = ("a", "b", "c")
CLAIM = "book"
CLAIMED = claim(CLAIM, "16Mi")
# What an update may do wrong. The first runs nothing, the others run and are never well.
BROKEN = ("missing-config", "uncompilable", "never-ready", "trapping")
_GUESTS = {"uncompilable": "truncated", "never-ready": "exit_code", "trapping": "recurse"}
_READINESS = {"httpGet": {"path": "/", "port": 1}, "periodSeconds": 1, "timeoutSeconds": 1}


def guest_of(spec: AppSpec) -> str:
    """Return the guest that an app runs."""
    if spec.form == "good":
        return {LEDGER: "ledger"}.get(spec.name, "echo")
    if spec.form == "job":
        return "job_exit"
    return _GUESTS.get(spec.form, "echo")


def manifest_of(spec: AppSpec, port: int) -> dict[str, Any]:
    """Return an app's object; `port` is where it listens."""
    if spec.form == "job":
        return job(spec.name, "job_exit", env={"GUEST_N": "0", "VERSION": str(spec.version)})
    annotations = {"listen": f"127.0.0.1:{port}"}
    env: dict[str, object] = {"VERSION": str(spec.version), "ENTRY": str(spec.version)}
    fields: dict[str, Any] = {"replicas": spec.replicas}
    if spec.name == SLEEPY:
        annotations["idle-timeout"] = "1s"
    if spec.name == LEDGER:
        fields["mounts"] = {"/data": "data"}
        fields["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}]
    if spec.form == "missing-config":
        env["NOT_THERE"] = {"configMapKeyRef": {"name": "nobody-made-it", "key": "k"}}
    if spec.form in ("never-ready", "trapping"):
        fields["readinessProbe"] = _READINESS | {"httpGet": {"path": "/", "port": port}}
    return http_app(
        spec.name, guest_of(spec), grace_seconds=2, annotations=annotations, env=env, **fields
    )


def salted(module: bytes, salt: int) -> bytes:
    """Return a module that means the same and has another digest: a custom section at its end.

    https://webassembly.github.io/spec/core/binary/modules.html#custom-section
    """
    if not salt:
        return module
    content = b"\x04salt" + salt.to_bytes(8, "big")
    return module + b"\x00" + bytes([len(content)]) + content
