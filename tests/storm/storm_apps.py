"""The apps of a storm: good ones, and broken ones of every kind, as manifests and modules. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm_desired import AppSpec
from workloads import claim, http_app, job

if TYPE_CHECKING:
    from typing import Any

    from storm_desired import Body

SERVED, LEDGER, SLEEPY = "served", "ledger", "sleepy"
PULLED, FILED = "pulled", "filed"  # the module of one is an image, the manifest of the other a file
NAMES = ("a", "b", "c")
ALL = (SERVED, LEDGER, SLEEPY, PULLED, FILED, *NAMES)
CLAIM = "book"
CLAIMED = claim(CLAIM, "16Mi")
# What an update may do wrong. The first runs nothing, the others run and are never well.
BROKEN = ("missing-config", "uncompilable", "never-ready", "trapping")
# So long a broken release may try; the others have Kubernetes' ten minutes.
BROKEN_SECONDS = 2
_GUESTS = {"uncompilable": "truncated", "never-ready": "exit_code", "trapping": "recurse"}
_READINESS = {"httpGet": {"path": "/", "port": 1}, "periodSeconds": 1, "timeoutSeconds": 1}
_NOTE = "storm.test/spec"


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
    made = http_app(
        spec.name,
        spec.image or guest_of(spec),
        grace_seconds=2,
        annotations=annotations,
        env=env,
        **fields,
    )
    if spec.form != "good":
        made["spec"]["progressDeadlineSeconds"] = BROKEN_SECONDS
    # An object says whether it is paused: else it would be what `limpet rollout` said last.
    made["spec"]["paused"] = spec.is_paused
    note = f"{spec.version} {spec.form} {spec.salt} {spec.image}"
    made["spec"]["template"]["metadata"]["annotations"][_NOTE] = note
    return made


def spec_of(body: Body) -> AppSpec:
    """Return what an app's object means; the reverse of `manifest_of` for all but jobs."""
    spec = body["spec"]
    version, form, salt, image = spec["template"]["metadata"]["annotations"][_NOTE].split(" ")
    return AppSpec(
        body["metadata"]["name"],
        int(version),
        spec["replicas"],
        form,
        int(salt),
        image,
        is_paused=spec.get("paused", False),
    )


def salted(module: bytes, salt: int) -> bytes:
    """Return a module that means the same and has another digest."""
    return _with_section(module, b"\x04salt" + salt.to_bytes(8, "big")) if salt else module


def filled(module: bytes, fill: bytes) -> bytes:
    """Return a module that means the same and is larger."""
    return _with_section(module, b"\x04fill" + fill)


def _with_section(module: bytes, content: bytes) -> bytes:
    """Add a custom section: https://webassembly.github.io/spec/core/binary/modules.html#custom-section"""
    length, rest = bytearray(), len(content)
    while rest:
        length.append(rest & 0x7F | (0x80 if rest > 0x7F else 0))
        rest >>= 7
    return module + b"\x00" + bytes(length) + content
