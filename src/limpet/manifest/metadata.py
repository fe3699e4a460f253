"""ObjectMeta: names, namespaces, labels and annotations, and what only a cluster may write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.manifest.model import DEFAULT_NAMESPACE
from limpet.manifest.names import (
    check_annotation_key,
    check_label,
    check_label_value,
    check_qualified_name,
    check_subdomain,
)

if TYPE_CHECKING:
    from limpet.manifest.fields import Check, Fields
    from limpet.manifest.problems import Path

SERVER_SET = "set by the cluster; remove it"
_ANNOTATIONS_BYTES = 256 << 10
_SERVER_FIELDS = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "ownerReferences",
)
_REFUSALS = dict.fromkeys(_SERVER_FIELDS, SERVER_SET) | {
    "generateName": "an app keeps its name from one apply to the next; set name",
    "finalizers": "nothing on a device would remove them, so deleting would never end",
}


@dataclass(frozen=True, slots=True)
class Metadata:
    """`path` is where the mapping stands, for problems of single annotations."""

    path: Path
    name: str = ""
    namespace: str = DEFAULT_NAMESPACE
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


def parse_metadata(fields: Fields, *, check: Check = check_subdomain) -> Metadata:
    """The metadata of an object, whose name is required and must pass `check`."""
    name = fields.text("name", required=True, check=check)
    namespace = fields.text("namespace", default=DEFAULT_NAMESPACE, check=_check_namespace)
    return _parse_rest(fields, name=name, namespace=namespace or DEFAULT_NAMESPACE)


def parse_template_metadata(fields: Fields) -> Metadata:
    """The metadata of a pod template: its name and namespace are not used by anybody."""
    fields.accept("name", "namespace")
    return _parse_rest(fields, name="", namespace=DEFAULT_NAMESPACE)


def parse_labels(fields: Fields, name: str) -> dict[str, str]:
    return fields.text_map(name, key_check=check_qualified_name, value_check=check_label_value)


def _parse_rest(fields: Fields, *, name: str, namespace: str) -> Metadata:
    labels = parse_labels(fields, "labels")
    annotations = fields.text_map("annotations", key_check=check_annotation_key)
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > _ANNOTATIONS_BYTES:
        fields.problem("is larger than 256Ki altogether; use a ConfigMap", "annotations")
    fields.close(_REFUSALS)
    return Metadata(fields.path, name, namespace, labels, annotations)


def _check_namespace(text: str) -> str | None:
    return check_label(text) if text else None
