"""Volumes and where they are mounted, joined: a guest sees mounts, it never sees volumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.manifest.amounts import read_volume_bytes
from limpet.manifest.model import Mount
from limpet.manifest.names import check_config_key, check_label, check_subdomain
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.manifest.fields import Fields

_SOURCES = ("persistentVolumeClaim", "emptyDir", "configMap", "secret")
_SUPPORTED = "use " + ", ".join(_SOURCES[:-1]) + " or " + _SOURCES[-1]
_REMOTE = f"is not available on a device; {_SUPPORTED}"
_REFUSALS = {
    "csi": _REMOTE,
    "downwardAPI": "use env with valueFrom.fieldRef",
    "ephemeral": "use emptyDir, which ends with its app, or a PersistentVolumeClaim",
    "hostPath": f"would let an app out of its sandbox; {_SUPPORTED}",
    "image": _REMOTE,
    "iscsi": _REMOTE,
    "nfs": _REMOTE,
    "projected": "mount each configMap and secret by itself",
}
DEFAULT_EMPTY_DIR_BYTES = 64 << 20

_MOUNT_REFUSALS = {
    "subPath": "parts of a volume are not mounted; mount all of it, or use items",
    "subPathExpr": "parts of a volume are not mounted; mount all of it, or use items",
    "recursiveReadOnly": "readOnly already holds for everything below the path",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What a mount takes from its volume; `kind` is empty after a problem."""

    kind: str = ""
    source: str = ""
    is_read_only: bool = False
    items: Mapping[str, str] = field(default_factory=dict)
    is_optional: bool = False
    size_limit_bytes: int | None = None
    medium: str = ""


def parse_volumes(pod: Fields) -> dict[str, Volume]:
    """The pod's volumes by name."""
    volumes: dict[str, Volume] = {}
    for fields in pod.mappings("volumes"):
        name = fields.text("name", required=True, check=check_label)
        if name in volumes:
            fields.problem(f"{shown(name)} is there twice", "name")
        volume = _parse_source(fields, name)
        if name:
            volumes[name] = volume
    return volumes


def parse_mounts(container: Fields, volumes: Mapping[str, Volume]) -> tuple[Mount, ...]:
    """The container's mounts; each needs its volume and a path of its own."""
    mounts: list[Mount] = []
    seen: set[str] = set()
    for fields in container.mappings("volumeMounts"):
        name = fields.text("name", required=True)
        path = normalise_mount_path(fields.text("mountPath", required=True, check=_check_path))
        is_read_only = fields.boolean("readOnly")
        fields.choice("mountPropagation", ("None",), default="None")
        fields.close(_MOUNT_REFUSALS)
        if path and path in seen:
            fields.problem(f"{shown(path)} already has a volume", "mountPath")
        seen.add(path)
        volume = volumes.get(name)
        if volume is None:
            if name:
                fields.problem(f"there is no volume {shown(name)} in spec.volumes", "name")
            continue
        mounts.append(
            Mount(
                kind=volume.kind,
                source=volume.source,
                path=path,
                is_read_only=is_read_only or volume.is_read_only,
                items=volume.items,
                is_optional=volume.is_optional,
                size_limit_bytes=volume.size_limit_bytes,
                medium=volume.medium,
            )
        )
    return tuple(mounts)


def normalise_mount_path(text: str) -> str:
    """Without doubled and trailing slashes; empty stays empty."""
    if not text:
        return ""
    return "/" + "/".join(part for part in text.split("/") if part not in {"", "."})


def _check_path(text: str) -> str | None:
    if not text.startswith("/"):
        return f"{shown(text)} must be absolute: start it with /"
    if ".." in text.split("/"):
        return f"{shown(text)} must not contain .."
    if len(text) > 1024 or not text.isprintable():
        return "must be printable and at most 1024 characters"
    return None


def _parse_source(fields: Fields, name: str) -> Volume:
    present = [source for source in _SOURCES if source in fields]
    fields.accept(*_SOURCES)
    has_refused = any(refused in fields for refused in _REFUSALS)
    fields.close(_REFUSALS, is_empty_refused=True)
    if len(present) != 1:
        if present or not has_refused:
            found = " and ".join(present) if present else "no source"
            fields.problem(f"has {found}; {_SUPPORTED}, exactly one")
        return Volume()
    inner = fields.mapping(present[0])
    if present[0] == "persistentVolumeClaim":
        return _parse_claim(inner)
    if present[0] == "emptyDir":
        return _parse_empty_dir(inner, name)
    return _parse_config(inner, present[0])


def _parse_claim(fields: Fields) -> Volume:
    volume = Volume(
        kind="PersistentVolumeClaim",
        source=fields.text("claimName", required=True, check=check_subdomain),
        is_read_only=fields.boolean("readOnly"),
    )
    fields.close()
    return volume


def _parse_empty_dir(fields: Fields, name: str) -> Volume:
    volume = Volume(
        kind="EmptyDir",
        source=name,
        size_limit_bytes=read_volume_bytes(fields, "sizeLimit") or DEFAULT_EMPTY_DIR_BYTES,
        medium=fields.choice("medium", ("Memory",)),
    )
    fields.close()
    return volume


def _parse_config(fields: Fields, source: str) -> Volume:
    """A configMap or secret volume; modes are checked and mean nothing to a guest."""
    name_field = "secretName" if source == "secret" else "name"
    volume = Volume(
        kind="Secret" if source == "secret" else "ConfigMap",
        source=fields.text(name_field, required=True, check=check_subdomain),
        is_read_only=True,
        items=_parse_items(fields),
        is_optional=fields.boolean("optional"),
    )
    fields.integer("defaultMode", maximum=0o777)
    fields.close()
    return volume


def _parse_items(parent: Fields) -> dict[str, str]:
    items: dict[str, str] = {}
    paths: set[str] = set()
    for fields in parent.mappings("items"):
        key = fields.text("key", required=True, check=check_config_key)
        path = fields.text("path", required=True, check=_check_item_path)
        fields.integer("mode", maximum=0o777)
        fields.close()
        if key and key in items:
            fields.problem(f"{shown(key)} is there twice; a key becomes one file", "key")
        elif path and path in paths:
            fields.problem(f"{shown(path)} is there twice", "path")
        paths.add(path)
        items[key] = path
    return items


def _check_item_path(text: str) -> str | None:
    parts = text.split("/")
    if text.startswith("..") or any(part in {"", ".", ".."} for part in parts):
        return f"{shown(text)} must be a relative path without ., .. and //"
    if len(text) > 1024 or not text.isprintable():
        return "must be printable and at most 1024 characters"
    return None
