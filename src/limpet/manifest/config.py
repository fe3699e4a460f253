"""ConfigMap, Secret and PersistentVolumeClaim: what apps are given.

No message of this module shows a value, not even a part of one.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

from limpet.manifest.amounts import read_volume_bytes
from limpet.manifest.annotations import check_annotation_names
from limpet.manifest.fields import is_encodable, unlike_text
from limpet.manifest.metadata import parse_metadata
from limpet.manifest.model import ConfigMap, PersistentVolumeClaim, Secret
from limpet.manifest.names import check_config_key

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

_MAXIMUM_BYTES = 1 << 20  # Kubernetes' MaxSecretSize, which holds for both
_ONE_DEVICE = "a volume lives on one device; write ReadWriteOnce"
_ACCESS_REFUSALS = {"ReadWriteMany": _ONE_DEVICE, "ReadOnlyMany": _ONE_DEVICE}
_ACCESS_MODES = ("ReadWriteOnce", "ReadWriteOncePod")
_NEW_VOLUME = "volumes start empty"
_CLAIM_REFUSALS = {
    "dataSource": _NEW_VOLUME,
    "dataSourceRef": _NEW_VOLUME,
    "selector": "a claim always gets a volume of its own",
    "volumeAttributesClassName": "volumes have no classes of attributes",
    "volumeName": "a claim always gets a volume of its own",
}


def parse_config_map(root: Fields) -> ConfigMap:
    """A ConfigMap of at most 1 MiB; `immutable` asks for nothing here."""
    metadata = parse_metadata(root.mapping("metadata", required=True))
    check_annotation_names(root.report, "ConfigMap", metadata)
    data = _read_texts(root, "data")
    for key, value in _read_base64(root, "binaryData").items():
        if key in data:
            root.problem("is in data too", "binaryData", key)
        data[key] = value
    _check_size(root, data)
    root.boolean("immutable")
    return ConfigMap(
        namespace=metadata.namespace,
        name=metadata.name,
        data=data,
        labels=metadata.labels,
        annotations=metadata.annotations,
    )


def parse_secret(root: Fields) -> Secret:
    """A Secret of at most 1 MiB; keys of `stringData` win over those of `data`."""
    metadata = parse_metadata(root.mapping("metadata", required=True))
    check_annotation_names(root.report, "Secret", metadata)
    data = _read_base64(root, "data") | _read_texts(root, "stringData")
    _check_size(root, data)
    root.boolean("immutable")
    kind = root.text("type", check=_check_type)
    return Secret(
        namespace=metadata.namespace,
        name=metadata.name,
        data=data,
        type=kind or "Opaque",
        labels=metadata.labels,
        annotations=metadata.annotations,
    )


def parse_claim(root: Fields) -> PersistentVolumeClaim:
    """A claim on one encrypted volume of the device."""
    metadata = parse_metadata(root.mapping("metadata", required=True))
    check_annotation_names(root.report, "PersistentVolumeClaim", metadata)
    spec = root.mapping("spec", required=True)
    _check_access_modes(spec)
    resources = spec.mapping("resources", required=True)
    requests = resources.mapping("requests", required=True)
    size = read_volume_bytes(requests, "storage", required=True)
    requests.close()
    resources.close({"limits": "a volume has exactly the size that it requests"})
    if spec.text("volumeMode") not in {"", "Filesystem"}:
        spec.problem("only Filesystem: a module reads files, not blocks", "volumeMode")
    spec.accept("storageClassName")
    spec.close(_CLAIM_REFUSALS)
    return PersistentVolumeClaim(
        namespace=metadata.namespace,
        name=metadata.name,
        size_bytes=size or 0,
        labels=metadata.labels,
        annotations=metadata.annotations,
    )


def _check_access_modes(spec: Fields) -> None:
    spec.raw("accessModes", required=True)
    modes = spec.texts("accessModes")
    if spec.get("accessModes") == []:
        spec.problem("must have at least one mode, like ReadWriteOnce", "accessModes")
    for mode in modes:
        if mode in _ACCESS_REFUSALS:
            spec.problem(f"{mode}: {_ACCESS_REFUSALS[mode]}", "accessModes")
        elif mode not in _ACCESS_MODES:
            spec.problem(f"only {' and '.join(_ACCESS_MODES)} are known", "accessModes")


def _read_texts(root: Fields, name: str) -> dict[str, bytes]:
    """A mapping of keys to texts. Unlike other texts these may hold any character."""
    data: dict[str, bytes] = {}
    for fields, key, text in _read_values(root, name):
        if is_encodable(text):
            data[key] = text.encode()
        else:
            fields.problem("must be valid Unicode: it has half of a surrogate pair", key)
    return data


def _read_base64(root: Fields, name: str) -> dict[str, bytes]:
    data: dict[str, bytes] = {}
    for fields, key, text in _read_values(root, name):
        try:
            # Line breaks may stand anywhere in it, as in Go's decoder.
            packed = text.replace("\n", "").replace("\r", "").encode("ascii")
            data[key] = binascii.a2b_base64(packed, strict_mode=True) if packed else b""
        except (UnicodeEncodeError, binascii.Error):
            cure = "write plain text under stringData" if name == "data" else "encode it"
            fields.problem(f"is not base64; {cure}", key)
    return data


def _read_values(root: Fields, name: str) -> list[tuple[Fields, str, str]]:
    """The good keys of the mapping with their texts."""
    fields = root.mapping(name)
    values = []
    for key in fields.names():
        value = fields.get(key)
        why = check_config_key(key)
        if why is not None:
            fields.problem(why, key)
        elif isinstance(value, str):
            values.append((fields, key, value))
        elif value is None:
            values.append((fields, key, ""))
        else:
            fields.problem(unlike_text(value), key)
    return values


def _check_size(root: Fields, data: dict[str, bytes]) -> None:
    if sum(map(len, data.values())) > _MAXIMUM_BYTES:
        root.problem("is larger than 1Mi altogether; use a volume")


def _check_type(text: str) -> str | None:
    is_good = len(text) <= 253 and text.isprintable()
    return None if is_good else "must be printable and at most 253 characters"
